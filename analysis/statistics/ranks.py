"""Ranks of methods over tasks (Demšar 2006) and their places on a leaderboard: pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from analysis.statistics.estimates import LEVEL, RESAMPLES, Estimate, Strata, resample
from analysis.statistics.significance import ALPHA

DIGITS = 9  # to which scores are equal, whatever order their sums were taken in
TAILS = (1 - LEVEL) / 2, (1 + LEVEL) / 2


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """`[methods, tasks, ...]` -> `[methods, ...]`: the mean over tasks of each method's rank, 1 the highest score;
    equal scores share the mean of their ranks."""
    return np.asarray(scipy.stats.rankdata(-np.round(scores, DIGITS), axis=0)).mean(axis=1)


def ranked(methods: Sequence[Strata], rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """Average ranks of methods, each with the seeds of the same tasks in the same order, and their 95% bootstrap
    intervals over seeds: `[methods]` each. They speak of new seeds on these tasks."""
    value = average_ranks(np.array([[task.mean() for task in strata] for strata in methods]))
    drawn = [np.stack([task.mean(axis=0) for task in resample(strata, rng, resamples)]) for strata in methods]
    return Estimate(value, *np.quantile(average_ranks(np.stack(drawn)), TAILS, axis=-1))


class Standings(NamedTuple):
    """Where methods stand, `[methods]` each, with 95% intervals that speak of new seeds on new tasks like these."""

    place: Estimate
    """By the mean over tasks: 1 + the methods with a higher one."""
    score: Estimate
    """The mean over tasks."""
    rank: Estimate
    """The average rank over tasks."""


def standings(methods: Sequence[Strata], rng: np.random.Generator, resamples: int = RESAMPLES) -> Standings:
    """Of methods, each with the seeds of the same tasks in the same order, by a bootstrap of two stages: tasks are
    drawn with replacement, the same for all methods, then seeds within each drawn task, for each method by itself.
    With one task there is nothing to draw at the first stage, and the intervals speak of new seeds on it.

    Raises: ValueError for no methods, no tasks or a task without seeds.
    """
    if not methods or not methods[0] or not all(len(task) for strata in methods for task in strata):
        raise ValueError("standings of no methods, of no tasks, or of a task without seeds")
    tasks = len(methods[0])
    drawn = rng.integers(tasks, size=(tasks, resamples))
    value = np.array([[task.mean() for task in strata] for strata in methods])
    draws = np.stack([_drawn(strata, drawn, rng) for strata in methods])
    ends = np.quantile(places(draws), TAILS, axis=-1, method="inverted_cdf")  # places that were drawn, no halves
    return Standings(
        Estimate(places(value), *ends),
        Estimate(value.mean(axis=1), *np.quantile(draws.mean(axis=1), TAILS, axis=-1)),
        Estimate(average_ranks(value), *np.quantile(average_ranks(draws), TAILS, axis=-1)),
    )


def places(scores: np.ndarray) -> np.ndarray:
    """`[methods, tasks, ...]` -> `[methods, ...]`: 1 + how many have a higher mean over tasks; equals share theirs."""
    return np.asarray(scipy.stats.rankdata(-np.round(scores.mean(axis=1), DIGITS), method="min", axis=0))


def _drawn(strata: Strata, tasks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of seeds drawn anew for every drawn task: `tasks [slots, resamples]` -> the same shape."""
    counts = np.array([len(task) for task in strata])
    table = np.zeros((len(strata), counts.max()))
    for row, task in zip(table, strata, strict=True):
        row[: len(task)] = task
    of = counts[tasks]
    total = np.zeros(tasks.shape)
    for i in range(counts.max()):  # one seed of each at a time: little memory
        total += np.where(i < of, table[tasks, rng.integers(of)], 0.0)
    return total / of


def critical_difference(methods: int, tasks: int, alpha: float = ALPHA) -> float:
    """By how much average ranks of two of so many methods must differ on so many independent tasks (Nemenyi's test,
    Demšar 2006, equation 3.2): q sqrt(k (k + 1) / (6 N)) with the studentised range's q / sqrt(2)."""
    q = float(scipy.stats.studentized_range.isf(alpha, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))
