"""One method against each of the others of its suite: on how many tasks a difference is shown, and what over all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from analysis.pairs import Matchup, over_tasks, tests
from analysis.records.load import Records
from analysis.scoreboard import Board
from analysis.statistics.significance import ALPHA, Comparison


class Pair(NamedTuple):
    """The first method against one other."""

    first: str
    second: str
    tasks: int
    """That both have."""
    better: int
    """Tasks on which the first is shown to score higher: Welch's test, Holm-corrected over all comparisons of the
    suite, at 5%."""
    worse: int
    tested: int
    """Tasks on which both have two seeds."""
    over: Comparison
    """Mean difference over these tasks, with new seeds on them."""
    environments: Comparison | None
    """The same with environments as units; None of a single one."""

    @property
    def verdict(self) -> str:
        """What can be said of the mean over these tasks, or of the one task."""
        if math.isnan(self.over.p):
            return "not tested: one seed on some task"
        if self.tasks == 1:  # what is said of one task is corrected over all comparisons, here as beside it
            best = self.first if self.better else self.second if self.worse else ""
            return f"{best} is better on this task" if best else "no difference shown"
        if self.over.p >= ALPHA:
            return "no difference shown"
        return f"{self.first if self.over.difference > 0 else self.second} is better on average"


@dataclass(frozen=True)
class Against:
    """The verdicts of one suite."""

    suite: str
    first: str
    pairs: Sequence[Pair]
    tests: pd.DataFrame
    """As `pairs.tests`: a row a task and pair."""


def against(board: Board, records: Records) -> Against | None:
    """The first method against each of the others; None of a single one.

    First is the first asked for; else the one with most tasks, by name among equals: not one chosen by its scores,
    which would make the tests favour it.
    """
    most = max(len(tasks) for tasks in board.choices.values())
    first = next(name for name in board.methods if records.order or len(board.choices[name]) == most)
    found = {other: _matchups(board, first, other) for other in board.methods if other != first}
    every = [one for of in found.values() for one in of]
    if not every:
        return None
    rows = tests(every)
    return Against(board.title, first, [_pair(of, rows) for of in found.values() if of], rows)


def _matchups(board: Board, first: str, second: str) -> list[Matchup]:
    a, b = board.choices[first], board.choices[second]
    tasks = [row.name for row in board.tasks if row.name in a and row.name in b]
    return [Matchup(board.suite, task, first, second, a[task], b[task]) for task in tasks]


def _pair(of: Sequence[Matchup], rows: pd.DataFrame) -> Pair:
    first, second = of[0].first, of[0].second
    here = rows[rows["second"] == second]
    shown = here["p_welch_holm"] < ALPHA
    better, worse = (int((shown & (sign * here["difference"] > 0)).sum()) for sign in (1, -1))
    over, units = of[0].welch, None
    for _, several in over_tasks(of):
        over, units = several.seeds, several.units.environments if several.environments > 1 else None
    return Pair(first, second, len(of), better, worse, int(here["p_welch"].notna().sum()), over, units)
