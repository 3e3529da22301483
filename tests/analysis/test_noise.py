"""What episodes say of a seed's mean, by hand; and that few seeds which agree by chance prove nothing."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.choices import FIXED, Choice
from analysis.statistics.estimates import summarise
from analysis.statistics.noise import episode_variance, settled
from analysis.statistics.significance import (
    Sample,
    clustered,
    holm,
    mann_whitney,
    of_episodes,
    paired,
    sample,
    welch,
)


def wins(*counts: int, episodes: int = 50) -> np.ndarray:
    """Scores `[n, e]` of seeds with so many successes, at the last starts."""
    return np.stack([100.0 * (np.arange(episodes) >= episodes - count) for count in counts])


def test_by_hand() -> None:
    """Two seeds of 50 episodes without a success: as if 2 of 104 had one, 100^2 p (1 - p) / 50."""
    p = 2 / 104
    assert episode_variance(wins(0, 0)) == pytest.approx(1e4 * p * (1 - p) / 50)
    assert episode_variance(wins(50, 50)) == episode_variance(wins(0, 0))
    # {1, 3} and {5, 11}: rows' means 2 and 8, columns' 3 and 7, all 5: residuals +1 -1 -1 +1, mean square 4 / 1
    assert episode_variance(np.array([[1.0, 3.0], [5.0, 11.0]])) == pytest.approx(4 / 2)
    # without one entry: what is left varies within the second seed alone, 18 with 3 - 2 degrees of freedom, and an
    # episode's variance stands in the means of one and of two episodes
    ragged = np.array([[1.0, np.nan], [5.0, 11.0]])
    assert episode_variance(ragged) == pytest.approx(18 * (1 + 1 / 2) / 2)
    assert episode_variance(np.full((3, 4), 60.0)) == 0  # no success, no spread: nothing is known
    assert episode_variance(np.array([[7.0], [9.0]])) == 0  # one episode a seed


def test_starts_that_differ_are_no_noise() -> None:
    """Start i is always won or always lost: seeds agree for that reason. What is left is the share of the unseen."""
    assert episode_variance(wins(25, 25)) == episode_variance(wins(0, 0))
    # one seed has no other to compare with: 25 of 50 is 100^2 / 4 (50 / 49) / 50
    assert episode_variance(wins(25)) == pytest.approx(1e4 / 4 / 49)


def test_trailing_axes_are_separate() -> None:
    rng = np.random.default_rng(0)
    scores = np.stack([wins(0, 0), wins(3, 9), rng.normal(size=(2, 50))], axis=-1)
    each = [episode_variance(scores[..., i]) for i in range(3)]
    np.testing.assert_allclose(episode_variance(scores), each)


def test_two_seeds_at_two_percent_are_not_better_than_two_at_none() -> None:
    """One episode of 50 each. By their own spread, which is none, p would be 0."""
    found = welch(of_episodes(wins(1, 1)), of_episodes(wins(0, 0)))
    assert found.difference == 2.0 and found.error == pytest.approx(np.sqrt(episode_variance(wins(0, 0))))
    assert found.p > 0.3 and found.low < 0 < found.high
    over_starts = paired(wins(1, 1), wins(0, 0))
    assert over_starts.p > 0.3 and mann_whitney(np.array([2.0, 2]), np.array([0.0, 0])) == pytest.approx(1 / 3)
    clear = welch(of_episodes(wins(50, 50)), of_episodes(wins(0, 0)))
    assert clear.p < 0.001 and holm(np.full(45, clear.p))[0] < 0.05  # 100% against 0% is a difference all the same


def test_no_interval_is_a_point() -> None:
    """0 of 3 x 50: t of two degrees of freedom, 4.3027, times sqrt(floor / 3), and no share below 0."""
    for count, ends in ((0, (0.0, 3.97)), (50, (96.03, 100.0))):
        scores = wins(count, count, count)
        found = summarise(scores.ravel(), np.repeat(np.arange(3), 50), np.random.default_rng(0))
        p = 2 / 154
        assert 4.3027 * np.sqrt(1e4 * p * (1 - p) / 50 / 3) == pytest.approx(3.97, abs=0.01)
        assert (found.low, found.high) == (pytest.approx(ends[0], abs=0.01), pytest.approx(ends[1], abs=0.01))
    one = summarise(wins(0)[0], np.zeros(50), np.random.default_rng(0))
    assert one.over == "episodes" and one.low == 0 and 3 < one.high < 8  # exact binomial: 7.1


def test_a_spread_above_the_floor_is_its_own() -> None:
    scores = wins(10, 20, 45)
    own = of_episodes(scores)
    assert own.variance == pytest.approx(np.var([20.0, 40.0, 90.0], ddof=1)) and own.n == 3
    assert Sample(1.0, 2.0, 3, floor=9.0).variance == 9 and np.isnan(Sample(1.0, np.nan, 1, floor=9.0).variance)
    holes = Choice(np.where(np.arange(3)[:, None] == 1, np.nan, scores), np.arange(3), np.arange(50), (), FIXED)
    assert holes.sample().n == 2  # a seed without any episode is none


def test_tasks_that_agree_by_chance_prove_nothing() -> None:
    """Two tasks, both 2 points apart, with errors of 3 over seeds: the mean's error is no less than 3 / sqrt(2)."""
    differences, errors = np.array([2.0, 2.0]), np.array([3.0, 3.0])
    assert np.isnan(clustered(differences, ["a", "b"]).tasks.p)
    known = clustered(differences, ["a", "b"], errors)
    assert known.tasks.error == known.environments.error == pytest.approx(3 / np.sqrt(2)) and known.tasks.p > 0.4
    # an environment of two tasks: its mean has an error of 3 / sqrt(2), another's of one task 3
    mixed = clustered(np.full(3, 2.0), ["a", "a", "b"], np.full(3, 3.0))
    assert mixed.environments.error == pytest.approx(np.sqrt((9 / 2 + 9) / 2 / 2))
    far = clustered(np.array([0.0, 40.0]), ["a", "b"], errors)  # a spread above the errors is its own
    assert far.tasks.error == pytest.approx(sample(np.array([0.0, 40.0])).std / np.sqrt(2))


def test_settled() -> None:
    assert settled(np.array([0.1 + 0.2, -1e-12])).tolist() == [0.3, 0.0]
    assert settled(np.array([1 / 3]))[0] != settled(np.array([1 / 3 + 1e-6]))[0]
