"""The simulators that D4RL v2 policies are evaluated in, as close to those of 2020 as today's packages come.

Locomotion is gymnasium's v4, not v5: v4 keeps the models, rewards and ends of the gym v2 environments that D4RL used,
while v5 withholds the survival reward on the step that ends an episode, and makes both feet of Walker2d equal.

AntMaze is gymnasium-robotics', put back to D4RL's: its ant has five times the torque, half the time step and stiffer
contacts, its mazes are mirrored and centred, its starts are spread over 2 m and its goals reached at 0.45 m. Here the
ant is D4RL's (the model file that OGBench took over from it), rows of the maze go up with y, the ant starts at the
origin within 0.1, the goal is drawn anew for each episode as in D4RL v2, and is reached at 0.5 m.
`docs/d4rl.md` lists what still differs.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from tasks.simulation import physics
from tasks.simulation.robotics import ADVICE, register_robotics
from tasks.simulation.rules import MakeRules, Moved, Outcome, Rules
from tasks.simulation.simulators import Clone, MakeEnv

mujoco = physics.load()

CELL = 4.0  # metres, of a maze
REACHED = 0.5  # metres from the goal
ANT_NOISE = 0.1  # of the start: uniform in positions, standard normal in velocities

R, G = "r", "g"  # where the ant starts, where its goal is
MAZES: dict[str, list[list[Any]]] = {  # D4RL's U_MAZE_TEST, BIG_MAZE_TEST and HARDEST_MAZE_TEST
    "umaze": [
        [1, 1, 1, 1, 1],
        [1, R, 0, 0, 1],
        [1, 1, 1, 0, 1],
        [1, G, 0, 0, 1],
        [1, 1, 1, 1, 1],
    ],
    "medium": [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, R, 0, 1, 1, 0, 0, 1],
        [1, 0, 0, 1, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 1, 1, 1],
        [1, 0, 0, 1, 0, 0, 0, 1],
        [1, 0, 1, 0, 0, 1, 0, 1],
        [1, 0, 0, 0, 1, 0, G, 1],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ],
    "large": [
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, R, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
        [1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],
        [1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1],
        [1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1],
        [1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1],
        [1, 0, 0, 1, 0, 0, 0, 1, 0, G, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ],
}
HORIZONS = {"umaze": 700, "medium": 1000, "large": 1000}


@dataclass(frozen=True)
class Simulator:
    """One of D4RL's environments."""

    obs_dim: int
    action_dim: int
    horizon: int  # steps to the time limit
    make: MakeEnv
    clone: Clone | None  # copies one where that is cheaper than `make`
    rules: MakeRules
    env_id: str  # gymnasium's


def make_locomotion(env_id: str) -> gymnasium.Env[Any, Any]:
    """gymnasium's environment of that id, without its advice to use another version, and without MuJoCo's on the
    model's syntax (a line, and one in a log file in the current folder, for every simulator)."""
    with _without_advice():
        return gymnasium.make(env_id, disable_env_checker=True)


def clone_locomotion(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """A simulator independent of `env` and equal to it but for its state: until it is reset, that of a new one.

    The two share the compiled model, which no episode changes, and so take less memory.
    """
    with _without_advice():
        copied = copy.deepcopy(env)  # wrappers are copied; the environment itself is built anew
    base: Any = copied.unwrapped
    base.model = env.get_wrapper_attr("model")
    base.data = mujoco.MjData(base.model)
    base.mujoco_renderer.model, base.mujoco_renderer.data = base.model, base.data
    return copied


class WalkerRules(Rules):
    """Hopper, Walker2d and HalfCheetah: the reward is the speed forward, less the actions' cost, and 1 for being alive
    where one can fall, which ends the episode. Success is not reported."""

    advance = staticmethod(mujoco.mj_step)

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        base: Any = env.unwrapped
        self.dt, self.speed, self.cost = base.dt, base._forward_reward_weight, base._ctrl_cost_weight
        self.falls = hasattr(base, "_healthy_z_range")
        if self.falls:
            self.alive, self.height, self.pitch = base._healthy_reward, base._healthy_z_range, base._healthy_angle_range
            self.state = getattr(base, "_healthy_state_range", None)

    def outcome(self, moved: Moved) -> Outcome:
        forward = self.speed * ((moved.qpos[:, 0] - moved.before[:, 0]) / self.dt)
        cost = self.cost * np.square(moved.actions).sum(axis=1)
        nobody = np.zeros(len(forward), bool)
        if not self.falls:
            return Outcome(np.concatenate([moved.qpos[:, 1:], moved.qvel], axis=1), forward - cost, nobody, nobody)
        healthy = _within(moved.qpos[:, 1], self.height) & _within(moved.qpos[:, 2], self.pitch)
        if self.state:
            healthy &= _within(np.concatenate([moved.qpos[:, 2:], moved.qvel], axis=1), self.state).all(axis=1)
        obs = np.concatenate([moved.qpos[:, 1:], moved.qvel.clip(-10, 10)], axis=1)
        return Outcome(obs, forward + self.alive - cost, ~healthy, nobody)


def _within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (limits[0] < values) & (values < limits[1])


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    with ADVICE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(before)


class AntMaze(gymnasium.Wrapper[Any, Any, Any, Any]):
    """D4RL's AntMaze v2. Observation `[29]`: x, y (metres from the start cell's centre), height, orientation (4), joint
    angles (8), velocities (14). Reward 1 and success in the step that reaches the goal, which ends the episode."""

    def __init__(self, maze: str) -> None:
        rows = MAZES[maze]
        # x = column, y = -row there: a maze upside down is D4RL's but for where its origin lies.
        env = _ant_maze(rows[::-1], HORIZONS[maze])
        super().__init__(env)
        base: Any = env.unwrapped
        Path(base.tmp_xml_file_path).unlink()  # it is compiled; one would stay behind for each simulator
        base.position_noise_range = 0.0  # D4RL's own noise follows
        base.ant_env._reset_noise_scale = ANT_NOISE
        self._base = base
        self._start, self._goal = (base.maze.cell_rowcol_to_xy(_cell(rows[::-1], kind)) for kind in (R, G))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        draw = self._base.np_random.uniform
        self._base.goal = self._goal + draw(0.0, CELL / 4, 2) + draw(0.0, CELL / 8, 2)
        return self._flat(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, _, _, truncated, info = self.env.step(action)
        reached = bool(np.linalg.norm(obs["achieved_goal"] - self._base.goal) <= REACHED)
        return self._flat(obs), float(reached), reached, truncated, info | {"success": reached}

    @property
    def goal(self) -> np.ndarray:
        """The episode's goal `[2]`, metres from the start cell's centre."""
        return self._base.goal - self._start

    def _flat(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([obs["achieved_goal"] - self._start, obs["observation"]])


class AntMazeRules(Rules):
    """`AntMaze.step`, for many at once."""

    goal_dim = 2
    advance = staticmethod(mujoco.mj_step)

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        assert isinstance(env, AntMaze)
        self.start = env._start

    def body(self, env: gymnasium.Env[Any, Any]) -> Any:
        base: Any = env.unwrapped
        return base.ant_env

    def goal(self, env: gymnasium.Env[Any, Any]) -> np.ndarray:
        base: Any = env.unwrapped
        return base.goal

    def outcome(self, moved: Moved) -> Outcome:
        reached = np.linalg.norm(moved.qpos[:, :2] - moved.goals, axis=1) <= REACHED
        obs = np.concatenate([moved.qpos[:, :2] - self.start, moved.qpos[:, 2:], moved.qvel], axis=1)
        return Outcome(obs, reached.astype(float), reached, reached)


def _cell(rows: list[list[Any]], kind: str) -> np.ndarray:
    return np.array(next((i, row.index(kind)) for i, row in enumerate(rows) if kind in row))


def _ant_maze(rows: list[list[Any]], horizon: int) -> gymnasium.Env[Any, Any]:
    register_robotics()
    package = importlib.util.find_spec("ogbench")
    assert package and package.submodule_search_locations
    ant = Path(package.submodule_search_locations[0]) / "locomaze" / "assets" / "ant.xml"
    return gymnasium.make("AntMaze_UMaze-v5", maze_map=rows, xml_file=str(ant), max_episode_steps=horizon,
                          include_cfrc_ext_in_observation=False, disable_env_checker=True)  # fmt: skip


def _walker(obs_dim: int, action_dim: int, env_id: str) -> Simulator:
    return Simulator(obs_dim, action_dim, 1000, partial(make_locomotion, env_id), clone_locomotion, WalkerRules, env_id)


def _maze(maze: str) -> Simulator:
    return Simulator(29, 8, HORIZONS[maze], partial(AntMaze, maze), None, AntMazeRules, "AntMaze_UMaze-v5")


SIMULATORS: dict[str, Simulator] = {
    "halfcheetah": _walker(17, 6, "HalfCheetah-v4"), "hopper": _walker(11, 3, "Hopper-v4"),
    "walker2d": _walker(17, 6, "Walker2d-v4"), **{f"antmaze-{maze}": _maze(maze) for maze in MAZES},
}  # fmt: skip
