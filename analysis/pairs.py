"""Two methods against each other, task by task and over tasks: every test of `significance.py` on the same choices.

A unit of the tests is a training seed; "over tasks" is read three ways, which answer three questions: new seeds on
these tasks, new tasks, new environments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.choices import Choice, shared_starts
from analysis.compare import NO_RUN, Cell, Key
from analysis.output import environment
from analysis.statistics.estimates import Estimate, across, generator
from analysis.statistics.improvement import improvement_over
from analysis.statistics.significance import (
    Clustered,
    Comparison,
    averaged,
    benjamini_hochberg,
    clustered,
    holm,
    mann_whitney,
    paired,
    welch,
)

TESTS = ("welch", "rank", "paired")
_UNKNOWN = Comparison(*[math.nan] * 6)


@dataclass(frozen=True)
class Matchup:
    """One task on which both methods were run."""

    suite: str
    task: str
    first: str
    second: str
    a: Choice
    b: Choice
    unfinished: str = ""

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Means of the seeds, `[n]` and `[m]`, in points."""
        a, b = (side.means().dropna().to_numpy(float) for side in (self.a, self.b))
        return a, b

    @property
    def of_new_seeds(self) -> bool:
        """Whether no seed of either had a say in its own settings."""
        return self.a.of_new_seeds and self.b.of_new_seeds

    @property
    def welch(self) -> Comparison:
        return welch(self.a.sample(), self.b.sample())

    @property
    def paired(self) -> tuple[Comparison, int]:
        """The comparison over shared start states, and how many there are; NaN with fewer than two."""
        a, b = shared_starts(self.a, self.b)
        spreads = (self.a.spread, self.b.spread)
        return (paired(a, b, spreads=spreads), a.shape[1]) if a.shape[1] > 1 else (_UNKNOWN, a.shape[1])


class Over(NamedTuple):
    """Two methods over the tasks of one suite that both have."""

    matchups: list[Matchup]
    seeds: Comparison
    """The mean difference over tasks: what new seeds would give on these same tasks. NaN if a task has one seed."""
    starts: Comparison
    """The same, paired over shared start states."""
    units: Clustered
    """The same with tasks, and with environments, as units; NaN intervals where there is one."""
    environments: int
    of_new_seeds: bool
    """Whether no seed of either had a say in its own settings; otherwise `seeds` and `starts` hold for these alone."""
    improvement: Estimate
    """P(a seed of the first beats one of the second) on a task drawn at random."""

    def iqm(self) -> Iterator[tuple[str, Estimate]]:
        """(its name, its IQM over tasks) of either side."""
        for side, name in enumerate((self.matchups[0].first, self.matchups[0].second)):
            strata = [matchup.means[side] for matchup in self.matchups]
            yield name, across(strata, generator(self.matchups[0].suite, name))


def matchups(cells: Mapping[Key, Cell], first: str, second: str) -> tuple[list[Matchup], list[str]]:
    """Every task that has both methods, and a note on each that lacks one. `cells` are those of `compare.measured`."""
    found, notes = [], []
    for suite, task in sorted({key[:2] for key in cells if key[2] in (first, second)}):
        sides = [cells.get((suite, task, name), Cell()) for name in (first, second)]
        absent = [f"{name}: {cell.why}" for name, cell in zip((first, second), sides, strict=True) if not cell.choice]
        unfinished = "; ".join(dict.fromkeys(cell.why for cell in sides if cell.choice and cell.why))
        if sides[0].choice and sides[1].choice:
            found.append(Matchup(suite, task, first, second, sides[0].choice, sides[1].choice, unfinished))
            notes += [f"{suite}/{task}: {unfinished}"] if unfinished else []
        else:
            notes.append(f"{suite}/{task} is not compared; {'; '.join(absent)}")
    return found, notes


def tests(of: Sequence[Matchup]) -> pd.DataFrame:
    """One row a matchup: suite, task, environment, first, second; of either side mean, std, seeds, meant, told (which
    of these are missing), picks and rule; difference, low, high (Welch); of_new_seeds (whether no seed had a say in its
    own settings); improvement with its low and high; starts (shared);
    then for each of TESTS its p and the same corrected by Holm and by Benjamini-Hochberg over all rows. The paired test
    has its own difference, low and high.
    """
    rows = []
    for matchup in of:
        (a, b), one, (two, starts) = matchup.means, matchup.welch, matchup.paired
        row: dict[str, Any] = {"suite": matchup.suite, "task": matchup.task, "environment": environment(matchup.task)}
        row |= {"first": matchup.first, "second": matchup.second}
        for side, choice in (("first", matchup.a), ("second", matchup.b)):
            known = choice.sample()
            row |= {f"{side}_mean": known.mean, f"{side}_std": known.std, f"{side}_seeds": known.n}
            row |= {f"{side}_meant": choice.meant, f"{side}_told": choice.told}
            row |= {f"{side}_picks": " / ".join(choice.picks), f"{side}_rule": choice.rule}
        row |= {"difference": one.difference, "low": one.low, "high": one.high}
        row |= {"of_new_seeds": matchup.of_new_seeds}
        likely = improvement_over([a], [b])
        row |= {"improvement": likely.value, "improvement_low": likely.low, "improvement_high": likely.high}
        row |= {"starts": starts, "paired_difference": two.difference, "paired_low": two.low, "paired_high": two.high}
        row |= {"p_welch": one.p, "p_rank": mann_whitney(a, b) if min(len(a), len(b)) > 1 else math.nan}
        rows.append(row | {"p_paired": two.p if min(len(a), len(b)) > 1 else math.nan})
    frame = pd.DataFrame(rows)
    for name in TESTS if len(frame) else ():
        p = frame[f"p_{name}"].to_numpy(float)
        frame[f"p_{name}_holm"], frame[f"p_{name}_bh"] = holm(p), benjamini_hochberg(p)
    return frame


def over_tasks(of: Sequence[Matchup]) -> Iterator[tuple[str, Over]]:
    """(suite, Over) of one pair of methods, for every suite with two tasks or more."""
    for suite in dict.fromkeys(matchup.suite for matchup in of):
        here = [matchup for matchup in of if matchup.suite == suite]
        if len(here) < 2:
            continue
        differences = np.array([float(matchup.welch.difference) for matchup in here])
        errors = np.array([float(matchup.welch.error) for matchup in here])
        environments = [environment(matchup.task) for matchup in here]
        strata = [list(side) for side in zip(*(matchup.means for matchup in here), strict=True)]
        yield suite, Over(
            here, averaged([matchup.welch for matchup in here]), averaged([matchup.paired[0] for matchup in here]),
            clustered(differences, environments, errors), len(set(environments)),
            all(matchup.of_new_seeds for matchup in here),
            improvement_over(strata[0], strata[1]),
        )  # fmt: skip


def missing(cells: Mapping[Key, Cell], name: str) -> bool:
    """Whether there is no run at all of a method."""
    return not any(key[2] == name and cell.why != NO_RUN for key, cell in cells.items())
