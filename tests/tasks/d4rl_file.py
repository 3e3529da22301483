"""D4RL files made by hand, small enough to know every transition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np


def d4rl_file(path: Path, obs: int = 11, action: int = 3, **changes: Any) -> Path:
    """Ten rows of D4RL's format: an episode of three steps and one of a single step that terminate, one of four and
    one of a single step that time out, and a step at which the file breaks off. Observation t is t everywhere, the one
    after it t + 0.5, the reward 10 + t. `changes` to the columns (None: left out)."""
    rows = np.arange(10, dtype=np.float32)
    columns = {
        "observations": np.repeat(rows[:, None], obs, axis=1),
        "actions": np.repeat(rows[:, None] / 10, action, axis=1),
        "rewards": 10 + rows,
        "terminals": np.isin(rows, [2, 3]),
        "timeouts": np.isin(rows, [7, 8]),
        "next_observations": np.repeat(rows[:, None] + 0.5, obs, axis=1),
        "infos/qpos": np.zeros((10, 2)),
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            if column is not None:
                file.create_dataset(name, data=column, compression="gzip")
    return path
