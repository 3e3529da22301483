"""What a design can show before a number is looked at: smallest p-values, detectable differences, and what follows."""

from __future__ import annotations

import math
from typing import NamedTuple

from analysis.statistics.significance import ALPHA, Sample, detectable, welch


class Design(NamedTuple):
    """Of comparing two methods on one task of `family` that are tested together."""

    seeds: tuple[int, int]
    family: int
    alpha: float
    rank_p: float
    """The smallest two-sided p that Mann-Whitney's test can give."""
    holm_family: int
    """The largest family in which Holm's correction can still reject by that test; 0 if it never can."""
    bh_share: float
    """The share of a family, at most 1, that must have that p before Benjamini-Hochberg rejects any; above 1: never."""
    effect: float
    """The difference that Welch's test finds with power 0.8, in standard deviations over seeds."""
    effect_corrected: float
    """The same at alpha / family, what Holm asks of the smallest p."""


def design(a: int, b: int, family: int = 1, alpha: float = ALPHA, power: float = 0.8) -> Design:
    """Design of `a` seeds against `b`; NaN effects with fewer than two seeds on a side."""
    rank_p = 2 / math.comb(a + b, a)
    unit = welch(Sample(0.0, 1.0 if a > 1 else math.nan, a), Sample(0.0, 1.0 if b > 1 else math.nan, b))
    return Design(
        (a, b), family, alpha, min(rank_p, 1.0), math.floor(alpha / rank_p), rank_p / alpha,
        detectable(unit, alpha, power), detectable(unit, alpha / family, power),
    )  # fmt: skip


def signed_rank_p(units: int) -> float:
    """The smallest two-sided p of Wilcoxon's signed-rank test over so many tasks or environments."""
    return min(1.0, 2.0 ** (1 - units))


def sentences(plan: Design, std: float | None = None) -> list[str]:
    """What can and cannot be concluded, plainly; `std` over seeds in points turns effects into points."""
    (a, b), alpha = plan.seeds, plan.alpha
    name = f"{a} seeds against {b}"
    if min(a, b) < 2:
        return [f"{name}: one seed says nothing about the next; no test over seeds is possible."]
    lines = [f"{name}: the smallest two-sided Mann-Whitney p is {plan.rank_p:.2g}."]
    if plan.rank_p > alpha:
        lines.append(f"That is above {alpha:.2g}: this test can never reject here.")
    elif plan.family > plan.holm_family:
        lines.append(
            f"Holm can reject nothing by that test in a family larger than {plan.holm_family}, and there are "
            f"{plan.family} comparisons; Benjamini-Hochberg can, if at least "
            f"{math.ceil(plan.family * plan.bh_share)} of them have that p."
        )
    else:
        lines.append(f"Holm can reject by that test in families of up to {plan.holm_family}; there are {plan.family}.")
    lines.append(
        f"Welch's test has power 0.8 where the true difference is {_size(plan.effect, std)}, standard deviations being "
        "over seeds"
    )
    if plan.family > 1:
        lines[-1] += f"; {_size(plan.effect_corrected, std)} where Holm asks the most of it, first of {plan.family}"
    lines[-1] += "."
    return lines


def _size(effect: float, std: float | None) -> str:
    """ "2 standard deviations (13 points)"."""
    return f"{effect:.2g} standard deviations" + (f" ({effect * std:.3g} points)" if std is not None else "")
