"""Win rates from verdicts: how often, how sure, at equal lengths, and of one method against another.

A verdict's score is 1 (win), 0.5 (tie), 0 (loss), NaN (invalid); scores are `[s, e]`, seeds by prompts. All seeds of a
method answer the same prompts, and a prompt that suits one suits the others: prompts are the units here, each with all
its seeds. Intervals speak of new prompts to these trained policies; what new seeds would do is for `statistics.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from scipy.special import expit

from analysis.statistics.estimates import LEVEL, RESAMPLES, Estimate

WEAK = np.array([1e-4, 1e-2])  # precision of a prior on a and b below: keeps what cannot be estimated finite
ITERATIONS = 50
FEW = 10  # prompts: of fewer a bootstrap is too sure


class Rates(NamedTuple):
    """What became of the verdicts, as shares of all; `consistent` as a share of the valid."""

    verdicts: int
    prompts: int
    win: float
    tie: float
    loss: float
    invalid: float
    consistent: float
    """Of the valid, those that did not change when the two texts changed places; NaN where this was not tried."""


class Difference(NamedTuple):
    """Two methods over the prompts that both have."""

    prompts: int
    value: float
    low: float
    high: float


class BySeeds(NamedTuple):
    """Two methods over the training seeds that both have."""

    seeds: int
    seeds_low: float
    seeds_high: float


def rates(scores: np.ndarray, consistent: np.ndarray, judged: np.ndarray | None = None) -> Rates:
    """Rates of verdicts `[s, e]` with their swap-consistency `[s, e]` (1, 0, or NaN where unknown or no verdict is).

    `judged`, `[s, e]`: where there was a verdict, if only an invalid one; everywhere if None.
    """
    known, judged = ~np.isnan(scores), np.ones(scores.shape, bool) if judged is None else judged
    count = max(int(judged.sum()), 1)
    win, tie, loss = (float((judged & (scores == value)).sum() / count) for value in (1.0, 0.5, 0.0))
    told = known & ~np.isnan(consistent)
    agree = float(consistent[told].mean()) if told.any() else float("nan")
    invalid = float((judged & ~known).sum() / count)
    return Rates(int(judged.sum()), int(judged.any(axis=0).sum()), win, tie, loss, invalid, agree)


def win_rate(scores: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """(win + tie / 2) / valid of scores `[s, e]`, with a percentile bootstrap over prompts, each with all its seeds.

    Where all prompts have the same mean, or they are fewer than FEW, the bootstrap cannot draw what was not seen; the
    interval is then Wilson's over prompts. All NaN without a valid verdict.
    """
    known = ~np.isnan(scores)
    points, valid = np.where(known, scores, 0.0).sum(axis=0), known.sum(axis=0)
    if not valid.any():
        return Estimate(*map(np.asarray, [np.nan] * 3))
    rate, answered = points.sum() / valid.sum(), valid > 0
    if answered.sum() < FEW or np.ptp(points[answered] / valid[answered]) == 0:
        return Estimate(rate, *map(np.asarray, wilson(float(rate), int(answered.sum()))))
    weights = _weights(scores.shape[1], rng, resamples)
    with np.errstate(invalid="ignore"):  # a draw without any valid verdict
        draws = weights @ points / (weights @ valid)
    return Estimate(rate, *_tails(draws))


def wilson(rate: float, units: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of so many independent verdicts, a check of the bootstrap.

    A tie counts as half a win; its variance is less than a coin's, so the interval then errs to the wide side. So it
    does where `units` are prompts, whose rate is a mean over seeds. NaN without units.
    """
    if not units:
        return float("nan"), float("nan")
    z2 = float(scipy.stats.norm.ppf((1 + level) / 2)) ** 2
    centre = (rate + z2 / (2 * units)) / (1 + z2 / units)
    half = np.sqrt(z2 * (rate * (1 - rate) / units + z2 / (4 * units**2))) / (1 + z2 / units)
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def length_controlled(scores: np.ndarray, longer: np.ndarray, level: float = LEVEL) -> Estimate:
    """What the win rate would be at equal lengths: of scores `[s, e]` and by how much the response is longer than the
    other, `[s, e]` in any unit.

    logit P(win) = a + b tanh(d / sd(d)), fitted to all valid verdicts, a tie as half a win; a's rate is reported, at
    d = 0. The idea and the bounded, scaled difference are those of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475,
    section 3), without its term for each instruction's difficulty: one opponent a prompt cannot tell that from noise.
    The interval is normal on the logit scale, with the variance of Liang & Zeger 1986 over prompts, or the inverse
    Hessian's where that is larger: where all responses are longer by as much (the second term is then the sign of d),
    or length decides every verdict, equal lengths are an extrapolation, and the interval is as wide as the prior.

    NaN without a valid verdict.
    """
    known = ~np.isnan(scores)
    if not known.any():
        return Estimate(*map(np.asarray, [np.nan] * 3))
    y, d = scores[known], longer[known].astype(float)
    spread = np.sqrt(np.mean((d - d.mean()) ** 2))
    x = np.stack([np.ones_like(d), np.tanh(d / spread) if spread > 0 else np.sign(d)], axis=1)
    beta = np.zeros(2)
    for _ in range(ITERATIONS):  # Newton's method; the penalised likelihood is concave
        p = expit(x @ beta)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(WEAK)
        step = np.linalg.solve(hessian, x.T @ (y - p) - WEAK * beta)
        beta = beta + step * min(1.0, 2.0 / (1e-12 + np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    prompt = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)[known]
    of_prompt = np.zeros((scores.shape[1], 2))
    np.add.at(of_prompt, prompt, x * (y - expit(x @ beta))[:, None])
    bread = np.linalg.inv(hessian)
    deviation = np.sqrt(max((bread @ of_prompt.T @ of_prompt @ bread)[0, 0], bread[0, 0]))
    z = scipy.stats.norm.ppf((1 + level) / 2)
    return Estimate(*(np.asarray(expit(beta[0] + side * z * deviation)) for side in (0, -1, 1)))


def paired(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> Difference:
    """Mean over prompts of one method's score minus another's, `[n, e]` and `[m, e]` over the same prompts.

    A prompt's score is the mean of its valid verdicts; prompts without one on either side are left out. The interval is
    a percentile bootstrap over prompts: what makes a prompt hard for both cancels. Where all differences agree, or they
    are fewer than FEW, it is Wilson's for (1 + difference) / 2, a share whose variance a coin's bounds. NaN with fewer
    than two prompts.
    """
    means = []
    for side in (a, b):
        known = ~np.isnan(side)
        with np.errstate(invalid="ignore"):
            means.append(np.where(known, side, 0.0).sum(axis=0) / known.sum(axis=0))
    apart = means[0] - means[1]
    apart = apart[~np.isnan(apart)]
    if len(apart) < 2:
        return Difference(len(apart), *[float("nan")] * 3)
    value = float(apart.mean())
    if len(apart) < FEW or np.ptp(apart) == 0:
        low, high = (2 * end - 1 for end in wilson((1 + value) / 2, len(apart)))
        return Difference(len(apart), value, low, high)
    draws = _weights(len(apart), rng, resamples) @ apart / len(apart)
    return Difference(len(apart), value, *map(float, _tails(draws)))


def by_seeds(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> BySeeds:
    """Student's t interval over seeds of one method's mean score minus another's, `[s, e]` each of the same seeds and
    prompts. Its centre is the mean over seeds. NaN with fewer than two seeds, or where all differences are equal, of
    which no spread can be told."""
    both = ~np.isnan(a) & ~np.isnan(b)
    counts = both.sum(axis=1)
    apart = (np.where(both, a - b, 0.0).sum(axis=1) / np.maximum(counts, 1))[counts > 0]
    n = len(apart)
    if n < 2 or np.ptp(apart) == 0:
        return BySeeds(n, float("nan"), float("nan"))
    half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1) * apart.std(ddof=1) / np.sqrt(n))
    return BySeeds(n, float(apart.mean()) - half, float(apart.mean()) + half)


def _weights(units: int, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """`[resamples, units]`: how often each unit is drawn."""
    return rng.multinomial(units, np.full(units, 1 / units), size=resamples).astype(float)


def _tails(draws: np.ndarray) -> np.ndarray:
    return np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
