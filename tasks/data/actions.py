"""Actions between their own units and [-1, 1], which is what learners see.

A dataset's actions are mapped from its action space onto [-1, 1], and a simulator's actions back, end to end. Actions
beyond the space, by rounding or because their policy was not bounded, are clipped, as the simulator clamps them, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from core.errors import BadInput
from tasks.core import LARGEST_ACTION

ROUNDING = 1e-3  # beyond the bounds: of float16, say, or of units converted twice
OTHER_SCALE = 0.25  # of all numbers beyond the bounds: those are the bounds of something else


class Outside(NamedTuple):
    """Action numbers that were clipped to [-1, 1]."""

    share: float  # of all
    largest: float  # absolute


def clipped(actions: np.ndarray, name: str) -> tuple[np.ndarray, Outside | None]:
    """Actions `[t, a]` clipped to what a squashed policy can express, and what lay outside [-1, 1], if anything did.

    Raises:
      BadInput: they are of another scale; see `check_scale`.
    """
    outside = check_scale(actions, name)
    return actions.clip(-LARGEST_ACTION, LARGEST_ACTION), outside


def check_scale(actions: np.ndarray, name: str) -> Outside | None:
    """What of finite actions `[t, a]` lies outside [-1, 1], if anything does.

    Raises:
      BadInput: more than a quarter of the numbers do, by more than rounding.
    """
    largest = max(float(actions.max(initial=0.0)), -float(actions.min(initial=0.0)))
    if largest <= 1.0:
        return None
    size = np.abs(actions)
    if (far := float((size > 1.0 + ROUNDING).mean())) > OTHER_SCALE:
        row = int(np.argmax(size.max(axis=-1) > 1.0 + ROUNDING))
        raise BadInput(f"{name}: {100 * far:.0f}% of the action numbers lie outside [-1, 1] (up to {largest:g}; first "
                       f"in row {row}): they are of another scale")  # fmt: skip
    return Outside(float((size > 1.0).mean()), largest)


def told(outside: Outside, name: str) -> str:
    """The line about actions that were clipped."""
    return (f"{name}: {100 * outside.share:.2g}% of the action numbers lie outside [-1, 1] (up to "
            f"{outside.largest:.9g}) and are clipped")  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """The box that actions live in, `a` numbers each."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @staticmethod
    def of(space: gymnasium.Space[Any], name: str) -> Bounds:
        """Of a space of actions. `name`: whose, for the error line.

        Raises:
          BadInput: it is no box of vectors, or one without a finite extent in every direction.
        """
        if not isinstance(space, gymnasium.spaces.Box) or space.dtype is None or space.dtype.kind != "f":
            kind = f"{space}".replace("\n", " ")[:80]
            raise BadInput(f"{name}: actions are of {kind}; only vectors of real numbers (Box) are learned")
        if len(space.shape) != 1 or not space.shape[0]:
            raise BadInput(f"{name}: an action has shape {space.shape}; only vectors are learned")
        bounds = Bounds(tuple(map(float, space.low)), tuple(map(float, space.high)))
        for number, (low, high) in enumerate(zip(bounds.low, bounds.high, strict=True)):
            if not (np.isfinite([low, high]).all() and low < high):
                raise BadInput(f"{name}: action {number} is bounded by [{low:g}, {high:g}], which cannot be mapped "
                               "onto [-1, 1]")  # fmt: skip
        return bounds

    @property
    def unit(self) -> bool:
        """Whether they are [-1, 1] in every direction."""
        return set(self.low) == {-1.0} and set(self.high) == {1.0}

    def like(self, other: Bounds) -> bool:
        """Whether they are equal to float32's precision."""
        mine, theirs = (np.array([bounds.low, bounds.high]) for bounds in (self, other))
        return mine.shape == theirs.shape and bool(np.allclose(mine, theirs, rtol=1e-6, atol=0.0))

    def __str__(self) -> str:
        if len(set(self.low)) == len(set(self.high)) == 1:
            return f"[{self.low[0]:g}, {self.high[0]:g}]^{len(self.low)}"
        return " x ".join(f"[{low:g}, {high:g}]" for low, high in zip(self.low, self.high, strict=True))

    def to_unit(self, actions: np.ndarray) -> np.ndarray:
        """Actions `[..., a]` of these bounds as those of [-1, 1], float32; the same array where nothing changes."""
        if self.unit:
            return actions
        low, high = np.array(self.low), np.array(self.high)
        return (2.0 * (np.asarray(actions, np.float64) - low) / (high - low) - 1.0).astype(np.float32)

    def from_unit(self, actions: np.ndarray) -> np.ndarray:
        """Actions `[..., a]` of [-1, 1] as those of these bounds, float64, the ends at the ends."""
        low, high = np.array(self.low), np.array(self.high)
        share = (np.asarray(actions, np.float64).clip(-1.0, 1.0) + 1.0) / 2.0
        return low + share * (high - low)

    def scaled(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """The simulator, acting in these bounds, with actions in [-1, 1]; itself where they are that already.

        gymnasium's `RescaleAction` computes in float32 and can leave the bounds by a rounding error.
        """
        if self.unit:
            return env
        space = gymnasium.spaces.Box(-1.0, 1.0, (len(self.low),), np.float32)
        kind = env.action_space.dtype
        return gymnasium.wrappers.TransformAction(env, lambda action: self.from_unit(action).astype(kind), space)
