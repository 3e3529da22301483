"""A plan cut into pieces that other machines carry out: plain data, from which whoever gets it plans again.

A piece is one program. It is known by the fingerprints of its lanes, so a worker whose plan differs finds none of them,
and says so.
"""

from __future__ import annotations

import io
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from core.errors import BadInput
from harness.options import Execution
from harness.progress import Bar, Progress
from harness.request import Plan, Request

Tell = Callable[[str, float], object]
"""Hears a line ("" for none), and which share of the work in hand is done (below 0: nothing new)."""
_TELL_EVERY_S = 5.0


class Mark(NamedTuple):
    """A file by which another machine knows the same folder of results."""

    path: str
    text: str


@dataclass(frozen=True)
class Order:
    """What is to be carried out, and how."""

    request: Request
    saved: Request  # what a plan's file says, if one was given
    file: Path  # that file
    execution: Execution
    mark: Mark | None = None  # by which workers know the folder of results


Key = tuple[str, int]
"""Of a run with one seed: its fingerprint and the seed."""


class Failed(NamedTuple):
    """A lane that cannot be had."""

    name: str  # its fingerprint
    why: str


class Piece(NamedTuple):
    """One program."""

    number: int  # among all of the plan
    task: str
    names: tuple[str, ...]  # fingerprints of its lanes
    label: str
    before: tuple[int, ...]  # numbers of the pieces that it has to wait for
    weight: float  # updates, all lanes together
    ends: tuple[Key, ...] = ()  # the seeds that end with it
    dead: tuple[tuple[str, int], ...] = ()  # claims of its lanes whose owners the driver knows to be gone
    failed: tuple[Failed, ...] = ()  # lanes that it might read


class Outcome(NamedTuple):
    """What became of a piece."""

    statuses: dict[Key, str]  # of the seeds that end with it
    failed: tuple[Failed, ...] = ()  # of its lanes
    elsewhere: bool = False  # whether another worker has it in hand, or something that it reads


class Outlook(NamedTuple):
    """One task's share of a plan."""

    pieces: tuple[Piece, ...]
    statuses: dict[Key, str]  # "finished" or "" of every run and seed that is asked for


def marked(how: Execution) -> Mark | None:
    """Leaves a mark in the folder of results; a URL is the same everywhere. Raises: OSError."""
    if how.url:
        return None
    results = how.results
    text = f"{platform.node()} {os.getpid()} {time.time_ns()}"
    results.mkdir(parents=True, exist_ok=True)
    path = results / f".driver-{secrets.token_hex(8)}"  # others may have theirs
    path.write_text(text)
    return Mark(str(path), text)


def check_mark(mark: Mark | None, results: Path) -> None:
    """Raises `BadInput`: this machine sees another folder of results."""
    if mark is None:
        return
    try:
        there = Path(mark.path).read_text()
    except OSError:
        there = ""
    if there != mark.text:
        raise BadInput(f"--results {results}: {platform.node()} does not see the same folder; it has to be on storage "
                       "that all nodes share")  # fmt: skip


def tasks_of(order: Order) -> tuple[list[str], list[str]]:
    """Names of the tasks, after a look at everything that can be seen without data; and lines for the user.

    Raises:
      BadInput: names what is wrong.
    """
    from harness.checked import checked

    lines: list[str] = []
    plan = order.request.plan()
    checked(plan, order.request, order.execution, (order.saved, order.file), lines.append)
    return [task.name for task in plan.tasks], lines


def outlook(order: Order, name: str) -> Outlook:
    """What is to do of a task, its pieces numbered from 0; with --fresh what is there is deleted first.

    Raises:
      BadInput: its data cannot be had or not be learned from, other code made what is there, ...
    """
    from harness.carry_out import begun, publish_landscape
    from harness.engines import engine_of
    from harness.execute import Executor
    from harness.programs import waits
    from harness.remaining import folders, remaining

    how = order.execution
    check_mark(order.mark, how.results)
    task, runs, _ = begun(_plan(order), name, how)
    left: dict[Any, str] = {}
    with _session(order, _nobody) as session, _claims(order, session) as claims:
        publish_landscape(task, session)
        executor = Executor(session, 1, how.lanes, how.stale, claims)
        session.storage.refresh(folders([trial for run in runs for trial in run.trials()], session.results))
        trials = executor.settle(runs, left, fresh=how.fresh)
        ahead = remaining(trials, session.results, engine_of(task.suite), how.lanes)
    statuses = {(run.fingerprint, seed): "" for run in runs for seed in run.settings.seeds}
    statuses |= {(run.fingerprint, seed): "finished" for run, seeds in ahead.finished.items() for seed in seeds}
    statuses |= {(trial.run.fingerprint, trial.seed): status for trial, status in left.items()}
    pieces = []
    for number, (program, before) in enumerate(zip(ahead.programs, waits(ahead.programs), strict=True)):
        lanes, node = program.lanes, program.first.node
        who = ", ".join(dict.fromkeys(lane.method.name for lane in lanes))
        label = f"{who} on {name}: {node.stage.name}, {len(lanes)} lane{'s' * (len(lanes) > 1)}"
        weight = float(max(node.updates, 1) * max(len(program.training), 1))
        names = tuple(lane.fingerprint for lane in lanes)
        ends = tuple((trial.run.fingerprint, trial.seed) for trial in program.trials)
        pieces.append(Piece(number, name, names, label, tuple(sorted(before)), weight, ends))
    return Outlook(tuple(pieces), statuses)


def carried_out(order: Order, piece: Piece, tell: Tell) -> Outcome:
    """Carries out one piece here.

    Raises:
      Interrupted: somebody asked to stop; everything is saved.
      BadInput: this machine plans something else, or cannot have the data.
    """
    from harness.carry_out import allow_open_files, begun
    from harness.execute import ELSEWHERE, Executor

    allow_open_files()
    how = replace(order.execution, fresh=False)
    check_mark(order.mark, how.results)
    _, runs, dataset = begun(_plan(order), piece.task, how)
    planned = {lane.fingerprint: lane for run in runs for trial in run.trials() for lane in trial.lanes()}
    if strange := [one for one in piece.names if one not in planned]:
        raise BadInput(f"{piece.label}: {platform.node()} plans other lanes than {strange[0]}; its code differs")
    with _session(order, tell) as session, _claims(order, session, dict(piece.dead)) as claims:
        session.failed |= dict(piece.failed)
        with session.stop.listening(), session.progress:
            executor = Executor(session, 1, how.lanes, how.stale, claims, only=frozenset(piece.names))
            found = executor.trials(runs, dataset)
            unfinished = any(not executor.finished(planned[name]) for name in piece.names if name not in session.failed)
    ends = {(trial.run.fingerprint, trial.seed): status for trial, status in found.items()}
    mine = {key: ends[key] for key in piece.ends if key in ends}
    failed = tuple(Failed(name, session.failed[name]) for name in piece.names if name in session.failed)
    return Outcome(mine, failed, unfinished or ELSEWHERE in mine.values())


def _plan(order: Order) -> Plan:
    from harness.numerics import pin

    plan = order.request.plan()
    pin(plan.family)
    return plan


def _nobody(line: str, share: float) -> None:
    """Hears nothing."""


@contextmanager
def _session(order: Order, tell: Tell) -> Iterator[Any]:
    from harness.session import Session
    from harness.storage import opened
    from harness.track import tracking

    how, progress = order.execution, _Telling(tell)
    with opened(how.url, how.results, progress.say) as (folder, storage):
        told = tracking(how.track, progress.say)
        try:
            yield Session(folder, progress, storage=storage, tracking=told)
        finally:
            told.close()


@contextmanager
def _claims(order: Order, session: Any, dead: Mapping[str, int] | None = None) -> Iterator[Any]:
    from harness.claims import Shared

    files = session.storage.claims(session.results)
    with Shared(files, silence=order.execution.silence, lost=session.give_up, dead=dead or {}) as claims:
        session.storage.heed(session.stop, lambda: session.lost, claims.sure)
        yield claims


class _Telling(Progress):
    """Progress that is told to somebody elsewhere."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(Console(file=io.StringIO()))
        self._tell = tell

    def say(self, line: str) -> None:
        self._tell(line, -1.0)

    @contextmanager
    def stage(self, description: str, total: float, completed: float) -> Iterator[Bar]:
        del description
        yield _Share(self._tell, total, completed)


class _Share(Bar):
    """Of one span of work, told now and then."""

    def __init__(self, tell: Tell, total: float, completed: float) -> None:
        self._hear, self._total, self._completed, self._last = tell, total, completed, 0.0

    def advance(self, amount: float) -> None:
        self.at(self._completed + amount)

    def at(self, completed: float) -> None:
        self._completed = completed
        if time.monotonic() - self._last > _TELL_EVERY_S:
            self._last = time.monotonic()
            self._hear("", completed / self._total if self._total else 1.0)
