"""OGBench tasks: names, simulators and their clones, and how a file becomes transitions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import ogbench as package
import pytest
from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
from ogbench.relabel_utils import relabel_dataset

import tasks
from methods.core import BadInput, TaskSpec
from tasks import collect, fetch, ogbench
from tasks.core import choose, options

ANT = ogbench.OGBenchTask("antmaze-medium-navigate-singletask-task1-v0")  # cheap to build
CUBE = ogbench.OGBenchTask("cube-single-play-singletask-task2-v0")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ant_file(path: Path, **changes: Any) -> Path:
    """Three episodes of 4, 3 and 5 states, with `changes` to the columns (None: left out)."""
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(12, 29)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (12, 8)).astype(np.float32),
        "terminals": np.isin(np.arange(12), [3, 6, 11]),
        "qpos": rng.normal(size=(12, 15)).astype(np.float32),
        "qvel": rng.normal(size=(12, 14)).astype(np.float32),
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: column for name, column in columns.items() if column is not None})
    return path


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
    return np.concatenate([obs, np.zeros(4), state(env)])


def nudge_and_step(env: gymnasium.Env, action: np.ndarray) -> np.ndarray:
    """A step; all that it changed. Drawer and window are pushed first, so that their locks matter."""
    base = env.unwrapped
    if "scene" in base.spec.id:
        for joint in ("drawer_slide", "window_slide"):
            base._data.joint(joint).qvel[0] = 0.3 * np.sin(8 * base._data.time)
    obs, reward, terminated, truncated, info = env.step(action)
    return np.concatenate([obs, [reward, terminated, truncated, info["success"]], state(env)])


def state(env: gymnasium.Env) -> np.ndarray:
    data = env.unwrapped._data
    return np.concatenate([data.qpos, data.qvel, data.qacc, data.qacc_warmstart, data.ctrl, data.mocap_pos.ravel()])


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
    assert not np.array_equal(wanted[0], wanted[1])

    clones = [ogbench.clone(original) for _ in rows]
    assert len({id(simulator.unwrapped.model) for simulator in (original, *clones)}) == 1
    got = [[begin(clone, button) for clone, button in zip(clones, rows, strict=True)]]
    got += [[nudge_and_step(clones[row], plans[rows[row]][step]) for row in range(3)] for step in range(steps)]
    np.testing.assert_array_equal(np.array(got).swapaxes(0, 1), np.array(wanted)[list(rows)])


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


# ---- transitions ----


def test_agrees_with_the_benchmarks_loader(cube_file, tmp_path):
    """On episodes in some of which the cube is where the task wants it."""
    with np.load(cube_file) as file:
        columns = dict(file)
    goal = (0.5, 0.0, 0.02)  # task 2
    solved = [10, 11, 61 * 2 + 60, 61 * 3]  # two in the first episode, the third one's last state, the fourth's first
    columns["qpos"][solved, 14:17] = goal
    for path in (tmp_path / "cube.npz", tmp_path / "cube-val.npz"):
        np.savez(path, **columns)

    data = CUBE.load(str(tmp_path / "cube.npz"))
    ours = data.transitions
    _, theirs, _ = package.make_env_and_datasets(CUBE.name, dataset_path=str(tmp_path / "cube.npz"))
    for column in ("observations", "next_observations", "rewards", "masks", "terminals"):
        np.testing.assert_array_equal(ours[column], theirs[column], err_msg=column)
        assert ours[column].dtype == np.float32
    np.testing.assert_array_equal(ours["actions"], theirs["actions"].clip(-1 + 1e-5, 1 - 1e-5))
    assert np.abs(ours["actions"]).max() < 1 == np.abs(theirs["actions"]).max()

    # A reward judges the state acted in; the state that an episode ends in is never judged.
    assert len(data) == 12 * 60
    assert {10, 11, 60 * 3} <= set(np.flatnonzero(ours["masks"] == 0))
    np.testing.assert_array_equal(ours["rewards"] == 0, ours["masks"] == 0)
    assert ours["rewards"][9] == -1 and ours["rewards"][60 * 3 - 1] == -1
    assert np.flatnonzero(ours["terminals"]).tolist() == [60 * i + 59 for i in range(12)]


def test_transitions_stay_within_episodes(tmp_path):
    observations = np.repeat(np.arange(12, dtype=np.float32)[:, None], 29, axis=1)
    data = ANT.load(str(ant_file(tmp_path / "a.npz", observations=observations)))
    assert data.transitions["observations"][:, 0].tolist() == [0, 1, 2, 4, 5, 7, 8, 9, 10]
    assert data.transitions["next_observations"][:, 0].tolist() == [1, 2, 3, 5, 6, 8, 9, 10, 11]
    assert data.transitions["terminals"].tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 1]
    assert data.provenance.origin == "given"
    assert data.provenance.details["success_timing"] == "post"


def test_episodes_of_one_transition_and_of_none(tmp_path):
    """Of two states and of one, which has nothing to follow it."""
    numbers = np.repeat(np.arange(12, dtype=np.float32)[:, None], 29, axis=1)
    ends = np.isin(np.arange(12), [1, 2, 11])
    actions = np.repeat(np.linspace(-1, 1, 12)[:, None], 8, axis=1)
    data = ANT.load(str(ant_file(tmp_path / "a.npz", observations=numbers, terminals=ends, actions=actions)))
    assert data.transitions["observations"][:, 0].tolist() == [0, *range(3, 11)]
    assert data.transitions["next_observations"][:, 0].tolist() == [1, *range(4, 12)]
    assert data.transitions["terminals"].tolist() == [1] + [0] * 7 + [1]
    following = data.columns({"next_actions"})["next_actions"][:, 0]
    np.testing.assert_allclose(following, [0, *actions[4:11, 0], 0], atol=2e-5)


def test_returns_to_go_stay_within_their_episode_and_end_at_success(tmp_path):
    from methods.sfbc import planned_returns

    env = ANT.make_env()
    env.reset(seed=0)
    qpos = np.full((12, 15), 50.0, np.float32)  # far from the goal
    qpos[5, :2] = env.unwrapped.cur_goal_xy  # within the second episode of 4, 3 and 5 states
    found = ANT.load(str(ant_file(tmp_path / "a.npz", qpos=qpos))).transitions
    assert found["rewards"].tolist() == [-1, -1, -1, -1, 0, -1, -1, -1, -1]
    assert found["masks"].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    columns = (found["rewards"], found["masks"], found["terminals"], np.full(9, -np.inf, np.float32))
    togo = planned_returns(*columns, 0.5)
    np.testing.assert_allclose(togo, [-1.75, -1.5, -1, -1, 0, -1.875, -1.75, -1.5, -1])


def test_validation_data_are_not_trained_on(tmp_path):
    path = ant_file(tmp_path / "a.npz")
    before = ANT.load(str(path)).transitions
    (tmp_path / "a-val.npz").write_bytes(b"whatever")
    after = ANT.load(str(path)).transitions
    assert len(after["rewards"]) == 9 and all(np.array_equal(after[name], before[name]) for name in before)


def nan_at(row: int, *shape: int) -> np.ndarray:
    values = np.zeros(shape, np.float32)
    values[row] = np.nan
    return values


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"qpos": None}, "column 'qpos' is missing"),
        ({"observations": np.zeros((12, 28))}, r"observations has shape \(12, 28\), expected \(12, 29\)"),
        ({"actions": np.zeros((11, 8))}, r"actions has shape \(11, 8\), expected \(12, 8\)"),
        ({"observations": nan_at(7, 12, 29)}, "observations holds a non-finite value in row 7"),
        ({"qpos": nan_at(2, 12, 15)}, "qpos holds a non-finite value in row 2"),
        ({"actions": np.full((12, 8), -1.0001)}, r"action outside \[-1, 1\] in row 0"),
        ({"terminals": np.zeros(12)}, "breaks off within an episode"),
        ({"terminals": np.ones(12)}, "no transitions"),
        ({name: np.zeros((0, width)) for name, width in (("observations", 29), ("actions", 8), ("qpos", 15))}
         | {"terminals": np.zeros(0)}, "breaks off|no transitions"),
        ({"actions": np.array([{}] * 12)}, "not an NPZ file of numbers"),
    ],
)  # fmt: skip
def test_bad_columns_are_named(tmp_path, changes, line):
    path = ant_file(tmp_path / "a.npz", **changes)
    with pytest.raises(BadInput, match=line) as caught:
        ANT.load(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]  # not pinned either


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[: len(content) // 2], "truncated"),
        (lambda content: b"\x93NUMPY" + content[6:100], "not an NPZ file"),
        (lambda content: content.replace(content[600:700], bytes(100)), "damaged"),
    ],
)
def test_bad_files_are_named(tmp_path, spoil, line):
    path = ant_file(tmp_path / "a.npz")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BadInput, match=line) as caught:
        ANT.load(str(path))
    assert str(path) in str(caught.value)


def test_a_file_that_changed_is_refused(tmp_path):
    path = ant_file(tmp_path / "a.npz")
    first = ANT.load(str(path)).provenance.sha256
    assert ANT.load(str(path)).provenance.sha256 == first
    ant_file(path, qpos=np.zeros((12, 15)))
    with pytest.raises(BadInput, match=f"{path} changed since its first use"):
        ANT.load(str(path))
    (tmp_path / "a.npz.sha256").unlink()
    assert ANT.load(str(path)).provenance.sha256 != first


# ---- where the data come from ----


def test_nothing_there_and_no_host(cache, monkeypatch):
    monkeypatch.setattr(ogbench, "HOSTS", ("http://127.0.0.1:9", "http://localhost:9"))
    for data in ("download", "auto"):
        with pytest.raises(BadInput, match=r"missing download: antmaze-medium-navigate-v0\.npz") as caught:
            ANT.load(data)
        line = str(caught.value)
        assert "127.0.0.1" in line and "localhost" in line and line.endswith("use --data PATH") and "\n" not in line
    with pytest.raises(BadInput, match="cannot be generated"):
        ANT.load("generate")
    with pytest.raises(BadInput, match="no such file: downlaod"):
        ANT.load("downlaod")
    with pytest.raises(BadInput, match="use --data generate or --data PATH"):
        CUBE.load("download")
    assert not list(cache.glob("*.npz"))


def test_auto_generates_when_no_host_answers_and_says_so(cache, cube_file, monkeypatch, capsys):
    calls = []

    def generate(dataset: str, episodes: int, seed: int, workers: int | None, out: Path) -> Path:
        calls.append((dataset, episodes))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(cube_file.read_bytes())
        return out

    def unreachable(*_: Any) -> str:
        raise fetch.MissingDownload("missing download: x")

    monkeypatch.setattr(collect, "collect", generate)
    monkeypatch.setattr(fetch, "fetch", unreachable)
    task = dataclasses.replace(CUBE, episodes=12)
    data = task.load("auto")
    assert calls == [("cube-single-play-v0", 12)]
    assert data.provenance.origin == "generated"
    assert data.provenance.details["recipe"]["episodes"] == 12
    assert "missing download: x; generating 12 episodes instead" in capsys.readouterr().err
    assert task._file("auto")[1] == "generated"  # found again, without asking a host
    assert "generated earlier" in capsys.readouterr().err


def test_auto_prefers_what_was_downloaded(cache, capsys):
    path = ant_file(cache / "antmaze-medium-navigate-v0.npz")
    (cache / "antmaze-medium-navigate-v0.npz.url").write_text("https://host/file.npz\n")
    for data in ("auto", "download"):
        provenance = ANT.load(data).provenance
        assert (provenance.origin, provenance.path) == ("downloaded", str(path))
        assert provenance.details["url"] == "https://host/file.npz"
    assert "downloaded earlier" in capsys.readouterr().err
