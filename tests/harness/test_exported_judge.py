"""A reward model that a run optimised is no judge of it after `python -m harness.export` either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.tables import app as tables
from tasks.judge import app as judging
from tests.analysis.command import invoke as analysed
from tests.analysis.command import refused
from tests.analysis.test_winrates import write
from tests.harness.command import invoke
from tests.harness.test_export import SMALL, exported, stage


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(results of a run that optimised a tiny reward model, the stage's folder, and the export of it)."""
    folder = tmp_path_factory.mktemp("made")
    done = invoke(*SMALL, "--methods", "best_of_n", "--results", str(folder / "results"), "--set", "layers=1")
    assert done.exit_code == 0, done.stderr
    artifact, _ = stage(folder / "results", "reward")
    done = exported(artifact, folder / "exported")
    assert done.exit_code == 0, done.stderr
    return folder / "results", artifact, folder / "exported"


@pytest.fixture(params=["note", "tensors"])
def export(request: pytest.FixtureRequest, made: tuple[Path, Path, Path], tmp_path: Path) -> Path:
    """With its note and other weights, or with its weights alone."""
    copy = shutil.copytree(made[2], tmp_path / "copy")
    if request.param == "tensors":
        (copy / "checkpoint.json").unlink()
    else:
        from safetensors.torch import load_file, save_file

        weights = load_file(copy / "model.safetensors")
        save_file({name: 2 * value for name, value in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    return copy


def judged(place: Path, model: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(judging, [str(place), "--judge", "reward-model", "--model", str(model), *more])
    return done.exit_code, done.stderr


def test_it_is_refused_when_it_is_to_judge(made: tuple[Path, Path, Path], export: Path) -> None:
    results = made[0]
    code, said = judged(results, export)
    assert code == 2 and "is the reward model that the run optimised" in said
    assert judged(results, export, "--allow-optimised")[0] == 0
    paths = [*results.glob("runs/*/*/*/*/seed-0/verdicts-reward-model-*.json")]
    for path in paths:
        record = json.loads(path.read_text())
        path.with_suffix(".csv").unlink()
        path.unlink()
        assert record["optimised"] is True and len(record["tensors"]) == 1 and len(record["contents"]) == 64
        assert record["stage"] == (made[1].name if (export / "checkpoint.json").exists() else "")
    assert paths


def test_table_3_refuses_it_where_another_run_optimised_it(
    made: tuple[Path, Path, Path], export: Path, tmp_path: Path
) -> None:
    """Judged are SFT's responses alone, so that nothing is refused before: VGF beside it has the stage."""
    results, artifact = tmp_path / "results", made[1]
    sft = write(results, "sft", lambda _: 30.0, seeds=1)
    vgf = write(results, "vgf", lambda _: 30.0, seeds=1)
    code, said = judged(sft, export)
    assert code == 0, said
    done = analysed(tables, str(results), "--paper", "table3")
    assert done.exit_code == 0 and "which is not the one that was optimised" in done.stdout, "nobody optimised it yet"
    run = json.loads((vgf / "run.json").read_text())
    run["stages"].append({"name": "reward_model", "fingerprint": artifact.name, "steps": 1})
    (vgf / "run.json").write_text(json.dumps(run))
    shutil.copytree(artifact, results / "artifacts" / artifact.name)
    line = refused(tables, str(results), "--paper", "table3")
    assert "the judge reward-model-copy-" in line and "is the reward model that runs there optimised" in line


def test_another_stage_of_the_same_kind_may_judge(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    done = invoke(*SMALL, "--methods", "best_of_n", "--results", str(tmp_path), "--set", "layers=1", "--set",
                  "reward_learning_rate=0.01")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    artifact, _ = stage(tmp_path, "reward")
    assert exported(artifact, tmp_path / "out").exit_code == 0
    assert judged(made[0], tmp_path / "out")[0] == 0
    (path,) = made[0].glob("runs/*/*/*/*/seed-0/verdicts-reward-model-out-*.json")
    assert json.loads(path.read_text())["optimised"] is False
    assert pd.read_csv(path.with_suffix(".csv"))["verdict"].isin(["win", "tie", "loss"]).all()
