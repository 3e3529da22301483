"""What tests of action chunks share: a small file of a real task's, and the command that learns from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tasks.d4rl_file import d4rl_file

H = 5
TINY = ("--suite", "d4rl", "--tasks", "hopper-medium-v2", "--preset", "smoke", "--seeds", "2", "--steps", "10",
        "--evaluate-every", "10", "--episodes", "1", "--set", "hidden_dims=8", "--set", "batch_size=16")  # fmt: skip
CHUNKS = ("--methods", "best_of_n", "--set", f"chunk={H}", "--set", "best_of_n.test_n=2", "--set", "flow_steps=2")
ONLINE = ("--online-steps", "40", "--online-warmup", "6", "--online-evaluate-every", "40")


def hopper_file(path: Path) -> Path:
    """Four episodes of 10 steps that time out, with random actions."""
    rng, rows = np.random.default_rng(0), 40
    obs = rng.normal(size=(rows, 11)).astype(np.float32)
    return d4rl_file(path, observations=obs, next_observations=obs + 0.1, actions=rng.uniform(-1, 1, (rows, 3)),
                     rewards=np.arange(rows), terminals=np.zeros(rows, bool), timeouts=np.arange(rows) % 10 == 9,
                     **{"infos/qpos": np.zeros((rows, 2))})  # fmt: skip


def command(folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The start of a command that learns from such a file, and writes its results into the folder."""
    patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    return (*TINY, "--data", str(hopper_file(folder / "mine.hdf5")), "--results", str(folder / "results"))
