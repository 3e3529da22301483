"""Point estimates and intervals over seeds: pure functions on arrays, with an explicit generator for every draw.

One task: `summarise`. Several tasks: `across` and its aggregates, performance profiles and the probability of
improvement of Agarwal et al. 2021 (arXiv 2108.13264), over *strata*, an array of seeds a task. Tests are in
`significance.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from analysis.statistics.noise import PASS, episode_variance, settled

LEVEL = 0.95
RESAMPLES = 2000
COVERAGE = {2: 50, 3: 75, 4: 80, 5: 84, 6: 86, 8: 88, 10: 90, 20: 92, 40: 94}
"""n -> percent of normal samples of size n whose 95% interval of the mean holds the truth: 20,000 simulations each."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""`[n, ...]` -> `[...]`, over the first axis."""


class Summary(NamedTuple):
    """One cell of a table, in the unit of the scores."""

    mean: float
    std: float
    """Over seeds, ddof 1; NaN with one seed."""
    low: float
    high: float
    over: str
    """What the interval resamples: "seeds", or "episodes" where there is one seed."""
    seeds: int
    episodes: float
    """Per seed; the mean if seeds differ."""


def mean(values: np.ndarray) -> np.ndarray:
    """`[n, ...]` -> `[...]`."""
    return np.mean(values, axis=0)


def std(values: np.ndarray) -> np.ndarray:
    """Sample standard deviation (ddof 1), `[n, ...]` -> `[...]`; NaN where n < 2."""
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(np.shape(values)[1:], np.nan)


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean, `[n, ...]` -> `[...]`: without the floor(n / 4) smallest and largest values.

    Agarwal et al. 2021, section 4.3; as scipy.stats.trim_mean(values, 0.25).
    """
    return iqm_of([values])


def bootstrap(
    values: np.ndarray,
    rng: np.random.Generator,
    statistic: Statistic = mean,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of a statistic of n independent units, `[n, ...]` -> (low `[...]`, high `[...]`).

    Efron & Tibshirani 1993, chapter 13. It is too narrow for few units (`COVERAGE`): its variance is (n-1)/n of the
    unbiased one, and its tails are a normal's, not Student's.

    Raises: ValueError for no units, or a level outside (0, 1).
    """
    values = np.asarray(values, float)
    if not len(values) or not 0 < level < 1:
        raise ValueError(f"a bootstrap of {len(values)} units at level {level}")
    draws = rng.integers(len(values), size=(len(values), resamples))
    tails = np.quantile(statistic(values[draws]), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return tails[0], tails[1]


def student(
    values: np.ndarray, rng: np.random.Generator | None = None, floor: Any = 0.0, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean of n independent units, `[n, ...]` -> (low `[...]`, high `[...]`).

    `floor`: what the variance of a unit is at least (`noise.episode_variance`). NaN for one unit, and where neither
    units nor floor have any variance: nothing is known then.
    """
    values = settled(values)
    variance = np.maximum(np.square(std(values)), floor)
    with np.errstate(invalid="ignore"):
        critical = scipy.special.stdtrit(len(values) - 1, (1 + level) / 2)  # much faster than scipy.stats.t.isf
        half = np.where(variance > 0, critical * np.sqrt(variance / len(values)), np.nan)
    return mean(values) - half, mean(values) + half


def percentile(
    values: np.ndarray, rng: np.random.Generator, floor: Any = 0.0, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """`bootstrap` of the mean, which knows no floor."""
    return bootstrap(values, rng, level=level)


def bca(
    values: np.ndarray, rng: np.random.Generator, floor: Any = 0.0, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), of units `[n]`; it knows no floor.
    NaN where all units are alike."""
    values = settled(values)
    if len(values) < 2 or not np.ptp(values):
        return np.array(np.nan), np.array(np.nan)
    found = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="BCa", rng=rng
    ).confidence_interval  # fmt: skip
    return np.asarray(found.low), np.asarray(found.high)


INTERVALS = {"t": student, "bca": bca, "percentile": percentile}
"""Of a mean over seeds, by the name of the option `--interval`."""


def coverage(units: int) -> int:
    """True coverage in percent of a nominal 95% percentile bootstrap interval of the mean of so many (>= 2) normal
    units, rounded down in n."""
    return COVERAGE[max(n for n in COVERAGE if n <= units)]


Strata = Sequence[np.ndarray]
"""The scores of one method, a task's seeds each: `[n_task, ...]`. Further axes are draws."""


class Estimate(NamedTuple):
    """A value and its 95% interval, a float each, or an array each where the statistic has many values."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_of(strata: Strata) -> np.ndarray:
    """Mean over tasks of the tasks' means, `[...]`."""
    return np.mean([mean(task) for task in strata], axis=0)


def median_of(strata: Strata) -> np.ndarray:
    """Median over tasks of the tasks' means, `[...]`."""
    return np.median([mean(task) for task in strata], axis=0)


def iqm_of(strata: Strata) -> np.ndarray:
    """Interquartile mean of all runs of all tasks, `[...]`; a run weighs 1 / (tasks x seeds of its task).

    Left out are the smallest runs with at most a quarter of the weight together, and likewise the largest: for equal
    numbers of seeds this is scipy.stats.trim_mean(runs, 0.25), hence the value of Agarwal et al.
    """
    runs, weight = _pooled(strata)
    order = np.argsort(runs, axis=0)
    runs, weight = np.take_along_axis(runs, order, axis=0), np.broadcast_to(weight, order.shape[::-1]).T
    weight = np.take_along_axis(weight, order, axis=0)
    below = np.cumsum(weight, axis=0)
    above = 1 - below + weight
    kept = np.where((below > 0.25 + 1e-9) & (above > 0.25 + 1e-9), weight, 0.0)
    return (kept * runs).sum(axis=0) / kept.sum(axis=0)


def optimality_gap_of(strata: Strata, target: float = 100.0) -> np.ndarray:
    """By how much runs miss `target` on average, counting nothing for what exceeds it, `[...]`; smaller is better."""
    return mean_of([np.maximum(target - task, 0.0) for task in strata])


AGGREGATES: dict[str, Callable[[Strata], np.ndarray]] = {
    "IQM": iqm_of, "mean": mean_of, "median": median_of, "optimality gap": optimality_gap_of,
}  # fmt: skip


def profile_of(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """Performance profile `[k, ...]`: the share of runs above each of k thresholds, tasks weighing alike."""
    runs, weight = _pooled(strata)
    runs = settled(runs)
    return np.stack([np.tensordot(weight, runs > threshold, axes=1) for threshold in settled(thresholds)])


def resample(strata: Strata, rng: np.random.Generator, resamples: int = RESAMPLES) -> list[np.ndarray]:
    """Strata `[n_task]` -> `[n_task, resamples]`: seeds drawn with replacement within each task."""
    return [task[rng.integers(len(task), size=(len(task), resamples))] for task in strata]


def across(
    strata: Strata,
    rng: np.random.Generator,
    statistic: Callable[[Strata], np.ndarray] = iqm_of,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A statistic over tasks, with its stratified percentile bootstrap interval (Agarwal et al. 2021, section 4.1).

    It speaks of new seeds on these same tasks. Its variance is (n-1)/n of the unbiased one for n seeds a task, however
    many tasks there are: `stratified_coverage` says what is left of 95%. With a single seed a task it has no width.

    Raises: ValueError for no tasks, or one without seeds.
    """
    return estimates(strata, rng, (statistic,), level, resamples)[0]


def estimates(
    strata: Strata, rng: np.random.Generator, statistics: Sequence[Callable[[Strata], np.ndarray]],
    level: float = LEVEL, resamples: int = RESAMPLES,
) -> list[Estimate]:  # fmt: skip
    """`across` of several statistics, on the same draws."""
    if not strata or not all(map(len, strata)):
        raise ValueError("a statistic over no tasks, or over a task without seeds")
    draws, tails = resample(strata, rng, resamples), [(1 - level) / 2, (1 + level) / 2]
    return [Estimate(one(strata), *np.quantile(one(draws), tails, axis=-1)) for one in statistics]


def stratified_coverage(seeds: int) -> int:
    """Coverage in percent of a nominal 95% interval of `across` for a mean over many tasks of so many seeds each."""
    return round(100 * (1 - 2 * scipy.stats.norm.sf(scipy.stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(1 - 1 / seeds))))


def improvement_of(a: Strata, b: Strata) -> np.ndarray:
    """P(a run of `a` beats one of `b`) on a task drawn at random, ties half, `[...]`: the mean over tasks of
    Mann-Whitney's U / (n m) (Agarwal et al. 2021, section 4.3)."""
    pairs = zip(map(settled, a), map(settled, b), strict=True)
    wins = [np.sign(x[:, None] - y[None, :]).mean(axis=(0, 1)) for x, y in pairs]
    return 0.5 + 0.5 * np.mean(wins, axis=0)


def improvement(a: Strata, b: Strata, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """`improvement_of` with its stratified bootstrap interval; the tasks of `a` and `b` in the same order.

    Where one method always wins, the interval has no width: the bootstrap cannot draw what was not seen.
    """
    draws = improvement_of(resample(a, rng, resamples), resample(b, rng, resamples))
    return Estimate(improvement_of(a, b), *np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1))


def _pooled(strata: Strata) -> tuple[np.ndarray, np.ndarray]:
    """(all runs `[n, ...]`, their weights `[n]`, which sum to 1, a task's together to 1 / tasks)."""
    weight = np.concatenate([np.full(len(task), 1 / len(task) / len(strata)) for task in strata])
    return np.concatenate(strata).astype(float), weight


def summarise(
    scores: np.ndarray, seeds: np.ndarray, rng: np.random.Generator, interval: str = "t", spread: float = 0.0
) -> Summary:
    """Summary of episodes: `scores [e]` of the seeds `seeds [e]`; `interval`: a key of INTERVALS; `spread`: what the
    variance of a seed is at least.

    Every seed counts alike, whatever its number of episodes. The interval is over seeds: a seed is what would be
    independent in a repetition, and the spread of seed means contains the episodes' noise already, so episodes are not
    resampled within seeds. They bound that spread from below, as few seeds may agree by chance. With one seed the
    interval is over its episodes instead, and speaks of that one policy. The interval of scores that are successes ends
    at 0 and 100.

    Raises: ValueError for no episodes.
    """
    scores = np.asarray(scores, float)
    names, index, counts = np.unique(seeds, return_inverse=True, return_counts=True)
    table = np.full((len(names), counts.max()), np.nan)
    table[index, _number_within(index)] = scores
    means = settled(np.nansum(table, axis=1) / counts)
    units, floor = (means, max(float(episode_variance(table)), spread)) if len(names) > 1 else (scores, 0.0)
    if len(names) == 1 and len(scores) > 1:  # successes of one policy
        floor = float(episode_variance(scores[None])) * len(scores)
    low, high = (float(end) for end in INTERVALS[interval](units, rng, floor))
    if np.isin(settled(scores), (0.0, PASS)).all():
        low, high = max(low, 0.0), min(high, PASS)  # a NaN stays one
    over = "seeds" if len(names) > 1 else "episodes"
    return Summary(float(means.mean()), float(std(means)), low, high, over, len(names), float(counts.mean()))


def _number_within(groups: np.ndarray) -> np.ndarray:
    """`[e]` -> `[e]`: how many earlier entries are of the same group."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], groups[order])
    numbers = np.empty(len(groups), int)
    numbers[order] = np.arange(len(groups)) - starts
    return numbers


def generator(*names: object) -> np.random.Generator:
    """A generator named by what it is for, such as a task.

    Every cell starts a fresh one, so adding a method changes no other cell, and equal scores have equal intervals.
    """
    return np.random.default_rng(zlib.crc32("/".join(map(str, names)).encode()))
