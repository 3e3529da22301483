"""What several tests share: short datasets, made once by the real oracles, and folders for D4RL's."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from core.command import guarded
from tasks.ogbench.collect import collect

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


class Said(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def command(app: Any, *arguments: str) -> Said:
    """What a command does of its own, from its arguments to its exit code, in this process."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = guarded(lambda: app(list(arguments), standalone_mode=False))
    return Said(code, out.getvalue(), error.getvalue())


@contextlib.contextmanager
def of_another_user(path: Path) -> Iterator[None]:
    """`path` cannot be read meanwhile, by root neither."""
    before, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(before)
