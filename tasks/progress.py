"""Long work's progress, with the time it has left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.text import printable
from tasks.screen import console


@contextlib.contextmanager
def bar(label: str, total: int, done: int, unit: str, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, at `done` of `total` so many of the unit; lends out the way to advance it."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
               TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not shown, speed_estimate_period=300) as progress:
        task = progress.add_task(printable(label), total=total, completed=done)
        yield lambda count: progress.advance(task, count)
