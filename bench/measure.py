"""Pairs of measurements taken in turns, and what may be said of their ratio."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: Seconds that a batch takes, pairs that are taken.
SECONDS = 0.05
PAIRS = 15


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    seconds: float = SECONDS
    pairs: int = PAIRS
    #: Bytes of the files that are hashed.
    files: int = 2 << 30


@dataclass
class Figure:
    """One line of the table.

    ``ours`` and ``peer`` are seconds for the work; ``value`` is the median of ``peer / ours`` over
    the pairs (or, where ``unit`` says so, something else), ``low`` and ``high`` its 95 % interval.
    """

    work: str
    peer_name: str
    target: float
    ours: float
    peer: float
    value: float
    low: float
    high: float
    unit: str = "x"
    #: Whether less is better, as for milliseconds.
    less: bool = False
    pairs: Sequence[tuple[float, float]] = field(default_factory=list)
    note: str = ""
    #: Whether it is enough that the interval reaches the target: two things that should be equal.
    reaches: bool = False
    #: Which part of the bench it is of, and the host's load when that was done.
    part: str = ""
    load: float = 0.0

    @property
    def met(self) -> bool:
        """Whether the median reaches the target."""
        if self.reaches:
            return self.high >= self.target
        return self.value <= self.target if self.less else self.value >= self.target

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Figure:
        """One that was written."""
        return cls(**{name: value for name, value in values.items() if name != "met"})

    def as_json(self) -> dict[str, Any]:
        """All of it, and whether the target is met."""
        return asdict(self) | {"met": self.met}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median by the bootstrap, 4,000 draws from a fixed seed."""
    generator = random.Random(0)
    medians = sorted(
        statistics.median(generator.choices(values, k=len(values))) for _ in range(4000)
    )
    return medians[100], medians[-101]


def in_turns(
    ours: Callable[[], float], peer: Callable[[], float], pairs: int
) -> list[tuple[float, float]]:
    """Seconds of both, pair by pair; who goes first changes with every pair."""
    taken = []
    for number in range(pairs):
        if number % 2:
            second = peer()
            taken.append((ours(), second))
        else:
            first = ours()
            taken.append((first, peer()))
    return taken


def figure(
    work: str,
    peer_name: str,
    target: float,
    pairs: Sequence[tuple[float, float]],
    note: str = "",
    *,
    reaches: bool = False,
) -> Figure:
    """The line for pairs of (our seconds, the peer's seconds)."""
    ratios = [theirs / ours for ours, theirs in pairs]
    return _compared(work, peer_name, target, pairs, ratios, note=note, reaches=reaches)


def _compared(
    work: str,
    peer_name: str,
    target: float,
    pairs: Sequence[tuple[float, float]],
    values: Sequence[float],
    **more: Any,
) -> Figure:
    low, high = interval(values)
    return Figure(
        work,
        peer_name,
        target,
        statistics.median(ours for ours, _ in pairs),
        statistics.median(theirs for _, theirs in pairs),
        statistics.median(values),
        low,
        high,
        pairs=pairs,
        **more,
    )


def absolute(
    work: str, values: Sequence[float], target: float, unit: str, *, less: bool = False
) -> Figure:
    """The line for what has a target and no peer: seconds, or (``/s``) how many a second."""
    low, high = interval(values)
    value = statistics.median(values)
    ours = value if unit == "s" else 1 / value
    return Figure(work, "", target, ours, 0.0, value, low, high, unit=unit, less=less,
                  pairs=[(each, 0.0) for each in values])  # fmt: skip


def more_than(
    work: str,
    peer_name: str,
    target: float,
    pairs: Sequence[tuple[float, float]],
    unit: Literal["s more", "ms"] = "s more",
) -> Figure:
    """The line for the time that we take more than a peer."""
    scale = 1000 if unit == "ms" else 1
    more = [(ours - theirs) * scale for ours, theirs in pairs]
    return _compared(work, peer_name, target, pairs, more, unit=unit, less=True)


def batch(call: Callable[[], object], seconds: float) -> Callable[[], float]:
    """A function that makes as many calls as take about ``seconds`` and returns seconds a call."""
    times = 1
    while True:
        taken = _run(call, times)
        if taken > seconds / 4 or times > 1 << 24:
            break
        times *= 2
    times = max(1, round(times * seconds / taken))
    return lambda: _run(call, times) / times


def _run(call: Callable[[], object], times: int) -> float:
    turns = [None] * times
    start = time.perf_counter()
    for _ in turns:
        call()
    return time.perf_counter() - start
