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

Policy = Callable[[np.ndarray, int], tuple[int, int]]
"""(totals `[k, n + 1]` of each arm's first 0, 1, ..., n scores, budget) -> (the chosen arm, episodes charged)."""


def totals(tried: np.ndarray) -> np.ndarray:
    """What policies see of scores `[k, n]`, each arm's in the order of trial."""
    return settled(np.cumsum(np.pad(tried, ((0, 0), (1, 0))), axis=1))


def uniform(seen: np.ndarray, budget: int) -> tuple[int, int]:
    """Tries every arm equally often and takes the best mean."""
    each = min(budget // len(seen), seen.shape[1] - 1)
    return int(seen[:, each].argmax()), each * len(seen)


def halving(seen: np.ndarray, budget: int) -> tuple[int, int]:
    """Sequential halving (Karnin et al. 2013): in each of log2(k) rounds, the better half of the arms goes on."""
    left, used, charged = np.arange(len(seen)), 0, 0
    rounds = max(1, math.ceil(math.log2(len(seen))))
    for _ in range(rounds):
        each = min(budget // (rounds * len(left)), seen.shape[1] - 1 - used)
        used, charged = used + each, charged + each * len(left)
        order = np.argsort(-seen[left, max(used, 1)], kind="stable")
        left = left[np.sort(order[: max(1, math.ceil(len(left) / 2))])]
    return int(left[0]), charged


POLICIES: dict[str, Policy] = {"uniform": uniform, "halving": halving}


class Draw(NamedTuple):
    """One experimenter's luck: what policies see of the half that they try, and what each arm `[k]` scores on the
    other."""

    seen: np.ndarray
    reached: np.ndarray


def drawn(of: Arms, rng: np.random.Generator, draws: int = DRAWS) -> list[Draw]:
    """Random halves of the start states, (seed, start) pairs of the first in random order, the same for all arms."""
    found = []
    for half in halves(len(of.episodes), rng, draws):
        tried = of.scores[:, :, half].reshape(len(of.scores), -1)
        tried = tried[:, ~np.isnan(tried).any(axis=0)]
        tried = tried[:, rng.permutation(tried.shape[1])]
        found.append(Draw(totals(tried), average(average(of.scores[:, :, ~half], 2), 1)))
    return found


def curve(of: Arms, policy: Policy, draws: Sequence[Draw]) -> pd.DataFrame:
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
    outcomes: list[tuple[int, int, float, bool]] = []
    for seen, reached in draws:
        outcomes += [(-1, 0, float(reached[arm]), arm == top) for arm in range(k)]
        for i, budget in enumerate(budgets):
            if seen.shape[1] > 1:
                arm, charged = policy(seen, int(budget))
                outcomes.append((i, charged, float(reached[arm]), arm == top))
    frame = pd.DataFrame(outcomes, columns=["at", "episodes", "score", "top"]).dropna()
    groups = frame.groupby("at")
    return pd.DataFrame(
        {
            "episodes": groups["episodes"].mean(), "mean": groups["score"].mean(),
            "low": groups["score"].quantile(0.025), "high": groups["score"].quantile(0.975),
            "chance": groups["top"].mean(),
        }
    ).reset_index(drop=True)  # fmt: skip


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
