"""Carries out a plan on a Ray cluster: a task of Ray's for each program, in a process of its own.

This process, the driver, neither imports JAX nor sees data: workers plan (`harness.pieces`), it keeps the order. Parts
and records travel through the folder of results, which all nodes share, or through its URL. A worker or a node that is
lost is Ray's to notice; the piece runs again elsewhere, and goes on from its last checkpoint.
"""

from __future__ import annotations

import heapq
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError, TaskCancelledError
from rich.console import Console

from core.errors import BadInput, reason
from core.remote import Remote, Unreachable
from harness import pieces
from harness.claim_files import AtUrl, ClaimFiles, InFolder
from harness.claims import Shared
from harness.ending import Interrupted, Stop
from harness.options import Execution
from harness.pieces import Failed, Key, Order, Outcome, Outlook, Piece
from harness.programs import longest
from harness.ray_report import Report

_TRIES = 10  # of a piece whose worker or node is lost
_LOOK_EVERY_S = 0.5
_CONNECT_S = 10.0
_COUNT_EVERY_S = 30.0  # of the places that a cluster has
_ASK_S = 10.0  # for claims, of storage that does not answer
_AGAIN_S = 5.0  # before a piece that another driver's worker has in hand is asked for again
_PATIENCE_S = 120.0  # with workers that are asked to stop
_CARRIED = ("JAX_", "XLA_", "MUJOCO_", "OGBENCH_", "D4RL_", "MINARI_", "PYTHONPATH", "VGF_", "AWS_ENDPOINT_URL",
            "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")  # fmt: skip
"""Variables that workers get, by how they begin. Ray stores and shows what it is given, so there is no credential among
them: each node has its own."""


@dataclass(frozen=True)
class Cluster:
    """Where, and what a program gets there."""

    address: str = ""  # "": RAY_ADDRESS, a cluster that was started on this machine, or a new one
    cpus: float = 1.0
    gpus: float = 0.0  # a share of one, or several

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        for flag, number in (("--cpus-per-program", self.cpus), ("--gpus-per-program", self.gpus)):
            if not 0.0 <= number <= 1024.0 or abs(number * 1e4 - round(number * 1e4)) > 1e-6:
                raise BadInput(f"{flag} {number:g}: expected a number from 0 to 1024, of at most four decimals")
            if number > 1.0 and number != int(number):
                raise BadInput(f"{flag} {number:g}: expected a share of one, or a whole number")

    def doubts(self) -> list[str]:
        """A line where no node that is there now could take a program."""
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(what, 0.0) >= number for what, number in needs.items()) for node in nodes):
            return []
        return [f"no node has {self.cpus:g} CPUs and {self.gpus:g} GPUs for a program now; waiting for one"]

    def options(self, label: str) -> dict[str, Any]:
        """Of one of Ray's tasks: what it needs and sees. What JAX reads stands there before it is imported."""
        seen = {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}
        for name in ("XLA_CLIENT_MEM_FRACTION", "JAX_PLATFORMS"):  # the first is refused beside its other spelling
            seen.pop(name, None)
        seen |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * min(self.gpus, 1.0):.3f}"} if self.gpus else {
            "JAX_PLATFORMS": "cpu"}  # fmt: skip  # else a task of no GPU might see all of them
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": _TRIES,
                "runtime_env": {"env_vars": seen}, "name": label}  # fmt: skip


def drive(order: Order, cluster: Cluster, console: Console) -> int:
    """Carries a plan out; the exit code, as of `harness.carry_out`.

    Raises:
      BadInput: what is asked for, or the cluster, cannot be had.
    """
    _check(order)
    stop = Stop()
    stop.after(order.execution.stop_after)
    with _connected(cluster), stop.listening():
        driver = Driver(cluster, console, stop, _board())
        driver.say(cluster.doubts())
        try:
            names = driver.tasks(order)
            mark = pieces.marked(order.execution)
            try:
                statuses = driver.all(replace(order, mark=mark), names)
            finally:
                if mark:
                    Path(mark.path).unlink(missing_ok=True)
        except Interrupted:
            console.print("stopped; the same command continues", markup=False, highlight=False)
            return 130
    by_run: dict[str, list[str]] = {}
    for (run, _), status in statuses.items():
        by_run.setdefault(run, []).append(status)
    done = sum(set(one) == {"finished"} for one in by_run.values())
    console.print(f"{done} of {len(by_run)} runs finished; records in {order.execution.place}/", markup=False,
                  highlight=False, soft_wrap=True)  # fmt: skip
    return int(done < len(by_run) or not by_run)


def _check(order: Order) -> None:
    """Raises `BadInput`: an option that has no meaning on a cluster."""
    if order.execution.adopt:
        raise BadInput("--adopt has no meaning with --on: a command without it takes the parts over first")
    if order.execution.shard:
        raise BadInput("--shard has no meaning with --on: the cluster says who does what")


@contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    """Raises `BadInput`: there is no such cluster."""
    here = [str(Path(sys.modules[name].__path__[0])) for name in ("core", "methods", "harness", "tasks")
            if name in sys.modules]  # fmt: skip
    _reached(cluster.address)
    address = cluster.address or os.environ.get("RAY_ADDRESS", "")
    try:
        ray.init(address=cluster.address or None, log_to_driver=False, configure_logging=False, include_dashboard=False,
                 runtime_env={"py_modules": here} if address not in ("", "local") else None)  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise BadInput(f"--on ray:{cluster.address}: no cluster answers ({reason(error)[:200]})") from None
    try:
        yield
    finally:
        ray.shutdown()


def _reached(address: str) -> None:
    """Raises `BadInput`: nobody listens at "host:port"; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise BadInput(f"--on ray:{address}: no cluster answers ({reason(error)})") from None


class _Board:
    """Where workers write what they are at; the driver reads it."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=10_000)
        self.at: dict[int, tuple[str, float]] = {}

    def tell(self, number: int, where: str, line: str, share: float) -> None:
        before = self.at.get(number, ("", 0.0))[1]
        self.at[number] = (where, before if share < 0 else share)
        if line:
            self.lines.append(line)

    def read(self) -> tuple[list[str], dict[int, tuple[str, float]]]:
        lines = list(self.lines)
        self.lines.clear()
        return lines, self.at


def _board() -> Any:
    return ray.remote(_Board).options(num_cpus=0, max_restarts=-1, max_task_retries=0).remote()


def _carry_out(order: Order, piece: Piece, board: Any) -> Outcome | None:
    """In a worker. None: it was asked to stop."""
    where = f"{os.uname().nodename}:{os.getpid()}"

    def tell(line: str, share: float) -> None:
        board.tell.remote(piece.number, where, line, share)

    tell("", 0.0)
    try:
        return pieces.carried_out(order, piece, tell)
    except (Interrupted, KeyboardInterrupt):
        return None


@dataclass
class Driver:
    """Keeps the order of pieces: each is submitted when what it waits for is done."""

    cluster: Cluster
    console: Console
    stop: Callable[[], bool]
    board: Any = None
    statuses: dict[Key, str] = field(default_factory=dict)
    _counted: tuple[float, int] = (-math.inf, 0)  # when the cluster's places were counted, and how many there were

    # planning

    def tasks(self, order: Order) -> list[str]:
        """Names of the plan's tasks.

        Raises:
          BadInput: names what is wrong.
        """
        names, lines = self._ask(pieces.tasks_of, [(order,)], "planning")[0]
        self.say(lines)
        return list(names)

    def plan(self, order: Order, names: Sequence[str]) -> list[Piece]:
        """The pieces of all tasks, numbered through.

        Raises:
          BadInput: names what is wrong.
        """
        asked = [(order, name) for name in names]
        found = self._ask(pieces.outlook, asked, "planning", passed=len(names) > 1)
        made: list[Piece] = []
        for name, one in zip(names, found, strict=True):
            if isinstance(one, BadInput):
                self.say([f"{name}: passed over: {one}"])
                self.statuses[(name, 0)] = "no data"
                continue
            made += _moved(one, len(made))
            self.statuses |= one.statuses
        if all(isinstance(one, BadInput) for one in found):
            raise found[-1]
        return made

    def _ask(self, what: Callable[..., Any], each: Sequence[tuple[Any, ...]], label: str, passed: bool = False) -> list:
        """What a function returns in workers, for each of some arguments; with `passed` also what it fails of."""
        remote = ray.remote(max_calls=1)(what).options(**Cluster().options(label))
        waiting = [remote.remote(*given) for given in each]
        answers = []
        for one in waiting:
            while True:
                try:
                    answers.append(ray.get(one, timeout=_LOOK_EVERY_S))
                except GetTimeoutError:
                    if self.stop():
                        self._end(waiting)
                        raise Interrupted from None
                    continue
                except RayError as error:
                    found = cause(error)
                    if not passed:
                        raise found from None
                    answers.append(found)
                break
        return answers

    # carrying out

    def all(self, order: Order, names: Sequence[str]) -> dict[Key, str]:
        """Carries out all tasks; statuses of all runs and seeds.

        Raises:
          Interrupted: the user asked to stop; what the workers did is saved.
        """
        made = self.plan(order, names)
        work = ray.remote(max_calls=1)(_carry_out)  # a process each
        given = ray.put(order)

        # a worker is too young to know whether another is silent for good; this process watches from the first look on
        watch = Shared(_claim_files(order.execution), silence=order.execution.silence)
        failed: dict[str, Failed] = {}

        def free(piece: Piece) -> bool:
            with suppress(Unreachable):  # it is looked at again
                return watch.free(piece.names)
            return False

        def submit(piece: Piece) -> Any:
            dead: tuple[tuple[str, int], ...] = ()
            with suppress(Unreachable):
                dead = tuple(watch.abandoned(piece.names).items())
            known = piece._replace(dead=dead, failed=tuple(failed.values()))
            return work.options(**self.cluster.options(piece.label)).remote(given, known, self.board)

        for piece, found in self.each(made, submit, free):
            if isinstance(found, BadInput):
                self.say([f"{piece.label}: failed: {found}"])
                lanes = tuple(Failed(name, str(found)) for name in piece.names)
                found = Outcome(dict.fromkeys(piece.ends, "failed"), lanes)
            failed |= {one.name: one for one in found.failed}
            self.statuses |= found.statuses
        return self.statuses

    def each(
        self, made: Sequence[Piece], submit: Callable[[Piece], Any], again: Callable[[Piece], bool] = lambda piece: True
    ) -> Iterator[tuple[Piece, Any]]:
        """Submits each piece, numbered as it stands, when all before it are done, those that begin the longest paths
        first; yields it with its result, or the `BadInput` that it failed of. A piece that is "elsewhere" waits until
        `again` says that it may be asked for once more."""
        waits = {piece.number: set(piece.before) for piece in made}
        after: dict[int, list[int]] = {}
        for piece in made:
            for before in piece.before:
                after.setdefault(before, []).append(piece.number)
        of = {piece.number: piece for piece in made}
        running: dict[Any, Piece] = {}
        later: list[tuple[float, Piece]] = []
        unreached: dict[int, int] = {}  # times that a piece did not reach its storage
        report = Report(self.console, of, _Asked(self.board) if self.board is not None else None)
        ways = longest([piece.weight for piece in made], [piece.before for piece in made])
        ready = [(-ways[piece.number], piece.number) for piece in made if not waits[piece.number]]
        heapq.heapify(ready)
        with report:
            while running or later or ready:
                now = time.monotonic()
                for due, piece in [one for one in later if one[0] <= now]:
                    later.remove((due, piece))
                    if again(piece):
                        heapq.heappush(ready, (-ways[piece.number], piece.number))
                    else:
                        later.append((now + _AGAIN_S, piece))
                while ready and len(running) < self._places():
                    piece = of[heapq.heappop(ready)[1]]
                    running[submit(piece)] = piece
                done = _ended(running)
                if self.stop():
                    self._end(list(running))
                    raise Interrupted
                for one in done:
                    piece = running.pop(one)
                    found = _result(one)
                    if isinstance(found, Unreachable) and (tries := unreached.get(piece.number, 0)) < _TRIES:
                        unreached[piece.number] = tries + 1
                        self.say([f"{piece.label}: {found}; it is tried again"])
                        found = None
                    if found is None or (isinstance(found, Outcome) and found.elsewhere):
                        later.append((now + _AGAIN_S, piece))
                        continue
                    report.done(piece, failed=isinstance(found, BadInput) or bool(found.failed))
                    yield piece, found
                    for number in after.get(piece.number, ()):
                        waits[number].discard(piece.number)
                        if not waits[number]:
                            heapq.heappush(ready, (-ways[number], number))
                report.look(list(running.values()))

    def _places(self) -> int:
        """Pieces that are submitted at most: twice as many as the cluster holds now, so that it never waits for this
        process, and one that can grow sees why."""
        now = time.monotonic()
        if now - self._counted[0] > _COUNT_EVERY_S:
            there = ray.cluster_resources()
            holds = [there.get("CPU", 0.0) / self.cluster.cpus] if self.cluster.cpus else []
            holds += [there.get("GPU", 0.0) / self.cluster.gpus] if self.cluster.gpus else []
            self._counted = now, 2 * int(min(holds, default=1000.0)) + 4
        return self._counted[1]

    def _end(self, waiting: Sequence[Any]) -> None:
        """Asks workers to save and stop, and waits for them."""
        for one in waiting:
            ray.cancel(one, force=False, recursive=False)
        over = time.monotonic() + _PATIENCE_S
        while waiting and time.monotonic() < over:
            _, waiting = ray.wait(list(waiting), num_returns=len(waiting), timeout=1.0)

    def say(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _claim_files(how: Execution) -> ClaimFiles:
    return AtUrl(Remote(how.url, patience=_ASK_S)) if how.url else InFolder(how.results)


def _ended(running: Mapping[Any, Piece]) -> list[Any]:
    """Those of Ray's tasks that have ended, after a short wait."""
    if not running:
        time.sleep(_LOOK_EVERY_S)
        return []
    first, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY_S)
    return first if not first else ray.wait(list(running), num_returns=len(running), timeout=0)[0]


def _moved(one: Outlook, first: int) -> list[Piece]:
    """Its pieces, numbered from `first` on."""
    return [piece._replace(number=piece.number + first, before=tuple(number + first for number in piece.before))
            for piece in one.pieces]  # fmt: skip


def _result(one: Any) -> Any:
    """Of a task that has ended."""
    try:
        return ray.get(one)
    except TaskCancelledError:
        return None
    except RayError as error:
        return cause(error)


def cause(error: RayError) -> BadInput:
    """What went wrong in a worker, as one line."""
    inner = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(inner, BadInput):
        return (Unreachable if isinstance(inner, Unreachable) else BadInput)(str(inner))
    return BadInput(f"{type(inner).__name__}: {reason(inner).splitlines()[0][:300] if str(inner) else ''}")


class _Asked:
    """A question to the board, whose answer is not waited for."""

    def __init__(self, board: Any) -> None:
        self.board, self.answer = board, None

    def __call__(self) -> tuple[list[str], dict[int, tuple[str, float]]] | None:
        """What workers said since the last answer, and where each piece is; None: not yet."""
        if self.answer is None:
            self.answer = self.board.read.remote()
            return None
        if not ray.wait([self.answer], timeout=0)[0]:
            return None
        found, self.answer = _result(self.answer), None
        return found if isinstance(found, tuple) else None
