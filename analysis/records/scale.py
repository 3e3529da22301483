"""Scores that are shares of one and are taken for points of a hundred.

Every score is shown as it is recorded, on a scale on which 100 is success or an expert, unless its record says that it
is a share of one (`share`), which is read in percent. What a stranger's records hold nobody declares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from analysis.records.runs import SHARES, Run

MANY = 20  # scores of 0 and 1 alone that are no accident
ABREAST = 5  # labels that a note names


class Range(NamedTuple):
    """What the scores of a run are like."""

    low: float
    high: float
    binary: bool
    """Whether they are 0 and 1 alone."""
    scores: int


def small_scores(runs: Sequence[Run], scores: Mapping[object, np.ndarray]) -> list[str]:
    """A note on each suite that seems to have shares of one for scores. `scores`: those of each run, by its key.

    It has where no record says what a score is and all lie between 0 and 1: some strictly, or many of them with a 1
    among them (zeros alone are those of a method that never succeeds); or where the scores of some runs are many zeros
    and ones, beside others beyond 1.
    """
    suites: dict[str, list[tuple[Run, Range]]] = defaultdict(list)
    for run in runs:
        every = scores.get(run.key, np.empty(0))
        known = every[~np.isnan(every)]
        if len(known) and not ("unit" in run.meta or "share" in run.meta or run.suite in SHARES):
            binary = bool(np.isin(known, (0, 1)).all())
            suites[run.suite].append((run, Range(float(known.min()), float(known.max()), binary, len(known))))
    notes = []
    for suite, of in suites.items():
        beyond = any(one.low < 0 or one.high > 1 for _, one in of)
        small = [(run, one) for run, one in of if one.low >= 0 and 0 < one.high <= 1]
        if beyond:  # a weak method's points may lie below 1; nothing but 0 and 1 they are not
            small = [(run, one) for run, one in small if one.binary and one.scores >= MANY]
        if any(not one.binary for _, one in small) or sum(one.scores for _, one in small) >= MANY:
            notes.append(_note(suite, [run for run, _ in small], beyond))
    return notes


def _note(suite: str, odd: Sequence[Run], beyond: bool) -> str:
    labels = list(dict.fromkeys(run.label for run in odd))
    more = f" and {len(labels) - ABREAST} more" if len(labels) > ABREAST else ""
    tasks = sorted({run.task for run in odd})
    where = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    rest = ", beside others of more" if beyond else ""
    return (f"{suite}: scores of {', '.join(labels[:ABREAST])}{more} on {where} lie between 0 and 1{rest}; shown as "
            "points of 100, so 1 counts as 1%: if they are shares, \"share\": true in run.json says so")  # fmt: skip
