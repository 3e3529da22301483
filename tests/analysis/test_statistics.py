"""Statistics on hand numbers, and what the intervals really cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from analysis.statistics.estimates import (
    AGGREGATES,
    COVERAGE,
    across,
    bootstrap,
    coverage,
    generator,
    improvement,
    improvement_of,
    iqm,
    iqm_of,
    mean,
    mean_of,
    median_of,
    optimality_gap_of,
    profile_of,
    std,
    stratified_coverage,
    summarise,
)


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
    half = 12.7062 * 7.5  # Student's t of one degree of freedom, times the standard error 15 / 2
    assert (summary.low, summary.high) == (pytest.approx(7.5 - half, rel=1e-4), pytest.approx(7.5 + half, rel=1e-4))
    by_percentile = summarise(scores, seeds, generator("x"), "percentile")
    assert (by_percentile.low, by_percentile.high, summary.over) == (0.0, 15.0, "seeds")
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


STRATA = [np.array([0.0, 10.0]), np.array([20.0, 30.0]), np.array([80.0, 100.0, 120.0, 100.0])]


def test_aggregates_by_hand() -> None:
    assert mean_of(STRATA) == pytest.approx((5 + 25 + 100) / 3) and median_of(STRATA) == 25
    assert optimality_gap_of(STRATA) == pytest.approx((95 + 75 + 5) / 3)  # of the last, 20 missing in one of four runs
    # weights 1/6, 1/6, 1/6, 1/6 and four of 1/12: of the lowest a quarter is 0 alone, of the highest 120, 100 and 100
    assert iqm_of(STRATA) == pytest.approx((10 * 2 + 20 * 2 + 30 * 2 + 80) / 7)
    equal = np.random.default_rng(0).normal(size=(9, 5))
    assert iqm_of(list(equal)) == pytest.approx(trim_mean(equal.ravel(), 0.25))
    np.testing.assert_allclose(profile_of(STRATA, np.array([-1.0, 10.0, 99.0])), [1, 2 / 3, 1 / 3 * 0.75])


def test_improvement_by_hand() -> None:
    a, b = [np.array([1.0, 2.0]), np.array([5.0])], [np.array([1.0, 0.0]), np.array([5.0, 9.0])]
    # of four pairs on the first task three are won and one is tied; on the second one is tied and one lost
    assert improvement_of(a, b) == pytest.approx((3.5 / 4 + 0.5 / 2) / 2)
    assert improvement_of(b, a) == pytest.approx(1 - improvement_of(a, b))
    sure = improvement([np.ones(5)], [np.zeros(5)], generator("x"))
    assert sure == (1.0, 1.0, 1.0)


def test_stratified_bootstrap_stays_within_tasks() -> None:
    """Without spread within tasks there is nothing to draw, however far the tasks are apart."""
    flat = [np.full(5, level) for level in (0.0, 40.0, 90.0)]
    for statistic in AGGREGATES.values():
        estimate = across(flat, generator("x"), statistic, resamples=50)
        assert estimate.low == estimate.value == estimate.high
    band = across(STRATA, generator("x"), lambda runs: profile_of(runs, np.array([5.0, 90.0])))
    assert band.value.shape == band.low.shape == (2,) and (band.low <= band.value).all()
    with pytest.raises(ValueError, match="no tasks"):
        across([], generator("x"))


@pytest.mark.parametrize("seeds", [5, 10])
def test_stratified_coverage_is_as_declared(seeds: int) -> None:
    """Means over 20 tasks: 400 intervals, tolerance 4 binomial errors plus 1 point for the draws' own noise."""
    rng, trials = np.random.default_rng(seeds), 400
    hits = 0
    for _ in range(trials):
        low, high = across(list(rng.normal(size=(20, seeds))), rng, mean_of, resamples=200)[1:]
        hits += int(low <= 0 <= high)
    declared = stratified_coverage(seeds) / 100
    assert declared == {5: 0.92, 10: 0.94}[seeds]
    assert abs(hits / trials - declared) < 4 * np.sqrt(declared * (1 - declared) / trials) + 0.01


def test_interval_of_improvement_covers() -> None:
    """Equal methods on 9 tasks, 5 seeds each: 95% intervals hold one half in about 92% of draws, as means do."""
    rng, trials = np.random.default_rng(7), 400
    hits = 0
    for _ in range(trials):
        a, b = list(rng.normal(size=(9, 5))), list(rng.normal(size=(9, 5)))
        _, low, high = improvement(a, b, rng, resamples=300)
        hits += int(low <= 0.5 <= high)
    assert abs(hits / trials - 0.92) < 4 * np.sqrt(0.92 * 0.08 / trials) + 0.01
