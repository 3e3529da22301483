"""What it costs to choose a test-time knob: every setting is an arm of a bandit, every episode tried on it is charged.

The choice is made on one half of the start states and scored on the other, so that what it reaches is not what it saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.choices import Arms, arms, average, halves, settings
from analysis.records.load import Records
from analysis.select import Endpoint
from analysis.statistics.estimates import generator
from analysis.statistics.noise import settled

DRAWS = 200
POINTS = 8  # of a curve, beside 0

Policy = Callable[[np.ndarray, int], tuple[np.ndarray, int]]
"""(totals `[d, k, n + 1]` of each arm's first 0, 1, ..., n scores in each of d draws, budget) -> (the arm chosen in
each draw `[d]`, episodes charged)."""


def totals(tried: np.ndarray) -> np.ndarray:
    """What policies see of scores `[d, k, n]`, each arm's in the order of trial."""
    return settled(np.cumsum(np.pad(tried, ((0, 0), (0, 0), (1, 0))), axis=2))


def uniform(seen: np.ndarray, budget: int) -> tuple[np.ndarray, int]:
    """Tries every arm equally often and takes the best mean."""
    _, k, most = seen.shape
    each = min(budget // k, most - 1)
    return seen[:, :, each].argmax(axis=1), each * k


def halving(seen: np.ndarray, budget: int) -> tuple[np.ndarray, int]:
    """Sequential halving (Karnin et al. 2013): in each of log2(k) rounds, the better half of the arms goes on."""
    draws, k, most = seen.shape
    left, used, charged = np.tile(np.arange(k), (draws, 1)), 0, 0
    rounds = max(1, math.ceil(math.log2(k)))
    for _ in range(rounds):
        arms_left = left.shape[1]
        each = min(budget // (rounds * arms_left), most - 1 - used)
        used, charged = used + each, charged + each * arms_left
        order = np.argsort(-np.take_along_axis(seen[:, :, max(used, 1)], left, 1), axis=1, kind="stable")
        left = np.take_along_axis(left, np.sort(order[:, : max(1, math.ceil(arms_left / 2))], axis=1), 1)
    return left[:, 0], charged


POLICIES: dict[str, Policy] = {"uniform": uniform, "halving": halving}


class Draws(NamedTuple):
    """The luck of d experimenters with equally many tries: what policies see of the halves that they try, and what each
    arm scores on the others."""

    seen: np.ndarray
    """`[d, k, n + 1]`."""
    reached: np.ndarray
    """`[d, k]`."""


def drawn(of: Arms, rng: np.random.Generator, draws: int = DRAWS) -> list[Draws]:
    """Random halves of the start states, (seed, start) pairs of the first in random order, the same for all arms."""
    tries: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    whole = not np.isnan(of.scores).any()
    for half in halves(len(of.episodes), rng, draws):
        tried = of.scores[:, :, half].reshape(len(of.scores), -1)
        tried = tried if whole else tried[:, ~np.isnan(tried).any(axis=0)]
        tried = tried[:, rng.permutation(tried.shape[1])]
        tries.setdefault(tried.shape[1], []).append((tried, of.scores[:, :, ~half]))
    return [
        Draws(totals(np.stack(tried)), average(average(np.stack(others), 3), 2))
        for tried, others in (zip(*some, strict=True) for some in tries.values())
    ]


def curve(of: Arms, policy: Policy, draws: Sequence[Draws]) -> pd.DataFrame:
    """What selection reaches for what it is charged: columns episodes (charged), mean, low, high, chance.

    Each draw takes a random half of the start states; the policy tries its arms on (seed, start) pairs of that half in
    random order, the same for all arms, and the pick is scored on the other half, all seeds. `mean` is over draws; low
    to high hold 95% of them (the luck of one experimenter, not an interval of the mean); `chance` is how often the pick
    was the best arm of all episodes. Row 0 charges nothing: an arm at random. Pairs that miss an episode are not tried.
    """
    k = len(of.scores)
    top = int(np.nanargmax(average(average(of.scores, 2), 1)))
    pairs = of.scores.shape[1] * (len(of.episodes) // 2)
    budgets = np.unique(np.geomspace(k * math.ceil(math.log2(k) or 1), max(k * pairs, k), POINTS).astype(int))
    rows = [_outcome([(np.zeros(one.reached.size), one.reached.ravel(), np.tile(np.arange(k), len(one.reached)) == top)
                      for one in draws])]  # fmt: skip
    for budget in budgets:
        outcomes = []
        for seen, reached in draws:
            if seen.shape[2] > 1:
                arm, charged = policy(seen, int(budget))
                score = np.take_along_axis(reached, arm[:, None], 1)[:, 0]
                outcomes.append((np.full(len(arm), charged), score, arm == top))
        rows.append(_outcome(outcomes))
    return pd.DataFrame([row for row in rows if row])


def _outcome(draws: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """A row of `curve`, of each draw's episodes charged, score, and whether its arm was the best; {} of no score."""
    if not draws:
        return {}
    charged, score, top = map(np.concatenate, zip(*draws, strict=True))
    there = ~np.isnan(score)
    if not there.any():
        return {}
    low, high = np.quantile(score[there], [0.025, 0.975])
    return {"episodes": charged[there].mean(), "mean": score[there].mean(), "low": low, "high": high,
            "chance": top[there].mean()}  # fmt: skip


def curves(records: Records, endpoint: Endpoint | None = None) -> pd.DataFrame:
    """A curve for each run and policy: suite, task, method, label, policy, arms (how many) and the columns of `curve`.

    A run without knobs to choose has one row: what it scores for no episode at all.
    """
    frames = []
    for run, rows in records.each():
        kept, _ = (endpoint or Endpoint()).of(run, rows)
        if kept.empty:
            continue
        of = arms(kept, settings(kept, run.knobs))
        name = {"suite": run.suite, "task": run.task, "method": run.method, "label": run.label}
        if len(of.settings) == 1:
            score = float(average(average(of.scores, 2), 1)[0])
            found = {"none": pd.DataFrame([{"episodes": 0, "mean": score, "low": score, "high": score, "chance": 1.0}])}
        elif len(of.episodes) < 2:
            continue
        else:
            draws = drawn(of, generator(run.suite, run.task))
            found = {key: curve(of, policy, draws) for key, policy in POLICIES.items()}
        frames += [frame.assign(**name, policy=key, arms=len(of.settings)) for key, frame in found.items()]
    columns = ["suite", "task", "method", "label", "policy", "arms", "episodes", "mean", "low", "high", "chance"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
