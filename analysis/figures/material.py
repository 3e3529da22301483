"""What figures are made from: the records that are shown, by which rules, and numbers that several figures share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from analysis.choices import Choice
from analysis.query import Query
from analysis.records.load import Records
from analysis.records.runs import Run
from analysis.select import PICKS, choose, scores
from analysis.statistics.estimates import generator

T = TypeVar("T")
Frames = Iterator[tuple[str, pd.DataFrame]]
"""(name of the file, numbers that are shown) of each picture of a figure."""
REFERENCES = ("bc", "bc_gaussian", "sft")
"""Methods that only imitate, by preference: what all others are measured by."""
BASELINES = ("fql", *REFERENCES)
"""What methods are compared with where nobody says."""


class Step(NamedTuple):
    """What counts for a run at one evaluation."""

    run: Run
    phase: str
    step: int
    choice: Choice


_BY_TASK: set[Callable[[Material], Any]] = set()


def by_task(compute: Callable[[Material], T]) -> Callable[[Material], T]:
    """Says that a frame or list has rows of single tasks alone: it is then computed task by task, when one is asked
    for, so that what takes long goes on while figures of other tasks are drawn."""
    _BY_TASK.add(compute)
    return compute


@dataclass(frozen=True)
class Material:
    """The records, what is asked for, and a memory of what was computed of them."""

    records: Records
    query: Query = field(default_factory=Query)
    baseline: str = ""
    """Label or method that others are compared with; one of BASELINES if empty."""
    notes: list[str] = field(default_factory=list)
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, compute: Callable[[Material], T]) -> T:
        """What a function makes of this, computed when first asked for; its notes are then added once."""
        if compute not in self._known:
            parts = list(self.parts.values()) if compute in _BY_TASK else []
            self._known[compute] = _joined([one.once(compute) for one in parts]) if len(parts) > 1 else compute(self)
        return self._known[compute]

    @cached_property
    def parts(self) -> dict[tuple[str, str], Material]:
        """The same of each (suite, task) alone."""
        runs: dict[tuple[str, str], list[Run]] = {}
        for run in self.records.runs:
            runs.setdefault((run.suite, run.task), []).append(run)
        return {
            key: replace(self, records=replace(self.records, runs=tuple(runs[key])), _known={}) for key in sorted(runs)
        }

    def here(self, compute: Callable[[Material], pd.DataFrame], suite: str, task: str = "") -> pd.DataFrame:
        """The rows of a suite, or of one of its tasks, of the frame that a function makes of this."""
        if task and compute in _BY_TASK and (suite, task) in self.parts:
            return self.parts[suite, task].once(compute)
        frame = self.once(compute)
        if frame.empty:
            return frame
        kept = frame["suite"] == suite
        return frame[kept & (frame["task"] == task)] if task else frame[kept]

    def ordered(self, labels: Any) -> list[str]:
        """Labels in the order to show them."""
        return sorted({str(label) for label in labels}, key=self.records.position)

    def against(self, of: dict[str, str]) -> str | None:
        """The label among `of` (label -> method) that the others are compared with; None if there is none."""
        for name in (self.baseline,) if self.baseline else BASELINES:
            found = [label for label in self.ordered(of) if name in (label, of[label])]
            if found:
                return found[0]
        return None


def _joined(found: Sequence[Any]) -> Any:
    """One list of lists, or one frame of frames."""
    if isinstance(found[0], list):
        return [one for part in found for one in part]
    frames = [frame for frame in found if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else found[0]


@by_task
def cells(material: Material) -> pd.DataFrame:
    """`select.scores` of the evaluations that count."""
    found, notes = scores(material.records, endpoint=material.query.endpoint, interval=material.query.interval)
    material.notes.extend(notes)
    return found


@by_task
def picked(material: Material) -> pd.DataFrame:
    """`select.scores` of what counts for each run by the rule that is asked for, one row a run; notes on those for
    which nothing does."""
    query = material.query
    found, notes = scores(material.records, endpoint=query.endpoint, rule=query.rule, interval=query.interval)
    material.notes.extend(note for note in notes if note not in material.notes)
    return found


def counting(material: Material, run: Run, rows: pd.DataFrame) -> Choice | str:
    """What counts for a run over the evaluations that count, of one that went on online the last of those; a line that
    says why nothing does."""
    kept, missing = material.query.endpoint.of(run, rows)
    return choose(run, kept, material.query.rule) if len(kept) else missing or "no evaluation that counts"


@by_task
def chosen(material: Material) -> list[tuple[Run, Choice]]:
    """What counts for each run, by suite, task and label; notes on those for which nothing does."""
    found = []
    for run, rows in material.records.each():
        choice = counting(material, run, rows)
        if isinstance(choice, str):
            material.notes.append(f"{run.suite}/{run.task} {run.label}: {choice}; not in the figures over tasks")
        else:
            found.append((run, choice))
    return found


@by_task
def progress(material: Material) -> list[Step]:
    """What counts for each run at each of its evaluations, by suite, task and label, then in time."""
    found = []
    for run, rows in material.records.each():
        needed = rows[["step", "phase", "seed", "setting", "episode", "score", *run.knobs]]  # others cost a copy each
        for step, group in needed.groupby("step"):
            choice = choose(run, group, material.query.rule)
            if not isinstance(choice, str):
                found.append(Step(run, str(group["phase"].iloc[0]), int(step), choice))
    return found


@by_task
def curve(material: Material) -> pd.DataFrame:
    """One row for each of `progress`: suite, task, method, label, online, phase, step, picks and the Summary."""
    rows: list[dict[str, Any]] = []
    for run, phase, step, choice in material.once(progress):
        name = {"suite": run.suite, "task": run.task, "method": run.method, "label": run.label, "online": run.online}
        at = {"phase": phase, "step": step, "picks": PICKS.join(choice.picks)}
        rows.append(name | at | choice.summary(generator(run.suite, run.task), material.query.interval)._asdict())
    return pd.DataFrame(rows)
