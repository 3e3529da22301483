"""What a step of OGBench's mazes comes to, for many ants or humanoids at once; see `tasks.simulation.rules`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.simulation import physics
from tasks.simulation.rules import Moved, Outcome, Rules

if TYPE_CHECKING:
    import gymnasium

mujoco = physics.load()
HEAD, TORSO = 2, 1  # bodies of the humanoid
LIMBS = [16, 10, 13, 7]  # left hand, left foot, right hand, right foot


class Ant(Rules):
    """Observations are all positions and velocities. Success is the ant, or in antsoccer the ball, at the goal; it ends
    the episode; the reward is -1 without it, 0 with it. A simulator's `success_timing` says by which state it is
    judged, the one acted in ("pre") or the one reached ("post")."""

    goal_dim = 2
    advance = staticmethod(mujoco.mj_step)

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        base: Any = env.unwrapped
        ball = hasattr(base, "get_agent_ball_xy")
        self.judged = slice(-7, -5) if ball else slice(0, 2)  # of the positions
        self.tolerance, self.acted_in = base._goal_tol, base._success_timing == "pre"

    def goal(self, env: gymnasium.Env[Any, Any]) -> np.ndarray:
        """x, y (metres)."""
        base: Any = env.unwrapped
        return np.array(base.cur_goal_xy)

    def outcome(self, moved: Moved) -> Outcome:
        at = (moved.before if self.acted_in else moved.qpos)[:, self.judged]
        success = np.linalg.norm(at - moved.goals, axis=1) <= self.tolerance
        return Outcome(self.obs(moved), success - 1.0, success, success)

    def obs(self, moved: Moved) -> np.ndarray:
        return np.concatenate([moved.qpos, moved.qvel], axis=1)


class Humanoid(Ant):
    """As `Ant`, but for the observations: place, joint angles, height of the head, hands and feet as the torso sees
    them, the torso's upright direction, velocity of the centre of mass, velocities."""

    sees = ("xpos", "xmat", "sensordata")

    @staticmethod
    def advance(model: Any, data: Any, frames: int) -> None:
        """As the DeepMind Control Suite does: what is seen belongs to the state reached."""
        mujoco.mj_step2(model, data)
        if frames > 1:
            mujoco.mj_step(model, data, frames - 1)
        mujoco.mj_step1(model, data)

    def obs(self, moved: Moved) -> np.ndarray:
        places, frames, sensors = moved.seen
        limbs = places[:, LIMBS] - places[:, [TORSO]]
        # A product for each limb, as the simulator's: one for all four rounds differently.
        limbs = limbs[:, :, None] @ frames[:, None, TORSO].reshape(-1, 1, 3, 3)
        return np.concatenate([moved.qpos[:, :2], moved.qpos[:, 7:], places[:, [HEAD], 2], limbs.reshape(-1, 12),
                               frames[:, TORSO, 6:9], sensors[:, :3], moved.qvel], axis=1)  # fmt: skip


def rules(env: gymnasium.Env[Any, Any]) -> Rules:
    """Of an antmaze, antsoccer or humanoidmaze without teleports, which draw random numbers."""
    return Humanoid(env) if "humanoid" in str(env.spec and env.spec.id) else Ant(env)
