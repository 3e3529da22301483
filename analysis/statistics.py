"""Point estimates and intervals over seeds: pure functions on arrays, with an explicit generator for every draw."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

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

    Agarwal et al. 2021 (arXiv 2108.13264), section 4.3; as scipy.stats.trim_mean(values, 0.25).
    """
    cut = len(values) // 4
    return np.mean(np.sort(values, axis=0)[cut : len(values) - cut], axis=0)


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


def coverage(units: int) -> int:
    """True coverage in percent of a nominal 95% interval over so many (>= 2) normal units, rounded down in n."""
    return COVERAGE[max(n for n in COVERAGE if n <= units)]


def summarise(scores: np.ndarray, seeds: np.ndarray, rng: np.random.Generator) -> Summary:
    """Summary of episodes: `scores [e]` of the seeds `seeds [e]`.

    Every seed counts alike, whatever its number of episodes. The interval resamples seeds, the field's convention: a
    seed is what would be independent in a repetition, and the spread of seed means contains the episodes' noise
    already, so episodes are not resampled within seeds. With one seed that is impossible; then it resamples episodes,
    says so in `over`, and speaks of that one trained policy only.

    Raises: ValueError for no episodes.
    """
    scores = np.asarray(scores, float)
    names, index, counts = np.unique(seeds, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=scores, minlength=len(names)) / counts
    units = means if len(names) > 1 else scores
    low, high = bootstrap(units, rng)
    over = "seeds" if len(names) > 1 else "episodes"
    return Summary(
        float(means.mean()), float(std(means)), float(low), float(high), over, len(names), float(counts.mean())
    )


def generator(*names: object) -> np.random.Generator:
    """A generator named by what it is for, such as a task.

    Every cell starts a fresh one, so adding a method changes no other cell, and equal scores have equal intervals.
    """
    return np.random.default_rng(zlib.crc32("/".join(map(str, names)).encode()))
