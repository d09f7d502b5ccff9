"""Does the main job on real files, in four places, and checks every result with other programs.

In this process; through a descriptor in another process, in an empty chroot under another user;
there too with a broker's key, which no byte of that process's memory holds, while the worker that
has it is killed in the middle; and, with --lab in a checkout, inside a real kernel with a
virtio-crypto device. sha256sum and openssl check what comes out. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptofd.cli.options import add_json
from cryptofd.cli.output import print_json, print_table, size
from cryptofd.cli.tour_parts import NOBODY, Stop, answer, digest, same, say, tool

HASH, CIPHER = "sha256", "cbc(aes)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="or a directory; default: cryptofd"
    )
    parser.add_argument("--lab", metavar="KERNEL", help="also in this kernel of the lab: qemu-6.1")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="cryptofd-tour-") as home:
        tour = Tour(Path(home))
        begin = time.monotonic()
        stops = []
        for stop in tour.stops([Path(f) for f in options.files], options.lab):
            say(f"{stop.what}, {stop.where}: {stop.checked}")
            stops.append(stop)
        say(f"{len(stops)} results in {time.monotonic() - begin:.1f} s")
    if options.json:
        print_json([{**s.__dict__} for s in stops])
    else:
        _table(stops)
    return int(not all(s.right for s in stops) or not stops)


def _table(stops: Sequence[Stop]) -> None:
    print_table(
        ("what", "where", "engine", "driver", "by", "speed", "checked", "why not the others"),
        (
            (
                s.what,
                s.where,
                *_who(s.result),
                s.checked,
                ("; ".join(s.result["reasons"]) or "it is the first that can") if s.result else "",
            )
            for s in stops
        ),
    )
    print(
        "\nTry next:\n"
        "  cryptofd doctor                      what this host allows, and what to do about it\n"
        "  cryptofd explain 'gcm(aes)'          who would serve an algorithm\n"
        "  cryptofd bench 'gcm(aes)' sha256     how fast this host is\n"
        "  cryptofd random 32 -o key; cryptofd encrypt -k file:key FILE\n"
        "  README.md has it in Python and C; docs/ has the rest"
    )


def _who(result: dict[str, Any]) -> tuple[str, ...]:
    """Engine, driver, hardware and speed, where something was computed."""
    if not result:
        return ("", "", "", "")
    speed = size(result["bytes"] / max(result["seconds"], 1e-9))
    kind = "hardware" if result["hardware"] else "software"
    return (result["engine"], result["driver"], kind, f"{speed}/s")


class Tour:
    """The files, the key, and the places."""

    def __init__(self, home: Path) -> None:
        self.home = home
        # Every run has its own; openssl is told too, in its argument list: a key for show.
        self.key, self.iv = os.urandom(32), os.urandom(16)
        self._results = 0

    def stops(self, paths: Sequence[Path], lab: str | None) -> Iterator[Stop]:
        """All of it, in order."""
        inputs = self._inputs(paths)
        for name, path in inputs:
            yield from self._both(name, path, "in process", self._here)
        name, path = inputs[0]
        place = "fd, chroot, uid 65534" if os.geteuid() == 0 else "fd, another process"
        yield from self._both(name, path, place, self._elsewhere)
        yield from self._brokered(inputs)
        if lab is not None:
            yield from self._in_lab(name, path, lab)

    def _inputs(self, paths: Sequence[Path]) -> list[tuple[str, Path]]:
        """Files as they are; a directory as one archive of its files."""
        if not paths:
            import cryptofd

            paths = [Path(cryptofd.__file__).parent]
        inputs = []
        for path in paths:
            if path.is_dir():
                archive, count = self._archive(path)
                inputs.append((f"{path.resolve().name}/ ({count} files)", archive))
            else:
                inputs.append((path.name, path))
        return [(f"{name}, {size(path.stat().st_size)}", path) for name, path in inputs]

    def _archive(self, directory: Path) -> tuple[Path, int]:
        archive = self._fresh("tar")
        files = _files(directory)
        with tarfile.open(archive, "w") as tar:
            for file in files:
                tar.add(file, arcname=str(file.relative_to(directory)), recursive=False)
        return archive, len(files)

    def _fresh(self, suffix: str) -> Path:
        self._results += 1
        return self.home / f"{self._results}.{suffix}"

    def _both(self, name: str, path: Path, place: str, perform: Any) -> Iterator[Stop]:
        """Hash and encryption of one file, each checked."""
        result = perform(HASH, path, None)
        yield self._hashed(name, path, place, result)
        sink = self._fresh("out")
        result = perform(CIPHER, path, sink)
        yield self._encrypted(name, path, place, result, sink)

    def _hashed(self, name: str, path: Path, place: str, result: dict[str, Any]) -> Stop:
        theirs = digest(path)
        right = theirs == result["digest"]
        checked = "sha256sum agrees" if right else f"WRONG: sha256sum says {theirs}"
        return Stop(f"{HASH} of {name}", place, result, checked, right)

    def _encrypted(
        self, name: str, path: Path, place: str, result: dict[str, Any], sink: Path
    ) -> Stop:
        plain = self._fresh("plain")
        secret = ["-K", self.key.hex(), "-iv", self.iv.hex()]
        tool("openssl", "enc", "-d", "-aes-256-cbc", *secret, "-in", str(sink), "-out", str(plain))
        right = same(plain, path)
        plain.unlink()
        sink.unlink()
        checked = "openssl decrypts it" if right else "WRONG: openssl decrypts something else"
        return Stop(f"{CIPHER} of {name}", place, result, checked, right)

    def _asked(self, algorithm: str, **more: Any) -> dict[str, Any]:
        asked: dict[str, Any] = {"algorithm": algorithm, "options": {}, **more}
        if algorithm == CIPHER:
            asked |= {"key": self.key.hex(), "iv": self.iv.hex()}
            asked["options"] = {"padding": "pkcs7", **asked["options"]}
        return asked

    def _here(self, algorithm: str, path: Path, sink: Path | None) -> dict[str, Any]:
        import cryptofd
        from cryptofd.cli.tour_job import work

        asked = self._asked(algorithm)
        key = self.key if algorithm == CIPHER else None
        with (
            cryptofd.open(algorithm, key=key, **asked["options"]) as session,
            path.open("rb") as file,
        ):
            if sink is None:
                return work(session, file.fileno(), None, None)
            with sink.open("wb") as out:
                return work(session, file.fileno(), out.fileno(), self.iv)

    def _elsewhere(self, algorithm: str, path: Path, sink: Path | None) -> dict[str, Any]:
        """Another process gets descriptors and nothing else: no key, no files, no rights."""
        import cryptofd

        empty = self.home / "empty"
        empty.mkdir(exist_ok=True)
        options = self._asked(algorithm)["options"]
        key = self.key if algorithm == CIPHER else None
        with cryptofd.open(algorithm, key=key, **options) as session, path.open("rb") as file:
            asked: dict[str, Any] = {"adopt": session.fileno(), "source_fd": file.fileno()}
            if os.geteuid() == 0:
                asked |= {"chroot": str(empty), "uid": NOBODY}
            passed = [session.fileno(), file.fileno()]
            if sink is None:
                result = self._job(asked, passed)
            else:
                with sink.open("wb") as out:
                    asked |= {"sink_fd": out.fileno(), "iv": self.iv.hex()}
                    result = self._job(asked, [*passed, out.fileno()])
        if os.geteuid() == 0 and (result["uid"] != NOBODY or result["root"] != 0):
            raise cryptofd.CryptoFDError(errno.EPERM, "the other process was not shut in")
        return result

    def _job(self, asked: dict[str, Any], passed: list[int]) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "cryptofd.cli.tour_job", json.dumps(asked)],
            pass_fds=passed,
            capture_output=True,
            check=False,
        )
        return answer(done.stdout, done.returncode, done.stderr)

    def _brokered(self, inputs: Sequence[tuple[str, Path]]) -> Iterator[Stop]:
        """With a key of a broker's, which the program that encrypts never has."""
        import importlib.util

        if importlib.util.find_spec("asyncvarlink") is None:
            say("no broker on this tour: pip install 'cryptofd[broker]'")
            return
        from cryptofd.cli.tour_broker import stops

        yield from stops(self.home, inputs)

    def _in_lab(self, name: str, path: Path, kernel: str) -> Iterator[Stop]:
        """The same inside a kernel whose hardware is a virtio-crypto device."""
        from cryptofd.errors import CryptoFDError

        try:
            from lab import LabError
            from lab.kernels import cache
        except ImportError:
            message = "--lab needs a checkout: run `make run` there"
            raise CryptoFDError(errno.ENOENT, message) from None
        say(f"booting Linux ({kernel}) with a virtio-crypto device, by emulation: about a minute")
        sink = self._fresh("out")
        cache().mkdir(parents=True, exist_ok=True)
        # The guest sees the lab's own directories, not all of this host's.
        with tempfile.TemporaryDirectory(prefix="tour-", dir=cache()) as visible:
            copy = Path(visible, "file")
            shutil.copyfile(path, copy)
            try:
                results = self._guest(kernel, copy.resolve(), sink)
            except LabError as error:
                raise CryptoFDError(errno.EIO, str(error)) from None
        place = f"in Linux ({kernel})"
        yield self._hashed(name, path, place, results["hash"])
        stop = self._encrypted(name, path, place, results["cipher"], sink)
        if not results["cipher"]["hardware"]:
            stop.right, stop.checked = False, "WRONG: hardware was required"
        yield stop

    def _guest(self, kernel: str, path: Path, sink: Path) -> dict[str, dict[str, Any]]:
        """Boots, does both jobs, and brings what they wrote."""
        import cryptofd
        from lab import Machine, Setting

        jobs = {
            "hash": self._asked(HASH, source=str(path), options={"engine": "kernel"}),
            "cipher": self._asked(
                CIPHER, source=str(path), sink="{results}/out", options={"hardware": "require"}
            ),
        }
        script = "set -e\n" + "".join(
            f'python -m cryptofd.cli.tour_job "$(sed s,{{results}},$LAB_RESULTS, '
            f'$LAB_RESULTS/{job}.json)" > $LAB_RESULTS/{job}.result\n'
            for job in jobs
        )
        files = {f"{job}.json": json.dumps(asked) for job, asked in jobs.items()}
        # The guest shall run this very package.
        env = {"PYTHONPATH": str(Path(cryptofd.__file__).resolve().parent.parent)}
        output = io.BytesIO()
        setting = Setting(kernel, hardware=True)
        with Machine(setting, ["sh", "-c", script], env, output, files) as machine:
            code = machine.wait(600)
            found = machine.results
            results = {
                job: answer(_bytes(found / f"{job}.result"), code, output.getvalue())
                for job in jobs
            }
            shutil.copyfile(found / "out", sink)
        return results


def _files(directory: Path) -> list[Path]:
    """What git knows of a directory, else all regular files in it."""
    listed = subprocess.run(
        ["git", "-C", str(directory), "ls-files", "-z"], capture_output=True, check=False
    )
    names = os.fsdecode(listed.stdout).split("\0") if not listed.returncode else []
    paths = [directory / name for name in names if name] or sorted(directory.rglob("*"))
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
