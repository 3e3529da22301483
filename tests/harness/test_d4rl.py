"""D4RL end to end: from a file of its format to scores in the record."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.online import Rollout
from harness.train import Trainer
from tasks.d4rl.suite import REFERENCES
from tests.harness.command import invoke
from tests.tasks.d4rl_file import d4rl_file


def rewards_seen(monkeypatch: pytest.MonkeyPatch) -> tuple[list[np.ndarray], list[float]]:
    """Fills with the rewards that stages are trained on offline, and with those gathered online, as they are."""
    offline: list[np.ndarray] = []
    online: list[float] = []
    make, step = Trainer.__init__, Rollout.step

    def made(self: Trainer, algorithm: Any, lanes: Any, columns: Any, *rest: Any) -> None:
        offline.append(np.asarray(columns["rewards"]))
        make(self, algorithm, lanes, columns, *rest)

    def stepped(self: Rollout, actions: np.ndarray) -> Any:
        row, starts = step(self, actions)
        online.extend(row["rewards"].tolist())
        return row, starts

    monkeypatch.setattr(Trainer, "__init__", made)
    monkeypatch.setattr(Rollout, "step", stepped)
    return offline, online


@pytest.mark.slow
def test_a_file_of_d4rl_s_becomes_normalised_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    offline, online = rewards_seen(monkeypatch)
    path = d4rl_file(tmp_path / "mine.hdf5")
    done = invoke("--suite", "d4rl", "--tasks", "hopper-medium-v2", "--data", str(path), "--methods", "td3bc",
                  "--preset", "smoke", "--seeds", "1", "--steps", "10", "--evaluate-every", "10",
                  "--set", "hidden_dims=8", "--online-steps", "12", "--online-warmup", "6",
                  "--results", str(tmp_path / "results"))  # fmt: skip
    assert done.exit_code == 0, done.stderr
    folders = list((tmp_path / "results/runs/d4rl/hopper-medium-v2/td3bc").glob("*/seed-0"))
    records = {"online" in (record := json.loads((folder / "run.json").read_text())): (folder, record)
               for folder in folders}  # fmt: skip
    assert records[True][1]["status"] == "finished" and "online" in (records[True][0] / "episodes.csv").read_text()
    folder, record = records[False]
    assert record["dataset"]["origin"] == "given" and record["dataset"]["transitions"] == 7
    assert record["dataset"]["details"]["reward"] == {"scale": 50.0, "shift": 0.0}
    # TD3+BC learns from the simulator's own rewards in both phases
    assert record["reward"] == records[True][1]["reward"] == {"scale": 1.0, "shift": 0.0}
    np.testing.assert_allclose(offline, [np.arange(10, 17)], rtol=1e-6)
    assert len(online) == 12 and all(0 < reward < 5 for reward in online)  # 50 times as much by the task's transform
    assert record["config"]["rewards"] == {"value": "raw", "origin": "TD3+BC code: as the data have them"}
    assert record["task_options"] == {} and record["status"] == "finished"
    with (folder / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:  # of the simulator's own rewards, not of those that were learned from
        score = float(REFERENCES["hopper"].score(np.array(float(row["return"]))))
        assert float(row["score"]) == pytest.approx(score, rel=1e-4) and 1 < float(row["length"]) < 1000
