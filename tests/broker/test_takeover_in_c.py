"""A C program on a brokered session sees no error when workers are killed under it."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_broker import DEADLINE, Broker, until

import cryptofd

ROOT = Path(__file__).parent.parent.parent
KEY = bytes(range(32))
KILLS = 20
WAYS = 6


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("c") / "takeover"
    library = Path(cryptofd.__file__).parent / "lib"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-pthread"]
    paths = ["-I", ROOT / "crates/door-c/include", "-L", library, f"-Wl,-rpath,{library}"]
    source = ROOT / "tests/c/takeover.c"
    command = ["cc", *flags, *paths, source, "-o", program, "-lcryptofd"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    broker.connect().keys.import_key("mac", "hmac(sha256)", KEY)
    yield broker
    broker.end()


def started(real: Broker, program: Path, what: str, *more: str) -> subprocess.Popen[str]:
    """The program with a fresh session, which is its own from then on."""
    with cryptofd.open("hmac(sha256)", key="cryptofd:mac", broker=real.connect()) as fd:
        return subprocess.Popen(
            [str(program), what, str(fd.fileno()), *more], pass_fds=[fd.fileno()], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> None:
    out, error = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, error) == (0, "right\n", "")


def kill(real: Broker) -> None:
    """SIGKILL to the worker, and its successor is there."""
    before = real.kill_worker()
    until(
        lambda: before not in [one["pid"] for one in real.status()["workers"]],
        "no other worker comes",
    )


def test_no_answer_is_lost_wrong_or_doubled(real: Broker, program: Path) -> None:
    """Blocking, polling, by two threads, and by a child that was forked in the middle."""
    progress = real.folder / "progress"
    progress.write_bytes(bytes(8 * WAYS))
    process = started(real, program, "work", str(progress))

    def counts() -> tuple[int, ...]:
        return struct.unpack(f"{WAYS}Q", progress.read_bytes())

    def all_go_on() -> None:
        before = counts()

        def done() -> bool:
            assert process.poll() is None, process.communicate()
            return all(now > then for now, then in zip(counts(), before, strict=True))

        until(done, "somebody waits for ever")

    try:
        all_go_on()
        for _ in range(KILLS):
            time.sleep(0.7)  # a domain whose workers die younger than 0.5 s is given up
            real.kill_worker()
            all_go_on()
        ended(process)
    finally:
        process.kill()
        process.wait()
    print(counts())


def test_what_runs_is_lost_and_says_so(real: Broker, program: Path) -> None:
    process = started(real, program, "stream")
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "begun\n"
        kill(real)
        process.stdin.write("\n")
        ended(process)
    finally:
        process.kill()
        process.wait()
