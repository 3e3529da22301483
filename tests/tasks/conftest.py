"""What several tests share: short datasets, made once by the real oracles, and folders for D4RL's."""

from __future__ import annotations

from pathlib import Path

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


def nan_at(row: int, *shape: int) -> np.ndarray:
    """Zeros but for a row that is not finite."""
    values = np.zeros(shape, np.float32)
    values[row] = np.nan
    return values
