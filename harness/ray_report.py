"""How far a plan is that others carry out: a table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.pieces import Piece

TELL_EVERY_S = 60.0  # where there is no terminal
Read = Callable[[], tuple[list[str], dict[int, tuple[str, float]]] | None]
"""What workers said since the last time, and of each piece where it is and which share of the work in hand is done;
None where there is no answer yet."""


class Report:
    """The whole plan in one table on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, of: Mapping[int, Piece], read: Read | None) -> None:
        self.console, self.of, self.read = console, of, read
        self.total = sum(piece.weight for piece in of.values())
        self.finished, self.failed, self.weight = 0, 0, 0.0
        self.began = self.told = time.monotonic()
        self._at: dict[int, tuple[str, float]] = {}
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Report:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def done(self, piece: Piece, *, failed: bool) -> None:
        self.finished += not failed
        self.failed += failed
        self.weight += piece.weight

    def look(self, running: Sequence[Piece]) -> None:
        """Prints what workers said, and how far all is."""
        if self.read and (found := self.read()):
            lines, self._at = found
            for line in lines:
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        now = time.monotonic()
        if self._live:
            self._live.update(self._table(running), refresh=True)
        elif now - self.told > TELL_EVERY_S:
            self.told = now
            self.console.print(self._line(running), markup=False, highlight=False, soft_wrap=True)

    def _line(self, running: Sequence[Piece]) -> str:
        waiting = len(self.of) - self.finished - self.failed - len(running)
        begun = sum(self.of[one.number].weight * self._at.get(one.number, ("", 0.0))[1] for one in running)
        share = (self.weight + begun) / self.total if self.total else 1.0
        spent = time.monotonic() - self.began
        left = f", about {timedelta(seconds=round(spent * (1 - share) / share))} left" if 0 < share < 1 else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"programs: {self.finished} done, {len(running)} running, {waiting} waiting{failed}; {share:.0%}{left}"

    def _table(self, running: Sequence[Piece]) -> Table:
        table = Table(title=self._line(running), title_justify="left", box=None, show_header=False)
        for piece in running[:20]:
            where, share = self._at.get(piece.number, ("waiting for a place", 0.0))
            table.add_row(piece.label, where, f"{share:.0%}")
        if len(running) > 20:
            table.add_row(f"and {len(running) - 20} more", "", "")
        return table
