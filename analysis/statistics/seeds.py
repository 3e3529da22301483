"""How many seeds would show a difference as large as the one seen: pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy

from analysis.statistics.significance import ALPHA

MOST = 1000  # seeds; more are infinitely many


def power(difference: float, variances: Sequence[float], seeds: int, alpha: float = ALPHA) -> float:
    """How often a two-sided t-test at `alpha` finds a true difference, whose estimate has the variance sum(variances) /
    seeds; each is estimated from so many seeds. Of Welch's test on one task these are both methods' variances over
    seeds. The other tail's share is left out, as in `significance.detectable`."""
    total = math.fsum(variances)
    df = (seeds - 1) * total**2 / math.fsum(one**2 for one in variances)
    return float(scipy.stats.nct.sf(scipy.stats.t.isf(alpha / 2, df), df, abs(difference) / math.sqrt(total / seeds)))


def seeds_needed(
    difference: float, variances: Sequence[float], alpha: float = ALPHA, wanted: float = 0.8, most: int = MOST
) -> float:
    """The fewest seeds a side with which the test has the power that is wanted; inf beyond `most`, NaN where a number
    is not known. Two where nothing varies: no test has fewer."""
    if math.isnan(difference) or any(map(math.isnan, variances)):
        return math.nan
    if not any(variances):
        return 2.0 if difference else math.inf
    if not difference or power(difference, variances, most, alpha) < wanted:
        return math.inf
    low, high = 1, most  # below: too few; at: enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, variances, middle, alpha) >= wanted else (middle, high)
    return float(high)
