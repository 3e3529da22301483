"""Tests: what is compared is always a pair of methods, and a unit is what a repetition would draw anew.

A training seed is such a unit; a start state is one too if conclusions should hold for others; tasks of one environment
share a dataset, so in the cautious reading the environment is one. Tests on seeds alone condition on the start states,
which all methods share.

No variance over units is taken for less than what the unit's own parts say (`noise.episode_variance`; of a task, its
error over seeds): few units agree by chance. Where nothing is known of a variance, nothing is tested: p is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from analysis.statistics.estimates import LEVEL
from analysis.statistics.noise import episode_variance, settled

ALPHA = 1 - LEVEL
EXACT = 60  # units up to which rank tests count all arrangements


class Sample(NamedTuple):
    """What is known of n independent units; a float each, or arrays of one shape to compare many at once."""

    mean: Any
    std: Any
    """ddof 1."""
    n: Any
    unit: Any = 0.0
    """Of the last digit printed, where the mean was rounded; its error is uniform, of variance unit^2 / 12."""
    floor: Any = 0.0
    """What the variance of one unit is at least, for all that `std` says."""

    @property
    def variance(self) -> Any:
        """Of one unit; NaN of a single one."""
        return np.maximum(np.square(self.std), self.floor)


class Comparison(NamedTuple):
    """First minus second: a difference, its standard error, degrees of freedom, 95% interval and two-sided p."""

    difference: Any
    error: Any
    df: Any
    low: Any
    high: Any
    p: Any


def sample(values: np.ndarray, floor: Any = 0.0) -> Sample:
    """Of units `[n, ...]`; the std of one unit is NaN. `floor`: as of Sample."""
    values = settled(values)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
    return Sample(values.mean(axis=0), settled(spread), len(values), floor=floor)


def of_episodes(scores: np.ndarray) -> Sample:
    """Of the seeds of scores `[n, e, ...]` in points, NaN where there is no episode: what they say, and their floor."""
    scores = np.asarray(scores, float)
    there = ~np.isnan(scores)
    means = np.where(there, scores, 0.0).sum(axis=1) / there.sum(axis=1)
    return sample(means, episode_variance(scores))


def welch(a: Sample, b: Sample, level: float = LEVEL) -> Comparison:
    """Welch's t from summary statistics, with Satterthwaite's degrees of freedom.

    NaN where either side has fewer than two units, or none is known to vary (p is 1 there if the means are equal). A
    variance that is at its floor keeps the degrees of freedom of the units, which errs to the safe side.
    """
    parts = [(side.variance / side.n, np.subtract(side.n, 1)) for side in (a, b)]
    rounding = (np.square(a.unit) + np.square(b.unit)) / 12
    return _t(np.subtract(a.mean, b.mean), [*parts, (rounding, np.inf)], level)


def equivalence(compared: Comparison, margin: float) -> Any:
    """p of the two one-sided tests (Schuirmann 1987) that the true difference lies within +-margin.

    p < 0.05 exactly where the 90% interval lies within the margin.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (margin - np.abs(compared.difference)) / compared.error
        return scipy.stats.t.sf(np.where(compared.error == 0, np.nan, t), compared.df)


def detectable(compared: Comparison, alpha: float = ALPHA, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided t-test with this error and df finds with the power; or NaN."""
    error, df = float(compared.error), float(compared.df)
    if not error > 0 or not df > 0:
        return math.nan
    critical = scipy.stats.t.isf(alpha / 2, df)
    low, high = 0.0, 1.0

    def found(shift: float) -> float:
        """Power at a true difference of `shift` standard errors; the other tail's share is below alpha / 2."""
        return float(
            scipy.stats.nct.sf(critical, df, shift) if math.isfinite(df) else scipy.stats.norm.sf(critical - shift)
        )

    while found(high) < power:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) < power else (low, middle)
    return high * error


def mann_whitney(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of the Mann-Whitney test of `[n]` against `[m]`: exact, ties included, for n + m <= EXACT.

    Success rates tie often, where the usual tables do not hold: all splits of the very ranks at hand are counted.
    """
    a, b = settled(a), settled(b)
    if len(a) + len(b) > EXACT:
        return float(scipy.stats.mannwhitneyu(a, b, method="asymptotic").pvalue)
    ranks = _doubled(np.concatenate([a, b]))
    ways = np.zeros((len(a) + 1, ranks.sum() + 1))  # [members, sum of their ranks] -> number of such splits
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank]
    return _two_sided(ways[-1], ranks[: len(a)].sum())


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test of `[n]` paired differences: exact, ties included, for n <= EXACT.

    Zeros are dropped, as Wilcoxon did.
    """
    differences = settled(differences)
    differences = differences[differences != 0]
    if len(differences) > EXACT:
        return float(scipy.stats.wilcoxon(differences).pvalue)
    ranks = _doubled(np.abs(differences))
    ways = np.zeros(ranks.sum() + 1)  # sum of the positive ranks -> number of sign patterns
    ways[0] = 1
    for rank in ranks:
        ways[rank:] += ways[: len(ways) - rank].copy()
    return _two_sided(ways, ranks[differences > 0].sum())


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values `[m]` of Holm 1979, which bound the chance of any false rejection; NaN stays and counts not."""
    return _adjusted(p, lambda known: np.maximum.accumulate(known * np.arange(len(known), 0, -1)))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values `[m]` of Benjamini & Hochberg 1995, which bound the expected share of false rejections."""
    return _adjusted(p, lambda known: scipy.stats.false_discovery_control(known))


CORRECTIONS = {"holm": holm, "bh": benjamini_hochberg, "none": lambda p: np.asarray(p, float)}


def paired(a: np.ndarray, b: np.ndarray, level: float = LEVEL, spreads: tuple[float, float] = (0.0, 0.0)) -> Comparison:
    """Two methods over shared start states: scores `[n, e]` and `[m, e]` of their seeds, column i from the same start.

    Training seeds of different methods are not pairs: nothing but their number is shared. Start states are: their
    common difficulty cancels in the difference of means. What is left has three sources, drawn anew in a repetition:
    the seeds of either method, and how much the methods differ on a start state. So the variance is
      var(seed means of a) / n + var(seed means of b) / m + var_e(difference of the columns' means) / e - noise
    where noise (residual of seeds x starts) stands in both kinds of terms; never less than the seeds' alone, nor these
    less than their floor or, of either side, `spreads`. With one seed on a side, its variance between seeds is unknown:
    the result then speaks of those trained policies only.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    episodes = a.shape[1]
    columns = settled(a.mean(axis=0) - b.mean(axis=0))
    starts = columns.var(ddof=1) / episodes if episodes > 1 else math.nan
    if len(a) < 2 or len(b) < 2:
        return _t(columns.mean(), [(starts, episodes - 1)], level)
    seeds = [(np.maximum(of_episodes(side).variance, spread) / len(side), len(side) - 1)
             for side, spread in zip((a, b), spreads, strict=True)]  # fmt: skip
    noise = sum(_residual(side) / side.size for side in (a, b)) if episodes > 1 else 0.0
    return _t(columns.mean(), [*seeds, (max(starts - noise, 0.0) if episodes > 1 else 0.0, episodes - 1)], level)


def averaged(compared: Sequence[Comparison], level: float = LEVEL) -> Comparison:
    """The mean difference over tasks, their comparisons independent: what new seeds would give on these same tasks."""
    count = len(compared)
    parts = [(one.error**2 / count**2, one.df) for one in compared]
    return _t(np.mean([one.difference for one in compared]), parts, level)


class Clustered(NamedTuple):
    """A difference over tasks, read twice: every task as a unit, and every environment as one."""

    tasks: Comparison
    environments: Comparison
    wilcoxon_tasks: float
    wilcoxon_environments: float


def clustered(differences: np.ndarray, environments: Sequence[str], errors: np.ndarray | None = None) -> Clustered:
    """One-sample t and signed-rank tests of task differences `[t]`, and of their means by environment `[t]` names.

    `errors [t]`: the standard error of each over its own seeds, where it is known. What tasks (or environments) differ
    by contains it, so the variance over them is never taken for less: two tasks may agree by chance.

    Tasks of an environment share a dataset, often a behaviour model, so that their differences move together: where
    the two readings disagree, the tasks' is the one to distrust.
    """
    differences, names = settled(differences), np.asarray(environments)
    squares = np.square(np.zeros(len(differences)) if errors is None else np.nan_to_num(np.asarray(errors, float)))
    groups = [names == name for name in dict.fromkeys(environments)]
    means = settled(np.array([differences[group].mean() for group in groups]))
    floors = squares.mean(), np.mean([squares[group].sum() / group.sum() ** 2 for group in groups])
    readings = [
        _t(values.mean(), [(sample(values, floor).variance / len(values), len(values) - 1)])
        for values, floor in ((differences, floors[0]), (means, floors[1]))
    ]
    return Clustered(readings[0], readings[1], wilcoxon(differences), wilcoxon(means))


def _t(difference: Any, parts: Sequence[tuple[Any, Any]], level: float = LEVEL) -> Comparison:
    """t of a difference whose variance is a sum of estimates (variance, degrees of freedom). Without any variance there
    is no interval, and no p unless the difference is 0 too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = sum(part for part, _ in parts)
        df = np.square(variance) / sum(np.square(part) / freedom for part, freedom in parts)
        df = np.where(np.isnan(df) & ~np.isnan(variance), np.inf, df)  # no variance at all
        difference = settled(difference)
        error = np.sqrt(variance)
        p = 2 * scipy.stats.t.sf(np.abs(difference) / error, df)
        p = np.where(error == 0, np.where(np.equal(difference, 0), 1.0, np.nan), p)
        half = np.where(error == 0, np.nan, scipy.special.stdtrit(df, (1 + level) / 2) * error)
    return Comparison(
        *(value[()] for value in map(np.asarray, (difference, error, df, difference - half, difference + half, p)))
    )


def _residual(scores: np.ndarray) -> float:
    """Mean square of what neither the seed nor the start state explains, `[n, e]`."""
    left = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    return float(np.square(left).sum() / ((scores.shape[0] - 1) * (scores.shape[1] - 1)))


def _doubled(values: np.ndarray) -> np.ndarray:
    """Twice the ranks `[n]`, ties sharing their mean: integers."""
    return np.rint(2 * scipy.stats.rankdata(settled(values))).astype(int)


def _two_sided(ways: np.ndarray, observed: int) -> float:
    """p of a statistic `observed`, given how many of the equally likely arrangements have each value."""
    tails = ways[: observed + 1].sum(), ways[observed:].sum()
    return float(min(1.0, 2 * min(tails) / ways.sum()))


def _adjusted(p: np.ndarray, adjust: Any) -> np.ndarray:
    p = np.asarray(p, float)
    result = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    if len(order):
        result[order] = np.minimum(adjust(p[order]), 1.0)
    return result
