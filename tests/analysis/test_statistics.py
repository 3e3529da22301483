"""Statistics on hand numbers, and what the intervals really cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from analysis.statistics import COVERAGE, bootstrap, coverage, generator, iqm, mean, std, summarise


def test_hand_numbers() -> None:
    values = np.array([1.0, 2.0, 3.0, 10.0])
    assert mean(values) == 4.0
    assert std(values) == pytest.approx(np.sqrt(50 / 3))
    assert iqm(values) == 2.5
    assert np.isnan(std(values[:1])) and iqm(values[:3]) == 2.0


@pytest.mark.parametrize("n", [1, 4, 5, 7, 40])
def test_iqm_agrees_with_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(iqm(values), trim_mean(values, 0.25))


def test_bootstrap_of_two_units_is_known() -> None:
    """Means of two draws from {0, 1} are 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    low, high = bootstrap(np.array([0.0, 1.0]), generator("x"))
    assert (low, high) == (0.0, 1.0)
    low, high = bootstrap(np.array([0.0, 1.0]), generator("x"), level=0.4)  # 30% and 70% quantiles
    assert (low, high) == (0.5, 0.5)


def test_bootstrap_is_over_the_first_axis_and_repeatable() -> None:
    values = np.random.default_rng(0).normal(size=(6, 4))
    low, high = bootstrap(values, generator("toy"), iqm)
    assert low.shape == high.shape == (4,) and (low < high).all()
    one, _ = bootstrap(values[:, 2], generator("toy"), iqm)
    assert one == low[2]
    with pytest.raises(ValueError, match="0 units"):
        bootstrap(values[:0], generator("toy"))


def test_summary_weighs_seeds_alike() -> None:
    scores, seeds = np.array([0.0, 0.0, 0.0, 0.0, 10.0, 20.0]), np.array([7, 7, 7, 7, 9, 9])
    summary = summarise(scores, seeds, generator("x"))
    assert (summary.mean, summary.std) == (7.5, pytest.approx(15 / np.sqrt(2)))
    assert (summary.low, summary.high, summary.over) == (0.0, 15.0, "seeds")
    assert (summary.seeds, summary.episodes) == (2, 3.0)


def test_one_seed_resamples_episodes_and_says_so() -> None:
    scores = np.arange(50.0)
    summary = summarise(scores, np.zeros(50), generator("x"))
    assert summary.over == "episodes" and np.isnan(summary.std) and summary.seeds == 1
    # the interval of a mean of 50: 24.5 +- 1.96 * 14.43 / sqrt(50) = 20.5 .. 28.5; a tenth of its width for 2000 draws
    assert (summary.low, summary.high) == (pytest.approx(20.5, abs=0.8), pytest.approx(28.5, abs=0.8))


@pytest.mark.parametrize("n", sorted(COVERAGE))
def test_coverage_is_as_declared(n: int) -> None:
    """4000 simulated intervals of normal units. Their hit rate has a binomial standard error of sqrt(p(1-p)/4000), at
    most 0.8 points; the tolerance is 4 of them, so that nine checks fail by chance once in 1800 times, plus the half
    point by which the table is rounded."""
    trials, rng = 4000, np.random.default_rng(n)
    hits = 0
    for _ in range(20):
        low, high = bootstrap(rng.normal(size=(n, trials // 20)), rng, resamples=1000)
        hits += int(((low <= 0) & (high >= 0)).sum())
    declared = COVERAGE[n] / 100
    assert abs(hits / trials - declared) < 4 * np.sqrt(declared * (1 - declared) / trials) + 0.005


def test_coverage_between_entries() -> None:
    assert (coverage(2), coverage(7), coverage(9), coverage(1000)) == (50, 86, 88, 94)
