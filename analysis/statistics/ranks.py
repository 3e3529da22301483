"""Average ranks of methods over tasks (Demšar 2006): pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy

from analysis.statistics.estimates import LEVEL, RESAMPLES, Estimate, Strata, resample
from analysis.statistics.significance import ALPHA

DIGITS = 9  # to which scores are equal, whatever order their sums were taken in


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """`[methods, tasks, ...]` -> `[methods, ...]`: the mean over tasks of each method's rank, 1 the highest score;
    equal scores share the mean of their ranks."""
    return np.asarray(scipy.stats.rankdata(-np.round(scores, DIGITS), axis=0)).mean(axis=1)


def ranked(methods: Sequence[Strata], rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """Average ranks of methods, each with the seeds of the same tasks in the same order, and their 95% bootstrap
    intervals over seeds: `[methods]` each. They speak of new seeds on these tasks."""
    value = average_ranks(np.array([[task.mean() for task in strata] for strata in methods]))
    drawn = [np.stack([task.mean(axis=0) for task in resample(strata, rng, resamples)]) for strata in methods]
    tails = np.quantile(average_ranks(np.stack(drawn)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return Estimate(value, tails[0], tails[1])


def critical_difference(methods: int, tasks: int, alpha: float = ALPHA) -> float:
    """By how much average ranks of two of so many methods must differ on so many independent tasks (Nemenyi's test,
    Demšar 2006, equation 3.2): q sqrt(k (k + 1) / (6 N)) with the studentised range's q / sqrt(2)."""
    q = float(scipy.stats.studentized_range.isf(alpha, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))
