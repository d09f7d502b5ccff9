"""One stop of the tour: hashes and encrypts one file, here or in a chroot, and tells who did it.

`python -m cryptofd.cli.tour_job JSON`; the result, one JSON object, goes to standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

# What a record carries inline, and what the kernel's buffers hold.
CHUNK = 64 * 1024


def work(session: Any, source: int, sink: int | None, iv: bytes | None) -> dict[str, Any]:
    """Reads descriptor `source`: encrypts into `sink`, or hashes without one."""
    before = session.info()
    running = session if sink is None else session.stream("encrypt", iv=iv)
    buffer = memoryview(bytearray(CHUNK))
    size, seconds = 0, 0.0

    def put(data: bytes) -> None:
        if sink is not None:
            view = memoryview(data)
            while view:
                view = view[os.write(sink, view) :]

    while count := os.readv(source, [buffer]):
        begin = time.perf_counter()
        part = running.update(buffer[:count])
        seconds += time.perf_counter() - begin
        size += count
        put(part or b"")
    begin = time.perf_counter()
    last = running.digest() if sink is None else running.finish()
    seconds += time.perf_counter() - begin
    if sink is not None:
        put(last)
    after = session.info()
    return {
        "engine": after.engine,
        "driver": after.driver + ("" if after.driver_certain else " (likely)"),
        "hardware": after.hardware,
        "reasons": [f"{r.engine}: {r.why}" for r in after.reasons],
        "moved": after.counts.moved - before.counts.moved,
        "bytes": size,
        "seconds": seconds,
        "digest": last.hex() if sink is None else None,
    }


def confine(asked: Mapping[str, Any]) -> None:
    """From here on there is no file, no library and no right but what is open already."""
    if asked.get("chroot"):
        os.chroot(asked["chroot"])
        os.chdir("/")
    if asked.get("uid"):
        os.setgroups([])
        os.setgid(asked["uid"])
        os.setuid(asked["uid"])


def main() -> int:
    asked = json.loads(sys.argv[1])
    import cryptofd
    import cryptofd.description  # in the chroot there is nothing to import it from

    source = asked.get("source_fd")
    if source is None:
        source = os.open(asked["source"], os.O_RDONLY | os.O_CLOEXEC)
    sink = asked.get("sink_fd")
    if sink is None and asked.get("sink"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        sink = os.open(asked["sink"], flags, 0o600)
    iv = bytes.fromhex(asked["iv"]) if asked.get("iv") else None
    confine(asked)
    if "adopt" in asked:
        session = cryptofd.adopt(asked["adopt"])
    else:
        key = bytes.fromhex(asked["key"]) if asked.get("key") else None
        session = cryptofd.open(asked["algorithm"], key=key, **asked.get("options", {}))
    with session:
        result = work(session, source, sink, iv)
    result["uid"] = os.getuid()
    result["root"] = len(os.listdir("/"))  # noqa: PTH208 - what is visible, as a number
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
