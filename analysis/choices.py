"""Scores of knob settings as arrays, and what each way of choosing among them makes of these.

What the ways are called, and whom each speaks of, `select.py` says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.statistics.estimates import Summary, summarise
from analysis.statistics.noise import settled
from analysis.statistics.significance import Sample, of_episodes, sample

FIXED, NEW_SEEDS, HELD_OUT, ORACLE = "fixed", "new-seeds", "held-out", "oracle"
OFFLINE = "offline"  # and by which quantity: "offline:lcb"
SPLITS = 100  # random halves behind an estimate of the oracle's bias


class Arms(NamedTuple):
    """The scores of one run by setting, seed and episode; a mean where several evaluations count."""

    scores: np.ndarray
    """`[k, s, e]`, NaN where there is none."""
    settings: list[str]
    seeds: np.ndarray
    """`[s]`."""
    episodes: np.ndarray
    """`[e]`, the numbers of the start states."""


class Choice(NamedTuple):
    """What a rule made of a run's arms."""

    scores: np.ndarray
    """`[s, e]`, NaN where there is none: what counts for the method."""
    seeds: np.ndarray
    episodes: np.ndarray
    picks: tuple[str, ...]
    """The settings behind it: one, or (for odd, for even episodes) where held-out halves disagree, or each that some
    seeds picked for another, the most frequent first."""
    rule: str
    bias: float = 0.0
    """Estimated, to be subtracted; of the oracle only."""
    told: str = ""
    """ "n = 4 of 5 (seed 3 failed: ...)" where not all seeds of the run are in it."""
    meant: int = 0
    """Seeds of the run, in it or not."""
    status: str = "finished"
    """Of the seeds that are in it."""
    spread: float = 0.0
    """What the variance of a seed is at least, because the choice itself is uncertain."""
    at: np.ndarray = np.zeros((1, 1), int)
    """The arm that each score is of, in a shape that `[s, e]` broadcasts with."""

    def means(self) -> pd.Series:
        """Mean score of each seed, by its number."""
        return pd.Series(settled(average(self.scores, 1)), index=self.seeds)

    def sample(self) -> Sample:
        """What its seeds say, with what their episodes say of them (`significance.of_episodes`)."""
        known = of_episodes(self.scores[~np.isnan(self.scores).all(axis=1)])
        return known._replace(floor=max(float(known.floor), self.spread))

    @property
    def of_new_seeds(self) -> bool:
        """Whether its seeds had no say in their own settings, so that they speak of newly trained ones."""
        return self.rule in (FIXED, NEW_SEEDS) or self.rule.startswith(OFFLINE)

    def summary(self, rng: np.random.Generator, interval: str = "t") -> Summary:
        """Mean, std and interval of it; `interval`: a key of INTERVALS."""
        there = ~np.isnan(self.scores)
        seeds = np.broadcast_to(self.seeds[:, None], there.shape)
        return summarise(self.scores[there], seeds[there], rng, interval, self.spread)


def united(choices: Sequence[Choice]) -> tuple[Sample, list[int]]:
    """(what the seeds that all tasks have say, each by its mean over tasks; the other seeds). n is 0 without any.

    Tasks of an environment share seed and dataset, so a seed is one unit, as it is in print; the tasks' own stds
    would count what they share as independent. What their episodes say is independent.
    """
    none = Sample(math.nan, math.nan, 0)
    if not choices:
        return none, []
    table = pd.concat([choice.means() for choice in choices], axis=1)
    whole = table.notna().all(axis=1)
    dropped = sorted(map(int, table.index[~whole]))
    if not whole.any():
        return none, dropped
    floor = sum(float(choice.sample().floor) for choice in choices) / len(choices) ** 2
    return sample(table[whole].mean(axis=1).to_numpy(float), floor), dropped


def shared_starts(a: Choice, b: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Scores `[n, e]` and `[m, e]` over the start states that every seed of both has, for `significance.paired`."""
    whole = [pd.DataFrame(of.scores, columns=of.episodes).dropna(axis="columns") for of in (a, b)]
    both = whole[0].columns.intersection(whole[1].columns)
    return whole[0][both].to_numpy(), whole[1][both].to_numpy()


def settings(rows: pd.DataFrame, knobs: tuple[str, ...]) -> list[str]:
    """The knob settings present, in the order of the knobs' values; [""] for a method without knobs."""
    if not knobs:
        return [""]
    names = rows["setting"].cat.categories
    codes, firsts = np.unique(rows["setting"].cat.codes.to_numpy(), return_index=True)
    order = np.lexsort([rows[knob].to_numpy()[firsts] for knob in reversed(knobs)])
    return [str(names[codes[i]]) for i in order]


def arms(rows: pd.DataFrame, order: list[str]) -> Arms:
    """The rows as an array, settings in the order given; seeds without any row of them are left out."""
    setting, weights = numbers(rows["setting"], order), rows["score"].to_numpy(float)
    kept = setting >= 0
    seed, seeds = pd.factorize(rows["seed"].to_numpy()[kept], sort=True)
    episode, episodes = pd.factorize(rows["episode"].to_numpy()[kept], sort=True)
    setting, weights = setting[kept], weights[kept]
    shape = (len(order), len(seeds), len(episodes))
    at, size = np.ravel_multi_index((setting, seed, episode), shape), math.prod(shape)
    counts = np.bincount(at, minlength=size)
    with np.errstate(invalid="ignore"):
        scores = np.bincount(at, weights=weights, minlength=size) / counts
    return Arms(scores.reshape(shape), list(order), seeds, episodes)


def numbers(column: pd.Series, order: Sequence[str]) -> np.ndarray:
    """Of each entry of a column its place in `order` `[n]`; -1 of what is not there."""
    known, place = column.astype("category").cat, {name: i for i, name in enumerate(order)}
    return np.array([place.get(name, -1) for name in known.categories.tolist()] + [-1])[known.codes.to_numpy()]


def average(scores: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is there (not NaN) along an axis; NaN where nothing is."""
    there = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.where(there, scores, 0.0).sum(axis=axis) / there.sum(axis=axis)


def best(scores: np.ndarray) -> int:
    """The arm of `[k, s, e]` with the largest mean over seeds of seed means; the first of equals."""
    means = average(average(scores, 2), 1)
    return int(np.nanargmax(settled(means)))


def held_out(of: Arms) -> Choice | None:
    """Cross-fitted choice: the odd episodes of what wins on the even ones, and the even of what wins on the odd.

    Episode numbers are start states, so the halves share no evaluation noise and the score is an unbiased one of
    "choose on held-out episodes, then deploy" for *these trained seeds*; both halves use all seeds, so it does not
    speak of how the choice carries over to newly trained ones. Each episode counts once.

    Returns: None if a setting misses either half.
    """
    odd = of.episodes % 2 == 1
    parts = (of.scores[:, :, ~odd], of.scores[:, :, odd])
    if any(np.isnan(part).all(axis=(1, 2)).any() for part in parts):  # an empty half is all NaN too
        return None
    for_odd, for_even = map(best, parts)
    scores = np.where(odd, of.scores[for_odd], of.scores[for_even])
    picks = tuple(dict.fromkeys((of.settings[for_odd], of.settings[for_even])))
    at = np.where(odd, for_odd, for_even)[None]
    return Choice(scores, of.seeds, of.episodes, picks, HELD_OUT, at=at)


def new_seeds(of: Arms) -> Choice | None:
    """Leave-one-seed-out choice: each seed has the setting that is best on all other seeds.

    So no seed has a say in its own setting, and their mean is an unbiased score of "choose on n - 1 seeds, then train
    anew and deploy", on these start states. Each seed counts once. Where settings are alike the choice hangs on single
    seeds, and the seeds' scores with it: their own spread then says too little of what other seeds would have given. So
    a seed's variance is no less than n times the jackknife's of the whole procedure, each seed left out of it in turn
    (Efron & Tibshirani 1993, chapter 11), from three seeds on; `tests/analysis/calibrate.py` says what that covers.

    Returns: None for one seed, or if a setting is of a single seed.
    """
    means, n = average(of.scores, 2), len(of.seeds)  # [k, s]
    if n < 2 or (~np.isnan(means)).sum(axis=1).min() < 2:
        return None
    chosen = _by_others(means)
    scores = of.scores[chosen, np.arange(n)]
    picks = tuple(of.settings[k] for k, _ in Counter(chosen.tolist()).most_common())
    spread = 0.0
    if n > 2:
        without = [np.delete(means, s, axis=1) for s in range(n)]
        again = np.array([np.nanmean(one[_by_others(one), np.arange(n - 1)]) for one in without])
        spread = float((n - 1) * np.square(again - again.mean()).sum())
    return Choice(scores, of.seeds, of.episodes, picks, NEW_SEEDS, spread=spread, at=chosen[:, None])


def _by_others(means: np.ndarray) -> np.ndarray:
    """For each seed of `[k, s]` the setting that is best on all others, the first of equals `[s]`."""
    there, others = ~np.isnan(means), 1.0 - np.eye(means.shape[1])
    with np.errstate(invalid="ignore"):
        of_others = settled(np.where(there, means, 0.0) @ others / (there @ others))
    return np.where(np.isnan(of_others), -np.inf, of_others).argmax(axis=0)


def crossed(of: Arms, rule: str) -> Choice | None:
    """The choice by other seeds, or where these are too few (or `rule` says so) by other episodes; None if neither can
    be made."""
    return (new_seeds(of) if rule != HELD_OUT else None) or held_out(of)


def by_estimates(of: Arms, preferences: np.ndarray, seeds: np.ndarray, rule: str) -> Choice | None:
    """Each seed at the setting that it prefers by what is known without its scores, `preferences [k, s]` of `seeds
    [s]`; the first of equals. Seeds without preferences, or without scores, are left out; None if all are.

    No score has a say, so the seeds' mean is an unbiased one of "train, choose offline, deploy" on these start states.
    """
    common = np.array([seed for seed in of.seeds if seed in seeds], int)
    if not len(common):
        return None
    mine = preferences[:, [int(np.flatnonzero(seeds == seed)[0]) for seed in common]]
    places = np.searchsorted(of.seeds, common)
    chosen = settled(mine).argmax(axis=0)
    scores = of.scores[chosen, places]
    picks = tuple(of.settings[k] for k, _ in Counter(chosen.tolist()).most_common())
    return Choice(scores, common, of.episodes, picks, rule, at=chosen[:, None])


def oracle(of: Arms, rng: np.random.Generator) -> Choice:
    """The best arm in hindsight, with the estimated bias of its score."""
    winner = best(of.scores)
    at, bias = np.full((1, 1), winner), oracle_bias(of, rng)
    return Choice(of.scores[winner], of.seeds, of.episodes, (of.settings[winner],), ORACLE, bias, at=at)


def oracle_bias(of: Arms, rng: np.random.Generator, splits: int = SPLITS) -> float:
    """By how much the best arm's own score exceeds the cross-fitted one, a mean over random halves of the start states.

    The cross-fitted score is unbiased for a choice made on half as many episodes, so this also holds what choosing on
    all of them gains: it errs to the high side. NaN with fewer than two episodes.
    """
    if len(of.episodes) < 2:
        return float("nan")
    there, half = ~np.isnan(of.scores), halves(len(of.episodes), rng, splits).astype(float)
    values = np.where(there, of.scores, 0.0)
    with np.errstate(invalid="ignore"):
        parts = [average(values @ m.T / (there.astype(float) @ m.T), 1) for m in (half, 1 - half)]  # [k, splits]
    own = average(average(of.scores, 2), 1)[best(of.scores)]
    found = []
    for chosen_on, scored_on in (parts, parts[::-1]):
        pick = np.where(np.isnan(chosen_on), -np.inf, chosen_on).argmax(axis=0)
        found.append(np.take_along_axis(scored_on, pick[None], 0)[0])
    return float(own - average(np.concatenate(found), 0))


def halves(episodes: int, rng: np.random.Generator, splits: int) -> np.ndarray:
    """`[splits, episodes]` (bool): random halves of the start states."""
    return rng.permuted(np.tile(np.arange(episodes) % 2 == 0, (splits, 1)), axis=1)
