"""What several tests share: short datasets, made once by the real oracles, and D4RL files made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tasks.collect import collect

CUBE = {"dataset": "cube-single-play-v0", "episodes": 12, "seed": 3, "steps": 61}


@pytest.fixture(scope="session")
def cube_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 episodes of 60 transitions, made by two workers."""
    out = tmp_path_factory.mktemp("collected") / "cube-single-play-v0.npz"
    return collect(**CUBE, workers=2, out=out, progress=False)


@pytest.fixture
def d4rl_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of D4RL's and Minari's datasets of the test's own; D4RL's is returned."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return tmp_path / "d4rl"


def d4rl_file(path: Path, obs: int = 11, action: int = 3, **changes: Any) -> Path:
    """Ten rows of D4RL's format: an episode of three that terminates, one of a single step that does, one of four
    that times out, one of a single step that does, and a row at which the file breaks off. Observation t is t
    everywhere, the one after it t + 0.5, the reward 10 + t. `changes` to the columns (None: left out)."""
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
