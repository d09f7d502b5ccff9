"""What the commands print: tables, JSON, and progress on a terminal."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TextIO


def print_json(value: Any) -> None:
    """JSON for programs, indented for eyes."""
    print(json.dumps(value, indent=2))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], stream: TextIO | None = None
) -> None:
    """A table: drawn by rich on a terminal, else columns of plain text."""
    stream = sys.stdout if stream is None else stream
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if stream.isatty() and _rich_table(columns, cells, stream):
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(text.rstrip(), file=stream)


def _rich_table(columns: Sequence[str], rows: list[list[str]], stream: TextIO) -> bool:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=stream, soft_wrap=False).print(table)
    return True


def size(number: float) -> str:
    """Bytes in a unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


class Progress:
    """A bar on stderr for work that takes longer than a second, if stderr is a terminal.

    ``add`` may be called by any thread.
    """

    AFTER, EVERY = 1.0, 0.1  # seconds

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._shown = self._begin + self.AFTER - self.EVERY
        self._tty = sys.stderr.isatty()
        self._bar: Any = None
        self._plain = False

    def __enter__(self) -> Self:
        return self

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        if not self._tty:
            return
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._shown >= self.EVERY:
                self._shown = now
                self._draw(now)

    def _draw(self, now: float) -> None:
        if self._bar is None and not self._plain:
            self._bar = _rich_bar(self._what, self._total)
            self._plain = self._bar is None
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
            return
        speed = size(self._done / (now - self._begin)) + "/s"
        share = f" {100 * self._done // self._total:3} %" if self._total else ""
        print(f"\r\x1b[K{self._what}{share}  {size(self._done)}  {speed}", end="", file=sys.stderr)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._plain:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _rich_bar(what: str, total: int | None) -> Any:
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task(what, total=total)
    bar.start()
    return bar


def plain(value: Any) -> Any:
    """Dataclasses as what JSON knows."""
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value
