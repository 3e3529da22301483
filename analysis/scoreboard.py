"""Method x task: what every method scores, the best of each task, and means over environments and over all tasks.

What is best is read with care: beside the largest mean of a row stand those that a test does not find worse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from analysis.choices import Choice, united
from analysis.endpoint import Endpoint
from analysis.output import environment, short
from analysis.published import DATASETS, canonical
from analysis.records.load import Records
from analysis.records.protocols import heading
from analysis.select import Rule, choose
from analysis.statistics.noise import settled
from analysis.statistics.significance import ALPHA, Sample, holm, welch

AVERAGE = "Average"
DOMAINS = {
    **dict.fromkeys(("halfcheetah", "hopper", "walker2d", "ant"), "Gym"), "antmaze": "AntMaze", "kitchen": "Kitchen",
    **dict.fromkeys(("pen", "hammer", "door", "relocate"), "Adroit"), "maze2d": "Maze2D",
}  # fmt: skip
"""Of D4RL, what a task's name begins with -> the part of the table that papers print it in."""
DATA = ("random", "medium", "medium-replay", "medium-expert", "expert", "umaze", "umaze-diverse", "medium-play",
        "medium-diverse", "large-play", "large-diverse", "complete", "partial", "mixed", "human", "cloned")  # fmt: skip
"""The data of a D4RL task, in the order of papers."""


@dataclass(frozen=True)
class Score:
    """Of one method in one row."""

    known: Sample
    """What its seeds say, in points."""
    meant: int
    """Seeds that were started."""
    finished: bool = True
    best: bool = False
    """Whether it is the largest of its row, or not shown to be smaller."""

    @property
    def mean(self) -> float:
        return float(self.known.mean)

    @property
    def std(self) -> float:
        """Over seeds, ddof 1; NaN of one."""
        return float(self.known.std)

    @property
    def seeds(self) -> int:
        return int(self.known.n)


Choices = Mapping[str, Mapping[str, Choice]]
"""Label -> task (default tasks by their number) -> what counts for it."""


class Row(NamedTuple):
    """A task, or a mean over tasks."""

    name: str
    group: str
    """Its environment, or part of the suite; of the mean over all tasks ""."""
    scores: tuple[Score | None, ...]
    """By method; None where there is none, or not for all tasks of a mean."""
    mean: bool = False


@dataclass(frozen=True)
class Board:
    """The scores of one suite."""

    suite: str
    title: str
    """The suite, with protocols that are not its default one."""
    methods: tuple[str, ...]
    tasks: tuple[Row, ...]
    """By group, each followed by its mean where it has two tasks or more; last the mean over all, of two or more."""
    groups: tuple[Row, ...]
    """A row a group, and the mean over all tasks, where some environment has several tasks; else none."""
    choices: Choices
    """What counts for each method on each task."""

    @property
    def episodes(self) -> tuple[int, int]:
        """A seed's, at least and at most."""
        spent = [(~np.isnan(one.scores)).sum(axis=1) for of in self.choices.values() for one in of.values()]
        return int(min(map(np.min, spent))), int(max(map(np.max, spent)))

    @property
    def seeds(self) -> tuple[int, int]:
        """At least and at most, of a task."""
        counts = [score.seeds for row in self.tasks if not row.mean for score in row.scores if score]
        return min(counts), max(counts)


def boards(
    records: Records, endpoint: Endpoint | None = None, rule: Rule | None = None
) -> tuple[list[Board], list[str]]:
    """One board a suite, methods (by label) in the order of the records, and notes on runs that are not in it.

    A run counts by the evaluations of `endpoint` (the last if unset) and the settings that `rule` picks (`new-seeds` if
    unset); one that went on online by what it reached there.
    """
    found: dict[str, dict[str, dict[str, Choice]]] = {}
    protocols: dict[str, list[str]] = {}
    notes = []
    twice = set()
    for run, rows in records.each():
        task = canonical(run.task)
        rows, missing = (endpoint or Endpoint()).of(run, rows)
        choice = choose(run, rows, rule or Rule()) if len(rows) else missing
        if isinstance(choice, str):
            notes.append(f"{run.suite}/{run.task} {run.label}: {choice}; not in the method x task tables")
            continue
        of = found.setdefault(run.suite, {}).setdefault(run.label, {})
        if task in of:
            twice.add((run.suite, run.label, task))
        of[task] = choice
        protocols.setdefault(run.suite, []).append(run.protocol)
    for suite, label, task in sorted(twice):
        del found[suite][label][task]
        notes.append(f"{suite}/{task} {label}: two runs, of the default task and of its number; neither is shown "
                     "in the method x task tables")  # fmt: skip
    return [
        _board(records, suite, heading(suite, protocols[suite]), of) for suite, of in found.items() if any(of.values())
    ], notes


def _board(records: Records, suite: str, title: str, of: Choices) -> Board:
    methods = sorted((label for label in of if of[label]), key=records.position)
    names = sorted({task for choices in of.values() for task in choices}, key=_as_printed)
    several = len({environment(task) for task in names}) < len(names)
    rows, groups = list[Row](), list[Row]()
    for group, members in groupby(names, _domain if suite == "d4rl" else environment):
        tasks = list(members)
        for task in tasks:
            scores = tuple(_score(of[label][task]) if task in of[label] else None for label in methods)
            rows.append(Row(task, group, marked(scores)))
        mean = Row(group, group, marked([_mean(of[label], tasks) for label in methods]), True)
        rows += [mean] if len(tasks) > 1 else []
        groups.append(mean)
    if len(names) > 1:
        average = Row(AVERAGE, "", marked([_mean(of[label], names) for label in methods]), True)
        if any(average.scores) and len(groups) > 1:
            rows.append(average)
            groups.append(average)
    return Board(suite, title, tuple(methods), tuple(rows), tuple(groups) if several else (), of)


def marked(scores: Sequence[Score | None]) -> tuple[Score | None, ...]:
    """A row's scores, with `best` where they are."""
    flags = iter(best([score.known for score in scores if score]))
    return tuple(replace(score, best=next(flags)) if score else None for score in scores)


def best(row: Sequence[Sample]) -> list[bool]:
    """Which methods are the best of a row: the largest mean, and those that Welch's test, Holm-corrected over the row,
    does not find different from it at 5%. Without two seeds on either side there is no test, so the largest stands
    alone, with its equals.
    """
    if not row:
        return []
    means = settled(np.array([one.mean for one in row]))
    top = int(np.argmax(means))
    p = np.array([np.nan if i == top else welch(row[top], one).p for i, one in enumerate(row)])
    return [bool(flag) for flag in (means == means[top]) | (holm(p) >= ALPHA)]


def _score(choice: Choice) -> Score:
    return Score(choice.sample(), choice.meant, choice.status == "finished")


def _mean(of: Mapping[str, Choice], tasks: Sequence[str]) -> Score | None:
    """Of the seeds that all tasks have, each one's mean over them: they share what differs by seed, as in print.

    None if a task is missing, or no seed has all.
    """
    if any(task not in of for task in tasks):
        return None
    known, _ = united([of[task] for task in tasks])
    meant = max(of[task].meant for task in tasks)
    return None if not known.n else Score(known, meant, all(of[task].status == "finished" for task in tasks))


def label(row: Row) -> str:
    """A task's name below that of its environment, where they begin alike."""
    return short(row.name).removeprefix(row.group + "-") if row.name != row.group else short(row.name)


def _domain(task: str) -> str:
    return DOMAINS.get(task.split("-")[0], environment(task))


def _as_printed(task: str) -> tuple[int, str, int, str, int, str]:
    """To sort by: environments in the order of papers, others by name after them; task 10 after task 2."""
    of, known = environment(task), [*DATASETS.values(), *dict.fromkeys(DOMAINS.values())]
    group = of if of in known else _domain(task)
    data = of.partition("-")[2]
    found = re.search(r"task(\d+)", task)
    return (
        known.index(group) if group in known else len(known), group, DATA.index(data) if data in DATA else len(DATA),
        of, int(found[1]) if found else 0, task,
    )  # fmt: skip
