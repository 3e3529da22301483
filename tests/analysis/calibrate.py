"""How often tests err and intervals cover, by simulation: `make calibrate` prints the tables of docs/analysis.md.

Scores are successes of 50 episodes. Seeds of a method differ: their success rates are a beta variable whose mean p is
the task's and whose variance is `rho` p (1 - p), so that rho = 0 is a binomial, and at rho = 0.1 and p = 0.5 their std
is 16 points. Both methods are equal in truth wherever errors are counted.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from analysis.choices import NEW_SEEDS, Arms, Choice, held_out, new_seeds, oracle
from analysis.statistics.estimates import INTERVALS, improvement, summarise
from analysis.statistics.improvement import improvement_over
from analysis.statistics.significance import ALPHA, holm, mann_whitney, of_episodes, paired, sample, welch

EPISODES, TASKS = 50, 45
RHO = (0.0, 0.02, 0.1)
SEEDS = (2, 3, 5, 10)
RATES = (0.0, 0.02, 0.1, 0.5, 0.98, 1.0)
HARD_AND_EASY = (0.0, 0.005, 0.02, 0.1, 0.3, 0.5, 0.8, 0.95, 0.99, 1.0)
"""Success rates of the tasks of a family."""

Rows = Iterator[dict[str, object]]


def successes(rng: np.random.Generator, rate: float, rho: float, seeds: int, *more: int) -> np.ndarray:
    """Scores `[seeds, EPISODES, *more]`, 0 or 100."""
    own = np.full((seeds, *more), rate)
    if rho > 0 and 0 < rate < 1:
        own = rng.beta(rate * (1 / rho - 1), (1 - rate) * (1 / rho - 1), size=own.shape)
    return 100.0 * (rng.random((seeds, EPISODES, *more)) < own[:, None])


def by_spread_alone(a: np.ndarray, b: np.ndarray) -> float:
    """Welch's p as it is where no episode is asked: zero spread and unlike means give 0."""
    one = welch(*(sample(side.mean(axis=1)) for side in (a, b)))
    return float(one.difference == 0) if one.error == 0 else float(one.p)


TESTS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "Welch": lambda a, b: float(welch(of_episodes(a), of_episodes(b)).p),
    "paired": lambda a, b: float(paired(a, b).p),
    "Mann-Whitney": lambda a, b: mann_whitney(a.mean(axis=1), b.mean(axis=1)),
    "by spread alone": by_spread_alone,
}


def families(trials: int, seeds: Sequence[int] = SEEDS, rhos: Sequence[float] = RHO) -> Rows:
    """Percent of families of TASKS null tasks in which Holm at 5% calls any difference, by test."""
    for rho in rhos:
        for n in seeds:
            rng = np.random.default_rng([n, round(1000 * rho)])
            wrong = dict.fromkeys(TESTS, 0)
            for _ in range(trials):
                rates = rng.choice(HARD_AND_EASY, size=TASKS)
                pairs = [[successes(rng, rate, rho, n) for _ in range(2)] for rate in rates]
                for name, test in TESTS.items():
                    wrong[name] += bool((holm(np.array([test(a, b) for a, b in pairs])) < ALPHA).any())
            yield {"rho": rho, "seeds": n, **{name: 100 * count / trials for name, count in wrong.items()}}


def coverage(trials: int, seeds: Sequence[int] = SEEDS, rhos: Sequence[float] = RHO) -> Rows:
    """Percent of nominal 95% intervals of a task's mean that hold it, by success rate, "t / BCa / percentile".

    An interval that does not exist (BCa of equal seeds) holds nothing.
    """
    for rho in rhos:
        for n in seeds:
            rng = np.random.default_rng([n, round(1000 * rho), 1])
            row: dict[str, object] = {"rho": rho, "seeds": n}
            for rate in RATES:
                held = dict.fromkeys(INTERVALS, 0)
                for _ in range(trials):
                    scores = successes(rng, rate, rho, n)
                    for name in held:
                        one = summarise(scores.ravel(), np.repeat(np.arange(n), EPISODES), rng, name)
                        held[name] += one.low - 1e-9 <= 100 * rate <= one.high + 1e-9
                row[f"{100 * rate:g}%"] = " / ".join(f"{100 * count / trials:.0f}" for count in held.values())
            yield row


def differences(trials: int, seeds: Sequence[int] = SEEDS, rhos: Sequence[float] = RHO) -> Rows:
    """Percent of Welch's 95% intervals of a difference of two methods, 10 points apart in truth, that hold it; and of
    those of P(better) that hold the truth, by Newcombe and by the bootstrap."""
    for rho in rhos:
        for n in seeds:
            rng = np.random.default_rng([n, round(1000 * rho), 2])
            row: dict[str, object] = {"rho": rho, "seeds": n}
            for low, high in ((0.0, 0.1), (0.4, 0.5), (0.9, 1.0)):
                many = [successes(rng, rate, rho, 400).mean(axis=1) for rate in (high, low)]
                truth = float(improvement_over([many[0]], [many[1]]).value)
                held = [0, 0, 0]
                for _ in range(trials):
                    a, b = successes(rng, high, rho, n), successes(rng, low, rho, n)
                    x, y = a.mean(axis=1), b.mean(axis=1)
                    one = welch(of_episodes(a), of_episodes(b))
                    likely = improvement_over([x], [y]), improvement([x], [y], rng, 300)
                    ends = ((one.low, one.high, 10.0), *((each.low, each.high, truth) for each in likely))
                    held = [
                        count + bool(a - 1e-9 <= at <= b + 1e-9) for count, (a, b, at) in zip(held, ends, strict=True)
                    ]
                percent = [f"{100 * count / trials:.0f}" for count in held]
                row[f"{100 * low:g}% and {100 * high:g}%"] = f"{percent[0]}; {percent[1]} / {percent[2]}"
            yield row


def choices(trials: int, seeds: Sequence[int] = SEEDS, arms: int = 4) -> Rows:
    """What a rule's score has above that of the same choice on fresh seeds, of equal arms, in points; and how often the
    t interval of `new-seeds` holds that.

    An arm suits a seed by a normal variable of std 5 points about a rate of one half.
    """
    for n in seeds:
        rng = np.random.default_rng([n, 3])
        gained = {"new-seeds": 0.0, "held-out": 0.0, "oracle": 0.0}
        covered = 0
        for _ in range(trials):
            rates = np.clip(0.5 + 0.05 * rng.normal(size=(arms, n, 1)), 0, 1)
            of = Arms(100.0 * (rng.random((arms, n, EPISODES)) < rates), [f"a{k}" for k in range(arms)],
                      np.arange(n), np.arange(EPISODES))  # fmt: skip
            made: dict[str, Choice | None] = {
                "new-seeds": new_seeds(of), "held-out": held_out(of), "oracle": oracle(of, rng),
            }  # fmt: skip
            for name, choice in made.items():
                assert choice is not None
                gained[name] += float(choice.means().mean()) - 50
                if choice.rule == NEW_SEEDS:
                    one = choice.summary(rng)
                    covered += one.low <= 50 <= one.high
        rows = {name: f"{total / trials:+.1f}" for name, total in gained.items()}
        yield {"seeds": n, **rows, "its 95% interval holds": 100 * covered / trials}


def markdown(rows: Rows) -> str:
    """The rows as a table."""
    found = list(rows)
    lines = ["| " + " | ".join(found[0]) + " |", "|" + "--:|" * len(found[0])]
    for row in found:
        lines.append(
            "| " + " | ".join(f"{one:.3g}" if isinstance(one, float) else str(one) for one in row.values()) + " |"
        )
    return "\n".join(lines)


TABLES: dict[str, tuple[Callable[[int], Rows], int]] = {
    "Families of 45 null tasks with any false difference (Holm at 5%), percent": (families, 400),
    "95% intervals of a mean that hold it, percent: t / BCa / percentile bootstrap, by success rate": (coverage, 1000),
    "95% intervals that hold the truth, percent: Welch's difference; P(better) by Newcombe / bootstrap": (
        differences,
        500,
    ),
    "Choosing among four equal settings: points above the same choice on fresh seeds": (choices, 2000),
}
"""Title -> (table, trials of the full size)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the trials, e.g. 0.1")
    share = parser.parse_args().share
    for title, (table, trials) in TABLES.items():
        count = max(math.ceil(share * trials), 1)
        print(f"**{title}** ({count} simulations each)\n\n{markdown(table(count))}\n", flush=True)


if __name__ == "__main__":
    main()
