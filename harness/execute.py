"""Carries out planned runs, here and now: stages first, then the last stage with its evaluations.

Runs that share their last stage (IFQL and QGF: one critic) are carried out together: it is trained once, and each of
them is evaluated while it trains, so that sharing costs nobody a learning curve.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Semaphore
from types import FrameType
from typing import Any

from harness import provenance, record
from harness.artifact import Author
from harness.ending import Interrupted, NotFinite
from harness.engine import engine_of
from harness.plan import Groups, RunNode, StageNode, describe
from harness.progress import Progress
from harness.table import read_rows
from methods.core import BadInput, State
from tasks.core import Dataset
from tasks.simulators import SimulatorError


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
    """Carries out planned runs on this machine, `jobs` groups at a time. They share one device: while one compiles or
    waits for its simulators, another computes."""

    results: Path
    progress: Progress
    jobs: int = 1
    stop: Stop = field(default_factory=Stop)
    forgotten: set[Path] = field(default_factory=set)  # so that --fresh makes shared work anew once, not for each run
    room: Semaphore = field(init=False)  # of `jobs`, for engines that do more than one thing at a time for a group
    _columns: dict[str, Any] = field(default_factory=dict)  # of `_dataset`, on the device
    _dataset: Dataset | None = None
    _loading: Lock = field(default_factory=Lock)
    shared: dict[Any, Any] = field(default_factory=dict)  # what engines keep for all runs

    def __post_init__(self) -> None:
        self.room = Semaphore(self.jobs)

    def run(self, groups: Groups, dataset: Dataset, *, fresh: bool = False) -> list[str]:
        """Carries all runs to their ends, or as far as they get; returns their statuses.

        Raises:
          Interrupted: the user asked to stop; everything is saved.
        """
        statuses: list[str] = []
        possible = dict(groups.members)
        for last, group in groups.members.items():
            try:
                if fresh:
                    self.forget(group)
            except record.Busy as busy:
                self.progress.say(f"{', '.join(run.label for run in group)}: skipped: {busy}")
                statuses += ["busy"] * len(possible.pop(last))
        sorter, running = groups.sorter(), dict[Future[list[str]], str]()
        sorter.prepare()
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while sorter.is_active():
                    for last in sorter.get_ready():
                        running[pool.submit(self._run_group, possible.get(last, ()), dataset)] = last
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        sorter.done(running.pop(future))
                        statuses += future.result()
            except BaseException:  # the groups beside it end at their next checkpoint
                self.stop.wished = True
                raise
        return statuses

    def _run_group(self, runs: Sequence[RunNode], dataset: Dataset) -> list[str]:
        """Carries runs with one last stage to their ends; raises `Interrupted` like `run`."""
        if self.stop():
            raise Interrupted
        statuses: dict[str, str] = {}
        with contextlib.ExitStack() as locks:
            members = []
            for run in runs:
                folder = run.folder(self.results)
                if record.status_of(folder) == "finished":
                    self.progress.say(f"{run.label}: finished before ({run.fingerprint})")
                    self._compare_code(run, folder)
                    statuses[run.fingerprint] = "finished"
                    continue
                if run.continues and record.status_of(run.continues.folder(self.results)) != "finished":
                    self.progress.say(f"{run.label}: passed over: the offline run it goes on from is unfinished")
                    statuses[run.fingerprint] = "waiting"
                    continue
                try:
                    locks.enter_context(record.locked(folder))
                except record.Busy as busy:
                    self.progress.say(f"{run.label}: skipped: {busy}")
                    statuses[run.fingerprint] = "busy"
                    continue
                if record.status_of(folder) == "finished":  # by another process, a moment ago
                    statuses[run.fingerprint] = "finished"
                else:
                    members.append(Member(self, run, dataset, folder))
            if members:
                _carry_out(members)
            statuses |= {member.run.fingerprint: member.status for member in members}
        return [statuses[run.fingerprint] for run in runs]

    def _compare_code(self, run: RunNode, folder: Path) -> None:
        """Says if a finished run was made by other code than this."""
        if difference := provenance.difference(record.read_run(folder) or {}):
            self.progress.say(f"{run.label}: {difference}; --fresh redoes it")

    def columns(self, dataset: Dataset, fields: frozenset[str], to_device: Callable[..., Any]) -> dict[str, Any]:
        """The dataset's columns on the device, where all runs use the same copy."""
        with self._loading:
            if dataset is not self._dataset:
                self._dataset, self._columns = dataset, {}
            missing = fields - self._columns.keys()
            self._columns |= to_device(dataset.columns(fields), missing)
            return {name: column for name, column in self._columns.items() if name in fields}

    def artifact(self, node: StageNode) -> Path:
        return self.results / "artifacts" / node.fingerprint

    def forget(self, runs: Sequence[RunNode]) -> None:
        """Deletes what an earlier attempt at these left, for --fresh."""
        wanted = [run.folder(self.results) for run in runs]
        wanted += [folder for run in runs for folder in self._continuations(run)]
        wanted += [self.artifact(node) for run in runs for node in run.nodes]
        folders = [folder for folder in dict.fromkeys(wanted) if folder not in self.forgotten]
        with contextlib.ExitStack() as locks:
            for folder in folders:
                locks.enter_context(record.locked(folder))  # all of them or nothing is deleted
            for folder in folders:
                shutil.rmtree(folder)
        self.forgotten |= set(folders)

    def _continuations(self, run: RunNode) -> list[Path]:
        """Records, and the artefacts of their last stage, that went on online from a run's."""
        found = []
        for folder in run.folder(self.results).parent.glob("*"):
            try:
                content = record.read_run(folder)
            except BadInput:  # whose it was, nobody can tell
                continue
            if (online := content and content.get("online")) and online["continues"] == run.fingerprint:
                stages = folder / "stages"
                last = stages.read_text().split()[-1:] if stages.exists() else []
                found += [folder, *(self.results / "artifacts" / fingerprint for fingerprint in last)]
        return found


def _carry_out(members: Sequence[Member]) -> None:
    """Each member's earlier stages, then the last one for all of them."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_recorded(members))
        ready = []
        for member in members:
            with _failing([member]):
                member.begin()
                stack.enter_context(member.evaluator)
                ready.append(member)
        if not ready:
            return
        with _failing(ready):
            ready[0].have(ready[0].run.nodes[-1], ready)
        for member in ready:
            with _failing([member]):
                if member.status == "running":
                    member.end()


@contextlib.contextmanager
def _recorded(members: Sequence[Member]) -> Iterator[None]:
    """Whatever stops the runs, their records say so, and do not claim to run."""
    try:
        yield
    except Interrupted:
        for member in members:
            member.leave("interrupted")
        raise
    except Exception as error:  # ours to mend: it keeps its traceback
        with contextlib.suppress(OSError):
            for member in members:
                member.leave("failed", f"{type(error).__name__}: {error}")
        raise


@contextlib.contextmanager
def _failing(members: Sequence[Member]) -> Iterator[None]:
    """What a run can fail of ends it with a line, and lets the others go on."""
    try:
        yield
    except (NotFinite, SimulatorError, BadInput) as error:
        for member in members:
            member.fail(error)


class Member:
    """One run being carried out."""

    def __init__(self, executor: Executor, run: RunNode, dataset: Dataset, folder: Path) -> None:
        self.executor, self.run, self.dataset, self.folder = executor, run, dataset, folder
        self.status = "running"
        source = dataset.provenance
        data = {"name": source.name, "sha256": source.sha256, "origin": source.origin,
                "path": source.path, "transitions": len(dataset), "details": dict(source.details)}  # fmt: skip
        self.engine = engine_of(run)
        self.code = provenance.code_of(type(run.method))
        self.record = record.RunRecord(folder, {**describe(run), "dataset": data, "device": self.engine.device(),
                                                "code": self.code})  # fmt: skip
        self.evaluator = self.engine.evaluator(run)
        self.state: State = {}
        self.columns: dict[str, Any] = {}  # of the dataset, on the device; filled by the engine that has use for them
        self.texts: Any = None  # likewise a corpus in tokens
        # by fingerprint; those of earlier sessions until this one has them, too
        self.stages = {stage["fingerprint"]: stage for stage in self.record.content.get("stages", ())}

    def say(self, text: str) -> None:
        self.executor.progress.say(f"{self.run.label}: {text}")

    def leave(self, status: str, error: str | None = None) -> None:
        """Ends the run short of its end, unless it has ended."""
        if self.status == "running":
            self.status = status
            self.record.save(status=status, error=error)

    def fail(self, error: Exception) -> None:
        """Ends the run with a line that says why."""
        self.leave("failed", str(error))
        self.say(f"failed: {str(error).strip().splitlines()[-1]}")

    def begin(self) -> None:
        """All stages but the last."""
        if self.record.damage:
            self.say(self.record.damage)
        for name in ("episodes.csv", "train.csv"):
            read_rows(self.folder / name)  # a damaged table ends this run, and none beside it
        record.write_lines(self.folder / "stages", [node.fingerprint for node in self.run.nodes])
        self.state = self.engine.begin(self)
        for node in self.run.nodes[:-1]:
            self.have(node, [])

    def end(self) -> None:
        """What is recorded of the finished policy."""
        self.engine.end(self)
        self.status = "finished"
        self.record.save(status="finished")

    def have(self, node: StageNode, watching: Sequence[Member]) -> None:
        """Trains a stage's parts, or adopts them where they exist. As the last stage it is `watching`'s, who are
        evaluated on the way and get the parts too."""
        folder = self.executor.artifact(node)
        with (
            record.locked(folder, wait=self._wait(node)),
            self.engine.store(folder, node, Author(self._signature, self.code)) as store,
        ):
            if store.unverified:
                self.say(f"{node.stage.name}: was stored without digests: whether it is whole cannot be verified")
            if (note := store.note) and not note["finished"] and (difference := provenance.difference(note)):
                self.say(f"{node.stage.name}: its first steps were {difference}; --fresh redoes it")
            self.engine.work(self, node, store, watching).finish()
            if not store.finished:  # everyone who watched has failed
                return
            about = {"name": node.stage.name, "fingerprint": node.fingerprint, "steps": node.stage.steps}
            for member in watching or [self]:
                member._have_had(about | store.provenance(member._signature))

    @property
    def _signature(self) -> str:
        return f"{self.run.label} ({self.run.fingerprint})"

    def _have_had(self, stage: dict[str, Any]) -> None:
        """Puts on record how a stage came to be."""
        if difference := provenance.difference(stage):
            self.say(f"{stage['name']}: {difference}; --fresh redoes it")
        self.stages[stage["fingerprint"]] = stage
        order = [node.fingerprint for node in self.run.nodes]
        self.record.save(stages=[self.stages[one] for one in order if one in self.stages])

    def _wait(self, node: StageNode) -> Callable[[record.Busy], None]:
        """What to do while another process makes the stage: say so once, and heed a wish to stop."""
        told = False

        def wait(busy: record.Busy) -> None:
            nonlocal told
            if self.executor.stop():
                raise Interrupted
            if not told and not busy.ours:
                self.say(f"{node.stage.name}: waiting: {busy}")
                told = True

        return wait
