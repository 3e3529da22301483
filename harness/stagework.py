"""The work of one stage: training spans, saves, and the evaluations of the runs whose last stage it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.checkpoint import StageStore
from harness.ending import Interrupted
from harness.plan import StageNode
from harness.table import Table
from harness.train import Trainer, spans
from harness.watch import each, watchers
from methods.core import State

if TYPE_CHECKING:
    from harness.execute import Member

SAVE_EVERY_S = 120.0  # between saves; a crash loses that much and the span (`log_every` steps) in hand


class StageWork:
    """The rest of one stage, from where its store left off."""

    columns: tuple[str, ...] = ()  # of train.csv, where they must be known beforehand

    def __init__(self, owner: Member, node: StageNode, store: StageStore, watching: Sequence[Member]) -> None:
        self.owner, self.node, self.store = owner, node, store
        self.stage, self.settings, self.step = node.stage, owner.run.settings, store.step
        self.watchers = watchers(watching, store, self.columns)
        self.forsaken = bool(watching) and not self.watchers  # all who need the stage have failed
        self.own = None if watching else Table(store.folder / "train.csv", store.step)

    def finish(self) -> None:
        """Trains and evaluates to the stage's end, saving on the way. The owner's state, and the watchers', are as the
        stage leaves them."""
        owner, state = self.owner, self.owner.state
        if self.forsaken:
            return
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
        each(self.watchers, lambda one: one.evaluate_if_due(self.node.first + self.step, self._trained(state)))

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
        if self.own:
            self.own.append(rows)
        each(self.watchers, lambda one: one.train.append(rows))

    def _save(self, kept: State, seconds: dict[str, float], *, finished: bool = False) -> None:
        """Saves what to resume from, and the seconds since the last time, which start anew."""
        self.store.save(self.step, kept, finished=finished, seconds=sum(seconds.values()))
        self._record(seconds)
        seconds.update(dict.fromkeys(seconds, 0.0))
        self._saved = time.monotonic()

    def _record(self, seconds: Mapping[str, float]) -> None:
        """The time goes on record: of the first run that watches and has not ended, else the owner's."""

        def add(member: Member) -> None:
            member.record.add_seconds(seconds)
            member.record.save()

        if not self.watchers:
            add(self.owner)
        running = [one for one in self.watchers if one.member.status == "running"]
        each(running[:1], lambda one: add(one.member))
