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
