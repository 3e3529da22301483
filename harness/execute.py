"""Carries out planned runs, here and now: stages first, then each run's last stage with its evaluations."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from harness import record
from harness.checkpoint import StageStore
from harness.evaluate import Evaluator, Interrupted
from harness.plan import RunNode, StageNode, describe
from harness.progress import Progress
from harness.train import NotFinite, Trainer, device_summary, initial_state, spans, take
from methods.core import BadInput, State
from tasks.core import Dataset
from tasks.simulators import SimulatorError

SAVE_EVERY_S = 120.0  # between saves; a crash loses that much and the span (`log_every` steps) in hand


class Stop:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the current span; a second one kills."""

    def __init__(self) -> None:
        self.wished = False

    def __call__(self) -> bool:
        return self.wished

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        def on_signal(number: int, frame: FrameType | None) -> None:
            del frame
            self.wished = True
            signal.signal(number, signal.SIG_DFL)

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class Executor:
    """Runs planned runs one after the other, on this machine."""

    results: Path
    progress: Progress
    stop: Stop = field(default_factory=Stop)
    forgotten: set[Path] = field(default_factory=set)  # so that --fresh makes shared work anew once, not for each run

    def run(self, run: RunNode, dataset: Dataset) -> str:
        """Carries one run to its end, or as far as it gets; returns its status.

        Raises:
          Interrupted: the user asked to stop; everything is saved.
          record.Busy: another process is at it.
        """
        folder = run.folder(self.results)
        if record.status_of(folder) == "finished":
            self.progress.say(f"{run.label}: finished before ({run.fingerprint})")
            return "finished"
        with record.locked(folder):
            if record.status_of(folder) == "finished":  # by another process, a moment ago
                return "finished"
            return _Run(self, run, dataset, folder).carry_out()

    def artifact(self, node: StageNode) -> Path:
        return self.results / "artifacts" / node.fingerprint

    def forget(self, run: RunNode) -> None:
        """Deletes what an earlier attempt left, for --fresh."""
        folders = [run.folder(self.results), *map(self.artifact, run.nodes)]
        folders = [folder for folder in folders if folder not in self.forgotten]
        with contextlib.ExitStack() as locks:
            for folder in folders:
                locks.enter_context(record.locked(folder))  # all of them or nothing is deleted
            for folder in folders:
                shutil.rmtree(folder)
        self.forgotten |= set(folders)


class _Run:
    """One run being carried out."""

    def __init__(self, executor: Executor, run: RunNode, dataset: Dataset, folder: Path) -> None:
        self.executor, self.run, self.dataset, self.folder = executor, run, dataset, folder
        self.progress, self.stop = executor.progress, executor.stop
        provenance = dataset.provenance
        data = {"name": provenance.name, "sha256": provenance.sha256, "origin": provenance.origin,
                "path": provenance.path, "transitions": len(dataset), "details": dict(provenance.details)}  # fmt: skip
        self.record = record.RunRecord(folder, {**describe(run), "dataset": data, "device": device_summary()})
        self.columns = take(dataset.columns(run.method.fields), run.method.fields)
        self.stages: list[dict[str, Any]] = []

    def carry_out(self) -> str:
        try:
            record.write_lines(self.folder / "stages", [node.fingerprint for node in self.run.nodes])
            state = initial_state(self.run.method.init, self.run.settings.seeds)
            for node in self.run.nodes[:-1]:
                state = self.have(node, state, None)
            with self._evaluator() as evaluator:
                state = self.have(self.run.nodes[-1], state, evaluator)
                found = evaluator.candidates(state, self.dataset.transitions)
            record.write_arrays(self.folder / "candidates.npz", found)
        except Interrupted:
            self.record.save(status="interrupted")
            raise
        except (NotFinite, SimulatorError, BadInput) as error:
            self.record.save(status="failed", error=str(error), stages=self.stages)
            self.progress.say(f"{self.run.label}: failed: {str(error).strip().splitlines()[-1]}")
            return "failed"
        except Exception as error:  # ours to mend: it keeps its traceback, but the record must not claim to run
            with contextlib.suppress(OSError):
                self.record.save(status="failed", error=f"{type(error).__name__}: {error}", stages=self.stages)
            raise
        self.record.save(status="finished", stages=self.stages)
        return "finished"

    def _evaluator(self) -> Evaluator:
        return Evaluator(self.run.method, self.run.task, self.run.settings.seeds, self.run.settings.episodes)

    def have(self, node: StageNode, state: State, evaluator: Evaluator | None) -> State:
        """The state with this stage's parts trained: adopted where they exist, else made."""
        folder = self.executor.artifact(node)
        with (
            record.locked(folder, wait=self._wait(node)),
            StageStore(folder, node.identity, f"{self.run.label} ({self.run.fingerprint})") as store,
        ):
            if store.step:
                parts = {name: part for name, part in state.items() if name in node.stage.trains}
                state = {**state, **store.restore(parts)}
            state = _StageWork(self, node, store, evaluator).finish(state)
            about = {"name": node.stage.name, "fingerprint": node.fingerprint, "steps": node.stage.steps}
            self.stages.append(about | store.provenance())
        made_by = self.stages[-1]["git"]
        if made_by != record.git_state():
            self.progress.say(f"{self.run.label}: {node.stage.name}: made by other code ({made_by}); --fresh redoes it")
        self.record.save(stages=self.stages)
        return state

    def _wait(self, node: StageNode) -> Callable[[record.Busy], None]:
        """What to do while another process makes the stage: say so once, and heed a wish to stop."""
        told = False

        def wait(busy: record.Busy) -> None:
            nonlocal told
            if self.stop():
                raise Interrupted
            if not told:
                self.progress.say(f"{self.run.label}: {node.stage.name}: waiting: {busy}")
            told = True

        return wait


class _StageWork:
    """The rest of one stage, from where its store left off. With an evaluator it is the run's last stage."""

    def __init__(self, owner: _Run, node: StageNode, store: StageStore, evaluator: Evaluator | None) -> None:
        self.owner, self.node, self.store, self.evaluator = owner, node, store, evaluator
        self.stage, self.settings = node.stage, owner.run.settings
        self.step = store.step
        folder = owner.folder if evaluator else store.folder
        self.train_table = record.Table(folder / "train.csv", self.step)
        self.episodes: record.Table | None = None
        self.evaluation_steps: tuple[int, ...] = ()
        if evaluator:
            rows = len(self.settings.seeds) * evaluator.rows
            self.episodes = record.Table(owner.folder / "episodes.csv", self.step, rows_per_step=rows)
            self.evaluation_steps = owner.run.evaluation_steps()

    def finish(self, state: State) -> State:
        """Trains and evaluates to the stage's end, saving on the way."""
        owner, stage = self.owner, self.stage
        if self.store.finished:
            self._evaluate_if_due(state)
            return state
        trainer = Trainer(stage, self.settings.seeds, owner.columns, state)
        state = trainer.complete(state)
        self._saved = time.monotonic()
        with owner.progress.stage(f"{owner.run.label}: {stage.name}", stage.steps, self.step) as bar:
            self._evaluate_if_due(state)
            for edge in [step for step in (*self.evaluation_steps, stage.steps) if step > self.step]:
                for first, count in spans(self.step, edge, self.settings.log_every):
                    state, metrics = trainer.run(state, first, count)
                    self.step = first + count
                    self._log(metrics)
                    bar.advance(count)
                    if owner.stop():
                        self._save(state, trainer)
                        raise Interrupted
                    if time.monotonic() - self._saved > SAVE_EVERY_S:
                        self._save(state, trainer)
                try:
                    self._evaluate_if_due(state)
                except Interrupted:
                    self._save(state, trainer)
                    raise
                self._save(state, trainer, finished=self.step == stage.steps)
            if not self.store.finished:  # an earlier session was stopped between its last step and this note
                self._save(state, trainer, finished=True)
        return state

    def _evaluate_if_due(self, state: State) -> None:
        if self.episodes is None or self.step not in self.evaluation_steps or self.step in self.episodes.steps:
            return
        owner, evaluator = self.owner, self.evaluator
        assert evaluator is not None
        started = time.perf_counter()
        with owner.progress.stage(f"{owner.run.label}: evaluation", 1.0, 0.0) as bar:
            rows = evaluator.run(state, self.step, stop=owner.stop, progress=bar.at)
        phase = "final" if self.step == self.stage.steps else "offline"
        self.episodes.append([row | {"phase": phase} for row in rows])
        owner.record.add_seconds({"evaluate": time.perf_counter() - started})
        # of an adopted stage only the final state can be evaluated, so say which evaluations there are
        owner.record.save(evaluation_steps=sorted(self.episodes.steps))
        owner.progress.say(f"{owner.run.label}: step {self.step}: {_summary(rows, evaluator.knob_names)}")

    def _log(self, metrics: Mapping[str, np.ndarray]) -> None:
        names = sorted(metrics)
        self.train_table.append(
            [
                {"seed": seed, "step": self.step, **{name: metrics[name][i] for name in names}}
                for i, seed in enumerate(self.settings.seeds)
            ]
        )

    def _save(self, state: State, trainer: Trainer, *, finished: bool = False) -> None:
        parts = {name: part for name, part in state.items() if name in self.stage.trains}
        seconds, trainer.seconds = trainer.seconds, dict.fromkeys(trainer.seconds, 0.0)
        self.store.save(self.step, parts, finished=finished, seconds=sum(seconds.values()))
        self.owner.record.add_seconds(seconds)
        self.owner.record.save()
        self._saved = time.monotonic()


def _summary(rows: Sequence[Mapping[str, Any]], knobs: Sequence[str]) -> str:
    """Mean score of each knob setting."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(" ".join(f"{name}={row[name]}" for name in knobs), []).append(row["score"])
    return ", ".join(f"{name + ': ' if name else 'score '}{np.mean(values):.1f}" for name, values in scores.items())
