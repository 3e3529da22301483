"""Normalised scores: 0 for a policy that acts at random, 100 for an expert.

D4RL v2's reference returns are D4RL's own (`d4rl/infos.py`, equal for all datasets of an environment). Datasets made
here carry theirs in their metadata, measured by `tasks.collect` on today's simulators; Minari's datasets carry what
Minari says, which has been wrong (Minari#303, #323).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reference:
    """Mean undiscounted returns that a score is measured against."""

    low: float  # of the random policy
    high: float  # of the expert
    source: str

    def score(self, returns: np.ndarray) -> np.ndarray:
        """100 (return - low) / (high - low), of undiscounted returns `[...]` of the simulator's own rewards."""
        return 100.0 * (np.asarray(returns, np.float64) - self.low) / (self.high - self.low)


_INFOS = "D4RL, d4rl/infos.py (REF_MIN_SCORE, REF_MAX_SCORE)"

D4RL: dict[str, Reference] = {
    "halfcheetah": Reference(-280.178953, 12135.0, _INFOS),
    "hopper": Reference(-20.272305, 3234.3, _INFOS),
    "walker2d": Reference(1.629008, 4592.3, _INFOS),
    "antmaze": Reference(0.0, 1.0, _INFOS),  # the return is 1 for an episode that reaches the goal
}
