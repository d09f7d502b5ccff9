"""The host's half of a relayed pytest run: every test in a lab kernel is a result here.

A test module says which tests run where:

    from lab import Selection

    engines = Selection("uml", "tests/engines", "-m", "kernel", linux="7.3:1")

and a conftest.py imports this module's hooks. Each inner test is reported as it ends, with its
own outcome, message, output and duration, below the name of its selection. The selection itself
is a result too: it passes when the kernel and pytest in it came to a proper end. Selections with
equal settings share one boot.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from lab import machine
from lab.common import LabError
from lab.machine import Machine, Setting


@dataclass(frozen=True, init=False)
class Selection:
    """Some tests in some kernel: pytest's arguments, and what the machine is."""

    setting: Setting
    arguments: tuple[str, ...]
    patience: float
    """Seconds without news from the guest after which it is given up."""

    def __init__(
        self,
        kernel: str,
        *arguments: str,
        linux: str | None = None,
        uid: int = 0,
        hardware: bool = False,
        patience: float = 300.0,
    ) -> None:
        object.__setattr__(self, "setting", Setting(kernel, linux, uid, hardware))
        object.__setattr__(self, "arguments", arguments)
        object.__setattr__(self, "patience", patience)


class SelectionItem(pytest.Item):
    """One selection, as pytest sees it."""

    def __init__(self, *, selection: Selection, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.selection = selection
        self.add_marker(pytest.mark.timeout(0))  # `patience` bounds it, test by test

    def runtest(self) -> None:
        raise NotImplementedError("a selection has a protocol of its own")

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, self.name


# What a kernel says of a CPU of its own that spins (or, with its interrupts off, is not heard of),
# and how long it may stay without news after that: on a busy host a CPU of the guest may also have
# waited for its turn.
LOCKED_UP = re.compile(r"watchdog: BUG: soft lockup|rcu: INFO: rcu_\w+ detected stalls")
LOCKED_UP_SECONDS = 100.0


class _BootedAgain(Exception):
    """What the guest says begins anew."""


@dataclass
class _Boot:
    """One machine for all selections of a session that have its setting."""

    setting: Setting
    items: list[SelectionItem] = field(default_factory=list)
    machine: Machine | None = None
    retried: bool = False
    lost: str | None = None
    """Why there is no machine any more."""
    ended: set[SelectionItem] = field(default_factory=set)

    def start(self) -> Machine:
        if self.lost is not None:
            raise LabError(self.lost)
        if self.machine is None:
            selections = json.dumps(
                [None if item in self.ended else item.selection.arguments for item in self.items]
            )
            self.machine = Machine(
                self.setting,
                ["python", "-m", "lab.relay"],
                files={"selections.json": selections},
            )
            self.machine.start()
        return self.machine

    def again(self, dead: Machine) -> bool:
        """Boots once more a kernel that died, or does not go on, of its own.

        A kernel patches its own code while it boots, and under TCG another of its CPUs may run
        into that (an int3 Oops): the emulator's doing, and no result of ours. And a driver whose
        device is pulled may have a CPU spin for ever, which no program can have it do: the
        watchdog says so, or another CPU.
        """
        if self.retried or (dead.booted and not LOCKED_UP.search(dead.console())):
            return False
        self.retried = True
        what = "locked up" if dead.booted else "died while it booted"
        print(dead.failure(f"{what}; it is booted again"), file=sys.stderr)
        dead.close()
        self.machine = None
        return True

    def events(self, item: SelectionItem) -> Iterator[dict[str, Any]]:
        """What the guest says about this selection, until it ends. LabError if it does not.

        What a kernel said that was booted again is not said twice.
        """
        said: set[str] = set()
        while True:
            again = bool(said)
            try:
                for event in self._events_of_one_boot(item):
                    of = _about(event)
                    if again and of in said:
                        continue
                    if event["kind"] not in ("start", "report"):
                        said.add(of)
                    yield event
            except _BootedAgain:
                continue
            self.ended.add(item)
            return

    def _events_of_one_boot(self, item: SelectionItem) -> Iterator[dict[str, Any]]:
        running = self.start()
        path = running.results / f"{self.items.index(item)}.events"
        rest, position = b"", 0
        news = time.monotonic()
        while True:
            gone = running.ended  # asked before the file is read, so that nothing is missed
            fresh = b""
            if path.exists():
                with path.open("rb") as stream:
                    stream.seek(position)
                    fresh = stream.read()
            position += len(fresh)
            *lines, rest = (rest + fresh).split(b"\n")
            for line in lines:
                event: dict[str, Any] = json.loads(line)
                yield event
                if event["kind"] == "end":
                    return
                news = time.monotonic()
            if fresh:
                continue
            if gone:
                if self.again(running):
                    raise _BootedAgain
                raise self.lose("died")
            patience = item.selection.patience if running.booted else machine.BOOT_SECONDS
            silent = time.monotonic() - news
            soon = running.booted and silent > min(patience, LOCKED_UP_SECONDS)
            if soon and self.again(running):
                raise _BootedAgain
            if silent > patience:
                raise self.lose(f"said nothing for {patience:.0f} s")
            time.sleep(0.02)

    def lose(self, what: str) -> LabError:
        """Gives the machine up for all selections that are left; the error for this one."""
        assert self.machine is not None
        error = self.machine.failure(what)
        self.lost = f"{self.setting} {what} at a selection before this one"
        self.machine.close()
        return error

    def close(self) -> None:
        if self.machine is not None:
            self.machine.close()


def _about(event: dict[str, Any]) -> str:
    """The test that an event is about, or what kind of event it is."""
    report: dict[str, Any] = event.get("data", event)
    return str(report.get("nodeid", event["kind"]))


_boots = pytest.StashKey[dict[Setting, _Boot]]()


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Sequence[SelectionItem] | None:
    if isinstance(obj, Selection):
        selections: list[Selection] = [obj]
    elif isinstance(obj, list | tuple) and obj and all(isinstance(o, Selection) for o in obj):
        selections = list(obj)
    else:
        return None
    # No brackets in the name: what stands in them is a parameter to those who read node ids.
    return [
        SelectionItem.from_parent(
            collector, name=f"{name}@{selection.setting}", selection=selection
        )
        for selection in selections
    ]


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if not isinstance(item, SelectionItem):
        return None
    boots = item.session.stash.setdefault(_boots, {})
    if not boots:
        for other in item.session.items:
            if isinstance(other, SelectionItem):
                setting = other.selection.setting
                boots.setdefault(setting, _Boot(setting)).items.append(other)
    boot = boots[item.selection.setting]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    item.ihook.pytest_runtest_setup(item=item)
    started = time.time()
    problems = _relay(item, boot)
    own = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed" if problems else "passed",
        longrepr="\n".join(problems) or None,
        when="call",
        duration=time.time() - started,
        start=started,
        stop=time.time(),
    )
    item.ihook.pytest_runtest_logreport(report=own)
    # Also what tests before this one share with it, and with none that comes after.
    item.ihook.pytest_runtest_teardown(item=item, nextitem=nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    if item is boot.items[-1]:
        boot.close()
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    for boot in session.stash.get(_boots, {}).values():
        boot.close()


def _relay(item: SelectionItem, boot: _Boot) -> list[str]:
    """Reports the guest's results as they come; returns what went wrong beside them."""
    problems: list[str] = []
    begun: dict[str, Any] | None = None
    ran = False
    try:
        for event in boot.events(item):
            match event["kind"]:
                case "collected":
                    item.session.testscollected += event["count"]
                case "uncollected":
                    problems.append(f"{event['nodeid']} could not be collected:\n{event['text']}")
                case "left":
                    _report_left(item, event)
                    ran = True
                case "start":
                    begun = event
                    item.ihook.pytest_runtest_logstart(**_place(item, event))
                case "report":
                    report = item.config.hook.pytest_report_from_serializable(
                        config=item.config, data=event["data"]
                    )
                    report.nodeid = f"{item.nodeid}::{report.nodeid}"
                    if isinstance(report.longrepr, list):
                        report.longrepr = tuple(report.longrepr)  # JSON has no tuples
                    item.ihook.pytest_runtest_logreport(report=report)
                case "finish":
                    begun, ran = None, True
                    item.ihook.pytest_runtest_logfinish(**_place(item, event))
                case "end" if event["status"] not in (0, 1):
                    problems.append(_ending(event["status"], boot))
            if item.session.shouldfail or item.session.shouldstop:
                boot.close()
                return problems
    except LabError as error:
        problems.append(str(error))
    if begun is not None:
        _report_lost(item, begun)
    elif not ran and not problems:
        problems.append("no test ran")
    return problems


def _ending(status: int, boot: _Boot) -> str:
    if status < 0:
        what = f"pytest was killed by signal {-status}"
    else:
        names = {code.value: code.name for code in pytest.ExitCode}
        what = f"pytest ended with {names.get(status, status)}"
    assert boot.machine is not None
    return f"{what}\n{bytes(boot.machine.transcript[-3000:]).decode(errors='replace')}"


def _place(item: SelectionItem, event: dict[str, Any]) -> dict[str, Any]:
    return {"nodeid": f"{item.nodeid}::{event['nodeid']}", "location": tuple(event["location"])}


def _report_left(item: SelectionItem, event: dict[str, Any]) -> None:
    """A whole module that skipped itself."""
    nodeid = f"{item.nodeid}::{event['nodeid']}"
    path, line, reason = event["skip"]
    report = pytest.TestReport(
        nodeid=nodeid,
        location=(event["nodeid"], None, nodeid),
        keywords={},
        outcome="skipped",
        longrepr=(path, line, reason),
        when="setup",
    )
    item.ihook.pytest_runtest_logreport(report=report)


def _report_lost(item: SelectionItem, begun: dict[str, Any]) -> None:
    """The test that ran when its kernel or its process died."""
    report = pytest.TestReport(
        **_place(item, begun),
        keywords={},
        outcome="failed",
        longrepr="this test did not end: see its selection for what the machine said",
        when="call",
    )
    item.ihook.pytest_runtest_logreport(report=report)
