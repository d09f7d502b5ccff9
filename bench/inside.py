"""Within the lab's kernel: workers that do batches when they are told to, in turns.

A worker reads how many operations to do, one number a line, and answers each line with the
nanoseconds that they took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypedDict

from bench.measure import in_turns

MARK = "figures: "
KEY, IV = bytes(range(32)), bytes(16)


class Job(TypedDict):
    """What a worker is started with."""

    command: list[str]
    environment: dict[str, str]
    #: What it says first, if it says something.
    says: str


def work(algorithm: str, size: int) -> None:
    """The worker in Python."""
    import cryptofd
    from cryptofd._core import HashFactory

    data = bytes(size)
    call: Callable[[], object]
    if algorithm == "sha256":
        digest = HashFactory(algorithm, engine="kernel").digest
        call = lambda: digest(data)  # noqa: E731
    else:
        encrypt = cryptofd.open(algorithm, key=KEY, engine="kernel").encrypt
        call = lambda: encrypt(data, IV)  # noqa: E731
    for line in sys.stdin:
        turns = [None] * int(line)
        start = time.perf_counter_ns()
        for _ in turns:
            call()
        print(time.perf_counter_ns() - start, flush=True)


class Worker:
    """A worker's process; ``seconds()`` has it do a batch, and returns seconds an operation."""

    def __init__(self, job: Job) -> None:
        self._process = subprocess.Popen(
            job["command"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **job["environment"]},
        )
        self.times = 1
        if job["says"]:
            assert self._process.stdout
            said = self._process.stdout.readline().strip()
            if said != job["says"]:
                raise SystemExit(f"bench: {job} was done by {said!r}")

    def _ask(self, times: int) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{times}\n")
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {self._process.args!r} ended")
        return int(line) / 1e9

    def settle(self, seconds: float) -> None:
        """Finds how many operations take about ``seconds``."""
        taken = self._ask(1)
        while taken < seconds / 4 and self.times < 1 << 22:
            self.times *= 2
            taken = self._ask(self.times)
        self.times = max(1, round(self.times * seconds / max(taken, 1e-9)))

    def seconds(self) -> float:
        """One batch."""
        return self._ask(self.times) / self.times

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def main(jobs: str, seconds: str, pairs: str) -> None:
    """Every job of ours in turns with the peer's."""
    both: list[tuple[Job, Job]] = json.loads(jobs)
    # On one CPU, all of them: the guest's CPUs get different shares of the host's.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures = []
    for one, other in both:
        ours, theirs = Worker(one), Worker(other)
        for worker in (ours, theirs):
            worker.settle(float(seconds))
        figures.append(in_turns(ours.seconds, theirs.seconds, int(pairs)))
        for worker in (ours, theirs):
            worker.close()
    print(MARK + json.dumps(figures), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main(*sys.argv[1:])
