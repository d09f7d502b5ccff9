"""The command `cryptofd`: finds the command's module, and turns errors into exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

# Command, module in this package, what it does. A module has configure(parser) and run(options).
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("hash", "hash", "print or check digests, as sha256sum does"),
    ("mac", "mac", "print or check authentication codes under a key"),
    ("encrypt", "encrypt", "encrypt a file or a pipe"),
    ("decrypt", "decrypt", "decrypt what encrypt or Tink made"),
    ("random", "random", "random bytes"),
    ("algorithms", "algorithms", "list the algorithms"),
    ("engines", "engines", "list the engines; prefer, disable or enable one"),
    ("explain", "explain", "who would serve an algorithm, and why not the others"),
    ("drivers", "drivers", "list the kernel's drivers; prefer one"),
    ("key", "key", "the broker's keys: generate, import, wrap, rotate, delete …"),
    ("run", "run", "run a program that may use some of the broker's keys, and nothing else"),
    ("sessions", "sessions", "list the broker's sessions; close or move one"),
    ("broker", "broker", "start a broker, or tell how it is"),
    ("worker", "worker", "replace the broker's workers while sessions go on"),
    ("policy", "policy", "explain a decision of the broker's policy"),
    ("audit", "audit", "show or verify the broker's audit"),
    ("top", "top", "the broker's sessions, live"),
    ("backup", "backup", "copy the broker's store; keys stay wrapped"),
    ("restore", "restore", "add the keys of a backup"),
    ("doctor", "doctor", "what this host allows, and what to do about it"),
    ("setup", "setup", "make NSS, p11-kit, OpenSSH or Java use the PKCS#11 module"),
    ("bench", "bench", "measure this host's engines"),
    ("tour", "tour", "the main job on real files, checked by other programs"),
    ("config", "config", "flags for C programs: --cflags --libs"),
)

USAGE, BROKEN_PIPE = 2, 128 + signal.SIGPIPE


class Terminated(BaseException):
    """A signal that ends the process, after what it holds was put away."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit code is 0, 1 for an error, 2 for wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in {"-h", "--help", "help"}:
        _help()
        return 0 if arguments else USAGE
    if name == "--version":
        from cryptofd.version import __version__

        print(f"cryptofd {__version__}")
        return 0
    found = next((c for c in COMMANDS if c[0] == name), None)
    if found is None:
        known = ", ".join(c[0] for c in COMMANDS)
        print(f"cryptofd: no command {name!r}; there are {known}", file=sys.stderr)
        return USAGE
    # Names of files are bytes, and go out as they came in.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    # A killed process leaves nothing behind either: SIGTERM unwinds as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminated)
    return _run(found, arguments[1:])


def _run(command: tuple[str, str, str], arguments: list[str]) -> int:
    import argparse
    import importlib

    name, module_name, about = command
    module = importlib.import_module(f"cryptofd.cli.{module_name}")
    parser = argparse.ArgumentParser(
        prog=f"cryptofd {name}",
        description=module.__doc__ or about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    try:
        options = parser.parse_args(arguments)
        code = int(module.run(options) or 0)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _die(signal.SIGINT)
    except Terminated as terminated:
        _die(terminated.number)
    except BrokenPipeError:
        # What is still buffered has no reader; Python shall not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        print(f"cryptofd: {sentence(error)}", file=sys.stderr)
        return 1
    return code


def sentence(error: OSError) -> str:
    """An error in one line."""
    text = error.strerror or str(error)
    if error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {text}"
    return " ".join(text.split())


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def _die(number: int) -> NoReturn:
    """Ends by this signal, as the shell expects ($? is 128 + number); no thread is waited for."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _help() -> None:
    print("usage: cryptofd COMMAND [OPTION...]\n")
    print("Cryptography as a file descriptor: one fd, one job, one key.\n")
    for name, _, about in COMMANDS:
        print(f"  {name:<12} {about}")
    print("\n`cryptofd COMMAND --help` tells more. `cryptofd --version` prints the version.")


__all__ = ["COMMANDS", "main", "sentence"]
