"""Language lanes side by side: the same parts, nothing left changed, and one that fails does so alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.record import read_run
from methods.language.training import NotFiniteLoss, Training
from tests.harness.test_language import go, lanes, run_of
from tests.harness.test_language_given import given

__all__ = ["given"]  # the fixture


def parts(results: Path) -> dict[str, bytes]:
    """Every part and log under the artefacts."""
    files = [*results.glob("artifacts/*/state/**/*.safetensors"), *results.glob("artifacts/*/train.csv")]
    return {str(file.relative_to(results)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_jobs_make_no_difference(tmp_path: Path) -> None:
    arguments = ("--methods", "sft", "--seeds", "3", "--episodes", "3", "--set", "measure_proxy=false")
    alone, beside = tmp_path / "1", tmp_path / "2"
    for results, jobs in ((alone, "1"), (beside, "2")):
        assert go(results, *arguments, "--jobs", jobs).exit_code == 0
    assert len(parts(alone)) == 15 and parts(alone) == parts(beside)


def test_checkpoints_loaded_side_by_side_change_nothing_for_good(given: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import PreTrainedModel

    before = torch.get_default_dtype(), PreTrainedModel.tie_weights
    checkpoints = ("--set", f"sft_checkpoint={given[0]}", "--set", f"reward_checkpoint={given[1]}")
    done = go(tmp_path, "--methods", "sft", *checkpoints, "--seeds", "4", "--jobs", "4")
    assert done.exit_code == 0, done.stderr
    assert (torch.get_default_dtype(), PreTrainedModel.tie_weights) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trainers_of_another_library_take_turns(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    arguments = ("--methods", "sft", "--set", "backend=trl", "--set", "measure_proxy=false")
    for name, seeds, jobs in (("both", "2", "2"), ("one", "1", "1")):
        done = go(tmp_path / name, *arguments, "--seeds", seeds, "--jobs", jobs)
        assert done.exit_code == 0, done.stderr
    lane = lanes(run_of(tmp_path / "one", "sft"))[0]
    both, one = (dict(parts(tmp_path / name)) for name in ("both", "one"))
    mine = [name for name in one if lane in name and name.endswith(".safetensors")]
    assert mine and all(both[name] == one[name] for name in mine), "seed 0 does not depend on who else is there"


def test_a_seed_that_fails_does_so_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--methods", "sft", "--seeds", "2", "--jobs", "2", "--set", "measure_proxy=off")
    train = Training.run

    def run(self: Any, first: int, count: int) -> dict[str, float]:
        if self.context.seed == 0:
            raise NotFiniteLoss
        return train(self, first, count)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run", run)
        done = go(tmp_path, *arguments)
    assert done.exit_code == 1 and "sft, seed 0: failed: stage sft: loss not finite at step 1, seed 0" in done.stderr
    failed, finished = (read_run(run_of(tmp_path, "sft", seed)) for seed in (0, 1))
    assert failed["status"] == "failed" and failed["error"].startswith("its sft failed: stage sft: loss not finite")
    assert finished["status"] == "finished"
    again = go(tmp_path, *arguments)
    assert again.exit_code == 0 and "sft on tldr-synthetic, seed 1: finished before" in again.stderr
