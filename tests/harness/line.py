"""A task small enough to know every episode's end by hand; light to import, for worker processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from methods.core import TaskSpec

HORIZON = 6


class Line(gymnasium.Env):
    """A point at x = seed % 3 moves by its action. It succeeds at x >= 4, is cut off at x <= -2, pays -1 a step else.

    Observation: x, and a number that the seed alone decides.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        assert seed is not None
        self.x, self.mark, self.over = float(seed % 3), self.np_random.normal(), False
        return self._obs(), {}

    def step(self, action: np.ndarray) -> Any:
        assert not self.over, "stepped after its end"
        self.x += float(action[0])
        success, truncated = self.x >= 4, self.x <= -2
        self.over = success or truncated
        return self._obs(), 0.0 if success else -1.0, success, truncated, {"success": success}

    def _obs(self) -> np.ndarray:
        return np.array([self.x, self.mark], np.float32)


@dataclass(frozen=True)
class LineTask:
    """Score: 100 for a success, less what it took."""

    cheap: bool = True
    clone: None = None
    rules: None = None
    suite: str = "test"
    name: str = "line"
    spec: TaskSpec = TaskSpec(2, 1, HORIZON)  # noqa: RUF009 (frozen)

    def make_env(self) -> gymnasium.Env:
        return Line()

    def score(self, episode_return: np.ndarray, success: np.ndarray) -> np.ndarray:
        return 100.0 * success + episode_return
