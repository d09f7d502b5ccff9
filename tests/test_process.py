"""What a session does to its process: what import loads, and that keys are gone when it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from host_engines import refusal

# Loaded when they are needed, not before.
LATE = ["json", "dataclasses", "asyncio", "hashlib", "typing_extensions", "cryptofd.description",
        "cryptofd.aio", "cryptofd.doors", "cryptofd.cli", "rich"]  # fmt: skip


def test_import_loads_little() -> None:
    program = (
        "import sys; before = set(sys.modules); import cryptofd;"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "cryptofd._core" in loaded
    assert loaded.isdisjoint(LATE)


WIPING = """
import gc, os, sys
import cryptofd
algorithm, engine, iv_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
key = bytearray(32)
source = os.open("/dev/urandom", os.O_RDONLY)
assert os.readv(source, [key]) == 32
masked = bytes(byte ^ 0x5A for byte in key)
print(masked.hex(), flush=True)
def held():
    print("ready", flush=True)
    sys.stdin.readline()
fd = cryptofd.open(algorithm, key=key, engine=engine)
key[:] = bytes(32)
if iv_size >= 0:
    iv = bytes(iv_size)
    fd.decrypt(fd.encrypt(bytes(64), iv=iv), iv=iv)
else:
    fd.update(b"data"); fd.digest(); fd.copy().digest()
held()
fd.close()
del fd
gc.collect()
held()
"""


def occurrences(pid: int, pattern: bytes) -> int:
    """How often ``pattern`` stands in the writable memory of a process."""
    found = 0
    maps = Path(f"/proc/{pid}/maps").read_text()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for first, last in re.findall(r"(?m)^([0-9a-f]+)-([0-9a-f]+) rw", maps):
            place, end = int(first, 16), int(last, 16)
            while place < end:
                memory.seek(place)
                try:
                    part = memory.read(min(end - place, 1 << 24)) or b""
                except OSError:
                    part = b""  # memory that nobody may read is no leak
                found += part.count(pattern)
                # A page's overlap, for what stands across two parts.
                step = len(part) if place + len(part) == end else len(part) - 4096
                place += max(step, 4096)
    return found


@pytest.mark.parametrize(
    ("algorithm", "iv_size"),
    [("gcm(aes)", 12), ("cbc(aes)", 16), ("rfc7539(chacha20,poly1305)", 12), ("hmac(sha256)", -1)],
)
def test_keys_are_wiped(engine: str, algorithm: str, iv_size: int) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    process = subprocess.Popen(
        [sys.executable, "-c", WIPING, algorithm, engine, str(iv_size)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    try:
        masked = bytes.fromhex(process.stdout.readline())
        key = bytes(byte ^ 0x5A for byte in masked)
        assert process.stdout.readline() == "ready\n"
        try:
            assert occurrences(process.pid, masked), "the search finds nothing at all"
        except PermissionError as error:
            pytest.skip(f"this host does not let a parent read its child's memory: {error}")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        assert occurrences(process.pid, key) == 0, "the key outlived its session"
        if algorithm.startswith("rfc7539"):
            # The vector code of both libraries leaves halves of the key on the stack.
            return
        assert occurrences(process.pid, key[:16]) == 0
        assert occurrences(process.pid, key[16:]) == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
