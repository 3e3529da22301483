"""What is wrong with one run ends that run alone, and no record's text decides what is deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from core.files import write_json
from harness import numerics, provenance
from harness.arrays import ArrayFormat
from harness.store import LaneStore
from harness.training import Training
from methods.core import BadInput
from tests.harness.command import TINY, invoke

PAIR = (*TINY, "--evaluate-every", "20", "--methods", "vgf,best_of_n", "--set", "train_flow_steps=0", "--set",
        "n_particles=2", "--set", "test_n=2", "--set", "test_flow_steps=0")  # fmt: skip
"""One critic, trained once."""


def folder_of(results: Path, method: str, seed: int = 0) -> Path:
    (folder,) = (results / "runs" / "toy" / "toy" / method).glob(f"*/seed-{seed}")
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of two methods that share their last stage. Not to be changed."""
    results = tmp_path_factory.mktemp("pair")
    assert invoke(*PAIR, "--results", str(results)).exit_code == 0
    return results


def test_a_record_that_cannot_be_read_ends_no_other_trial(pair: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(pair, tmp_path / "results"))
    record = folder_of(results, "best_of_n") / "run.json"
    record.unlink()
    record.mkdir()
    shutil.rmtree(folder_of(results, "vgf", 1))
    done = invoke(*PAIR, "--results", str(results))
    assert json.loads((folder_of(results, "vgf", 1) / "run.json").read_text())["status"] == "finished", done.stderr
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr
    assert "best_of_n on toy, seed 0: failed: " in done.stderr and "Is a directory" in done.stderr


@pytest.mark.slow
def test_a_folder_that_is_removed_ends_no_trial_that_shares_its_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one of the same run with another seed."""
    log, calls = Training._log, list[str]()

    def logging(self: Training, metrics: Any) -> None:
        if self.stage.name == "critic":
            calls.append(self.stage.name)
            if len(calls) == 2:
                shutil.rmtree(folder_of(tmp_path, "vgf"))
        log(self, metrics)

    monkeypatch.setattr(Training, "_log", logging)
    done = invoke(*PAIR, "--results", str(tmp_path))
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr, done.stderr
    assert done.stderr.count("failed: ") == 1 and "removed while the run wrote in it" in done.stderr
    assert "vgf on toy, seed 0: failed: " in done.stderr
    assert json.loads((folder_of(tmp_path, "vgf", 1) / "run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_fresh_deletes_what_is_its_own_alone(pair: Path, tmp_path: Path) -> None:
    """And what is unreadable goes with the rest."""
    outside, results = tmp_path / "outside", Path(shutil.copytree(pair, tmp_path / "results"))
    outside.mkdir()
    (outside / "thesis.txt").write_text("years of work")
    run = folder_of(results, "vgf")
    record = json.loads((run / "run.json").read_text())
    unreadable = folder_of(results, "best_of_n", 1) / "run.json"
    unreadable.unlink()
    unreadable.mkdir()
    going_on = [run.parent.with_name(str(number) * 12) / "seed-0" for number in range(4)]
    for folder, text in zip(going_on, (f"{outside}", "../../outside", "..", "\xff"), strict=True):
        folder.mkdir(parents=True)
        write_json(folder / "run.json", {
            **record, "fingerprint": folder.parent.name,
            "online": {"continues": run.parent.name, "from_step": 1, "steps": 1}})  # fmt: skip
        (folder / "stages").write_bytes(text.encode("latin-1"))
    done = invoke(*PAIR, "--results", str(results), "--fresh")
    assert done.exit_code == 0 and (outside / "thesis.txt").exists(), done.stderr
    assert (results / "runs").is_dir() and not any(folder.exists() for folder in going_on)


def test_only_shared_files_make_a_shared_stage_other_code() -> None:
    code = {"methods/bc.py": "0" * 16, "methods/behavior.py": provenance._digest("methods/behavior.py")}
    assert provenance.difference({"code": code}) == "made by other code (methods/bc.py changed since)"
    assert provenance.difference({"code": code}, {"methods/behavior.py", "methods/ifql.py"}) is None


def test_accelerates_variables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCELERATE_MIXED_PRECISION", "bf16"), ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")):
        monkeypatch.setenv(name, value)
        (line,) = numerics.pin("language")
        assert line.startswith(f"{name}={value} has no effect here") and name not in numerics.os.environ


def test_running_out_of_memory_is_not_blamed_on_the_files(tmp_path: Path) -> None:
    class Full(ArrayFormat):
        def read(self, path: Path) -> dict[str, Any]:
            raise MemoryError

    parts = {"critic": {"w": np.arange(4, dtype=np.float32)}}
    LaneStore(tmp_path, {"stage": "x", "steps": 3}, ArrayFormat()).save(3, parts, finished=True)
    found = LaneStore(tmp_path, {"stage": "x", "steps": 3}, ArrayFormat()).load()
    np.testing.assert_array_equal(next(iter(jax.tree.leaves(found))), parts["critic"]["w"])
    with pytest.raises(MemoryError):
        LaneStore(tmp_path, {"stage": "x", "steps": 3}, Full()).load()


@pytest.mark.parametrize("setting", ["vgf.n_particles", "vgf.test_flow_steps", "vgf.flow_steps", "best_of_n.test_n"])
def test_loops_and_samples_without_end_are_refused(setting: str, tmp_path: Path) -> None:
    arguments = ("--methods", "vgf,best_of_n", "--results", str(tmp_path / "r"), "--set", f"{setting}=2000000000")
    done = invoke(*TINY, *arguments)
    key = setting.partition(".")[2]
    assert done.exit_code == 2 and f"{key}=2000000000 is not from " in done.stderr and not (tmp_path / "r").exists()


def test_a_stage_that_names_no_model_is_not_exported(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from harness.export import _export

    identity = {"stage": "sft", "trains": ["sft"], "task": ["x"], "data": "", "seed": 0, "config": {"model": "tiny"},
                "steps": 3}  # fmt: skip
    write_json(tmp_path / "stage.json", {"finished": True, "step": 3, "identity": identity, "files": {}})
    with pytest.raises(BadInput, match=r"stage\.json: identity: task: "):
        _export(tmp_path, tmp_path / "out", "", "auto")
