"""The evaluations of a run, at steps of its last stage, and the tables they go into."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from core.records import StageRecord
from harness.ending import is_of_one_run
from harness.table import Table, begin_with
from methods.core import State

if TYPE_CHECKING:
    from harness.execute import Member


class Store(Protocol):
    """Where a stage's parts are kept."""

    @property
    def adopted(self) -> bool:
        """Whether the parts were taken from a folder that the user named."""

    @property
    def note(self) -> StageRecord | None:
        """`stage.json`, if there is one."""

    @property
    def unverified(self) -> bool:
        """Whether the parts were stored without digests, so that nobody can tell if they are whole."""

    @property
    def finished(self) -> bool: ...

    @property
    def step(self) -> int:
        """The step of the state on disk; 0 where there is none."""

    def provenance(self, asker: str) -> dict[str, Any]: ...


class Watcher:
    """A run's tables and evaluations while its last stage trains."""

    def __init__(self, member: Member, store: Store, shared: bool, columns: Sequence[str]) -> None:
        """`shared`: whether others watch the same stage; `columns`: of train.csv, where another run is gone on from."""
        self.member, self.shared, self.steps = member, shared, member.run.evaluation_steps()
        rows = len(member.run.settings.seeds) * member.evaluator.rows
        if store.adopted:  # in the place of an attempt of our own, whose rows speak of other parts
            for name in ("episodes.csv", "train.csv"):
                (member.folder / name).unlink(missing_ok=True)
            member.record.content["evaluation_steps"] = []
        if before := member.run.continues:
            folder = before.folder(member.executor.results)
            begin_with(folder / "episodes.csv", member.folder / "episodes.csv")
            begin_with(folder / "train.csv", member.folder / "train.csv", columns)
        step = member.run.nodes[-1].first + store.step
        self.episodes = Table(member.folder / "episodes.csv", step, rows_per_step=rows)
        self.train = Table(member.folder / "train.csv", step)
        self._compare(step)

    def _compare(self, step: int) -> None:
        """Says which evaluations were on record, and are no longer whole in the table nor can be done again, as the
        state has gone on to `step`. The record claims no more than the table holds."""
        known = {*self.member.record.content["evaluation_steps"], *self.episodes.dropped}
        done_again = {step} & set(self.steps)
        if lost := sorted(one for one in known - self.episodes.steps - done_again if one <= step):
            kept = f" (the table as it was: {self.episodes.kept.name})" if self.episodes.kept else ""
            steps = ", ".join(map(str, lost))
            self.member.say(f"episodes.csv lacks rows of the evaluation at step {steps}: left out{kept}, as the state "
                            f"is at step {step}; --fresh redoes the run")  # fmt: skip
        self.member.record.save(evaluation_steps=sorted(self.episodes.steps))

    def evaluate_if_due(self, step: int, trained: State) -> None:
        """Evaluates the run's policy with the stage's parts, if this is a step for it and it was not done before."""
        member = self.member
        if step not in self.steps or step in self.episodes.steps:
            return
        started, evaluator = time.perf_counter(), member.evaluator
        with member.executor.progress.stage(f"{member.run.label}: evaluation", 1.0, 0.0) as bar:
            rows = evaluator.run({**member.state, **trained}, step, stop=member.executor.stop, progress=bar.at)
        if self.shared:
            evaluator.close()  # the simulators of all who watch would add up
        phase = "final" if step == self.steps[-1] else member.run.phase
        self.episodes.append([row | {"phase": phase} for row in rows])
        member.record.add_seconds({"evaluate": time.perf_counter() - started})
        # of an adopted stage only the final state can be evaluated, so say which evaluations there are
        member.record.save(evaluation_steps=sorted(self.episodes.steps))
        member.say(f"step {step}: {_summary(rows, evaluator.knob_names)}")


def watchers(members: Sequence[Member], store: Store, columns: Sequence[str] = ()) -> list[Watcher]:
    """A watcher for each run whose last stage it is; a run whose tables cannot be read fails alone."""
    found = []
    for member in members:
        try:
            found.append(Watcher(member, store, len(members) > 1, columns))
        except Exception as error:
            if not is_of_one_run(error):
                raise
            member.fail(error)
    return found


def each(found: Sequence[Watcher], do: Callable[[Watcher], None]) -> None:
    """Does something for every run that has not ended. What one fails of ends that one alone."""
    for watcher in found:
        if watcher.member.status == "running":
            try:
                do(watcher)
            except Exception as error:
                if not is_of_one_run(error):
                    raise
                watcher.member.fail(error)


def _summary(rows: Sequence[Mapping[str, Any]], knobs: Sequence[str]) -> str:
    """Mean score of each knob setting."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(" ".join(f"{name}={row[name]}" for name in knobs), []).append(row["score"])
    return ", ".join(f"{name + ': ' if name else 'score '}{np.mean(values):.3g}" for name, values in scores.items())
