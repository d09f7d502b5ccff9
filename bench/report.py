"""The figures as a table, as JSON and drawn."""

from __future__ import annotations

import importlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cryptofd
from bench.measure import Figure


def host() -> dict[str, Any]:
    """Where it was measured."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Hardware")):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "engines": {e.name: e.about for e in cryptofd.engines() if e.available},
    }


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if abs(seconds) * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _in(unit: str, number: float) -> str:
    """A number with its unit; seconds in one that fits, rates in whole numbers."""
    if unit.split()[0] == "s":
        return " ".join([_time(number), *unit.split()[1:]])
    return f"{number:,.0f} {unit}" if unit == "/s" else f"{number:.3g} {unit}"


def table(figures: Sequence[Figure]) -> str:
    """Markdown."""
    lines = [
        "| work | peer | ours | peer's | median | 95 % | target | |",
        "| --- | --- | --: | --: | --: | --: | --: | --- |",
    ]
    for each in figures:
        sign, unit = "under " if each.less else "to " if each.reaches else "", each.unit
        value, low, high, target = (
            _in(unit, number) for number in (each.value, each.low, each.high, each.target)
        )
        peer = _time(each.peer) if each.peer_name else ""
        lines.append(
            f"| {each.work} | {each.peer_name or 'the target alone'} | {_time(each.ours)} | {peer} "
            f"| **{value}** | {low} to {high} "
            f"| {sign}{target} | {'met' if each.met else '**missed**'} |"
        )
    return "\n".join(lines)


def _loads(figures: Sequence[Figure]) -> str:
    loads = {each.part: each.load for each in figures}
    return ", ".join(f"{part} {load:.1f}" for part, load in loads.items())


def text(figures: Sequence[Figure], about: dict[str, Any], short: bool) -> str:
    """The page: where, how, the table, what was missed."""
    engines = ", ".join(f"{name} ({what})" for name, what in about["engines"].items())
    missed = [each for each in figures if not each.met]
    lines = [
        "# Figures",
        "",
        f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, Python {about['python']}. "
        f"Engines: {engines}.",
        "",
        "Each line: both in the same run, in turns; the median ratio of the peer's time to ours "
        f"over {len(figures[0].pairs) if figures else 0} pairs, with its 95 % bootstrap interval.",
        "",
        f"The host's load at the end of each part: {_loads(figures)}.",
        "",
    ]
    if short:
        lines += ["**A trial with little effort: these figures say nothing.**", ""]
    lines += [table(figures), ""]
    if missed:
        lines.append(f"{len(missed)} of {len(figures)} targets are missed:")
        lines += [
            f"- {e.work}{' against ' if e.peer_name else ''}{e.peer_name}: "
            f"{_in(e.unit, e.value)}, target {_in(e.unit, e.target)}"
            for e in missed
        ]
    else:
        lines.append(f"All {len(figures)} targets are met.")
    return "\n".join(lines) + "\n"


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Ratios with their intervals; a bar marks each target."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plots: Any = importlib.import_module("matplotlib.pyplot")
    ratios = [each for each in figures if each.unit == "x"]
    if not ratios:
        return
    drawing, axes = plots.subplots(figsize=(9, 0.45 * len(ratios) + 1.2))
    for place, each in enumerate(reversed(ratios)):
        colour = "tab:green" if each.met else "tab:red"
        error = [[max(0.0, each.value - each.low)], [max(0.0, each.high - each.value)]]
        axes.errorbar(each.value, place, xerr=error, fmt="o", color=colour, capsize=3)
        axes.plot([each.target] * 2, [place - 0.3, place + 0.3], color="black")
    axes.set_yticks(
        range(len(ratios)), [f"{e.work}\nvs {e.peer_name}" for e in reversed(ratios)], fontsize=7
    )
    axes.axvline(1, color="grey", linewidth=0.5)
    axes.set_xscale("log")
    axes.set_xlabel("times as fast as the peer (dot), target (bar)")
    drawing.tight_layout()
    drawing.savefig(path)
    plots.close(drawing)


def others(folder: Path, parts: Sequence[str]) -> list[Figure]:
    """What was written of other parts than these."""
    file = folder / "bench.json"
    if not file.exists():
        return []
    known = json.loads(file.read_text(encoding="utf-8"))["figures"]
    return [each for each in map(Figure.from_json, known) if each.part not in parts]


def write(figures: Sequence[Figure], folder: Path, short: bool) -> str:
    """bench.md, bench.json and bench.svg; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    about = host()
    page = text(figures, about, short)
    (folder / "bench.md").write_text(page, encoding="utf-8")
    values = {"host": about, "figures": [each.as_json() for each in figures]}
    (folder / "bench.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    draw(figures, folder / "bench.svg")
    return page
