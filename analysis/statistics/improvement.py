"""P(a seed of one method beats one of another), with an interval that holds for few seeds and where one always wins.

The bootstrap cannot draw what was not seen: of 3 seeds that all win it says [1, 1] (`docs/analysis.md` says what both
cover).
"""

from __future__ import annotations

import math

import numpy as np
import scipy

from analysis.statistics.estimates import LEVEL, Estimate, Strata, improvement_of

EDGE = 1e-9  # from 0 and 1, where the variance is zero and so no root is wanted


def newcombe(value: float, n: int, m: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the probability that one of n beats one of m, ties half, of which U / (n m) is `value`.

    Newcombe 2006 (Statistics in Medicine 25, 559), method 5: the theta with (value - theta)^2 = z^2 V(theta), where V
    is Hanley & McNeil's variance for exponential scores with (n + m) / 2 - 1 for either size less one.
    """
    z, more = float(scipy.stats.norm.isf((1 - level) / 2)), (n + m) / 2 - 1

    def apart(theta: float) -> float:
        shape = 1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 - z * z * theta * (1 - theta) * shape / (n * m)

    low = scipy.optimize.brentq(apart, 0.0, min(value, 1 - EDGE)) if value > EDGE else 0.0
    high = scipy.optimize.brentq(apart, max(value, EDGE), 1.0) if value < 1 - EDGE else 1.0
    return float(low), float(high)


def improvement_over(a: Strata, b: Strata, level: float = LEVEL) -> Estimate:
    """`improvement_of` of seeds `[n]` and `[m]` of each task, with an interval over seeds on these tasks.

    Each task's is Newcombe's; of several tasks, the distances to its ends add up in squares, as the tasks' seeds are
    independent (MOVER: Zou & Donner 2008). NaN ends where a task has one seed of either method.
    """
    each = [float(improvement_of([x], [y])) for x, y in zip(a, b, strict=True)]
    value = float(np.mean(each))
    if min(len(side) for side in (*a, *b)) < 2:
        return Estimate(np.asarray(value), np.asarray(math.nan), np.asarray(math.nan))
    ends = [newcombe(one, len(x), len(y), level) for one, x, y in zip(each, a, b, strict=True)]
    below, above = (
        math.hypot(*(one - end[i] for one, end in zip(each, ends, strict=True))) / len(each) for i in (0, 1)
    )
    return Estimate(np.asarray(value), np.asarray(value - below), np.asarray(value + above))
