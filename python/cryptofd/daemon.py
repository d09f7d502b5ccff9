"""Where the program is that supervises the broker and serves brokered sessions."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def path() -> Path:
    """The program ``cryptofd-daemon`` that came with this package.

    FileNotFoundError where it did not: the package was not built with its Rust part.
    """
    program = Path(__file__).parent / "libexec" / "cryptofd-daemon"
    if not os.access(program, os.X_OK):
        raise FileNotFoundError(
            errno.ENOENT,
            "the supervisor's program is missing: pip install . builds it with the package",
            str(program),
        )
    return program
