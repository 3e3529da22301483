"""Tests on hand-computed numbers, on null data (how often they err), and what designs can show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.design import design, sentences, signed_rank_p
from analysis.statistics.significance import (
    Comparison,
    Sample,
    averaged,
    benjamini_hochberg,
    clustered,
    detectable,
    equivalence,
    holm,
    mann_whitney,
    paired,
    sample,
    welch,
    wilcoxon,
)

LEVEL = 0.05


def within(rate: float, level: float, trials: int) -> bool:
    """Whether a rate of `trials` draws is the level up to 4 binomial standard errors."""
    return abs(rate - level) < 4 * np.sqrt(level * (1 - level) / trials)


def test_welch_by_hand() -> None:
    """{1,2,3} against {2,6}: means 2 and 4, variances 1 and 8, so error^2 = 1/3 + 4 and t = -2 / sqrt(13/3)."""
    got = welch(sample(np.array([1.0, 2.0, 3.0])), sample(np.array([2.0, 6.0])))
    assert got.difference == -2 and got.error == pytest.approx(np.sqrt(13 / 3))
    assert got.df == pytest.approx((13 / 3) ** 2 / ((1 / 3) ** 2 / 2 + 4**2 / 1))
    reference = stats.ttest_ind([1, 2, 3], [2, 6], equal_var=False)
    assert got.p == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval()
    assert (got.low, got.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_welch_against_print() -> None:
    """A mean printed as 60 may be 59.5 to 60.5: 1/12 more variance, so that two zeros have an error."""
    exact, printed = Sample(61.0, 2.0, 5), Sample(60.0, 1.0, 8, unit=1.0)
    assert welch(exact, printed).error == pytest.approx(np.sqrt(4 / 5 + 1 / 8 + 1 / 12))
    zero = welch(Sample(0.0, 0.0, 5), Sample(0.0, 0.0, 8, unit=1.0))
    assert (zero.low, zero.high) == (pytest.approx(-1.96 / np.sqrt(12), abs=1e-3), pytest.approx(0.566, abs=1e-3))
    assert np.isnan(welch(Sample(1.0, np.nan, 1), printed).p)
    same, other = Sample(3.0, 0.0, 5), Sample(4.0, 0.0, 5)
    assert welch(same, same).p == 1 and np.isnan(welch(same, other).p)  # no spread is known, so nothing is tested
    assert np.isnan(equivalence(welch(same, other), 2.0)) and np.isnan(welch(same, other).low)


def test_average_over_tasks_by_hand() -> None:
    """Two tasks of errors 1 and 2: the mean's is sqrt(1 + 4) / 2; Satterthwaite's df from variances 1/4 and 1."""
    one, other = Comparison(3.0, 1.0, 8, 0, 0, 0), Comparison(5.0, 2.0, 6, 0, 0, 0)
    got = averaged([one, other])
    assert got.difference == 4 and got.error == pytest.approx(np.sqrt(5) / 2)
    assert got.df == pytest.approx(1.25**2 / (0.25**2 / 8 + 1 / 6))


def test_equivalence_is_the_90_percent_interval() -> None:
    a, b = Sample(50.0, 2.0, 5), Sample(51.0, 2.0, 5)
    narrow = welch(a, b, level=0.9)
    edge = max(abs(narrow.low), abs(narrow.high))
    assert equivalence(welch(a, b), edge) == pytest.approx(0.05)
    assert equivalence(welch(a, b), edge + 0.1) < 0.05 < equivalence(welch(a, b), edge - 0.1)


def test_rank_tests_by_hand() -> None:
    low, high = np.arange(5.0), np.arange(5.0) + 10
    assert mann_whitney(low, high) == pytest.approx(2 / 252)
    assert mann_whitney(np.zeros(3), np.zeros(4)) == 1
    x, y = np.array([3.1, 0.2, 5.0, 4.4]), np.array([1.0, 2.5, 0.1, 0.9, 4.0, 0.3])
    assert mann_whitney(x, y) == pytest.approx(stats.mannwhitneyu(x, y, method="exact").pvalue)
    assert wilcoxon(y - 1.3) == pytest.approx(stats.wilcoxon(y - 1.3, method="exact").pvalue)
    # {0,0,1} against {1,1,1}: with 20 equally likely splits of the ranks, 4 give this U or less (the lone 0s together
    # in the first: 4 choices of its third member), and as many the other extreme
    assert mann_whitney(np.array([0.0, 0, 1]), np.array([1.0, 1, 1])) == pytest.approx(8 / 20)
    assert wilcoxon(np.arange(1.0, 10)) == pytest.approx(2 / 2**9)
    assert wilcoxon(np.zeros(4)) == 1
    assert wilcoxon(np.array([1.0, 2.0, -3.0])) == pytest.approx(1.0)  # rank sums 3 and 3


def test_corrections_by_hand() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(holm(p), [0.03, np.nan, 0.06, 0.06])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.03, np.nan, 0.04, 0.04])
    assert holm(np.array([0.7, 0.8])).max() == 1.0 and holm(np.array([])).shape == (0,)


@pytest.mark.parametrize(("n", "m", "spread"), [(5, 5, 1.0), (5, 8, 3.0)])
def test_welch_errs_as_often_as_it_says(n: int, m: int, spread: float) -> None:
    """On normal null data with unequal spreads, Welch's level is 5% to well within what 4000 draws can tell."""
    rng, trials = np.random.default_rng(0), 4000
    got = welch(sample(rng.normal(size=(n, trials))), sample(spread * rng.normal(size=(m, trials))))
    assert within(float((got.p < LEVEL).mean()), LEVEL, trials)
    assert within(float(((got.low <= 0) & (got.high >= 0)).mean()), 1 - LEVEL, trials)


def test_equivalence_errs_at_most_as_often() -> None:
    """At a true difference of exactly the margin, equivalence is claimed wrongly in 5% of draws."""
    rng, trials = np.random.default_rng(1), 4000
    got = welch(sample(rng.normal(size=(8, trials)) + 4), sample(rng.normal(size=(8, trials))))
    assert within(float((equivalence(got, 4.0) < LEVEL).mean()), LEVEL, trials)


def test_rank_tests_are_exact_on_null_data() -> None:
    """A discrete test's level is its largest attainable p below 5%: 8/252 for 5 against 5, and 2 x 2 of 2^6 sign
    patterns for 6 signed ranks (sums 0 and 1). Ties, as success rates have them, must not raise it."""
    rng, trials = np.random.default_rng(2), 600
    ranks = [mann_whitney(*rng.normal(size=(2, 5))) for _ in range(trials)]
    assert within(float(np.mean(np.array(ranks) < LEVEL)), 8 / 252, trials)
    signed = [wilcoxon(rng.normal(size=6)) for _ in range(trials)]
    assert within(float(np.mean(np.array(signed) < LEVEL)), 2 / 64, trials)
    tied = [mann_whitney(*rng.binomial(4, 0.5, size=(2, 5)).astype(float)) for _ in range(trials)]
    assert np.mean(np.array(tied) < LEVEL) < LEVEL + 4 * np.sqrt(LEVEL * (1 - LEVEL) / trials)


def test_holm_bounds_any_error_and_bh_does_less() -> None:
    rng, trials = np.random.default_rng(3), 800
    p = rng.uniform(size=(trials, 9))
    for correct in (holm, benjamini_hochberg):
        errors = np.mean([(correct(row) < LEVEL).any() for row in p])
        assert within(float(errors), LEVEL, trials)  # all null: for independent tests both are exact up to 0.1 points
    half = np.concatenate([p[:, :4], rng.uniform(0, 1e-4, size=(trials, 5))], axis=1)
    by_holm, by_bh = (np.mean([(f(row) < LEVEL) for row in half], axis=0) for f in (holm, benjamini_hochberg))
    assert by_bh[:4].mean() > by_holm[:4].mean() and by_holm[4:].mean() == 1


def crossed(rng: np.random.Generator, seeds: int, starts: np.ndarray, own: float = 10.0) -> np.ndarray:
    """Scores `[seeds, starts]` with effects of the start, of the seed, of this method on this start, and noise."""
    shape = (seeds, len(starts))
    method = own * rng.normal(size=len(starts))
    return starts + method + 2.0 * rng.normal(size=(seeds, 1)) + 10.0 * rng.normal(size=shape)


def test_paired_by_hand() -> None:
    """One seed each: the paired t-test over start states. Starts of any difficulty cancel."""
    a, b = np.array([[1.0, 5.0, 9.0]]), np.array([[0.0, 3.0, 6.0]])
    got, reference = paired(a, b), stats.ttest_rel(a[0], b[0])
    assert (got.difference, got.p) == (2.0, pytest.approx(reference.pvalue))
    shifted = paired(a + 100 * np.arange(3), b + 100 * np.arange(3))
    assert shifted.p == pytest.approx(got.p)
    # two seeds each, no interaction and no noise: only the seeds' spread is left, as in Welch's test of the seed means
    rows, starts = np.array([[0.0], [2.0]]), np.array([1.0, 4.0, 2.0])
    seeds = welch(sample(np.array([0.0, 2.0]) + 1), sample(np.array([0.0, 2.0])))
    assert paired(rows + starts + 1, rows + starts).error == pytest.approx(seeds.error)


def test_paired_errs_as_often_as_it_says() -> None:
    """New seeds and new start states each time. Welch over seed means sees the seeds' share of the variance alone,
    2 (2^2 / 5 + 10^2 / 250) = 2.4 of 6.4, so about start states it errs in P(|z| > 1.96 sqrt(2.4 / 6.4)) = 23%."""
    rng, trials = np.random.default_rng(4), 800
    pairs, alone = [], []
    for _ in range(trials):
        starts = 20 * rng.normal(size=50)
        a, b = crossed(rng, 5, starts), crossed(rng, 5, starts)
        pairs.append(paired(a, b))
        alone.append(welch(sample(a.mean(axis=1)), sample(b.mean(axis=1))).p < LEVEL)
    assert within(float(np.mean([got.p < LEVEL for got in pairs])), LEVEL, trials)
    assert np.mean(alone) > 0.15
    assert np.mean([got.error**2 for got in pairs]) == pytest.approx(6.4, rel=0.05)


def test_clusters_move_together() -> None:
    """Nine environments of five tasks, with a difference that is the environment's: as tasks it errs far too often, as
    environments as often as it says."""
    rng, trials = np.random.default_rng(5), 400
    names = [f"env{i}" for i in range(9) for _ in range(5)]
    found = []
    for _ in range(trials):
        differences = np.repeat(3 * rng.normal(size=9), 5) + rng.normal(size=45)
        found.append(clustered(differences, names))
    assert within(float(np.mean([c.environments.p < LEVEL for c in found])), LEVEL, trials)
    assert np.mean([c.tasks.p < LEVEL for c in found]) > 0.25
    by_hand = clustered(np.array([1.0, 3.0, 5.0, 7.0]), ["a", "a", "b", "b"])
    assert by_hand.environments.difference == by_hand.tasks.difference == 4
    assert by_hand.environments.error == pytest.approx(2.0)  # means 2 and 6, std sqrt(8), over sqrt(2)
    assert by_hand.tasks.error == pytest.approx(np.sqrt(20 / 3) / 2)


def test_detectable_difference_is_detected() -> None:
    """The difference it names is found in 80% of draws; 4 standard errors are 0.025, and Welch's df vary a little."""
    rng, trials = np.random.default_rng(6), 4000
    planned = welch(Sample(0.0, 1.0, 8), Sample(0.0, 1.0, 8))
    shift = detectable(planned)
    got = welch(sample(rng.normal(size=(8, trials)) + shift), sample(rng.normal(size=(8, trials))))
    assert np.mean(got.p < LEVEL) == pytest.approx(0.8, abs=0.03)
    assert np.isnan(detectable(welch(Sample(0.0, np.nan, 1), Sample(0.0, 1.0, 5))))


def test_design_of_five_seeds() -> None:
    plan = design(5, 5, family=9)
    assert plan.rank_p == pytest.approx(1 / 126) and plan.holm_family == 6
    assert 0.05 / 6 >= plan.rank_p > 0.05 / 7
    text = " ".join(sentences(plan, std=2.0))
    assert (
        "0.0079" in text and "family larger than 6" in text and "9 comparisons" in text and "at least 2 of them" in text
    )
    assert plan.effect == pytest.approx(2.02, abs=0.01)  # as from power tables: n = 5 a group, d = 2.02
    assert design(3, 3).holm_family == 0 and "never reject" in " ".join(sentences(design(3, 3)))
    assert "one seed" in sentences(design(1, 5))[0] and signed_rank_p(9) == 2 / 2**9
