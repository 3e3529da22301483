"""`python -m harness.offline`: estimates beside each seed's scores, from parts and held-out data; then chosen by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.choices import Choice
from analysis.offline_rules import RULES
from analysis.records.load import load
from analysis.records.runs import OFFLINE
from analysis.select import Rule, choose
from harness.estimating import held_out
from harness.offline_command import app
from methods.core import BadInput
from tasks.toy import suite as toy
from tests.harness.command import TINY, invoke, over

RUN = (*TINY, "--methods", "vgf,bc", "--set", "vgf.test_flow_steps=0,2", "--set", "vgf.train_flow_steps=1",
       "--evaluate-every", "40")  # fmt: skip
ASK = (*RUN, "--transitions", "600", "--updates", "30")  # more than a block


def ask(*arguments: str) -> Any:
    return CliRunner().invoke(app, over(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimated")
    assert invoke(*RUN, "--results", str(folder)).exit_code == 0
    done = ask(*ASK, "--results", str(folder))
    assert done.exit_code == 0, done.stderr
    assert "vgf on toy: seeds 0-1: " in done.stderr and "no critic of finished actions" in done.stderr
    return folder


def tables(results: Path, method: str = "vgf") -> list[Path]:
    return sorted(results.glob(f"runs/toy/toy/{method}/*/seed-*/offline.csv"))


def test_each_seed_has_a_row_a_setting(results: Path) -> None:
    first, second = (pd.read_csv(path) for path in tables(results))
    assert list(first) == ["L_test", *OFFLINE] and first["L_test"].tolist() == [0, 2]
    assert np.isfinite(first[list(OFFLINE[:8])]).all(axis=None) and not first.equals(second)
    assert first["transport"][0] == 0 < first["transport"][1] and first["bound"][0] == 0
    assert first["data_value"].nunique() == 1 and (first["members"] == 2).all() and (first["updates"] == 30).all()
    (bc, _) = (pd.read_csv(path) for path in tables(results, "bc"))
    assert len(bc) == 1 and bc[["value", "td_error", "disagreement"]].isna().all(axis=None) and bc["fqe"].notna().all()


def test_asked_again_nothing_is_done_and_otherwise_it_is_done_anew(results: Path) -> None:
    path = tables(results)[0]
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    done = ask(*ASK, "--results", str(results))
    assert done.exit_code == 0 and "(there before)" in done.stderr and path.stat().st_mtime_ns == stamp
    path.unlink()  # what a stopped command has not made yet is made, and is the same
    assert ask(*ASK, "--results", str(results)).exit_code == 0 and path.read_bytes() == before
    try:
        done = ask(
            *RUN,
            "--transitions",
            "600",
            "--updates",
            "0",
            "--split",
            "training",
            "--methods",
            "vgf",
            "--results",
            str(results),
        )
        assert done.exit_code == 0 and "there before" not in done.stderr, done.stderr
        table = pd.read_csv(path)
        assert table["fqe"].isna().all() and (table["split"] == "training").all()
    finally:
        for one in tables(results):
            one.unlink()
        assert ask(*ASK, "--results", str(results)).exit_code == 0


def test_the_analysis_chooses_by_it(results: Path) -> None:
    records = load(results)
    run, rows = next((run, rows) for run, rows in records.each() if run.method == "vgf")
    rows = rows[rows["phase"] == "final"]
    for rule in RULES:
        choice = choose(run, rows, Rule.parse(f"offline:{rule}"))
        assert isinstance(choice, Choice) and choice.seeds.tolist() == [0, 1]
    by_value = choose(run, rows, Rule.parse("offline:lcb"))
    assert isinstance(by_value, Choice)
    for place, path in enumerate(tables(results)):
        table = pd.read_csv(path)
        assert by_value.at[place, 0] == (table["value"] - table["disagreement"]).argmax()


def test_the_toy_is_asked_at_transitions_that_nobody_is_trained_on() -> None:
    task = toy.get("toy")
    training = task.load("auto")
    kept_back = held_out(task, training, "validation")
    assert kept_back.provenance.sha256 != training.provenance.sha256 and len(kept_back) == len(training)
    trained_on = {tuple(row) for row in training.transitions["actions"].tolist()}
    assert trained_on.isdisjoint(map(tuple, kept_back.transitions["actions"].tolist()))
    assert held_out(task, training, "training") is training


def test_a_task_without_validation_data_is_one_line() -> None:
    class Bare:
        name = "hopper"

    class Missing(Bare):
        def validation(self, training: Any) -> None:
            del training

    training: Any = None
    for task, more in ((Bare(), ""), (Missing(), "python -m tasks.fetch --validation fetches what was published, ")):
        with pytest.raises(BadInput) as refused:
            held_out(task, training, "validation")  # type: ignore[arg-type]
        line = f"hopper: has no validation data here; {more}--split training asks at the training data"
        assert str(refused.value) == line


def test_what_cannot_be_asked_is_one_line(results: Path, tmp_path: Path) -> None:
    done = ask(*ASK, "--results", str(tmp_path))
    assert done.exit_code == 2 and done.stderr.splitlines() == [f"error: {name} on toy: has not been run" for name in
                                                                ("vgf", "bc")]  # fmt: skip
    done = ask(*ASK, "--split", "test", "--results", str(results))
    assert done.exit_code == 2 and done.stderr == "error: --split test: it is one of validation, training\n"
    done = ask(*ASK, "--set", "vgf.hidden_dims=4", "--methods", "vgf", "--results", str(results))
    assert done.exit_code == 2 and done.stderr == "error: vgf on toy: has not been run with these options\n"
