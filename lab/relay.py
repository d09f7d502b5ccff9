"""The guest's half of a relayed pytest run: each selection in a fork, each report to a file.

`python -m lab.relay` reads selections.json in $LAB_RESULTS (a list of pytest's arguments a
selection, null for one that is done) and writes N.events there, one JSON object a line, each
complete on the host's disk before the next test starts: a kernel that dies leaves what was known
and which test it was at.
"""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import guest


class Relay:
    """A pytest plugin that writes what happens to an open descriptor."""

    def __init__(self, descriptor: int, config: pytest.Config | None = None) -> None:
        self._descriptor = descriptor
        self._pending: list[dict[str, Any]] = []
        self._config = config

    def say(self, **event: Any) -> None:
        self._pending.append(event)
        lines = "".join(json.dumps(event, default=str) + "\n" for event in self._pending)
        self._pending.clear()
        data = lines.encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.say(kind="uncollected", nodeid=report.nodeid, text=report.longreprtext)
        elif report.skipped and isinstance(report.longrepr, tuple):
            self.say(kind="left", nodeid=report.nodeid, skip=list(report.longrepr))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.say(kind="collected", count=len(session.items))

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self.say(kind="start", nodeid=nodeid, location=location)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        assert self._config is not None
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._pending.append({"kind": "report", "data": data})

    def pytest_runtest_logfinish(self, nodeid: str, location: object) -> None:
        self.say(kind="finish", nodeid=nodeid, location=location)


def main() -> int:
    results = guest.results()
    selections = json.loads((results / "selections.json").read_text())
    worst = 0
    for number, arguments in enumerate(selections):
        if arguments is None:
            continue
        events = results / f"{number}.events"
        descriptor = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        child = os.fork()
        if child == 0:
            code = _pytest(arguments, descriptor)
            Relay(descriptor).say(kind="end", status=code)
            os._exit(code)
        code = _wait(child, events)
        if not _has_ended(events):
            Relay(descriptor).say(kind="end", status=code)
        os.close(descriptor)
        worst = max(worst, abs(code))
    return worst


def _wait(child: int, events: Path) -> int:
    """The child's exit status, or what it said last if the kernel does not let it end.

    A thread that waits for a device that was pulled cannot be killed, nor can its process.
    """
    pidfd = os.pidfd_open(child)
    try:
        while not select.select([pidfd], [], [], 1.0)[0]:
            if (status := _has_ended(events)) and not select.select([pidfd], [], [], 5.0)[0]:
                return int(status["status"])
    finally:
        os.close(pidfd)
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code)


def _has_ended(events: Path) -> dict[str, Any] | None:
    """The event that the child ended with, if it came so far."""
    # What comes behind the last line's end is still being written.
    lines = events.read_bytes().split(b"\n")[:-1]
    last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return last if last.get("kind") == "end" else None


def _pytest(arguments: list[str], descriptor: int) -> int:
    root = str(Path.cwd())
    if root not in sys.path:
        sys.path.insert(0, root)
    status = int(pytest.main(["-p", "no:cacheprovider", *arguments], plugins=[Relay(descriptor)]))
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
