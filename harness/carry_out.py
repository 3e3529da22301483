"""Carries out a plan on this machine, task by task, alone or beside other processes of the same command (`--shard`)."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from core.remote import Unreachable
from harness.adopt import Adopted
from harness.claims import Alone, Claims, Shard, Shared
from harness.ending import Interrupted
from harness.engines import engine_of
from harness.execute import ELSEWHERE, Executor, StaleCode
from harness.options import Execution
from harness.plan import RunNode
from harness.progress import Progress
from harness.record import Busy, write_arrays
from harness.request import Plan
from harness.session import Session
from harness.storage import Storage
from harness.track import tracking
from methods.core import BadInput
from tasks.core import Dataset

_LOOK_S = (2.0, 30.0)  # pauses between looks at what others have in hand, the shortest and the longest
_LOOK_GROWS = 1.3  # from one pause to the next


def carry_out(
    plan: Plan, per_task: int, execution: Execution, adopted: Sequence[Adopted], console: Console, storage: Storage
) -> int:
    """Returns the exit code; `per_task`: runs of a task.

    Raises:
      BadInput: no task's data can be had, or the only task's work was made by other code.
      Unreachable: remote storage does not answer.
    """
    allow_open_files()
    resuming = "the same command continues" + (", without --fresh" if execution.fresh else "")
    with contextlib.ExitStack() as held:
        progress = held.enter_context(Progress(console))
        session = Session(
            execution.results, progress, storage=storage, tracking=tracking(execution.track, progress.say)
        )
        held.callback(session.tracking.close)
        session.stop.after(execution.stop_after)
        claims = _claims(execution, session, held)
        storage.heed(session.stop, lambda: session.lost, claims.sure)
        executor = Executor(session, plan.settings.jobs, execution.lanes, execution.stale, claims)
        carrying = _Carrying(plan, per_task, execution, adopted, executor)
        try:
            carrying.all()
        except Unreachable as error:
            kept = f"what could not be published is kept on this machine, where {resuming}"
            if not session.stop.asked:
                raise Unreachable(f"{error}; {kept}") from None
            progress.say(f"stopped; {error}; {kept}")
            return 130
        except (Interrupted, KeyboardInterrupt):
            at = f" while getting data for {carrying.loading}" if carrying.loading else ""
            progress.say(f"stopped{at}; {resuming}")
            return 130
    each = [status for statuses in carrying.statuses.values() for status in statuses]
    unfinished = len(each) - each.count("finished")
    console.print(f"{each.count('finished')} of {len(each)} runs finished; records in {execution.place}/",
                  markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    return 2 if "stale" in each else 1 if unfinished else 0


def begun(plan: Plan, name: str, execution: Execution) -> tuple[Any, list[RunNode], Dataset]:
    """A task of a plan, its runs, and its data.

    Raises:
      BadInput: the data cannot be had, or not be learned from as is asked.
    """
    task = next(task for task in plan.tasks if task.name == name)
    dataset = task.load(execution.data)
    runs = plan.runs(task, dataset.identity)
    engine_of(task.suite).check(runs, dataset)
    return task, runs, dataset


def _claims(execution: Execution, session: Session, held: contextlib.ExitStack) -> Claims:
    """What says which programs are this process's, for as long as `held` is. In remote storage, where nothing can be
    locked, there may always be others."""
    if execution.shard is None and not session.storage.remote:
        return Alone()
    files = session.storage.claims(execution.results)
    return held.enter_context(Shared(files, Shard(*execution.shard or ()), execution.silence, session.give_up))


@dataclass
class _Carrying:
    plan: Plan
    per_task: int
    execution: Execution
    adopted: Sequence[Adopted]
    executor: Executor
    statuses: dict[str, list[str]] = field(default_factory=dict)  # of runs, by task
    loading: str = ""  # the task whose data are being had
    taken: set[Path] = field(default_factory=set)  # folders that were adopted

    def all(self) -> None:
        """What other processes have in hand is waited for, and taken over where they end.

        Raises:
          Interrupted: the user asked to stop; everything is saved. Or `KeyboardInterrupt`, while data are had.
        """
        known: dict[str, list[RunNode]] = {}
        number, of = self.execution.shard or (0, 1)
        first = number * len(self.plan.tasks) // of  # shards begin at different tasks, so that each loads few of them
        todo, pause = [*self.plan.tasks[first:], *self.plan.tasks[:first]], _LOOK_S[0]
        while todo:
            for task in todo:
                if not (runs := known.get(task.name)):
                    known[task.name] = self._one(task)
                elif self.executor.something_to_do(runs):
                    self._one(task)
                else:
                    self.statuses[task.name] = self.executor.statuses(runs)
            todo = [task for task in todo if ELSEWHERE in self.statuses[task.name]]
            if todo:
                if pause == _LOOK_S[0]:
                    self.executor.session.progress.say("waiting for what other processes have in hand")
                self._wait(pause)
                pause = min(_LOOK_GROWS * pause, _LOOK_S[1])  # a look reads many files

    def _one(self, task: Any) -> list[RunNode]:
        """The task's runs, as far as they could be carried out now."""
        runs: list[RunNode] = []
        try:
            self.loading = task.name
            _, runs, dataset = begun(self.plan, task.name, self.execution)
        except BadInput as error:
            if len(self.statuses) == len(self.plan.tasks) - 1 and all(
                set(one) == {"no data"} for one in self.statuses.values()
            ):
                raise
            self._passed_over(task, f"{task.name}: passed over: {error}", "no data")
            return runs
        self.loading = ""
        self._adopt(runs)
        publish_landscape(task, self.executor.session)
        try:
            with self.executor.session.stop.listening():
                self.statuses[task.name] = self.executor.run(runs, dataset, fresh=self.execution.fresh)
        except StaleCode as error:
            if len(self.plan.tasks) == 1:
                raise
            self._passed_over(task, f"error: {task.name}: passed over: {error}", "stale")
        return runs

    def _passed_over(self, task: Any, line: str, status: str) -> None:
        self.executor.session.progress.say(line)
        self.statuses[task.name] = [status] * self.per_task

    def _wait(self, seconds: float) -> None:
        """Raises: Interrupted."""
        stop = self.executor.session.stop
        with stop.listening():
            over = time.monotonic() + seconds
            while time.monotonic() < over:
                if stop():
                    raise Interrupted
                time.sleep(0.1)

    def _adopt(self, runs: list[RunNode]) -> None:
        """Takes the parts given by hand that are of these runs: all are looked at before any is taken."""
        matching = [(one, lane) for one in self.adopted if (lane := one.check(runs))]
        session = self.executor.session
        for one, lane in matching:
            if one.folder in self.taken:
                continue
            folder = session.artifact(lane.fingerprint)
            while True:
                try:
                    with self.executor.having([lane.fingerprint]), session.storage.in_hand([folder]):
                        self.executor.forgotten.add(one.take(lane, folder, anew=self.execution.fresh))
                    break
                except Busy:  # another process of the same command takes or trains it
                    self._wait(_LOOK_S[0])
            self.taken.add(one.folder)
            if difference := one.difference():
                session.progress.say(f"{lane.label}, seed {lane.seed}: adopted: {difference}")


def publish_landscape(task: Any, session: Session) -> None:
    """What a task's score is made of, where that can be drawn."""
    if landscape := task.landscape():
        path = session.results / "tasks" / task.suite / f"{task.name}.npz"
        write_arrays(path, landscape)
        session.storage.publish_file(path)


def allow_open_files() -> None:
    """As many as this user may have: a program of many lanes holds a lock for each, and one for its record."""
    with contextlib.suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
