"""The tour's program without a key: seals one file through a descriptor, in a chroot, as nobody.

`python -m cryptofd.cli.tour_client JSON`. Half way and at the end it tells so in a line, and waits
for one: then its memory is searched, and what serves it is killed. For comparison it does the same
with a key that it reads from a descriptor and has in its own memory.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from typing import Any

from cryptofd.cli.tour_job import confine


class Timed:
    """A session that seals, and how long that took."""

    def __init__(self, seal: Any) -> None:
        self._seal = seal
        self.seconds = self.slowest = 0.0

    def seal(self, data: Any, aad: bytes) -> bytes:
        begin = time.perf_counter()
        box: bytes = self._seal(data, aad=aad)
        taken = time.perf_counter() - begin
        self.seconds += taken
        self.slowest = max(self.slowest, taken)
        return box

    def close(self) -> None:
        """The descriptor stays: it is asked who served it."""


def pause(**says: Any) -> None:
    """Says where it is, and goes on when it is told to."""
    print(json.dumps(says), flush=True)
    sys.stdin.readline()


def main() -> int:
    asked = json.loads(sys.argv[1])
    import cryptofd
    import cryptofd.description
    from cryptofd import sealed, streaming  # in the chroot there is nothing to import it from

    key = os.read(asked["key_fd"], 64) if "key_fd" in asked else None
    confine(asked)
    if key is None:
        session = cryptofd.adopt(asked["adopt"])
        timed = Timed(session.seal)
    else:
        session = cryptofd.open("gcm(aes)", key=key)
        del key

        def seal(data: Any, aad: bytes) -> bytes:
            iv = os.urandom(12)
            return b"\1" + iv + session.encrypt(data, iv=iv, aad=aad)

        timed = Timed(seal)
    source = io.FileIO(asked["source_fd"])
    sink = io.FileIO(asked["sink_fd"], "wb")
    file: Any = sealed.Sealed(
        timed,  # type: ignore[arg-type]
        bytes.fromhex(asked["header"]), asked["segment"], asked["more"], b"",
    )  # fmt: skip
    half, done = os.fstat(source.fileno()).st_size // 2, 0
    paused = not asked["pauses"]

    def progress(count: int) -> None:
        nonlocal done, paused
        done += count
        if not paused and done >= half:
            paused = True
            pause(at=done)

    with streaming.Writer(sink, file) as writer:
        writer.take(source, progress)
    info = session.info()
    if asked["pauses"]:
        pause(at=done)
    print(
        json.dumps(
            {
                "engine": info.engine,
                "driver": info.driver,
                "hardware": info.hardware,
                "reasons": [f"{r.engine}: {r.why}" for r in info.reasons],
                "bytes": done,
                "seconds": timed.seconds,
                "slowest": timed.slowest,
                "uid": os.getuid(),
                "root": len(os.listdir("/")),  # noqa: PTH208 - what is visible, as a number
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
