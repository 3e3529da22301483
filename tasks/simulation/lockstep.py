"""MuJoCo's simulators in step: the physics of all of them in threads, and the rest of a step for all of them at once.

A walker's own `step` spends much of its time in Python, on a few numbers. Here that is a few array operations for all
rows together. MuJoCo runs without Python's lock, so threads of one process are enough to use a few cores, and none
waits for another but at the end of the step: each takes the next row that is left. Resets are the simulators' own, one
after another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from tasks.simulation.rules import MakeRules, Moved
from tasks.simulation.simulators import Clone, Failures, MakeEnv, SimulatorError, Simulators, Steps, cores


class Lockstep(Simulators):
    """`Simulators` whose physics run in `threads` (default: one a core).

    Args:
      rules: the rules of a simulator that `make_env` built.
      horizon: steps to the time limit.
      make_env, n, clone, failed: as for `Simulators`.

    Raises:
      SimulatorError: (every method) a simulator raised; it is the cause. The others are closed. With `failed` only
        where it could not be built.
    """

    def __init__(
        self, make_env: MakeEnv, n: int, rules: MakeRules, horizon: int, clone: Clone | None = None,
        threads: int | None = None, failed: Failures | None = None,
    ) -> None:  # fmt: skip
        try:
            super().__init__(make_env, n, clone, failed=failed)
        except Exception as error:
            raise SimulatorError(f"a simulator failed: {type(error).__name__}: {error}") from error
        self.rules, self.horizon, self.closed = rules(self.envs[0]), horizon, False
        self.threads = min(n, cores() if threads is None else threads)
        self.executor = ThreadPoolExecutor(max(1, self.threads - 1))  # this thread works, too
        bodies = [self.rules.body(env) for env in self.envs]
        self.frames = bodies[0].frame_skip
        self.models, self.data = [body.model for body in bodies], [body.data for body in bodies]
        # Views of MuJoCo's own memory, which stays where it is as long as `data` does.
        self.views = {name: [getattr(data, name) for data in self.data]
                      for name in ("qpos", "qvel", "ctrl", *self.rules.sees)}  # fmt: skip
        self.goals = np.zeros((n, self.rules.goal_dim))

    def reset(self, seeds: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """See `Simulators.reset`."""
        with self._closing():
            obs = super().reset(seeds, chosen)
            begun = self.alive if chosen is None else self.alive & chosen
            for row in np.flatnonzero(begun).tolist():
                with self._failing(row):
                    self.goals[row] = self.rules.goal(self.envs[row])
            return obs

    def step(self, actions: np.ndarray, active: np.ndarray) -> Steps:
        """See `Simulators.step`."""
        out, rows = self._unmoved(), np.flatnonzero(active & self.alive)
        if not rows.size:
            return out
        if actions.shape != (wanted := (self.n, len(self.views["ctrl"][0]))):
            raise ValueError(f"actions have shape {actions.shape}, expected {wanted}")
        chosen = rows.tolist()
        before = self._gather("qpos", chosen)
        for row in chosen:
            self.views["ctrl"][row][:] = actions[row]
        with self._closing():
            failed = self._advance(chosen)
        if failed:
            sound = ~np.isin(rows, failed)
            rows, before = rows[sound], before[sound]
            chosen = rows.tolist()
            if not chosen:
                return out
        moved = Moved(before, self._gather("qpos", chosen), self._gather("qvel", chosen), actions[rows],
                      self.goals[rows], tuple(self._gather(name, chosen) for name in self.rules.sees))  # fmt: skip
        out.obs[rows], out.reward[rows], out.terminated[rows], out.success[rows] = self.rules.outcome(moved)
        self.steps[rows] += 1
        out.truncated[rows] = self.steps[rows] >= self.horizon
        return out

    def close(self) -> None:
        """See `Simulators.close`."""
        self.closed = True
        self.executor.shutdown()
        super().close()

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Closes the simulators where one of them fails."""
        if self.closed:
            raise RuntimeError("the simulators are closed")
        try:
            yield
        except Exception:
            self.close()
            raise

    def _gather(self, name: str, rows: list[int]) -> np.ndarray:
        views = self.views[name]
        return np.stack([views[row] for row in rows])

    def _advance(self, rows: list[int]) -> list[int]:
        """Moves them; returns those that failed."""
        left = iter(rows)  # shared: a list's iterator gives each row to one thread
        failed: list[int] = []

        def work() -> None:
            advance, models, data, frames = self.rules.advance, self.models, self.data, self.frames
            for row in left:
                try:
                    advance(models[row], data[row], frames)
                except Exception as error:
                    self._fail(row, error)
                    failed.append(row)

        others = [self.executor.submit(work) for _ in range(min(self.threads, len(rows)) - 1)]
        try:
            work()
        finally:  # nobody moves any more, whatever happened
            for _ in left:
                pass
            wait(others)
        for other in others:
            other.result()
        return failed
