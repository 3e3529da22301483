"""The work of one stage: training spans, saves, and the evaluations of the runs whose last stage it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import record
from harness.checkpoint import StageStore
from harness.evaluate import Interrupted
from harness.plan import StageNode
from harness.train import Trainer, spans
from methods.core import State
from tasks.simulators import SimulatorError

if TYPE_CHECKING:
    from harness.execute import Member

SAVE_EVERY_S = 120.0  # between saves; a crash loses that much and the span (`log_every` steps) in hand


class _Watcher:
    """A run's tables and evaluations while its last stage trains."""

    def __init__(self, member: Member, store: StageStore, shared: bool, columns: Sequence[str]) -> None:
        """`shared`: whether others watch the same stage; `columns`: of train.csv, where another run is gone on from."""
        self.member, self.shared, self.steps = member, shared, member.run.evaluation_steps()
        rows = len(member.run.settings.seeds) * member.evaluator.rows
        if store.adopted:  # in the place of an attempt of our own, whose rows speak of other parts
            for name in ("episodes.csv", "train.csv"):
                (member.folder / name).unlink(missing_ok=True)
        if before := member.run.continues:
            folder = before.folder(member.executor.results)
            record.take_on(folder / "episodes.csv", member.folder / "episodes.csv")
            record.take_on(folder / "train.csv", member.folder / "train.csv", columns)
        step = member.run.nodes[-1].first + store.step
        self.episodes = record.Table(member.folder / "episodes.csv", step, rows_per_step=rows)
        self.train = record.Table(member.folder / "train.csv", step)

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


class StageWork:
    """The rest of one stage, from where its store left off."""

    columns: tuple[str, ...] = ()  # of train.csv, where they must be known beforehand

    def __init__(self, owner: Member, node: StageNode, store: StageStore, watching: Sequence[Member]) -> None:
        self.owner, self.node, self.store = owner, node, store
        self.stage, self.settings, self.step = node.stage, owner.run.settings, store.step
        self.watchers = [_Watcher(member, store, len(watching) > 1, self.columns) for member in watching]
        own = record.Table(store.folder / "train.csv", store.step)
        self.tables = [watcher.train for watcher in self.watchers] or [own]

    def finish(self) -> None:
        """Trains and evaluates to the stage's end, saving on the way. The owner's state, and the watchers', are as the
        stage leaves them."""
        owner, state = self.owner, self.owner.state
        if self.step:
            state = {**state, **self.store.restore(self._like(state))}
        if not self.store.finished:
            state = self._train(state)
        else:
            self._evaluate(state)
        trained = self._trained(state)
        for member in [owner, *(watcher.member for watcher in self.watchers)]:
            member.state = {**member.state, **trained}

    def _train(self, state: State) -> State:
        owner, stage, stop = self.owner, self.stage, self.owner.executor.stop
        trainer = Trainer(stage, self.settings.seeds, owner.columns, state)
        state = trainer.complete(state)
        self._saved = time.monotonic()
        label = ", ".join(watcher.member.run.method.name for watcher in self.watchers) or owner.run.method.name
        with owner.executor.progress.stage(
            f"{label} on {owner.run.task.name}: {stage.name}", stage.steps, self.step
        ) as bar:
            self._evaluate_or_save(state, trainer.seconds)
            for edge in self._edges():
                for first, count in spans(self.step, edge, self.settings.log_every):
                    state, metrics = trainer.run(state, first, count)
                    self.step = first + count
                    self._log(metrics)
                    bar.advance(count)
                    if stop():
                        self._save(self._trained(state), trainer.seconds)
                        raise Interrupted
                    if time.monotonic() - self._saved > SAVE_EVERY_S:
                        self._save(self._trained(state), trainer.seconds)
                self._evaluate_or_save(state, trainer.seconds)
                self._save(self._trained(state), trainer.seconds, finished=self.step == stage.steps)
                if self.watchers and all(watcher.member.status == "failed" for watcher in self.watchers):
                    return state
            if not self.store.finished:  # an earlier session was stopped between its last step and this note
                self._save(self._trained(state), trainer.seconds, finished=True)
        return state

    def _edges(self) -> list[int]:
        """The stage's steps to come at which someone is evaluated, and its last."""
        edges = {step - self.node.first for watcher in self.watchers for step in watcher.steps} | {self.stage.steps}
        return sorted(step for step in edges if step > self.step)

    def _like(self, state: State) -> State:
        """The shapes of what the store holds of the step resumed from."""
        return self._trained(state)

    def _trained(self, state: State) -> State:
        return {name: part for name, part in state.items() if name in self.stage.trains}

    def _evaluate(self, state: State) -> None:
        for watcher in self.watchers:
            if watcher.member.status != "running":
                continue
            try:
                watcher.evaluate_if_due(self.node.first + self.step, self._trained(state))
            except SimulatorError as error:  # the others go on
                watcher.member.fail(error)

    def _evaluate_or_save(self, state: State, seconds: dict[str, float]) -> None:
        try:
            self._evaluate(state)
        except Interrupted:
            self._save(self._trained(state), seconds)
            raise

    def _log(self, metrics: Mapping[str, np.ndarray]) -> None:
        names = sorted(metrics)
        rows = [
            {"seed": seed, "step": self.node.first + self.step, **{name: metrics[name][i] for name in names}}
            for i, seed in enumerate(self.settings.seeds)
        ]
        for table in self.tables:
            table.append(rows)

    def _save(self, kept: State, seconds: dict[str, float], *, finished: bool = False) -> None:
        """Saves what to resume from, and the seconds since the last time, which start anew."""
        self.store.save(self.step, kept, finished=finished, seconds=sum(seconds.values()))
        self.owner.record.add_seconds(seconds)
        self.owner.record.save()
        seconds.update(dict.fromkeys(seconds, 0.0))
        self._saved = time.monotonic()


def _summary(rows: Sequence[Mapping[str, Any]], knobs: Sequence[str]) -> str:
    """Mean score of each knob setting."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(" ".join(f"{name}={row[name]}" for name in knobs), []).append(row["score"])
    return ", ".join(f"{name + ': ' if name else 'score '}{np.mean(values):.1f}" for name, values in scores.items())
