"""What is wrong with one run ends that run alone, and no record's text decides what is deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from harness.checkpoint import StageStore
from harness.stagework import StageWork

from core.files import write_json
from harness import numerics, provenance
from methods.core import BadInput
from tests.harness.command import TINY, invoke

PAIR = (*TINY, "--methods", "ifql,qgf")  # one critic, trained once


def folder_of(results: Path, method: str) -> Path:
    (folder,) = (results / "runs" / "toy" / "toy" / method).iterdir()
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of two methods that share their last stage. Not to be changed."""
    results = tmp_path_factory.mktemp("pair")
    assert invoke(*PAIR, "--results", str(results)).exit_code == 0
    return results


@pytest.mark.parametrize("extra", [(), pytest.param(("--fresh",), marks=pytest.mark.slow)])
def test_a_record_that_cannot_be_read_ends_no_other_run(pair: Path, tmp_path: Path, extra: tuple[str, ...]) -> None:
    results = tmp_path / "results"
    shutil.copytree(pair, results)
    record = folder_of(results, "qgf") / "run.json"
    record.unlink()
    record.mkdir()
    shutil.rmtree(folder_of(results, "ifql"))
    done = invoke(*PAIR, "--results", str(results), *extra)
    assert json.loads((folder_of(results, "ifql") / "run.json").read_text())["status"] == "finished", done.stderr
    if extra:  # what is unreadable goes with the rest
        assert done.exit_code == 0
    else:
        assert done.exit_code == 1 and "qgf on toy: failed: " in done.stderr and "Is a directory" in done.stderr


def test_a_folder_that_is_removed_ends_no_run_that_shares_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, calls = StageWork._log, list[str]()

    def logging(self: StageWork, metrics: Any) -> None:
        if len(self.watchers) > 1:
            calls.append(self.stage.name)
            if len(calls) == 2:
                shutil.rmtree(self.watchers[0].member.folder)
        log(self, metrics)

    monkeypatch.setattr(StageWork, "_log", logging)
    done = invoke(*PAIR, "--results", str(tmp_path))
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr, done.stderr
    assert done.stderr.count("failed: ") == 1 and "removed while the run wrote in it" in done.stderr


def test_fresh_deletes_what_is_its_own_alone(pair: Path, tmp_path: Path) -> None:
    outside, results = tmp_path / "outside", tmp_path / "results"
    outside.mkdir()
    (outside / "thesis.txt").write_text("years of work")
    shutil.copytree(pair, results)
    run = folder_of(results, "ifql")
    record = json.loads((run / "run.json").read_text())
    going_on = [run.with_name(str(number) * 12) for number in range(4)]
    for folder, text in zip(going_on, (f"{outside}", "../../outside", "..", "\xff"), strict=True):
        folder.mkdir()
        write_json(folder / "run.json", {
            **record, "fingerprint": folder.name,
            "online": {"continues": run.name, "from_step": 1, "steps": 1}})  # fmt: skip
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


def test_running_out_of_memory_is_not_blamed_on_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"critic": {"w": np.arange(4, dtype=np.float32)}}
    with StageStore(tmp_path, {"stage": "x", "steps": 3}) as store:
        store.save(3, parts, finished=True)
    with StageStore(tmp_path, {"stage": "x", "steps": 3}) as store:
        np.testing.assert_array_equal(store.restore(parts)["critic"]["w"], parts["critic"]["w"])

        def full(*arguments: Any, **named: Any) -> Any:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

        monkeypatch.setattr(store.manager, "restore", full)
        with pytest.raises(jax.errors.JaxRuntimeError):
            store.restore(parts)


@pytest.mark.parametrize("setting", ["vgf.n_particles", "vgf.test_flow_steps", "vgf.flow_steps", "best_of_n.test_n"])
def test_loops_and_samples_without_end_are_refused(setting: str, tmp_path: Path) -> None:
    arguments = ("--methods", "vgf,best_of_n", "--results", str(tmp_path / "r"), "--set", f"{setting}=2000000000")
    done = invoke(*TINY, *arguments)
    key = setting.partition(".")[2]
    assert done.exit_code == 2 and f"{key}=2000000000 is not from " in done.stderr and not (tmp_path / "r").exists()


def test_a_stage_that_names_no_model_is_not_exported(tmp_path: Path) -> None:
    from harness.export import _export

    identity = {
        "stage": "sft",
        "trains": ["sft"],
        "task": ["x"],
        "data": "",
        "seeds": [0],
        "config": {"model": "tiny"},
        "steps": 3,
    }
    write_json(tmp_path / "stage.json", {"finished": True, "step": 3, "identity": identity, "files": {}})
    with pytest.raises(BadInput, match=r"stage\.json: identity: task: "):
        _export(tmp_path, 0, tmp_path / "out")
