"""Many simulators, stepped together: one after another in this process, or in a few worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from core.command import STOPS
from core.processes import die_with_parent
from tasks.simulation.physics import NOTHING

if TYPE_CHECKING:
    import gymnasium

MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]
Clone = Callable[["gymnasium.Env[Any, Any]"], "gymnasium.Env[Any, Any]"]

ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")


class SimulatorError(RuntimeError):
    """A simulator raised, or its process died.

    Attributes:
      row: which simulator of the batch it was; None where a process died that held several.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


Failures = dict[int, SimulatorError]
"""What simulators failed of, by row."""


class Steps(NamedTuple):
    """What a step of `n` simulators returns; rows that were not stepped repeat `obs` and are 0 elsewhere."""

    obs: np.ndarray  # float32 [n, o]
    reward: np.ndarray  # float64 [n]
    terminated: np.ndarray  # bool [n]
    truncated: np.ndarray  # bool [n]
    success: np.ndarray  # bool [n], `info["success"]` of this very step


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_SPAWNING = threading.Lock()  # what a child inherits is changed for the whole process


@contextlib.contextmanager
def lean_children() -> Iterator[None]:
    """Processes spawned inside start fast and behave: they don't import the parent's main module (it may pull
    in JAX), use one math thread each, leave what asks to stop (`STOPS`) to the parent (so only SIGKILL, or what they
    are told, ends them: no `multiprocessing.Pool`, which relies on SIGTERM) and render nothing. One thread at a time
    may be inside."""
    with _SPAWNING:
        yield from _lean_children()


def _lean_children() -> Iterator[None]:
    environment = ONE_THREAD | NOTHING
    before = {name: os.environ.get(name) for name in environment}
    main = sys.modules["__main__"]
    # A blocked signal stays blocked in a spawned child, from its very first instruction on.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    resource_tracker.ensure_running()  # which a first child would start, and which ends with some of them unblocked
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        os.environ.update(environment)
        sys.modules["__main__"] = types.ModuleType("__main__")
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Simulators:
    """`n` simulators in this process, stepped one after another: cheap ones, those of a worker, and what
    `tasks.simulation.lockstep` starts from.

    An episode is a function of its seed and actions, down to the last bit: which rows run beside it and what a
    simulator did before make no difference.

    Args:
      make_env: builds a simulator.
      n: simulators.
      clone: makes an independent simulator from a built one where that is cheaper than `make_env`.
      alone: nobody else in this process draws from NumPy's global generator, so it need not be put back.
      failed: takes the error of a row whose simulator raises. That row is stepped and reset no more; the others go on
        as they would have. Without it the error is raised.

    Raises:
      SimulatorError: (`reset` and `step`) a simulator raised, which is the cause, and there is no `failed`.
    """

    def __init__(
        self, make_env: MakeEnv, n: int, clone: Clone | None = None, alone: bool = False, failed: Failures | None = None
    ) -> None:
        if n < 1:
            raise ValueError(f"{n} simulators")
        self.n, self.failed = n, failed
        self.alive = np.ones(n, bool)
        self.generator = contextlib.nullcontext if alone else global_generator
        first = make_env()
        self.envs = [first, *(clone(first) if clone else make_env() for _ in range(n - 1))]
        self.seeds = np.zeros(n, np.int64)
        self.steps = np.zeros(n, np.int64)
        self.obs = np.empty((n, 0), np.float32)

    def reset(self, seeds: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Starts an episode in every simulator, or where `chosen` (bool `[n]`; after a first time in all of them), with
        `seeds` (int `[n]`, each in [0, 2^32)). Observations `[n, o]`: those of the others as they were, and 0 of one
        that failed before there were any."""
        chosen = np.ones(self.n, bool) if chosen is None else chosen
        self.seeds[chosen], self.steps[chosen] = seeds[chosen], 0
        rows = list(self.obs) if self.obs.size else [np.empty(0, np.float32)] * len(self.envs)
        for some in self._turns(np.flatnonzero(chosen & self.alive).tolist()):
            with self.generator():
                for row in some:
                    with self._failing(row):
                        rows[row] = self._reset(row)
        blank = np.zeros(max(map(len, rows)), np.float32)
        rows = [obs if len(obs) else blank for obs in rows]
        self.obs = np.stack(rows).astype(np.float32)  # anew: what was handed out earlier stays as it was
        return self.obs

    def step(self, actions: np.ndarray, active: np.ndarray) -> Steps:
        """Steps the simulators where `active` (bool `[n]`) with `actions` (float32 `[n, a]`)."""
        out = self._unmoved()
        with self.generator():
            for row in np.flatnonzero(active & self.alive).tolist():
                self.steps[row] += 1
                self._seed_global_generator(row)
                with self._failing(row):
                    out.obs[row], out.reward[row], out.terminated[row], out.truncated[row], info = self.envs[row].step(
                        actions[row]
                    )
                    out.success[row] = bool(info.get("success", False))
        return out

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @staticmethod
    def _turns(rows: list[int]) -> Iterator[Iterator[int]]:
        """The rows in turns of a moment each, as others may wait for the generator."""
        left = iter(rows)

        def turn(first: int) -> Iterator[int]:
            yield first
            until = time.monotonic() + _TURN_S
            while time.monotonic() < until and (row := next(left, None)) is not None:
                yield row

        while (row := next(left, None)) is not None:
            yield turn(row)

    @contextlib.contextmanager
    def _failing(self, row: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._fail(row, error)

    def _fail(self, row: int, error: Exception) -> None:
        failure = SimulatorError(f"a simulator failed: {type(error).__name__}: {error}", row)
        failure.__cause__ = error
        if self.failed is None:
            raise failure
        self.failed[row], self.alive[row] = failure, False

    def _unmoved(self) -> Steps:
        """Of a step in which nothing was stepped yet."""
        self.obs = self.obs.copy()  # what was handed out earlier stays as it was
        return Steps(self.obs, np.zeros(self.n), *(np.zeros(self.n, bool) for _ in range(3)))

    def _reset(self, row: int) -> np.ndarray:
        env, seed = self.envs[row], int(self.seeds[row])
        self._seed_global_generator(row)
        env.action_space.seed(seed)  # OGBench settles a scene with sampled actions
        return env.reset(seed=seed)[0]

    def _seed_global_generator(self, row: int) -> None:
        # OGBench draws from NumPy's global generator in places. Seeding it anew at every step makes a row blind to its
        # neighbours, and costs far less than swapping generator states.
        np.random.seed((int(self.seeds[row]) + 0x9E3779B1 * int(self.steps[row])) % 2**32)


def _homes(workers: int) -> list[int | None]:
    """The core that each of so many workers stays on: one each where there is one for each, else none.

    Workers that wait for one parent are woken by it at every step; so none of them is ever put where another runs.
    The price: beside a foreign process that keeps a core busy, the worker of that core cannot give way, and all wait.
    """
    if not hasattr(os, "sched_setaffinity") or workers != cores():
        return [None] * workers
    return [*sorted(os.sched_getaffinity(0))]


_DRAWING = threading.Lock()
_TURN_S = 0.01


@contextlib.contextmanager
def global_generator() -> Iterator[None]:
    """Lends out NumPy's global generator, to one thread at a time, and puts it back as it was."""
    with _DRAWING:
        state = np.random.get_state()
        try:
            yield
        finally:
            np.random.set_state(state)


def _work(pipe: Connection, make_env: MakeEnv, n: int, clone: Clone | None, core: int | None) -> None:
    """A worker's life, on `core` if one is given: build, then answer (method, arguments) with the result and the
    tracebacks of rows that failed in it, or in the end with its own traceback."""
    die_with_parent()
    failed: Failures = {}
    try:
        if core is not None:
            with contextlib.suppress(OSError):  # forbidden here: a worker then goes where it is put
                os.sched_setaffinity(0, {core})
        simulators = Simulators(make_env, n, clone, True, failed)
        pipe.send((None, {}))
        while request := pipe.recv():
            method, arguments = request
            result = getattr(simulators, method)(*arguments)
            pipe.send(
                (result, {row: "".join(traceback.format_exception(one.__cause__)) for row, one in failed.items()})
            )
            failed.clear()
        simulators.close()
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone
    except Exception:
        with contextlib.suppress(OSError):
            pipe.send(traceback.format_exc())


_GLANCE_S = 0.2  # between looks at whether somebody still waits for a worker


class SimulatorPool:
    """`n` simulators in `workers` processes (default: one a core), with `Simulators`' methods; its episodes, too.

    Args:
      make_env: builds a simulator; pickled to the workers, so a module's function or an object's method.
      n: simulators.
      workers: processes, at least one. Rows are dealt out in turn, so that neighbours, which tend to end together, are
        spread.
      clone: makes an independent simulator from a built one where that is cheaper than `make_env`.
      wait: called a few times a second while a worker is not done; may raise to give up, which ends the workers.
      failed: as for `Simulators`; of a worker that dies it takes the error for each of its rows.

    Raises:
      SimulatorError: (every method) a worker raised, with its traceback, or died, and there is no `failed`; or one
        could not build its simulators. All workers are then ended.
    """

    def __init__(
        self, make_env: MakeEnv, n: int, workers: int | None = None, clone: Clone | None = None,
        wait: Callable[[], None] = lambda: None, failed: Failures | None = None,
    ) -> None:  # fmt: skip
        self.n, self._wait = n, wait
        self._failed: Failures | None = None  # so that what cannot be built is raised
        self._gone: set[int] = set()  # workers that died
        self.obs = np.empty((n, 0), np.float32)
        workers = min(n, cores() if workers is None else workers)
        if workers < 1:
            raise ValueError(f"{n} simulators in {workers} processes")
        self._rows = [np.arange(worker, n, workers) for worker in range(workers)]
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        context = mp.get_context("spawn")
        try:
            with lean_children():
                for rows, core in zip(self._rows, _homes(workers), strict=True):
                    pipe, theirs = context.Pipe()
                    self._pipes.append(pipe)
                    mine = (theirs, make_env, len(rows), clone, core)
                    process = context.Process(target=_work, args=mine, daemon=True)
                    process.start()
                    self._processes.append(process)
                    theirs.close()  # so that a dead worker reads as the end of its pipe
            for worker in range(workers):
                self._receive(worker)
            self._failed = failed
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """See `Simulators.reset`."""
        chosen = np.ones(self.n, bool) if chosen is None else chosen
        return self._observed(self._ask("reset", [(seeds[rows], chosen[rows]) for rows in self._rows]))

    def step(self, actions: np.ndarray, active: np.ndarray) -> Steps:
        """See `Simulators.step`."""
        parts: list[Steps | None] = self._ask("step", [(actions[rows], active[rows]) for rows in self._rows])
        obs = self._observed([part and part.obs for part in parts])
        out = Steps(obs, np.zeros(self.n), *(np.zeros(self.n, bool) for _ in range(3)))
        for rows, part in zip(self._rows, parts, strict=True):
            for column, values in zip(out[1:], part[1:] if part else (), strict=part is not None):
                column[rows] = values
        return out

    def close(self) -> None:
        """Ends the workers; safe to call twice and after a failure."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
            pipe.close()
        deadline = time.monotonic() + 2
        for process in self._processes:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes, self._processes = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, method: str, arguments: list[tuple]) -> list[Any]:
        """Each worker's answer, None of one that is gone."""
        if not self._pipes:
            raise RuntimeError("the simulators are closed")
        for worker, pipe in enumerate(self._pipes):
            with contextlib.suppress(OSError):  # whoever is gone does not answer, either
                pipe.send((method, arguments[worker]))
        return [self._receive(worker) for worker in range(len(self._pipes))]

    def _receive(self, worker: int) -> Any:
        if worker in self._gone:
            return None
        try:
            while not self._pipes[worker].poll(_GLANCE_S):
                self._heed()
            answer = self._pipes[worker].recv()
        except (EOFError, OSError):
            process = self._processes[worker]
            process.join(timeout=2)
            return self._lose(worker, f"died with exit code {process.exitcode}")
        if isinstance(answer, str):
            return self._lose(worker, f"failed:\n{answer}")
        result, failed = answer
        for row, text in failed.items():
            self._fail([int(self._rows[worker][row])], f"simulator worker {worker} failed:\n{text}")
        return result

    def _lose(self, worker: int, how: str) -> None:
        self._fail(self._rows[worker].tolist(), f"simulator worker {worker} {how}")
        self._gone.add(worker)

    def _fail(self, rows: list[int], message: str) -> None:
        error = SimulatorError(message, rows[0] if len(rows) == 1 else None)
        if self._failed is None:
            self.close()
            raise error
        for row in rows:
            self._failed.setdefault(row, error)

    def _heed(self) -> None:
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _observed(self, parts: list[np.ndarray | None]) -> np.ndarray:
        """The workers' observations, `[n, o]`; rows of those that are gone repeat."""
        width = max([self.obs.shape[1], *(part.shape[1] for part in parts if part is not None)])
        obs = self.obs.copy() if self.obs.shape[1] == width else np.zeros((self.n, width), np.float32)
        for rows, part in zip(self._rows, parts, strict=True):
            if part is not None and part.size:
                obs[rows] = part
        self.obs = obs  # a new array: what was handed out earlier stays as it was
        return obs
