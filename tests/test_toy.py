"""The toy bandit: what its reward, data and records must show (the VGF paper's Figure 2)."""

import numpy as np
import pytest
from typer.testing import CliRunner

import tasks
from analysis.choices import FIXED
from analysis.records.load import load
from analysis.select import scores
from harness.run_command import app
from tasks.toy import suite as toy

SEEDS = 10


@pytest.fixture(scope="module")
def records(tmp_path_factory, optimised):
    """Ten seeds of VGF and best-of-N, by the command that users type, with fewer steps than the preset's."""
    folder = tmp_path_factory.mktemp("results")
    arguments = ["--methods", "vgf,best_of_n", "--seeds", str(SEEDS), "--steps", "1000", "--results", str(folder)]
    arguments += ["--set", "behavior_steps=2000", "--set", "vgf.test_flow_steps=0,5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return load(folder)


def test_reward_is_one_at_the_better_mode_and_highest_there():
    axis = np.linspace(-1, 1, 201)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    reward = toy.true_reward(grid)
    assert toy.true_reward(toy.MODES[0]) == pytest.approx(1.0)
    # the bumps overlap a little, so the summit lies within a grid step or two of the mode
    assert reward.max() < 1.001
    assert np.linalg.norm(grid.reshape(-1, 2)[reward.argmax()] - toy.MODES[0]) < 0.03
    assert 0.85 < toy.true_reward(toy.MODES[1]) < 0.95


def test_online_it_pays_as_the_data_were_paid():
    """The true reward with the data's noise; evaluation pays without."""
    env, action = toy.get("toy").make_online_env(), np.array([0.1, 0.5], np.float32)
    paid = []
    for seed in range(400):
        env.reset(seed=seed)
        paid.append(env.step(action)[1])
    data = toy.get("toy").load("auto").transitions
    noise = data["rewards"] - toy.true_reward(data["actions"])
    # four standard errors of mean and deviation, from 400 draws
    assert np.mean(paid) == pytest.approx(toy.true_reward(action), abs=4 * toy.NOISE / 20)
    assert np.std(paid) == pytest.approx(noise.std(), rel=4 / np.sqrt(2 * 400))
    plain = toy.get("toy").make_env()
    plain.reset(seed=0)
    assert plain.step(action)[1] == pytest.approx(toy.true_reward(action))


def test_data_are_sub_optimal_and_rise_towards_the_modes():
    actions = toy.get("toy").load("auto").transitions["actions"]
    rewards = toy.true_reward(actions)
    assert rewards.mean() < 0.4
    for centre, mode in zip(toy.CENTRES, toy.MODES, strict=True):
        cluster = np.linalg.norm(actions - centre, axis=1) < 0.4
        nearer = np.linalg.norm(actions[cluster] - mode, axis=1)
        assert np.corrcoef(nearer, rewards[cluster])[0, 1] < -0.9
        assert np.linalg.norm(actions - mode, axis=1).min() > 0.1  # nobody has been at the mode


def test_data_are_the_same_every_time_and_known_by_their_hash():
    first, second = (toy.get("toy").load("auto") for _ in range(2))
    assert first.provenance == second.provenance
    for column, values in first.transitions.items():
        np.testing.assert_array_equal(values, second.transitions[column])


def test_skewed_data_are_nine_tenths_poor():
    """Poor play pays less than a hundredth and says nothing of where the modes are; the rest is as in `toy`."""
    task = toy.get("toy-skewed")
    actions = task.load("auto").transitions["actions"]
    near = np.linalg.norm(actions - toy.POOR, axis=1) < 0.35
    assert near.mean() == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / toy.SIZE))
    assert toy.true_reward(actions[near]).max() < 0.05 and toy.true_reward(actions[near]).mean() < 0.01
    plain = toy.true_reward(toy.get("toy").load("auto").transitions["actions"]).mean()
    assert toy.true_reward(actions[~near]).mean() == pytest.approx(plain, abs=0.03)
    assert [one.name for one in tasks.select("toy", ())] == ["toy"]
    assert [one.name for one in tasks.select("toy", ["toy-s*"])] == ["toy-skewed"]


def test_env_pays_the_true_reward_once():
    env = toy.ToyBandit()
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(toy.MODES[0].astype(np.float32))
    assert reward == pytest.approx(1.0, abs=1e-6)
    assert (terminated, truncated, info["success"]) == (True, False, True)


@pytest.mark.slow  # in small: tests/methods/test_probes.py::test_on_a_bandit_vgf_beats_best_of_n_beats_bc
def test_vgf_beats_best_of_n_beats_data_with_intervals_apart(records):
    cells, _ = scores(records)
    fixed = cells[cells["rule"] == FIXED].set_index("row")
    vgf, best_of_n = fixed.loc["vgf L_test=5"], fixed.loc["best_of_n N=20"]  # the settings of Figure 2
    data = 100 * toy.true_reward(toy.get("toy").load("auto").transitions["actions"]).mean()
    assert vgf["seeds"] == best_of_n["seeds"] == SEEDS
    assert vgf["low"] > best_of_n["high"]
    assert best_of_n["low"] > data


@pytest.mark.slow
def test_particles_keep_both_modes(records):
    run = next(run for run in records.runs if run.method == "vgf")
    arrays = run.candidates([])
    particles = arrays["candidates"][:, list(arrays["L_test"]).index(5)].reshape(-1, 2)
    distances = np.linalg.norm(particles[:, None] - toy.MODES, axis=-1)
    at_better = distances[:, 0] < distances[:, 1]
    # the data's clusters are equally likely: 480 particles, in dependent threes, stay within 4 standard errors
    assert abs(at_better.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(particles) / 3)
    assert np.median(distances.min(axis=1)) < 0.2  # they started 0.38 away


def test_refuses_data_it_has_no_use_for():
    with pytest.raises(toy.BadInput, match="toy task makes its own data"):
        toy.get("toy").load("download")


def test_the_line_has_three_clusters_and_its_mode_beside_the_last():
    task = toy.get("toy-line")
    data = task.load("auto").transitions
    actions = data["actions"][:, 0]
    assert data["actions"].shape == (toy.SIZE, 1)
    nearest = np.abs(actions[:, None] - toy.LINE_CENTRES[:, 0]).argmin(axis=1)
    assert np.abs(np.bincount(nearest) / toy.SIZE - 1 / 3).max() < 4 * np.sqrt(2 / 9 / toy.SIZE)
    assert np.abs(actions - toy.LINE_CENTRES[nearest, 0]).max() < 5 * toy.SPREAD
    env = task.make_env()
    env.reset(seed=0)
    assert env.action_space.shape == (1,)
    paid = {a: env.step(np.array([a], np.float32))[1] for a in (0.65, 0.5, 0.0, -0.6, 1.0)}
    assert paid[0.65] == pytest.approx(1) and paid[0.5] == pytest.approx(np.exp(-((0.15 / 0.3) ** 2) / 2))
    assert paid[0.5] > paid[1.0] > paid[0.0] > paid[-0.6]
    assert task.landscape() is None and not {"toy-line"} & {one.name for one in tasks.select("toy", ())}
