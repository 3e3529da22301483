"""D4RL end to end: from a file of its format to scores in the record."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tasks.scores import D4RL
from tests.harness.command import invoke
from tests.tasks.d4rl_file import d4rl_file


def test_a_file_of_d4rl_s_becomes_normalised_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    path = d4rl_file(tmp_path / "mine.hdf5")
    done = invoke("--suite", "d4rl", "--tasks", "hopper-medium-v2", "--data", str(path), "--methods", "td3bc",
                  "--preset", "smoke", "--seeds", "1", "--steps", "10", "--evaluate-every", "10",
                  "--set", "hidden_dims=8", "--online-steps", "12", "--online-warmup", "6",
                  "--results", str(tmp_path / "results"))  # fmt: skip
    assert done.exit_code == 0, done.stderr
    folders = list((tmp_path / "results/runs/d4rl/hopper-medium-v2/td3bc").iterdir())
    records = {"online" in (record := json.loads((folder / "run.json").read_text())): (folder, record)
               for folder in folders}  # fmt: skip
    assert records[True][1]["status"] == "finished" and "online" in (records[True][0] / "episodes.csv").read_text()
    folder, record = records[False]
    assert record["dataset"]["origin"] == "given" and record["dataset"]["transitions"] == 7
    assert record["dataset"]["details"]["reward"] == {"scale": 50.0, "shift": 0.0}
    assert record["task_options"] == {} and record["status"] == "finished"
    with (folder / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:  # of the simulator's own rewards, not of those that were learned from
        score = float(D4RL["hopper"].score(np.array(float(row["return"]))))
        assert float(row["score"]) == pytest.approx(score, rel=1e-4) and 1 < float(row["length"]) < 1000
