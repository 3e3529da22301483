"""Language runs on checkpoints that are given instead of trained, and the lines that bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.backbones import Backbones, save_checkpoint
from harness.files import contents
from harness.tensors import TensorFormat
from methods.language.core import LanguageConfig
from methods.language.models import reward_from, tiny_model
from methods.language.tokens import word_tokenizer
from tests.harness.command import refused
from tests.harness.test_language import SUITE, go, lanes, run_of, table


def checkpoints(folder: Path, words: list[str]) -> tuple[Path, Path]:
    """An SFT model and a reward model with random weights, in folders."""
    tokenizer = word_tokenizer(words)
    config = LanguageConfig(layers=1, width=16, heads=2)
    sft, judge = (tiny_model(config, len(tokenizer), 64) for _ in range(2))
    save_checkpoint(folder / "sft", sft, tokenizer)
    save_checkpoint(folder / "reward", reward_from(judge), tokenizer)
    return folder / "sft", folder / "reward"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from tasks.language.tldr_synthetic.suite import TASK as TLDR_TASK

    words = [text for example in TLDR_TASK.load("auto").examples("train") for text in example]
    torch.manual_seed(0)
    return checkpoints(tmp_path_factory.mktemp("given"), words)


def test_checkpoints_stand_in_for_training(given: tuple[Path, Path], tmp_path: Path) -> None:
    sft, judge = given
    sets = ("--set", f"sft_checkpoint={sft}", "--set", f"reward_checkpoint={judge}", "--set", "dtype=bfloat16")
    done = go(tmp_path, "--methods", "vgf,ppo", *sets, "--seeds", "1")
    assert done.exit_code == 0, done.stderr
    for method in ("vgf", "ppo"):
        rows = table(run_of(tmp_path, method))
        assert np.isfinite([float(row["proxy"]) for row in rows]).all()
        assert {row["step"] for row in rows} == {"3" if method == "ppo" else "0"}
    sft_lane = tmp_path / "artifacts" / lanes(run_of(tmp_path, "vgf"))[0]
    part = TensorFormat().read(sft_lane / "state" / "0.safetensors")["sft"]
    assert part.about == {"given": True} and not part.tensors, "weights stay where they are"
    identity = json.loads((sft_lane / "stage.json").read_text())["identity"]
    assert [len(digest) for digest in identity["files"]] == [64], "but the stage knows them by their hash"


def test_a_saved_reward_model_scores_as_it_did(given: tuple[Path, Path]) -> None:
    from transformers import AutoModelForSequenceClassification

    whole = AutoModelForSequenceClassification.from_pretrained(given[1])
    ids = torch.tensor([[3, 4, 5, 1]])
    path = str(given[1])
    known = frozenset([contents(path)])
    mine = Backbones(LanguageConfig(reward_checkpoint=path), 10, 20, known).given("reward")
    theirs = whole.score(whole.base_model(input_ids=ids).last_hidden_state)[0, -1, 0]
    torch.testing.assert_close(mine(torch.tensor([3]), ids=ids)[0], theirs)


def test_bad_input_is_one_line(given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    results = ("--results", str(tmp_path / "results"))

    def line(*arguments: str) -> str:
        return refused(*SUITE, *results, *arguments)

    assert "unknown method 'fql'; valid: args, best_of_n, dpo, grpo, " in line("--methods", "fql")
    assert "unknown method 'sft'" in refused("--suite", "toy", "--methods", "sft", *results)
    assert "best_of_n.test_n=9 is more than rollouts=6" in line("--set", "best_of_n.test_n=1,9")
    assert "--set vgf.surrogate" in line("--set", "vgf.surrogate=x") or "surrogate=x is not one of" in line(
        "--set", "vgf.surrogate=x"
    )
    assert "--set L_train: no such setting in vgf" in line("--set", "vgf.L_train=1")
    assert "--online-steps 9: sft has no rule" in line(
        "--methods", "sft", "--online-steps", "9", "--online-warmup", "1"
    )
    assert f"{tmp_path}/none: no such folder with a model" in line("--set", f"sft_checkpoint={tmp_path}/none")
    assert "'nobody/nothing' is no folder here, and the model hub did not give it" in line(
        "--set", "model=nobody/nothing"
    )
    assert "task.judge=http: expected one of gold, proxy" in line("--set", "task.judge=http")
    assert not (tmp_path / "results").exists(), "nothing was written"


@pytest.mark.slow
def test_what_only_shows_with_the_data_is_one_line_too(given: tuple[Path, Path], tmp_path: Path) -> None:
    def failed(*arguments: str) -> str:
        done = go(tmp_path, "--methods", "vgf", *arguments, "--seeds", "1")
        lane, *_, run, end = done.stderr.splitlines()  # the reward model may fail of the same
        stage, failed, why = lane.removeprefix("vgf on tldr-synthetic: ").partition(", seed 0: failed: ")
        assert (
            failed and run.startswith("vgf on tldr-synthetic, seed 0: failed: its ") and run.endswith(f" failed: {why}")
        )
        assert done.exit_code == 1 and end.startswith("0 of 1 runs finished")
        return f"{stage}: {why}"

    other = checkpoints(tmp_path / "other", ["a", "b"])[1]
    mismatch = failed("--set", f"sft_checkpoint={given[0]}", "--set", f"reward_checkpoint={other}")
    assert f"{other}: its tokenizer differs from that of {given[0]}" in mismatch
    line = failed("--set", "prompt_split=tset")
    assert "rollouts: tldr-synthetic has no examples in a split called 'tset'; did you mean 'test'" in line
    assert "rollouts: --episodes 2001: split 'test' has 2000 prompts" in failed("--episodes", "2001")
