"""Progress with an ETA: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import rich.progress
from rich.console import Console

TELL_EVERY_S = 300.0  # in files and pipes, of work that goes on


class Bar:
    """One span of work."""

    def __init__(
        self, progress: rich.progress.Progress, task: rich.progress.TaskID, say: Callable[[str], None]
    ) -> None:
        self._progress, self._task, self._say = progress, task, say
        self._told = time.monotonic()

    def advance(self, amount: float) -> None:
        self._progress.advance(self._task, amount)
        self._tell()

    def at(self, completed: float) -> None:
        self._progress.update(self._task, completed=completed)
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if not self._progress.disable or now - self._told < TELL_EVERY_S:
            return
        self._told = now
        task = next(task for task in self._progress.tasks if task.id == self._task)
        left = "" if task.time_remaining is None else f", {timedelta(seconds=round(task.time_remaining))} left"
        self._say(f"{task.description}: {task.percentage:.0f}%{left}")


class Progress:
    """Bars for the work in hand, with lines above them for what is done."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(self, description: str, total: float, completed: float) -> Iterator[Bar]:
        """A bar while the block runs."""
        task = self._bars.add_task(description, total=total)
        self._bars.update(task, completed=completed)
        try:
            yield Bar(self._bars, task, self.say)
        finally:
            self._bars.remove_task(task)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
