"""What episodes say of a seed's mean, and when two means are the same number.

Few seeds can agree by chance, on every episode failed above all. Their spread is then zero, and a test that takes it
at its word is certain of anything. The episodes know better: a mean of e of them is uncertain by their own variance.
"""

from __future__ import annotations

import numpy as np

PASS = 100.0  # the score of a success
PSEUDO = 2  # successes and failures each that are added to those counted
DIGITS = 9  # of a point: far below one episode's share of any mean, far above what sums in another order differ by


def settled(values: np.ndarray) -> np.ndarray:
    """The values without what the order of a sum leaves in their last bits: equal totals compare as equal.

    Everything that asks which of two scores is larger goes through here: ranks, signs, thresholds, the best setting.
    """
    return np.round(np.asarray(values, float), DIGITS) + 0.0  # no -0.0


def episode_variance(scores: np.ndarray) -> np.ndarray:
    """Variance of a seed's mean that is due to its episodes alone, of scores `[n, e, ...]` in points -> `[...]`.

    Column i is start i, NaN where a seed has no episode. Seeds share their starts, so what starts differ by is no part
    of it: it is the residual mean square of seeds x starts, over e. With one seed, or where some lack starts, it is the
    pooled variance within seeds, which holds that part too. Scores that are all 0 or 100 have no less than a share of
    which Agresti & Coull's (1998) two successes were seen among n e + 4: above zero for a method that always or never
    succeeds. The variance over seeds is at least all this, as their policies differ besides. 0 where episodes say
    nothing: one a seed, or scores that are no successes and all alike.
    """
    scores = np.asarray(scores, float)
    there = ~np.isnan(scores)
    known = np.where(there, scores, 0.0)
    counts = there.sum(axis=1)  # [n, ...]
    total, seeds = counts.sum(axis=0), (counts > 0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(there, scores - (known.sum(axis=1) / counts)[:, None], 0.0)
        share = np.where(counts > 0, 1 / counts, 0.0).sum(axis=0) / seeds  # of an episode's variance, in a seed's mean
        rare = PSEUDO / (total + 2 * PSEUDO)
        square = np.square(left).sum(axis=(0, 1)) / (total - seeds)
        if len(scores) > 1:
            free = (scores.shape[0] - 1) * (scores.shape[1] - 1)
            crossed = np.square(left - left.mean(axis=0)).sum(axis=(0, 1)) / free
            square = np.where(there.all(axis=(0, 1)), crossed, square)
    square = np.where((total > seeds) & (square > 10.0**-DIGITS), square, 0.0)
    binary = np.isin(settled(known), (0.0, PASS)).all(axis=(0, 1))
    least = np.where(binary, PASS**2 * rare * (1 - rare), 0.0)
    return np.where(total > 0, np.maximum(square, least) * share, 0.0)[()]
