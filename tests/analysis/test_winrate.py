"""Win rates: hand-computed, against other ways to compute them, and their intervals by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import expit

from analysis.statistics.winrate import by_seeds, length_controlled, paired, rates, wilson, win_rate

NAN = float("nan")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_rates_by_hand() -> None:
    """Two seeds, four prompts: 3 wins, 2 ties, 2 losses, 1 invalid; one tie is a disagreement of the orders."""
    scores = np.array([[1, 0.5, 0, NAN], [1, 1, 0.5, 0]])
    consistent = np.array([[1, 0, 1, NAN], [1, 1, 1, 1]])
    found = rates(scores, consistent)
    assert (found.verdicts, found.prompts) == (8, 4)
    assert (found.win, found.tie, found.loss, found.invalid) == (3 / 8, 2 / 8, 2 / 8, 1 / 8)
    assert found.consistent == 6 / 7
    assert float(win_rate(scores, rng()).value) == (3 + 2 / 2) / 7
    assert np.isnan(rates(scores, np.full((2, 4), NAN)).consistent)


def test_wilson_by_hand() -> None:
    """8 of 10: Wilson's interval in the textbooks is [0.4902, 0.9433]."""
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    exact = stats.binomtest(37, 90).proportion_ci(method="wilson")
    assert wilson(37 / 90, 90) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert np.isnan(wilson(0.5, 0)).all()


def test_bootstrap_and_wilson_agree_on_independent_verdicts() -> None:
    scores = rng().binomial(1, 0.6, size=(1, 1000)).astype(float)
    found = win_rate(scores, rng())
    assert (float(found.low), float(found.high)) == pytest.approx(wilson(float(found.value), 1000), abs=0.004)


def test_seeds_that_agree_add_no_certainty() -> None:
    """Three seeds with the same verdicts are one: the interval is that of one. A bootstrap of verdicts would shrink."""
    one = rng().binomial(1, 0.5, size=(1, 300)).astype(float)
    alone, thrice = win_rate(one, rng(1)), win_rate(np.repeat(one, 3, axis=0), rng(1))
    assert (alone.value, alone.low, alone.high) == (thrice.value, thrice.low, thrice.high)
    assert thrice.high - thrice.low > 1.5 * (np.subtract(*wilson(0.5, 900)[::-1]))


def test_unanimous_verdicts_leave_doubt() -> None:
    """No win in 40 prompts x 3 seeds: at most z^2 / (40 + z^2) = 0.088 by Wilson, not 0."""
    found = win_rate(np.zeros((3, 40)), rng())
    assert (float(found.value), float(found.low)) == (0.0, 0.0)
    assert float(found.high) == pytest.approx(1.96**2 / (40 + 1.96**2), abs=1e-4)


def test_seeds_that_disagree_on_one_prompt_are_one_prompt() -> None:
    found = win_rate(np.array([[1.0], [0.0]]), rng())
    assert (float(found.value), float(found.low), float(found.high)) == pytest.approx((0.5, *wilson(0.5, 1)))
    assert found.high - found.low > 0.8


def test_rates_are_of_what_was_judged() -> None:
    """Two of four cells have a verdict, one of them an invalid one."""
    found = rates(np.array([[1, NAN], [NAN, NAN]]), np.full((2, 2), NAN), np.array([[True, True], [False, False]]))
    assert (found.verdicts, found.prompts, found.win, found.invalid) == (2, 2, 0.5, 0.5)


def test_nothing_valid_has_no_rate() -> None:
    nothing = np.full((2, 3), NAN)
    assert np.isnan(win_rate(nothing, rng())).all() and np.isnan(length_controlled(nothing, nothing)).all()
    assert paired(nothing, nothing, rng()).prompts == 0


def test_length_control_takes_away_what_length_explains() -> None:
    """P(win) = expit(0.5 + 2 tanh(d / sd)): at equal lengths 0.622, though longer responses win more in all."""
    generator = rng(3)
    longer = 40 + 50 * generator.normal(size=(1, 20_000))
    p = expit(0.5 + 2 * np.tanh(longer / longer.std()))
    scores = generator.binomial(1, p).astype(float)
    found = length_controlled(scores, longer)
    assert float(found.value) == pytest.approx(expit(0.5), abs=0.015)  # three standard errors
    assert found.low < expit(0.5) < found.high and scores.mean() > 0.74


def test_length_control_maximises_its_likelihood() -> None:
    """Against a general optimiser, ties as half wins."""
    generator = rng(4)
    scores = generator.choice([0, 0.5, 1], size=(2, 60), p=[0.3, 0.2, 0.5])
    longer = generator.normal(20, 30, size=(2, 60))
    x = np.tanh(longer / longer.std())

    def loss(beta: np.ndarray) -> float:
        z = beta[0] + beta[1] * x
        return float((np.logaddexp(0, z) - scores * z).sum() + 0.5 * (np.array([1e-4, 1e-2]) * beta**2).sum())

    best = optimize.minimize(loss, np.zeros(2), tol=1e-12).x
    assert float(length_controlled(scores, longer).value) == pytest.approx(expit(best[0]), abs=1e-6)


def test_length_control_where_length_says_nothing_or_everything() -> None:
    scores = rng(5).binomial(1, 0.7, size=(1, 400)).astype(float)
    same = length_controlled(scores, np.zeros((1, 400)))  # lengths are equal
    assert float(same.value) == pytest.approx(scores.mean(), abs=1e-3)
    assert same.high - same.low == pytest.approx(np.subtract(*wilson(scores.mean(), 400)[::-1]), abs=0.003)
    constant = length_controlled(scores, np.full((1, 400), 200.0))  # all longer by as much: nobody can say
    assert float(constant.value) == pytest.approx(scores.mean(), abs=0.01)
    assert constant.low < 0.01 and constant.high > 0.99
    longer = rng(6).normal(size=(1, 400))
    apart = length_controlled(scores, 1000 + longer)  # none is near the others in length: nobody can say
    assert float(apart.value) == pytest.approx(scores.mean(), abs=0.01) and apart.low < 0.01 and apart.high > 0.99
    decided = length_controlled((longer > 0).astype(float), longer)
    assert 0.3 < float(decided.value) < 0.7 and np.isfinite(decided).all()
    always = length_controlled(np.ones((1, 400)), longer)
    assert float(always.value) > 0.98 and np.isfinite(always).all()


def test_paired_by_hand() -> None:
    """Prompt means 1, 0.5, 0.5 against 0.5, 0.5, (none): two prompts remain, differences 0.5 and 0."""
    a = np.array([[1, 1, 0.5, 1], [1, 0, NAN, 1]])
    b = np.array([[0.5, 0.5, NAN, 0.5]])
    found = paired(a[:, :3], b[:, :3], rng())
    assert found.prompts == 2 and found.value == 0.25
    # (1 + 0.25) / 2 = 0.625 of two: Wilson's [0.1563, 0.9375]
    low, high = wilson(0.625, 2)
    assert (
        (found.low, found.high) == pytest.approx((2 * low - 1, 2 * high - 1)) and found.low < -0.5 and found.high > 0.7
    )
    always = paired(np.ones((1, 3)), np.zeros((2, 3)), rng())  # 3 of 3: Wilson's lower end is 3 / (3 + z^2) = 0.4385
    assert always[:2] == (3, 1.0) and (always.low, always.high) == pytest.approx((2 * 0.4385 - 1, 1.0), abs=1e-4)
    same = paired(np.ones((1, 1000)), np.ones((1, 1000)), rng())  # no prompt differs, the next one may
    assert same.value == 0 and same.low == pytest.approx(-same.high) and 0.05 < same.high < 0.07
    assert np.isnan(paired(a[:, :1], b[:, :1], rng()).value)


def test_pairing_cancels_what_prompts_share() -> None:
    """Easy and hard prompts: the difference's interval is far narrower than either method's own."""
    generator = rng(7)
    ease = generator.uniform(size=500)
    a = (ease[None] + 0.05 > generator.uniform(0.45, 0.55, size=(3, 500))).astype(float)
    b = (ease[None] > generator.uniform(0.45, 0.55, size=(3, 500))).astype(float)
    difference, own = paired(a, b, rng()), win_rate(a, rng())
    assert difference.low > 0 and difference.high - difference.low < 0.5 * float(own.high - own.low)


def test_intervals_cover() -> None:
    """Of 250 samples of 100 prompts x 2 seeds, with prompts that differ, about 95% of the intervals hold the truth: a
    coverage of 0.94 lies within [0.90, 0.98] 99 times in 100."""
    generator, hits = rng(8), np.zeros(3)
    for _ in range(250):
        ease = generator.beta(2, 1.5, size=100)  # mean 4/7
        longer = 10 * generator.normal(size=(2, 100))
        a = generator.binomial(1, ease, size=(2, 100)).astype(float)
        a[generator.uniform(size=a.shape) < 0.1] = 0.5
        b = generator.binomial(1, 0.5, size=(2, 100)).astype(float)
        truth = 0.9 * 4 / 7 + 0.05
        own, apart = win_rate(a, generator, 200), paired(a, b, generator, 200)
        flat = length_controlled(a, longer)
        hits += [own.low <= truth <= own.high, apart.low <= truth - 0.5 <= apart.high, flat.low <= truth <= flat.high]
    assert (hits / 250 >= 0.9).all() and (hits / 250 <= 0.98).all(), hits / 250


def test_seeds_say_what_new_trainings_would() -> None:
    """Differences of three seeds 0.5, 0.25 and 0.0: mean 0.25, std 0.25, t(2) = 4.3027; one of them lacks a prompt."""
    a = np.array([[1.0, 1.0], [1.0, 0.5], [np.nan, 0.5]])
    b = np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 0.5]])
    found = by_seeds(a, b)
    half = 4.302653 * 0.25 / np.sqrt(3)
    assert (
        found.seeds == 3
        and found.seeds_low == pytest.approx(0.25 - half)
        and found.seeds_high == pytest.approx(0.25 + half)
    )
    one = by_seeds(a[:1], b[:1])
    assert one.seeds == 1 and np.isnan(one.seeds_low)
    alike = by_seeds(np.ones((3, 2)), np.zeros((3, 2)))
    assert alike.seeds == 3 and np.isnan(alike.seeds_low)
