"""Trials being carried out: their records and tables, and evaluations of the trials of one run side by side."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from core.files import write_text
from harness import provenance
from harness.ending import is_expected, is_of_one_run, summary
from harness.engine import Engine, Evaluator
from harness.plan import Lane, RunNode, Trial, describe
from harness.record import TrialRecord
from harness.session import Session, seeds_text
from harness.store import Artifact
from harness.table import Table, begin_with, read_rows
from harness.track import Watch
from methods.core import BadInput, State
from tasks.core import Dataset

DIAGNOSIS = "diagnosis.csv"  # what `harness.diagnose` asked of finished parts
OFFLINE = "offline.csv"  # what `harness.offline` computed of them
TRACEBACK = "traceback.txt"  # in a trial's folder, of a failure that nobody foresaw


class Attempt:
    """One trial being carried out, its folder locked."""

    def __init__(self, session: Session, trial: Trial, dataset: Dataset) -> None:
        self.session, self.trial, self.folder = session, trial, trial.folder(session.results)
        self.status = "running"
        self.lanes = trial.lanes()
        self.last: Lane = self.lanes[-1]
        source = dataset.provenance
        data = {"name": source.name, "sha256": source.sha256, "origin": source.origin, "path": source.path,
                "transitions": source.details.get("transitions", len(dataset)),  # of all files of a series
                "details": dict(source.details)}  # fmt: skip
        (self.folder / TRACEBACK).unlink(missing_ok=True)
        self.code = provenance.code_of(type(trial.run.method))
        self.record = TrialRecord(self.folder, {**describe(trial), "dataset": data, "code": self.code})
        self.note_lanes()
        # seeds whose episodes run side by side; () before it is known
        self.evaluated_with: tuple[int, ...] = tuple(self.record.content.get("evaluated_with", ()))
        self.episodes: Table
        self.train: Table
        self.watch = Watch(session.tracking)
        if self.record.damage:
            self.say(self.record.damage)

    @property
    def signature(self) -> str:
        return f"{self.trial.run.label} ({self.trial.run.fingerprint})"

    def say(self, text: str) -> None:
        self.session.progress.say(f"{self.trial.label}: {text}")

    def leave(self, status: str, error: str | None = None) -> None:
        """Ends the trial short of its end, unless it has ended."""
        if self.status == "running":
            self.status = status
            self.note_lanes()
            self.record.save(status=status, error=error)
            self.watch.end(status)

    def fail(self, error: Exception) -> str:
        """Ends the trial; returns the line that says why, and where more is said of what was not foreseen."""
        line, more = summary(error), ""
        with contextlib.suppress(OSError):  # the trial fails all the same where its folder was removed meanwhile
            if not is_expected(error) and self.folder.is_dir():
                write_text(self.folder / TRACEBACK, "".join(traceback.format_exception(error)))
                more = f"; see {self.folder / TRACEBACK}"
            self.leave("failed", str(error) if is_expected(error) else line)
        self.status = "failed"
        return line + more

    # tables

    def open(self, step: int, rows: int, *, adopted: bool, columns: Sequence[str] = ()) -> None:
        """Opens the tables, the last lane being at `step` of its own.

        Args:
          rows: of an evaluation.
          adopted: whether the lane was taken from a folder that the user named.
          columns: of train.csv, where another trial is gone on from.

        Raises:
          BadInput: a table is damaged.
        """
        for name in ("episodes.csv", "train.csv"):
            read_rows(self.folder / name)
        if adopted:  # in the place of an attempt of our own, whose rows speak of other parts
            for name in ("episodes.csv", "train.csv"):
                (self.folder / name).unlink(missing_ok=True)
            self.record.content["evaluation_steps"] = []
        if before := self.trial.before:
            folder = before.folder(self.session.results)
            begin_with(folder / "episodes.csv", self.folder / "episodes.csv")
            begin_with(folder / "train.csv", self.folder / "train.csv", columns)
        for name in (DIAGNOSIS, OFFLINE):  # of parts that are trained on, or were adopted
            (self.folder / name).unlink(missing_ok=True)
        step += self.last.node.first
        self.episodes = Table(self.folder / "episodes.csv", step, rows_per_step=rows)
        self.train = Table(self.folder / "train.csv", step)
        self._compare(step)
        knobs = self.trial.run.method.knobs[0]
        self.watch = self.session.tracking.begin(self.session.results, self.folder, self.record.content, list(knobs))

    def _compare(self, step: int) -> None:
        """Says which evaluations were on record, and are no longer whole in the table nor can be done again, as the
        state has gone on to `step`. The record claims no more than the table holds."""
        known = {*self.record.content["evaluation_steps"], *self.episodes.dropped}
        done_again = {step} & set(self.trial.run.evaluation_steps())
        if lost := sorted(one for one in known - self.episodes.steps - done_again if one <= step):
            kept = f" (the table as it was: {self.episodes.kept.name})" if self.episodes.kept else ""
            steps = ", ".join(map(str, lost))
            self.say(f"episodes.csv lacks rows of the evaluation at step {steps}: left out{kept}, as the state is at "
                     f"step {step}; --fresh redoes the run")  # fmt: skip
        self.record.save(evaluation_steps=sorted(self.episodes.steps))

    def due(self, step: int) -> bool:
        """Whether the trial wants an evaluation after this step of the record, and has none."""
        wanted = self.status == "running" and step in self.trial.run.evaluation_steps()
        return wanted and step not in self.episodes.steps

    def learned(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Puts rows of training on record."""
        self.train.append(rows)
        self.watch.learned(rows)

    def keep(self, rows: Sequence[Mapping[str, Any]], step: int, seconds: float) -> None:
        """Puts an evaluation on record."""
        phase = "final" if step == self.trial.run.evaluation_steps()[-1] else self.trial.run.phase
        self.episodes.append([{**row, "phase": phase} for row in rows])
        self.watch.evaluated(rows)
        self.record.add_seconds({"evaluate": seconds})
        # of an adopted lane only the final state can be evaluated, so say which evaluations there are
        self.record.save(evaluation_steps=sorted(self.episodes.steps))

    def finish(self) -> None:
        self.note_lanes()
        self.record.save(status="finished")
        self.status = "finished"
        self.watch.end("finished")

    def note_lanes(self) -> None:
        """Puts on record how far each lane is, how it came to be and what it took."""
        stages = []
        for lane in self.lanes:
            about = {"name": lane.node.stage.name, "fingerprint": lane.fingerprint, "steps": lane.node.stage.steps}
            with contextlib.suppress(BadInput, OSError):
                about |= Artifact(self.session.artifact(lane.fingerprint), lane.identity).provenance(self.signature)
            stages.append(about)
        self.record.content["stages"] = stages


class Cohort:
    """Trials of one run that are evaluated side by side. `seeds` are those of the record; the places of seeds without
    an attempt, and of those that failed, are held by others and lead to no rows."""

    def __init__(self, session: Session, engine: Engine, attempts: Sequence[Attempt], dataset: Dataset) -> None:
        self.session, self.engine, self.dataset = session, engine, dataset
        self.run: RunNode = attempts[0].trial.run
        self.attempts = {attempt.trial.seed: attempt for attempt in attempts}
        self.seeds = attempts[0].evaluated_with
        self._evaluator: Evaluator | None = None
        self._base: State | None = None

    @property
    def running(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts.values() if attempt.status == "running"]

    @property
    def evaluator(self) -> Evaluator:
        if self._evaluator is None:
            self._evaluator = self.engine.evaluator(self.session, self.run, self.seeds)
        return self._evaluator

    @property
    def base(self) -> State:
        """The parts that the last stage does not train, of all seeds."""
        if self._base is None:
            self._base = self.parts(last=False)
        return self._base

    def parts(self, *, last: bool) -> State:
        """From disk, the parts that the last stage trains, or all the others, `[s, ...]` for the running trials' seeds;
        those of a trial that cannot be read end it.

        Raises:
          BadInput: those of the last trial that ran.
        """
        while True:
            seeds = self._alive()
            try:
                return self.engine.parts(self.session, self.run, self.seeds, seeds, last=last)
            except BadInput:
                for attempt in self.running:
                    with self.failing_one(attempt):
                        seed = attempt.trial.seed
                        self.engine.parts(self.session, self.run, [seed], [seed], last=last)
                if self._alive() in ([], seeds):
                    raise

    def _alive(self) -> list[int]:
        return [attempt.trial.seed for attempt in self.running]

    def say(self, text: str, seeds: Collection[int] = ()) -> None:
        """A line, for some seeds where it is not all of them."""
        some = f", {seeds_text(list(seeds))}" if seeds and set(seeds) != set(self.run.settings.seeds) else ""
        self.session.progress.say(f"{self.run.label}{some}: {text}")

    def fail(self, error: Exception, seeds: Collection[int] | None = None) -> None:
        """Ends trials, by default all that run, with a line that says why."""
        failing = [one for one in self.running if seeds is None or one.trial.seed in seeds]
        if failing:
            lines = [attempt.fail(error) for attempt in failing]
            self.say(f"failed: {lines[0]}", [attempt.trial.seed for attempt in failing])

    @contextlib.contextmanager
    def failing(self) -> Any:
        """Whatever the trials fail of ends them, and lets others go on."""
        try:
            yield
        except Exception as error:
            if not is_of_one_run(error):
                raise
            self.fail(error)

    def evaluate(self, step: int, trained: Callable[[], State], ready: Collection[int], close: bool) -> None:
        """Evaluates the trials that want it after `step` of the record.

        Args:
          trained: the last lane's parts `[s, ...]` of `seeds`; what it gives for those not among `ready` means
            nothing.
          close: whether to end the simulators: those of all who are evaluated by turns would add up.

        Raises:
          Interrupted: the user asked to stop.
        """
        due = [one for one in self.running if one.trial.seed in ready and one.due(step)]
        if not due:
            return
        started = time.perf_counter()
        seeds = [attempt.trial.seed for attempt in due]
        with self.session.progress.stage(f"{self.run.label}: evaluation", 1.0, 0.0) as bar:
            state = {**self.base, **trained()}
            found = self.evaluator.run(state, step, seeds, stop=self.session.stop, progress=bar.at)
        if close:
            self.evaluator.close()
        seconds = (time.perf_counter() - started) / len(due)
        for attempt in due:
            rows = found[attempt.trial.seed]
            with self.failing_one(attempt):
                if isinstance(rows, Exception):
                    raise rows
                attempt.keep(rows, step, seconds)
        if kept := [found[one.trial.seed] for one in due if one.status == "running"]:
            done = [one.trial.seed for one in due if one.status == "running"]
            rows = [row for rows in kept if not isinstance(rows, Exception) for row in rows]
            self.say(f"step {step}: {_summary(rows, self.evaluator.knob_names)}", done)

    @contextlib.contextmanager
    def failing_one(self, attempt: Attempt) -> Any:
        """Whatever one trial fails of ends that one alone."""
        try:
            yield
        except Exception as error:
            if not is_of_one_run(error):
                raise
            self.fail(error, [attempt.trial.seed])

    def end(self) -> None:
        """What is recorded of the finished policies."""
        if not self.running:
            return
        with self.failing():
            state = {**self.base, **self.parts(last=True)}
            folders = {attempt.trial.seed: attempt.folder for attempt in self.running}
            self.engine.end(self.session, self.run, self.evaluator, state, folders, self.dataset)
            for attempt in self.running:
                attempt.finish()

    def close(self) -> None:
        if self._evaluator:
            self._evaluator.close()


def cohorts(session: Session, engine: Engine, attempts: Sequence[Attempt], dataset: Dataset) -> list[Cohort]:
    """Attempts by run, and by the seeds that each is evaluated beside: those of the record, or those that begin now."""
    groups: dict[Any, list[Attempt]] = {}
    for attempt in attempts:
        if not attempt.evaluated_with:
            new = [
                one
                for one in attempts
                if one.trial.run is attempt.trial.run and "evaluated_with" not in one.record.content
            ]
            attempt.evaluated_with = tuple(one.trial.seed for one in new)
    for attempt in attempts:
        attempt.record.save(evaluated_with=list(attempt.evaluated_with))
        groups.setdefault((attempt.trial.run.fingerprint, attempt.evaluated_with), []).append(attempt)
    return [Cohort(session, engine, members, dataset) for members in groups.values()]


def fail(session: Session, attempts: Sequence[Attempt], error: Exception) -> bool:
    """Ends all of these that run, with a line a run; returns whether there were any."""
    runs: dict[str, list[int]] = {}
    line = ""
    for attempt in attempts:
        if attempt.status == "running":
            said = attempt.fail(error)
            line = line or said
            runs.setdefault(attempt.trial.run.label, []).append(attempt.trial.seed)
    for label, seeds in runs.items():
        session.progress.say(f"{label}, {seeds_text(seeds)}: failed: {line}")
    return bool(runs)


def leave(attempts: Iterable[Attempt], status: str, error: str | None = None) -> None:
    """Whatever stops the trials, their records say so, and do not claim to run."""
    for attempt in attempts:
        with contextlib.nullcontext() if status == "interrupted" else contextlib.suppress(OSError):
            attempt.leave(status, error)


def _summary(rows: Sequence[Mapping[str, Any]], knobs: Sequence[str]) -> str:
    """Mean score of each knob setting."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(" ".join(f"{name}={row[name]}" for name in knobs), []).append(row["score"])
    return ", ".join(f"{name + ': ' if name else 'score '}{np.mean(values):.3g}" for name, values in scores.items())
