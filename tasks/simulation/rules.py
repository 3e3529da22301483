"""What a step comes to, for many simulators at once: what `tasks.simulation.lockstep` asks of a kind of simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import gymnasium


class Moved(NamedTuple):
    """What `n` simulators did in a step. Positions and velocities are MuJoCo's generalised ones."""

    before: np.ndarray  # float64 [n, q], positions before it
    qpos: np.ndarray  # float64 [n, q]
    qvel: np.ndarray  # float64 [n, v]
    actions: np.ndarray  # float32 [n, a]
    goals: np.ndarray  # float64 [n, goal_dim], what `Rules.goal` said when the episode began
    seen: tuple[np.ndarray, ...]  # float64 [n, ...] each, the arrays that `Rules.sees` names


class Outcome(NamedTuple):
    """What the simulators say of it."""

    obs: np.ndarray  # [n, o]
    reward: np.ndarray  # float64 [n]
    terminated: np.ndarray  # bool [n]
    success: np.ndarray  # bool [n]


class Rules:
    """What a kind of simulator's own `step` does, for many at once and with the very same results.

    They draw no random numbers, and depend on nothing but what `Moved` holds.
    """

    sees: tuple[str, ...] = ()  # arrays of `mujoco.MjData`, besides positions and velocities
    goal_dim: int = 0  # numbers in `goal`
    advance: Callable[[Any, Any, int], None]  # of (model, data, number of MuJoCo's steps), run in threads: `mj_step`

    def body(self, env: gymnasium.Env[Any, Any]) -> Any:
        """gymnasium's `MujocoEnv` in `env`, with `model`, `data` and `frame_skip`."""
        return env.unwrapped

    def goal(self, env: gymnasium.Env[Any, Any]) -> np.ndarray:
        """What of the episode that just began `outcome` needs, `[goal_dim]`."""
        del env
        return np.empty(0)

    def outcome(self, moved: Moved) -> Outcome:
        raise NotImplementedError


MakeRules = Callable[["gymnasium.Env[Any, Any]"], Rules]
