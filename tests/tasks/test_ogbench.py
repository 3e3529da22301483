"""OGBench tasks: names, simulators and their clones."""

from __future__ import annotations

import tempfile

import gymnasium
import numpy as np
import pytest
from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
from ogbench.relabel_utils import relabel_dataset

import tasks
from methods.core import BadInput, TaskSpec
from tasks.core import choose, options
from tasks.ogbench import collect, simulators
from tasks.ogbench import suite as ogbench

ANT = ogbench.OGBenchTask("antmaze-medium-navigate-singletask-task1-v0")  # cheap to build
CUBE = ogbench.OGBenchTask("cube-single-play-singletask-task2-v0")


# ---- names ----


def test_names():
    assert len(ogbench.PAPER_TASKS) == len(set(ogbench.PAPER_TASKS)) == 45
    assert len(ogbench.DEFAULT_TASKS) == 9
    assert {*ogbench.PAPER_TASKS, *ogbench.DEFAULT_TASKS} <= set(ogbench.names())
    assert not any("visual" in name for name in ogbench.names())
    assert {ogbench.get(name).name for name in ogbench.names()} == set(ogbench.names())
    assert set(collect.DATASETS) <= {ogbench.get(name).dataset for name in ogbench.names()}
    shown, more = ogbench.listed()
    assert len(shown) == len(set(shown)) == 50 and {*ogbench.PAPER_TASKS, *ogbench.LARGE_MAZE_TASKS} == set(shown)
    assert more.startswith(f"and {len(ogbench.names()) - 50} more by name or glob")


def test_patterns():
    def found(*patterns: str) -> list[str]:
        return [task.name for task in tasks.select("ogbench", patterns)]

    assert found() == list(ogbench.PAPER_TASKS)
    assert found("default") == list(ogbench.DEFAULT_TASKS)
    cubes = [f"cube-{size}-{kind}-singletask{task}-v0" for size in ("double", "quadruple", "single", "triple")
             for kind in ("noisy", "play") for task in ("", *(f"-task{i}" for i in range(1, 6)))]  # fmt: skip
    assert sorted(found("cube-*")) == sorted(cubes)


@pytest.mark.parametrize(
    ("env", "default"),
    [("antmaze-large-navigate", 1), ("antmaze-giant-navigate", 1), ("humanoidmaze-medium-navigate", 1),
     ("humanoidmaze-large-navigate", 1), ("antsoccer-arena-navigate", 4), ("cube-single-play", 2),
     ("cube-double-play", 2), ("scene-play", 2), ("puzzle-3x3-play", 4), ("puzzle-4x4-play", 4)],
)  # fmt: skip
def test_a_name_without_a_number_is_the_benchmark_s_default_task(env, default, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    env_id = ogbench.get(f"{env}-singletask-v0").env_id
    assert gymnasium.make(env_id, disable_env_checker=True).unwrapped._reward_task_id == default


@pytest.mark.parametrize("name", ["cube-singel-play-singletask-v0", "cube-single-singletask-v0", ""])
def test_unknown_names_get_a_hint(name):
    with pytest.raises(BadInput, match=f"unknown OGBench task {name!r}"):
        ogbench.get(name)
    with pytest.raises(BadInput, match="did you mean 'antmaze-giant-navigate-singletask-task1-v0'"):
        ogbench.get("antmaze-giant-navigate-singletask-task11-v0")


# ---- simulators ----


def check_spec(task: ogbench.OGBenchTask) -> None:
    env = task.make_env()
    obs, _ = env.reset(seed=0)
    horizon = env.get_wrapper_attr("_max_episode_steps")
    assert task.spec == TaskSpec(len(obs), env.action_space.shape[0], horizon)
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    assert env.unwrapped._success_timing == "post" and env.unwrapped._terminate_at_goal


def test_both_timings_of_success():
    """An ant that a step carries into the goal: "post" says so in that step, "pre" in the next."""
    seen = {}
    for timing in ANT.choices["success_timing"]:
        task = choose(ANT, {"success_timing": timing})
        assert options(task) == {"success_timing": timing} and task.name == ANT.name
        env = task.make_env()
        env.reset(seed=0)
        base = env.unwrapped
        qpos, qvel = base.data.qpos.copy(), np.zeros_like(base.data.qvel)
        qpos[:2], qvel[0] = np.add(base.cur_goal_xy, [0.7, 0.0]), -4.0
        base.set_state(qpos, qvel)
        for _ in range(2):
            _, reward, terminated, _, info = env.step(np.zeros(8))
            seen.setdefault(timing, []).append((reward, terminated, info["success"]))
            if terminated:
                break
    assert seen == {"post": [(0.0, True, 1.0)], "pre": [(-1.0, False, 0.0), (0.0, True, 1.0)]}
    assert options(ANT) == {"success_timing": "post"}


def test_unknown_choices():
    with pytest.raises(BadInput, match=r"task\.succes_timing: ogbench tasks .*; did you mean 'success_timing'"):
        choose(CUBE, {"succes_timing": "pre"})
    with pytest.raises(BadInput, match=r"task\.success_timing=late: expected one of post, pre"):
        choose(CUBE, {"success_timing": "late"})


def one_of_each_environment() -> dict[str, str]:
    return {ogbench.get(name).env_id: name for name in ogbench.names() if name.endswith("singletask-v0")}


def test_specs_of_the_mazes():
    for env_id, name in one_of_each_environment().items():
        if "maze" in env_id or "soccer" in env_id:
            check_spec(ogbench.get(name))


@pytest.mark.slow
def test_specs_of_manipulation():
    for env_id, name in one_of_each_environment().items():
        if "maze" not in env_id and "soccer" not in env_id:
            check_spec(ogbench.get(name))


def model_fields(env: gymnasium.Env) -> dict[str, np.ndarray]:
    model = env.unwrapped.model
    values = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value.copy() for name, value in values.items() if isinstance(value, np.ndarray)}


def press(env: gymnasium.Env, button: int, steps: int) -> list[np.ndarray]:
    """Actions of a scripted press of a button in a task's scene, from its start on; whatever, where there is none."""
    base, rng = env.unwrapped, np.random.default_rng(button)
    _, info = env.reset(seed=button)
    if not hasattr(base, "_button_site_ids"):
        return list(rng.uniform(-1, 1, (steps, 5)))
    np.random.seed(button)
    oracle, actions = ButtonPlanOracle(env=env, noise=0.0, gripper_always_closed=True), []
    info["privileged/target_button_top_pos"] = base._data.site_xpos[base._button_site_ids[button]].copy()
    oracle.reset(None, info)
    for _ in range(steps):
        actions.append(np.clip(oracle.select_action(None, info), -1, 1))
        info = env.step(actions[-1])[-1]
    return actions


def begin(env: gymnasium.Env, seed: int) -> np.ndarray:
    """Starts an episode; all that the next step depends on."""
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    return np.concatenate([obs, state(env)])


def nudge_and_step(env: gymnasium.Env, action: np.ndarray) -> np.ndarray:
    """A step; all that it changed. Drawer and window are pushed first, so that their locks matter."""
    base = env.unwrapped
    if "scene" in base.spec.id:
        for joint in ("drawer_slide", "window_slide"):
            base._data.joint(joint).qvel[0] = 0.3 * np.sin(8 * base._data.time)
    obs, reward, terminated, truncated, info = env.step(action)
    told = [np.ravel(value) for _, value in sorted(info.items())]
    return np.concatenate([obs, [reward, terminated, truncated], *told, state(env)])


def state(env: gymnasium.Env) -> np.ndarray:
    data = env.unwrapped._data
    return np.concatenate([data.qpos, data.qvel, data.qacc, data.qacc_warmstart, data.ctrl, data.mocap_pos.ravel()])


@pytest.mark.slow
@pytest.mark.parametrize(
    "env", ["scene", *(pytest.param(env, marks=pytest.mark.slow) for env in ("cube-single", "puzzle-3x3"))]
)
def test_interleaved_clones_equal_fresh_simulators(env):
    task, steps, rows = ogbench.get(f"{env}-play-singletask-task1-v0"), 45, (0, 1, 0)
    original = task.make_env()
    plans = [press(original, button, steps) for button in (0, 1)]
    wanted = []
    for button in (0, 1):
        fresh = task.make_env()
        start = model_fields(fresh)
        wanted.append([begin(fresh, button), *(nudge_and_step(fresh, action) for action in plans[button])])
        end = model_fields(fresh)
        # Clones share the model: what an episode may change in it is `SharedModel`'s business, or a colour.
        changed = {name for name in start if not np.array_equal(start[name], end[name])}
        assert changed <= {"dof_damping", "site_pos", "geom_rgba", "mat_rgba"}
        if env != "cube-single":
            assert "geom_rgba" in changed, "no button was pressed"
    assert any(not np.array_equal(*both) for both in zip(*wanted, strict=True))

    clones = [ogbench.clone(original) for _ in rows]
    assert len({id(simulator.unwrapped.model) for simulator in (original, *clones)}) == 1
    got = [[begin(clone, button) for clone, button in zip(clones, rows, strict=True)]]
    got += [[nudge_and_step(clones[row], plans[rows[row]][step]) for row in range(3)] for step in range(steps)]
    for step in range(steps + 1):
        for row in range(3):
            np.testing.assert_array_equal(got[step][row], wanted[rows[row]][step])


@pytest.mark.parametrize(("task", "goal"), [(ANT, lambda env: ("qpos", slice(0, 2), env.cur_goal_xy)),
                                            (CUBE, lambda env: ("qpos", slice(14, 17), (0.5, 0.0, 0.02)))],
                         ids=["antmaze", "cube"])  # fmt: skip
def test_what_is_learned_from_online_is_rewarded_as_the_data(task, goal):
    """Two random episodes, late in which the goal is reached by sleight of hand: the benchmark's own relabelling of the
    states acted in says what the simulator paid. Evaluation's simulator, timed otherwise, would differ."""
    env, rng, rows = task.make_online_env(), np.random.default_rng(0), []
    for seed in range(2):
        env.reset(seed=seed)
        base = env.unwrapped
        data, terminated = getattr(base, "data", None) or base._data, False
        while not terminated:
            if len(rows) % 20 == 18:
                column, place, where = goal(base)
                getattr(data, column)[place] = where
            acted = data.qpos.copy()
            _, reward, terminated, _, _ = env.step(rng.uniform(-0.1, 0.1, task.spec.action_dim))
            rows.append((acted, reward, terminated))
    qpos, rewards, ends = (np.array(values) for values in zip(*rows, strict=True))
    columns = {"qpos": qpos}
    relabel_dataset(task.env_id, task.make_env(), columns)
    np.testing.assert_array_equal(rewards, columns["rewards"])
    assert {-1.0, 0.0} == set(rewards.tolist()) and ends.sum() == 2
    # whatever ends an episode has mask 0 in the data; manipulation notices the sleight of hand a step later
    assert (columns["masks"][ends] == 0).all() and (columns["masks"] == 0).sum() <= 4


@pytest.mark.parametrize("env_id", ["antmaze-medium-v0", "pointmaze-medium-v0"])
def test_a_maze_leaves_no_file_behind(env_id, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = simulators.make(env_id, "post")
    env.reset(seed=0)
    env.close()
    assert not list(tmp_path.iterdir())
