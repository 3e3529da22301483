"""Progress with an ETA on a terminal; plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import rich.progress
from rich.console import Console


class Bar:
    """One span of work."""

    def __init__(self, progress: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: float) -> None:
        self._progress.advance(self._task, amount)

    def at(self, completed: float) -> None:
        self._progress.update(self._task, completed=completed)


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
            yield Bar(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
