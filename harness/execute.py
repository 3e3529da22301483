"""Carries out planned runs, here and now: stages first, then the last stage with its evaluations.

Runs that share their last stage (IFQL and QGF: one critic) are carried out together: it is trained once, and each of
them is evaluated while it trains, so that sharing costs nobody a learning curve.
"""

from __future__ import annotations

import contextlib
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

from core.files import read_plain, write_text
from harness import provenance, record
from harness.artifact import Author
from harness.ending import Interrupted, Stop, is_expected, is_of_one_run, summary
from harness.engine import Engine, Evaluator, engine_of
from harness.plan import Groups, RunNode, StageNode, describe
from harness.progress import Progress
from harness.table import read_rows
from methods.core import BadInput, State
from tasks.core import Dataset, RewardTransform

TRACEBACK = "traceback.txt"  # in a run's folder, of a failure that nobody foresaw


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
    _columns: dict[Any, Any] = field(default_factory=dict)  # of `_dataset`, on the device; rewards by transform, too
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
                self.stop.wish()
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
                member = self._take_up(run, dataset, locks)
                if isinstance(member, Member):
                    members.append(member)
                else:
                    statuses[run.fingerprint] = member
            if members:
                _carry_out(members)
            statuses |= {member.run.fingerprint: member.status for member in members}
        return [statuses[run.fingerprint] for run in runs]

    def _take_up(self, run: RunNode, dataset: Dataset, locks: contextlib.ExitStack) -> Member | str:
        """The run, its folder locked, or the status that it is left with."""
        folder = run.folder(self.results)
        if record.status_of(folder) == "finished":
            self.progress.say(f"{run.label}: finished before ({run.fingerprint})")
            self._compare_code(run, folder)
            return "finished"
        if run.continues and record.status_of(run.continues.folder(self.results)) != "finished":
            self.progress.say(f"{run.label}: passed over: the offline run it goes on from is unfinished")
            return "waiting"
        try:
            locks.enter_context(record.locked(folder))
            if record.status_of(folder) == "finished":  # by another process, a moment ago
                return "finished"
            return Member(self, run, dataset, folder)
        except record.Busy as busy:
            self.progress.say(f"{run.label}: skipped: {busy}")
            return "busy"
        except Exception as error:
            if not is_of_one_run(error):
                raise
            self.progress.say(f"{run.label}: failed: {summary(error)}")
            return "failed"

    def _compare_code(self, run: RunNode, folder: Path) -> None:
        """Says if a finished run was made by other code than this."""
        if difference := provenance.difference(record.read_run(folder) or {}):
            self.progress.say(f"{run.label}: {difference}; --fresh redoes it")

    def columns(
        self, dataset: Dataset, fields: frozenset[str], to_device: Callable[..., Any], reward: RewardTransform
    ) -> dict[str, Any]:
        """The dataset's columns on the device, where all runs use the same copy; of rewards there is one for every
        transform that is asked for."""
        with self._loading:
            if dataset is not self._dataset:
                self._dataset, self._columns = dataset, {}
            missing = fields - self._columns.keys()
            self._columns |= to_device(dataset.columns(fields), missing)
            found = {name: self._columns[name] for name in fields}
            if "rewards" in fields and reward != dataset.reward:
                if reward not in self._columns:
                    made = to_device({"rewards": dataset.rewards(reward)}, fields)
                    self._columns[reward] = made["rewards"]
                found["rewards"] = self._columns[reward]
            return found

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
        found = list[Path]()
        for folder in run.folder(self.results).parent.glob("*"):
            try:
                before = record.read_run(folder)
            except BadInput:  # whose it was, nobody can tell
                continue
            online = before.get("online") if before else None
            if online and online["continues"] == run.fingerprint:
                last = _noted_stages(folder)[-1:]
                found += [folder, *(self.results / "artifacts" / fingerprint for fingerprint in last)]
        return found


def _noted_stages(folder: Path) -> list[str]:
    """Fingerprints of the stages that a run's folder names; none where they cannot be read."""
    try:
        return read_plain(folder / "stages").decode("ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


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
    except Exception as error:
        with contextlib.suppress(OSError):
            for member in members:
                member.leave("failed", summary(error))
        raise


@contextlib.contextmanager
def _failing(members: Sequence[Member]) -> Iterator[None]:
    """Whatever a run fails of ends it with a line, and lets the others go on."""
    try:
        yield
    except Exception as error:
        if not is_of_one_run(error):
            raise
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
        (folder / TRACEBACK).unlink(missing_ok=True)
        self.code = provenance.code_of(type(run.method))
        self.record = record.RunRecord(folder, {**describe(run), "dataset": data, "code": self.code})
        self.engine: Engine
        self.evaluator: Evaluator
        self.state: State = {}
        self.columns: dict[str, Any] = {}  # of the dataset, on the device; filled by the engine that has use for them
        self.reward = RewardTransform()  # what is learned from of a simulator's reward; likewise
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
        """Ends the run with a line that says why, and where more is said of what was not foreseen."""
        if self.status != "running":
            return
        line, more = summary(error), ""
        with contextlib.suppress(OSError):  # the run fails all the same where its folder was removed meanwhile
            if not is_expected(error) and self.folder.is_dir():
                write_text(self.folder / TRACEBACK, "".join(traceback.format_exception(error)))
                more = f"; see {self.folder / TRACEBACK}"
            self.leave("failed", str(error) if is_expected(error) else line)
        self.status = "failed"
        self.say(f"failed: {line}{more}")

    def begin(self) -> None:
        """All stages but the last."""
        if self.record.damage:
            self.say(self.record.damage)
        for name in ("episodes.csv", "train.csv"):
            read_rows(self.folder / name)  # a damaged table ends this run, and none beside it
        self.engine = engine_of(self.run)
        self.evaluator = self.engine.evaluator(self.run)
        self.record.save(device=self.engine.device())
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
