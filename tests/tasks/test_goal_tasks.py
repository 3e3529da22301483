"""OGBench's goal-conditioned tasks: what a learner sees of the data and of the simulators."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import tasks
from core.errors import BadInput
from methods.core import GoalLaw
from tasks.core import choose, met
from tasks.ogbench_goals import suite
from tasks.simulation.simulators import Simulators
from tests.tasks.test_ogbench_files import ant_file

ANT = suite.get("antmaze-medium-navigate-v0")
CUBE = suite.get("cube-single-play-v0")


def test_every_dataset_of_states_is_a_task() -> None:
    names = suite.names()
    assert len(names) == len(set(names)) and all(gymnasium.spec(suite.get(name).env_id) for name in names)
    assert {"cube-quadruple-play-v0", "puzzle-4x6-noisy-v0", "pointmaze-giant-stitch-v0", "scene-play-v0"} < set(names)
    assert not any("visual" in name or "octuple" in name for name in names)
    shown, more = tasks.listed("ogbench-goals")
    assert set(shown) < set(names) and f"{len(names) - len(shown)} more" in more
    with pytest.raises(BadInput, match=r"^unknown OGBench dataset 'cube-single-plya-v0'; did you mean"):
        suite.get("cube-single-plya-v0")


@pytest.mark.parametrize("name", ["cube-double-play-v0", "scene-play-v0", "puzzle-3x3-play-v0", ANT.name,
                                  "humanoidmaze-medium-navigate-v0", "antsoccer-arena-navigate-v0"])  # fmt: skip
def test_an_observation_is_the_goal_and_the_state(name: str) -> None:
    """The environment's own, for each of the five goals, and the goal stays as it is."""
    task = suite.get(name)
    env, alone = task.make_env(), gymnasium.make(task.env_id, success_timing="post", disable_env_checker=True)
    for one in (env, alone):
        one.reset(seed=9)  # compiles
    for seed in range(4, 9):
        np.random.seed(seed)
        env.unwrapped.action_space.seed(seed)
        obs, _ = env.reset(seed=seed)
        assert env.unwrapped.cur_task_id == 1 + seed % 5
        assert obs.shape == (task.spec.obs_dim,) and task.spec.obs_dim == 2 * task.held.obs_dim
        np.random.seed(seed)
        alone.unwrapped.action_space.seed(seed)
        state, info = alone.reset(seed=seed, options={"task_id": 1 + seed % 5})
        if "maze" in name or "soccer" in name:  # an arm settles with actions that the system seeds
            np.testing.assert_array_equal(obs, [*info["goal"], *state])
        assert obs[task.held.obs_dim :].shape == state.shape and obs[: task.held.obs_dim].shape == info["goal"].shape
        action = np.zeros(task.spec.action_dim, np.float32)
        later = env.step(action)[0]
        np.testing.assert_array_equal(later[: task.held.obs_dim], obs[: task.held.obs_dim])
        np.testing.assert_array_equal(
            later[task.held.obs_dim :],
            env.unwrapped.compute_observation()
            if hasattr(env.unwrapped, "compute_observation")
            else env.unwrapped.get_ob(),
        )


def test_clones_have_goals_of_their_own_and_an_episode_repeats() -> None:
    """Five arms side by side, cloned from one: each as it would be alone, down to the last bit."""
    with Simulators(CUBE.make_env, 5, CUBE.clone) as beside:
        together = beside.reset(np.arange(5))
        actions = np.random.default_rng(0).uniform(-1, 1, (5, 5)).astype(np.float32)
        moved = beside.step(actions, np.ones(5, bool)).obs
    assert len({row[:28].tobytes() for row in together}) == 5
    for row in range(5):
        with Simulators(CUBE.make_env, 1) as one:
            np.testing.assert_array_equal(one.reset(np.array([row]))[0], together[row])
            np.testing.assert_array_equal(one.step(actions[[row]], np.ones(1, bool)).obs[0], moved[row])


def test_the_goal_that_is_shown_is_the_one_that_counts() -> None:
    """For each of the five: a cube put where the goal that is shown has it succeeds with the next step, and nowhere
    else. Observations have the cube's place at 19 to 21, ten times what it is from a fixed centre."""
    env = CUBE.make_env()
    centre = np.array([0.425, 0.0, 0.0])
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        cube = env.unwrapped._data.joint("object_joint_0")
        np.testing.assert_allclose(obs[28 + 19 : 28 + 22], 10 * (cube.qpos[:3] - centre), atol=1e-4)
        *_, info = env.step(np.zeros(5, np.float32))
        assert not info["success"]
        cube.qpos[:3] = obs[19:22] / 10 + centre
        *_, terminated, truncated, info = env.step(np.zeros(5, np.float32))
        assert info["success"] and terminated and not truncated
    assert CUBE.score(np.array([0.0]), np.array([1])) == 100.0


def test_data_hold_states_and_no_rewards(tmp_path) -> None:
    data = ANT.load(str(ant_file(tmp_path / "a.npz")))
    rows = data.transitions
    assert rows["observations"].shape == (len(data), 29) == rows["next_observations"].shape
    assert (rows["rewards"] == 0).all() and (rows["masks"] == 1).all()
    assert data.provenance.details["goals"] == "ogbench"
    seen = met(rows, np.array([0, len(data) - 1]), ANT.spec)
    last = np.flatnonzero(rows["terminals"])[0]
    np.testing.assert_array_equal(seen[0], [*rows["observations"][last], *rows["observations"][0]])
    np.testing.assert_array_equal(seen[1], [*rows["observations"][-1], *rows["observations"][-1]])
    np.testing.assert_array_equal(met(rows, np.array([1]), ANT.held), rows["observations"][[1]])


def test_rules_are_a_choice_of_the_task() -> None:
    laws = {name: choose(CUBE, {"goals": name}).spec.goals for name in suite.RULES}
    assert laws["ogbench"].value == GoalLaw(0.2, 0.5, 0.3, geometric=True) and laws["ogbench"].reward == "cost"
    assert laws["sharsa"].reward == "reached" and not laws["sharsa"].value.geometric
    assert laws["sharsa-puzzle"].actor == GoalLaw(0.0, 0.5, 0.5, geometric=True)
    for kind, actor in (("navigate", (0, 1, 0)), ("stitch", (0, 0.5, 0.5)), ("explore", (0, 0, 1))):
        rule = suite.get(f"antmaze-medium-{kind}-v0").spec.goals
        assert rule.actor == GoalLaw(*actor) and rule.value == laws["ogbench"].value
    later = choose(suite.get("antmaze-medium-stitch-v0"), {"goals": "ogbench-later"}).spec.goals
    assert later.actor == GoalLaw(0, 1, 0)
    with pytest.raises(BadInput, match=r"^task\.goals=her: expected one of ogbench, ogbench-later, sharsa"):
        choose(CUBE, {"goals": "her"})
    with pytest.raises(BadInput, match=r"^cube-single-play-v0: goals are learned from finished episodes alone"):
        CUBE.make_online_env()
