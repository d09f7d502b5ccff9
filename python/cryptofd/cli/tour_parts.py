"""What the stops of the tour have in common: a row, progress, other programs."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptofd.errors import CryptoFDError

#: Who has no rights here.
NOBODY = 65534


@dataclass
class Stop:
    """One row of the table. ``result`` says who did it and how fast, of what was computed."""

    what: str
    where: str
    result: dict[str, Any]
    checked: str
    right: bool


def say(text: str) -> None:
    """Progress: one line on stderr."""
    print(f"· {text}", file=sys.stderr, flush=True)


def answer(output: bytes, code: int, said: bytes) -> dict[str, Any]:
    """What a job printed."""
    try:
        result: dict[str, Any] = json.loads(output)
    except json.JSONDecodeError:
        lines = said.decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
        raise CryptoFDError(errno.EIO, f"the job failed: {lines[-1]}") from None
    return result


def tool(*command: str, given: bytes | None = None) -> bytes:
    """The output of a program that checks."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, input=given)
    except FileNotFoundError:
        raise CryptoFDError(
            errno.ENOENT, f"{command[0]} is needed to check: apt install coreutils openssl"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise CryptoFDError(errno.EBADMSG, f"{command[0]} {command[1]}: {lines[0]}") from None
    return done.stdout


def digest(path: Path) -> str:
    """sha256sum's."""
    output = tool("sha256sum", "-b", str(path)).decode(errors="replace")
    return output.split()[0].lstrip("\\")


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same, by sha256sum."""
    return digest(one) == digest(other)
