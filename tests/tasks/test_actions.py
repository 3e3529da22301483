"""Actions of any box are those of [-1, 1] to learners, and their own to simulators."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from core.files import digest
from methods.core import BadInput, TaskSpec
from tasks.core import LARGEST_ACTION
from tasks.d4rl import suite as d4rl
from tasks.d4rl.simulators import SIMULATORS
from tasks.data import actions
from tasks.data.actions import Bounds
from tasks.minari import data as minari_data
from tasks.ogbench import suite as ogbench
from tasks.simulation.simulators import Simulators
from tests.tasks.d4rl_file import d4rl_file
from tests.tasks.minari_sets import rolled, stored

pytestmark = [pytest.mark.usefixtures("d4rl_folders"), pytest.mark.filterwarnings("ignore:.*")]

UNEVEN = Box(np.array([-0.3, 2.0, -1.0]), np.array([0.7, 2.5, 1.0]), dtype=np.float32)


def test_bounds_are_mapped_end_to_end_and_back():
    bounds = Bounds.of(UNEVEN, "x")
    ends = np.array([UNEVEN.low, UNEVEN.high, (UNEVEN.low + UNEVEN.high) / 2])
    np.testing.assert_allclose(bounds.to_unit(ends), [[-1] * 3, [1] * 3, [0] * 3], atol=1e-6)
    assert bounds.to_unit(ends).dtype == np.float32
    rng = np.random.default_rng(0)
    for _ in range(200):  # gymnasium's RescaleAction leaves the bounds in one of seven
        low = np.float32(3 * rng.normal())
        box = Box(low, low + np.float32(2 * abs(rng.normal()) + 0.01), (1,), np.float32)
        for end in (-1.0, 1.0, 7.0):
            assert box.contains(Bounds.of(box, "x").from_unit(np.array([end])).astype(np.float32))


def test_what_is_unit_already_stays_as_it_is():
    bounds, values = Bounds.of(Box(-1.0, 1.0, (3,), np.float32), "x"), np.full((2, 3), 0.1, np.float32)
    env = gymnasium.make("Hopper-v5")
    assert bounds.unit and bounds.to_unit(values) is values and bounds.scaled(env) is env


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (Box(-np.inf, np.inf, (2,)), r"x: action 0 is bounded by \[-inf, inf\], which cannot be mapped onto \[-1, 1\]"),
        (Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf])), r"action 1 is bounded by \[0, inf\]"),
        (Box(np.array([-1.0, 2.0]), np.array([1.0, 2.0])), r"action 1 is bounded by \[2, 2\]"),
        (Box(-1.0, 1.0, (2, 3)), r"x: an action has shape \(2, 3\); only vectors"),
        (Box(-1.0, 1.0, ()), r"an action has shape \(\)"),
        (Box(0, 5, (2,), np.int64), r"x: actions are of Box\(0, 5, \(2,\), int64\); only vectors of real numbers"),
        (gymnasium.spaces.Discrete(4), r"x: actions are of Discrete\(4\); only vectors of real numbers \(Box\)"),
        (gymnasium.spaces.MultiDiscrete([2, 3]), r"actions are of MultiDiscrete"),
        (gymnasium.spaces.Dict({"a": Box(-1.0, 1.0, (1,))}), "actions are of Dict"),
    ],
)
def test_other_spaces_are_refused_with_their_bounds(space, line):
    with pytest.raises(BadInput, match=line) as caught:
        Bounds.of(space, "x")
    assert "\n" not in str(caught.value)


# ---- a dataset and its simulator ----


@pytest.mark.parametrize(("env_id", "width", "end"), [("Humanoid-v5", 17, 0.4), ("Pendulum-v1", 1, 2.0)])
def test_data_and_simulator_are_scaled_both_ways(env_id, width, end):
    """What the data did is done again by the scaled simulator with the scaled actions, rewards and all."""
    task = d4rl.get(stored("own/expert-v0", env_id))
    raw, data, spec = rolled(env_id), task.load(), task.spec
    found = data.transitions
    assert spec.action_dim == width and len(data) == 12
    np.testing.assert_allclose(found["actions"][[0, 1]], [[LARGEST_ACTION] * width, [-LARGEST_ACTION] * width])
    np.testing.assert_allclose(found["actions"][2:6], np.array(raw[0].actions[2:]) / end, atol=2e-5)
    assert np.abs(found["actions"]).max() < 1 and data.provenance.details.get("actions_outside") is None
    np.testing.assert_allclose(data.provenance.details["action_space"]["high"], [end] * width, rtol=1e-6)
    assert json.loads(json.dumps(data.provenance.details))["action_space"]["low"] == pytest.approx([-end] * width)

    env = task.make_env()
    assert env.action_space == Box(-1.0, 1.0, (width,), np.float32)
    env.reset(seed=0)
    exact = np.array(raw[0].actions) / np.float32(end)
    for t, action in enumerate(exact.astype(np.float32)):
        obs, reward, *_ = env.step(action)
        np.testing.assert_allclose(obs, raw[0].observations[t + 1], rtol=1e-4, atol=1e-5)
        assert reward == pytest.approx(raw[0].rewards[t], rel=1e-4)
    beyond, at = (step_once(task, np.full(width, value, np.float32)) for value in (5.0, 1.0))
    assert beyond == at  # a policy's excess is not charged for

    with Simulators(task.make_env, 2) as pool:
        obs = pool.reset(np.arange(2))
        np.testing.assert_allclose(obs[1], raw[1].observations[0], rtol=1e-6)
        steps = pool.step(np.stack([exact[0], exact[0]]).astype(np.float32), np.ones(2, bool))
        assert steps.reward[1] == pytest.approx(raw[1].rewards[0], rel=1e-4)


def step_once(task: Any, action: np.ndarray) -> float:
    env = task.make_env()
    env.reset(seed=0)
    return float(env.step(action)[1])


def test_rescaled_data_are_other_data_and_unit_ones_are_as_they_were():
    """What was trained on actions as they stand in the file is not gone on with."""
    pendulum, hopper = (
        d4rl.get(stored("own/pendulum-v0", "Pendulum-v1")),
        d4rl.get(stored("own/hopper-v0", "Hopper-v5")),
    )
    files = [digest(minari_data.file(name)) for name in ("own/pendulum-v0", "own/hopper-v0")]
    made = [task.load() for task in (pendulum, hopper)]
    assert made[0].provenance.sha256 != files[0] and made[1].provenance.sha256 == files[1]
    assert "action_space" not in made[1].provenance.details
    raw = np.concatenate([buffer.actions for buffer in rolled("Hopper-v5")])
    clipped = raw.astype(np.float32).clip(-LARGEST_ACTION, LARGEST_ACTION)
    np.testing.assert_array_equal(made[1].transitions["actions"], clipped)


def test_discrete_actions_are_refused_in_one_line():
    task = d4rl.get(stored("own/cart-v0", "CartPole-v1"))
    for ask in (lambda: task.spec, task.load, task.make_env):
        with pytest.raises(BadInput, match=r"actions are of Discrete\(2\); only vectors of real numbers") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_simulator_of_other_bounds_than_the_data_s_is_refused():
    task = d4rl.get(stored("own/pendulum-v0", "Pendulum-v1", action_space=Box(-3.0, 3.0, (1,), np.float32)))
    with pytest.raises(BadInput, match=r"the data's actions live in \[-3, 3\]\^1, its simulator's in \[-2, 2\]\^1"):
        task.load()


def test_every_simulator_that_steps_in_lockstep_acts_in_unit_bounds():
    """Rules write actions to MuJoCo as they are."""
    names = ("antmaze-medium-navigate-singletask-v0", "humanoidmaze-medium-navigate-singletask-v0",
             "antsoccer-arena-navigate-singletask-v0")  # fmt: skip
    made = [ogbench.get(name).make_env for name in names]
    made += [SIMULATORS[name].make for name in ("hopper", "halfcheetah", "walker2d", "antmaze-umaze")]
    for make in made:
        assert Bounds.of(make().action_space, "x").unit


# ---- actions beyond the bounds ----


def hopper(*changes: tuple[int, float]) -> np.ndarray:
    values = np.linspace(-0.9, 0.9, 300).reshape(100, 3)
    for row, value in changes:
        values[row, 0] = value
    return values


@pytest.mark.parametrize(
    ("changes", "outside"),
    [([(3, 1.0)], None), ([(3, 1.0000002)], (1 / 300, 1.0000002)), ([(3, -1.0008)], (1 / 300, 1.0008)),
     ([(3, 1.5), (7, -40.0)], (2 / 300, 40.0))],
)  # fmt: skip
def test_a_few_actions_beyond_are_clipped_and_counted(changes, outside):
    values, found = actions.clipped(hopper(*changes), "x")
    assert np.abs(values).max() <= LARGEST_ACTION
    assert found is None if outside is None else found == pytest.approx(outside)


@pytest.mark.parametrize("scale", [1.6, 2.0, 100.0])
def test_actions_of_another_scale_are_refused(scale):
    with pytest.raises(BadInput, match=rf"x: \d+% of the action numbers lie outside \[-1, 1\] \(up to {0.9 * scale:g}"):
        actions.clipped(scale * hopper(), "x")


def test_rounding_refuses_nothing_however_much_of_it_there_is():
    assert actions.clipped(np.full((10, 3), np.float16(1.0005)), "x")[1] == pytest.approx((1.0, 1.0), abs=1e-3)


def test_a_file_with_an_action_just_beyond_is_read_and_says_so_once(tmp_path, capsys):
    values = np.repeat(np.arange(10, dtype=np.float32)[:, None] / 10, 3, axis=1)
    values[2, 1] = np.nextafter(np.float32(1), np.float32(2))
    path = d4rl_file(tmp_path / "mine.hdf5", actions=values)
    task = d4rl.get("hopper-medium-v2")
    for _ in range(2):
        data = task.load(str(path))
    assert data.transitions["actions"][2, 1] == np.float32(LARGEST_ACTION)
    assert data.provenance.details["actions_outside"] == {"share": 1 / 21, "largest": pytest.approx(1.0000001)}
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("4.8% of the action numbers lie outside [-1, 1] (up to 1.00000012) and are clipped") == 1


def test_bounds_are_recorded_as_plain_numbers():
    assert json.loads(json.dumps(asdict(Bounds.of(UNEVEN, "x"))))["low"] == pytest.approx([-0.3, 2.0, -1.0])
    assert TaskSpec(1, len(Bounds.of(UNEVEN, "x").low), 1).action_dim == 3
