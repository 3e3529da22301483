"""Chunks of actions, executed open loop: one action a step, without looking at what follows."""

from __future__ import annotations

import numpy as np


class OpenLoop:
    """The chunks `[n, h, a]` that so many simulators are in the midst of; an episode's start empties one."""

    def __init__(self, rows: int, width: int, action_dim: int) -> None:
        """`width`: of a flattened chunk, h * `action_dim`."""
        self.chunks = np.zeros((rows, width // action_dim, action_dim), np.float32)
        self.done = np.full(rows, self.length)  # actions executed of each

    @property
    def length(self) -> int:
        """h."""
        return self.chunks.shape[1]

    def due(self, starts: np.ndarray) -> np.ndarray:
        """Where an action must be chosen now, `[n]` bool: where an episode `starts`, and where a chunk is used up."""
        due: np.ndarray = starts | (self.done == self.length)
        return due

    def step(self, due: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
        """The actions `[n, a]` to execute now; `chosen` `[n, h * a]` are the new chunks where they are due."""
        if chosen is not None:
            self.chunks[due] = chosen.reshape(self.chunks.shape)[due]
        self.done = np.where(due, 0, self.done)
        actions = np.take_along_axis(self.chunks, self.done[:, None, None], axis=1)[:, 0]
        self.done += 1
        return actions
