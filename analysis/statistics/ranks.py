"""Ranks of methods over tasks (Demšar 2006) and their places on a leaderboard: pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from analysis.statistics.estimates import LEVEL, RESAMPLES, Estimate, Strata, resample
from analysis.statistics.significance import ALPHA, Sample, holm, sample, welch

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
    """Where methods stand by their means over tasks, `[methods]` each."""

    place: np.ndarray
    """1 + the methods with a higher mean."""
    low: np.ndarray
    """1 + the methods that are shown to be better."""
    high: np.ndarray
    """All methods, less those that are shown to be worse."""
    score: Estimate
    """The mean over tasks, and its 95% bootstrap interval, NaN with one task."""
    rank: np.ndarray
    """The average rank over tasks."""


def standings(
    methods: Sequence[Strata], floors: np.ndarray, rng: np.random.Generator, seeds: Sequence[np.random.Generator],
    resamples: int = RESAMPLES,
) -> Standings:  # fmt: skip
    """Of methods, each with the seeds of the same tasks in the same order.

    The true places of all methods lie within [low, high] at once in 95 of 100 repetitions: from intervals of all
    differences that hold together (Mogstad, Romano, Shaikh & Wilhelm 2024); a bootstrap of the places themselves does
    not hold them where many are close. With one task the differences are Welch's, Holm-corrected over all pairs, and
    speak of new seeds. With more they speak of new seeds on new tasks like these: tasks are drawn with replacement, the
    same for all methods, then seeds within each, and the largest studentised deviation among all pairs is compared with
    Student's t of tasks - 1 degrees of freedom.

    Args:
      floors: `[methods, tasks]`, what the variance of a seed is at least; rng: draws tasks; seeds: of each method.

    Raises: ValueError for no methods, no tasks or a task without seeds.
    """
    if not methods or not methods[0] or not all(len(task) for strata in methods for task in strata):
        raise ValueError("standings of no methods, of no tasks, or of a task without seeds")
    value = np.array([[task.mean() for task in strata] for strata in methods])
    mean, tasks = value.mean(axis=1), len(methods[0])
    if tasks == 1:
        ends = np.full((2, len(methods)), np.nan)
        better = _better_there([sample(strata[0], floor[0]) for strata, floor in zip(methods, floors, strict=True)])
    else:
        drawn = rng.integers(tasks, size=(tasks, resamples))
        counts = np.array([[len(task) for task in strata] for strata in methods])
        least = (floors / counts).sum(axis=1) / tasks**2  # of the variance of a mean
        each = zip(methods, least, seeds, strict=True)
        draws = np.stack([_of_means(strata, drawn, floor, own) for strata, floor, own in each])
        ends = np.quantile(draws, TAILS, axis=-1)
        better = _better(mean, draws, tasks)
    return Standings(
        places(value), 1 + better.sum(axis=0), len(methods) - better.sum(axis=1), Estimate(mean, *ends),
        average_ranks(value),
    )  # fmt: skip


def places(scores: np.ndarray) -> np.ndarray:
    """`[methods, tasks, ...]` -> `[methods, ...]`: 1 + how many have a higher mean over tasks; equals share theirs."""
    return np.asarray(scipy.stats.rankdata(-np.round(scores.mean(axis=1), DIGITS), method="min", axis=0))


def _better_there(known: Sequence[Sample]) -> np.ndarray:
    """`[methods, methods]`: whether the first is shown to be better than the second, on one task."""
    i, j = np.triu_indices(len(known), 1)
    found = [welch(known[a], known[b]) for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    shown = holm(np.array([float(one.p) for one in found])) < ALPHA
    return _marked(len(known), i, j, shown, np.array([float(one.difference) for one in found]))


def _better(mean: np.ndarray, draws: np.ndarray, tasks: int) -> np.ndarray:
    """The same over tasks: `mean [methods]`, and `draws [methods, resamples]` of it."""
    i, j = np.triu_indices(len(mean), 1)
    difference, shifted = mean[i] - mean[j], draws[i] - draws[j] - (mean[i] - mean[j])[:, None]
    error = shifted.std(axis=1)
    varies = error > 10.0**-DIGITS  # of what does not, nothing is known
    if not varies.any():
        return np.zeros((len(mean), len(mean)), bool)
    largest = float(np.quantile((np.abs(shifted[varies]) / error[varies, None]).max(axis=0), LEVEL))
    # as far out in Student's tails as that is in a normal's; a bootstrap's variance is (n - 1) / n of the unbiased one
    critical = float(scipy.stats.t.isf(scipy.stats.norm.sf(largest), tasks - 1)) * math.sqrt(tasks / (tasks - 1))
    return _marked(len(mean), i, j, varies & (np.abs(difference) > critical * error), difference)


def _marked(methods: int, i: np.ndarray, j: np.ndarray, shown: np.ndarray, difference: np.ndarray) -> np.ndarray:
    better = np.zeros((methods, methods), bool)
    better[i, j], better[j, i] = shown & (difference > 0), shown & (difference < 0)
    return better


def _of_means(strata: Strata, tasks: np.ndarray, floor: float, rng: np.random.Generator) -> np.ndarray:
    """Draws `[resamples]` of a mean over tasks, with noise where they vary less than by `floor`."""
    draws = _drawn(strata, tasks, rng).mean(axis=0)
    lack = max(floor - float(draws.var()), 0.0)
    return draws + math.sqrt(lack) * rng.standard_normal(len(draws)) if lack else draws


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
