"""What choosing a knob costs: no episode is free, and more of them choose better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.choices import Arms
from analysis.records.load import load
from analysis.tuning.budget import POLICIES, Policy, curve, curves, drawn, halving, totals, uniform
from tests.analysis.synthetic import write_run


def bandit(means: list[float], seeds: int = 5, episodes: int = 50, seed: int = 0) -> Arms:
    rng = np.random.default_rng(seed)
    won = rng.uniform(size=(len(means), seeds, episodes)) < np.array(means)[:, None, None] / 100
    return Arms(100.0 * won, [f"L_test={i}" for i in range(len(means))], np.arange(seeds), np.arange(episodes))


def test_policies_by_hand() -> None:
    tried = np.array([[0.0, 9, 9, 9], [5, 5, 5, 5], [4, 0, 0, 0], [1, 1, 1, 1]])
    seen = totals(np.stack([tried, tried[::-1]]))  # and the same arms from the last to the first

    def picked(policy: Policy, budget: int) -> tuple[list[int], int]:
        arms, charged = policy(seen, budget)
        return arms.tolist(), charged

    assert picked(uniform, 4) == ([1, 2], 4)  # one episode each: 0, 5, 4, 1
    assert picked(uniform, 11) == ([1, 2], 8)  # 5 against 4.5
    assert picked(uniform, 1000) == ([0, 3], 16)  # 5 against 6.75
    # two rounds of 8: two episodes for each of four (means 4.5, 5, 2, 1), then the two that are left (6.75, 5)
    assert picked(halving, 16) == ([0, 3], 8 + 4)
    assert picked(halving, 8) == ([1, 2], 4 + 4)  # one each: arms 1 and 2 go on, and win with 5 against 4/3


def test_draws_with_fewer_pairs_are_drawn_on_their_own() -> None:
    """Of two seeds one misses an episode: halves that hold it have a pair less."""
    of = bandit([0, 100], seeds=2, episodes=4)
    of.scores[1, 0, 2] = np.nan
    draws = drawn(of, np.random.default_rng(0), 30)
    assert {one.seen.shape[1:] for one in draws} == {(2, 4), (2, 5)} and sum(len(one.seen) for one in draws) == 30
    found = curve(of, uniform, draws)
    assert found["mean"].tolist()[1:] == [100] * (len(found) - 1) and found["chance"].iloc[0] == 0.5


@pytest.mark.parametrize("policy", POLICIES.values())
def test_more_episodes_choose_better(policy: Policy) -> None:
    """Arms at 30, 40, 50 and 80: at random 50; with 125 tries of each, the best in all but a few draws."""
    of = bandit([30, 40, 50, 80])
    found = curve(of, policy, drawn(of, np.random.default_rng(0)))
    assert found["episodes"].iloc[0] == 0 and found["episodes"].is_monotonic_increasing
    assert found["mean"].iloc[0] == pytest.approx(50, abs=4) and found["chance"].iloc[0] == 0.25
    assert found["mean"].iloc[-1] == pytest.approx(80, abs=4) and found["chance"].iloc[-1] > 0.99
    assert found["episodes"].iloc[-1] <= 4 * 5 * 25  # half of the episodes, and no more
    assert (found["low"] <= found["mean"]).all() and (found["mean"] <= found["high"]).all()


def test_equal_arms_gain_nothing() -> None:
    """Where there is nothing to choose, no budget finds anything: the curve is flat at the arms' common mean."""
    many = [bandit([50] * 4, seed=i) for i in range(20)]
    means = [curve(of, uniform, drawn(of, np.random.default_rng(i), 40))["mean"] for i, of in enumerate(many)]
    assert np.mean(means, axis=0) == pytest.approx(50, abs=2)  # 20 x 1000 episodes: one standard error is 0.35


def test_methods_without_knobs_are_charged_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "vgf", knobs={"L_test": [0, 1]}, effect=lambda t, s: 50 + 20 * s["L_test"], evaluations=1)
    write_run(tmp_path, "fql", effect=lambda t, s: 60.0, evaluations=1, seed_std=0, episode_std=0)
    found = curves(load(tmp_path))
    fql = found[found["label"] == "fql"]
    assert fql[["policy", "episodes", "mean"]].to_numpy().tolist() == [["none", 0, 60.0]]
    assert set(found.loc[found["label"] == "vgf", "policy"]) == set(POLICIES)
    (tmp_path / "one").mkdir()
    write_run(tmp_path / "one", "vgf", knobs={"L_test": [0, 1]}, episodes=1)
    assert curves(load(tmp_path / "one")).empty
