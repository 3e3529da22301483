"""How the work of a run can end before it is done."""

from __future__ import annotations

from collections.abc import Sequence


class Interrupted(Exception):
    """The user asked to stop."""


class NotFinite(ArithmeticError):
    """A metric became NaN or infinite."""

    def __init__(self, stage: str, step: int, seed: int, metrics: Sequence[str]) -> None:
        super().__init__(f"stage {stage}: {', '.join(metrics)} not finite at step {step}, seed {seed}")
        self.step, self.seed = step, seed
