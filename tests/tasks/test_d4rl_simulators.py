"""The simulators behind D4RL's tasks: what they observe, what they pay, how they end, as D4RL had it."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from methods.core import TaskSpec
from tasks.d4rl import suite as d4rl
from tasks.d4rl.simulators import MAZES, SIMULATORS, AntMaze, make_locomotion

LOCOMOTION = ("halfcheetah", "hopper", "walker2d")


def put(env: gymnasium.Env[Any, Any], qpos: np.ndarray, qvel: np.ndarray) -> None:
    env.unwrapped.set_state(qpos, qvel)


def state(env: gymnasium.Env[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    data = env.unwrapped.data
    return data.qpos.copy(), data.qvel.copy()


@pytest.mark.parametrize("name", LOCOMOTION)
def test_interleaved_clones_equal_fresh_simulators(name):
    task = d4rl.get(f"{name}-medium-v2")
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (30, 3, task.spec.action_dim)).astype(np.float32)

    def play(simulators: list[gymnasium.Env[Any, Any]], order: list[tuple[int, int]]) -> np.ndarray:
        seen = np.empty((30, 3, task.spec.obs_dim + 1))
        for row, simulator in enumerate(simulators):
            simulator.reset(seed=row)
        for step, row in order:
            obs, reward, *_ = simulators[row].step(actions[step, row])
            seen[step, row] = [*obs, reward]
        return seen

    fresh = [task.make_env() for _ in range(3)]
    wanted = play(fresh, [(step, row) for row in range(3) for step in range(30)])
    original = task.make_env()
    play([original] * 3, [(step, 0) for step in range(10)])  # has been used
    clones = [task.clone(original) for _ in range(2)]
    assert len({id(simulator.unwrapped.model) for simulator in (original, *clones)}) == 1
    np.testing.assert_array_equal(
        play([original, *clones], [(step, row) for step in range(30) for row in range(3)]), wanted
    )


def test_threads_that_build_leave_warnings_as_they_were():
    before, filters = mujoco.get_mju_user_warning(), list(warnings.filters)
    with ThreadPoolExecutor(4) as executor:
        made = list(executor.map(lambda _: make_locomotion("Hopper-v4"), range(24)))
    assert len(made) == 24 and mujoco.get_mju_user_warning() is before and warnings.filters == filters


@pytest.mark.parametrize("task", [d4rl.get(name) for name in d4rl.PAPER_TASKS if "replay" not in name], ids=str)
def test_specs(task):
    env = task.make_env()
    obs, _ = env.reset(seed=0)
    horizon = env.get_wrapper_attr("_max_episode_steps")
    assert task.spec == TaskSpec(len(obs), env.action_space.shape[0], horizon)
    assert horizon == (700 if task.environment == "antmaze-umaze" else 1000)
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    assert env.observation_space.shape == obs.shape


# ---- locomotion ----


@pytest.mark.parametrize("name", LOCOMOTION)
def test_locomotion_observes_positions_but_the_first_then_velocities(name):
    env = SIMULATORS[name].make()
    env.reset(seed=0)
    action = np.linspace(-1, 1, env.action_space.shape[0])
    obs, *_ = env.step(action)
    qpos, qvel = state(env)
    limit = np.inf if name == "halfcheetah" else 10.0  # the others' velocities are clipped
    np.testing.assert_allclose(obs, np.concatenate([qpos[1:], np.clip(qvel, -limit, limit)]))
    assert SIMULATORS[name].obs_dim == len(obs) == {"halfcheetah": 17, "hopper": 11, "walker2d": 17}[name]
    put(env, qpos, np.full_like(qvel, 30.0))
    obs = env.unwrapped._get_obs()
    assert obs[len(qpos) - 1 :].max() == min(limit, 30.0)


@pytest.mark.parametrize(
    ("name", "seconds", "alive", "cost"),
    [("halfcheetah", 0.05, 0.0, 0.1), ("hopper", 0.008, 1.0, 1e-3), ("walker2d", 0.008, 1.0, 1e-3)],
)
def test_locomotion_pays_for_speed_and_survival(name, seconds, alive, cost):
    env = SIMULATORS[name].make()
    env.reset(seed=0)
    qpos, qvel = np.zeros_like(state(env)[0]), np.zeros_like(state(env)[1])
    qpos[1] = 0.0 if name == "halfcheetah" else 1.25
    qvel[0] = 2.0  # a known state: upright, at 2 m/s
    put(env, qpos, qvel)
    action = np.full(env.action_space.shape, 0.5)
    _, reward, terminated, _, _ = env.step(action)
    moved = state(env)[0][0]
    assert env.unwrapped.dt == pytest.approx(seconds) and not terminated
    assert moved / seconds == pytest.approx(2.0, abs=0.5)
    assert reward == pytest.approx(moved / seconds + alive - cost * 0.25 * len(action))


@pytest.mark.parametrize(
    ("name", "joint", "value", "falls"),
    [("hopper", 1, 0.65, True), ("hopper", 2, 0.3, True), ("hopper", 1, 1.0, False), ("walker2d", 1, 0.75, True),
     ("walker2d", 1, 2.1, True), ("walker2d", 2, 1.2, True), ("walker2d", 2, 0.5, False),
     ("halfcheetah", 2, 3.0, False)],
)  # fmt: skip
def test_falling_ends_an_episode_and_still_pays_for_its_last_step(name, joint, value, falls):
    """gymnasium's v5 would not pay the 1 for being alive; the environments of D4RL did."""
    env = SIMULATORS[name].make()
    env.reset(seed=0)
    qpos, qvel = (np.zeros_like(values) for values in state(env))
    qpos[1] = 0.0 if name == "halfcheetah" else 1.25
    qpos[joint] = value
    put(env, qpos, qvel)
    _, reward, terminated, _, _ = env.step(np.zeros(env.action_space.shape))
    assert terminated == falls
    alive = 0.0 if name == "halfcheetah" else 1.0
    assert reward == pytest.approx(state(env)[0][0] / env.unwrapped.dt + alive)


def test_walker_s_feet_differ():
    """As in the model of 2020; gymnasium's v5 made them equal."""
    model = SIMULATORS["walker2d"].make().unwrapped.model
    friction = [model.geom(name).friction[0] for name in ("foot_geom", "foot_left_geom")]
    assert friction == [0.9, 1.9]


# ---- AntMaze ----


@pytest.mark.parametrize(("maze", "goal", "walls"), [("umaze", (0, 8), 18), ("medium", (20, 20), 38),
                                                     ("large", (32, 24), 62)])  # fmt: skip
def test_mazes_are_laid_out_as_d4rl_s(maze, goal, walls):
    """x grows with columns and y with rows, 4 m a cell, from the centre of the cell where the ant starts."""
    env = AntMaze(maze)
    env.reset(seed=0)
    model = env.unwrapped.ant_env.model
    blocks = [i for i in range(model.ngeom) if model.geom(i).name.startswith("block")]
    found = {tuple(np.round(model.geom_pos[i, :2] - env._start, 6)) for i in blocks}
    rows = MAZES[maze]
    wanted = {(4.0 * j - 4, 4.0 * i - 4) for i, row in enumerate(rows) for j, cell in enumerate(row) if cell == 1}
    assert found == wanted and len(blocks) == walls
    assert {tuple(model.geom_size[i]) for i in blocks} == {(2.0, 2.0, 1.0)}
    goals = []
    for seed in range(30):
        env.reset(seed=seed)
        goals.append(env.goal - goal)
    assert 0 <= np.min(goals) < 0.3 and 1.2 < np.max(goals) <= 1.5  # U(0, 1) + U(0, 0.5), drawn for each episode
    env.reset(seed=29)
    np.testing.assert_array_equal(env.goal - goal, goals[-1])


def test_the_ant_is_d4rl_s():
    """gymnasium-robotics' own has gear 150, a time step of 0.01 s and other contacts."""
    env = AntMaze("umaze")
    ant = env.unwrapped.ant_env
    model = ant.model
    assert (model.opt.timestep, ant.frame_skip, model.opt.integrator) == (0.02, 5, mujoco.mjtIntegrator.mjINT_RK4)
    assert set(model.actuator_gear[:, 0]) == {30.0} and set(model.actuator_ctrlrange.ravel()) == {-1.0, 1.0}
    torso = model.geom("torso_geom").id
    np.testing.assert_allclose(model.geom_solref[torso], [0.02, 1.0])
    np.testing.assert_allclose(model.geom_solimp[torso, :3], [0.8, 0.8, 0.01])
    np.testing.assert_allclose(model.geom_friction[torso], [1.0, 0.5, 0.5])
    assert set(model.dof_armature[6:14]) == set(model.dof_damping[6:14]) == {1.0}
    names = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_JOINT, joint) for joint in model.actuator_trnid[:, 0]]
    assert names == ["hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3"]


def test_the_ant_observes_29_numbers_and_starts_near_the_origin():
    env = AntMaze("large")
    starts = np.array([env.reset(seed=seed)[0] for seed in range(50)])
    upright = np.concatenate([[0, 0, 0.75, 1, 0, 0, 0], np.zeros(8)])
    away = starts[:, :15] - upright
    assert 0.08 < np.abs(away[:, [0, 1, 2]]).max() <= 0.1 and np.abs(away[:, 7:]).max() <= 0.1
    assert starts[:, 15:].std() == pytest.approx(0.1, rel=0.1)
    obs, *_ = env.step(np.zeros(8))
    data = env.unwrapped.data
    np.testing.assert_allclose(obs, np.concatenate([data.qpos[:2] - env._start, data.qpos[2:], data.qvel]))
    assert env.unwrapped.data.qpos.shape == (15,) and env.unwrapped.data.qvel.shape == (14,)


@pytest.mark.parametrize(("away", "reached"), [(0.3, True), (0.47, True), (0.75, False)])
def test_the_goal_is_reached_within_half_a_metre(away, reached):
    """0.47: gymnasium-robotics itself would ask for 0.45."""
    env = AntMaze("medium")
    env.reset(seed=3)
    ant = env.unwrapped.ant_env
    qpos, qvel = ant.data.qpos.copy(), np.zeros(14)
    qpos[:2] = env.goal + env._start + [away, 0.0]
    ant.set_state(qpos, qvel)
    obs, reward, terminated, truncated, info = env.step(np.zeros(8))
    assert np.linalg.norm(obs[:2] - env.goal) == pytest.approx(away, abs=0.025)
    assert (reward, terminated, truncated, info["success"]) == (float(reached), reached, False, reached)
    task = d4rl.get("antmaze-medium-play-v2")
    assert task.score(np.array([reward]), np.array([reached])).tolist() == [100.0 * reached]
