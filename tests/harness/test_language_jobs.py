"""Seeds of a language stage side by side: the same parts, nothing left changed, and one that fails ends the others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.language.training import NotFiniteLoss, Training
from tests.harness.test_language import go
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
    assert len(parts(alone)) == 13 and parts(alone) == parts(beside)


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
    (both,), (one,) = ([file for name, file in parts(tmp_path / name).items() if name.endswith("/sft-0.safetensors")]
                       for name in ("both", "one"))  # fmt: skip
    assert both == one, "what seed 0 learns does not depend on who else is there"


def test_a_seed_that_fails_ends_the_others_at_their_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def run(self: Any, first: int, count: int) -> dict[str, float]:
        nonlocal made
        if self.context.seed == 0:
            raise NotFiniteLoss
        made += count
        time.sleep(0.01)
        return {"sft/loss": 1.0}

    monkeypatch.setattr(Training, "run", run)
    done = go(tmp_path, "--methods", "sft", "--seeds", "2", "--jobs", "2", "--set", "sft_steps=5000")
    assert done.exit_code == 1 and "loss not finite at step 2, seed 0" in done.stderr
    assert 0 < made < 5000
    (kept,) = tmp_path.glob("artifacts/*/state/unfinished-*.safetensors")
    assert kept.name == "unfinished-1-2.safetensors"
