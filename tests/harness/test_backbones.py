"""Checkpoints: refused where weights lack, and loaded only as they were when the run was planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from harness.backbones import Backbones, save_checkpoint, tokenizer_for
from harness.export import app
from harness.files import _commit, contents
from methods.core import BadInput
from methods.language.core import LanguageConfig
from methods.language.models import load_into, reads, reward_from, tiny_model, weights
from methods.language.tokens import vocabulary_hash, word_tokenizer
from tasks import shipped
from tasks.language.tldr_synthetic.suite import SUITE as TLDR_SUITE
from tests.harness.command import invoke

SIZES: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2}


def saved(folder: Path, *, seed: int = 0, reward: bool = False) -> Path:
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(["a", "b", "c"])
    model = tiny_model(LanguageConfig(**SIZES), len(tokenizer), 16)
    save_checkpoint(folder, reward_from(model) if reward else model, tokenizer)
    return folder


def backbones(*paths: Path | str, **settings: Any) -> Backbones:
    return Backbones(LanguageConfig(**SIZES, **settings), 6, 16, frozenset(contents(str(path)) for path in paths))


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    folder = saved(tmp_path / "causal")
    with pytest.raises(BadInput, match=r"^reward model '.*causal': no weights for score\.weight$"):
        backbones(folder, reward_checkpoint=str(folder)).given("reward")


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    folder = saved(tmp_path / "reward", reward=True)
    with pytest.raises(BadInput, match=r"^model '.*reward': no weights for \S+$"):
        backbones(folder, sft_checkpoint=str(folder)).given("sft")


def test_a_part_without_some_weights_is_refused_unless_they_are_tied() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    tensors = dict(weights(model).tensors)
    assert not {"lm_head.weight", "transformer.wte.weight"} <= set(tensors), "stored once"
    load_into(model, tensors, "sft")
    del tensors["transformer.ln_f.bias"]
    with pytest.raises(BadInput, match=r"^sft: no weights for transformer\.ln_f\.bias$"):
        load_into(model, tensors, "sft")


def test_the_sft_checkpoint_is_the_fresh_model_whatever_the_setting_model_says(tmp_path: Path) -> None:
    folder, other = saved(tmp_path / "sft", seed=1), saved(tmp_path / "base", seed=2)
    fresh = backbones(folder, other, sft_checkpoint=str(folder), model=str(other)).fresh()
    given = backbones(folder, sft_checkpoint=str(folder)).given("sft")
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_a_checkpoint_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sft", seed=1)
    models = backbones(folder, sft_checkpoint=str(folder))
    saved(folder, seed=2)
    with pytest.raises(BadInput, match=r"sft: its files changed since the run was planned$"):
        models.given("sft")


def test_a_tilde_in_a_setting_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--set sft_checkpoint=~/sft`: no shell says so after "="."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = saved(tmp_path / "sft")
    assert contents("~/sft") == contents(str(folder))
    backbones("~/sft", sft_checkpoint="~/sft").given("sft")
    assert len(tokenizer_for(LanguageConfig(sft_checkpoint="~/sft", model=str(folder)), [])) == 6
    with pytest.raises(BadInput, match=r"^~/none: no such folder with a model in it"):
        contents("~/none")
    with pytest.raises(BadInput, match=r"^~nobody-here/sft: no home directory is known"):
        contents("~nobody-here/sft")


def test_a_tilde_in_an_export_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["~/artifacts/none", "--out", "~/out"])
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {tmp_path}/artifacts/none: no finished stage")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        *(lambda folder, text=text: (folder / "config.json").write_text(text)
          for text in ("[]", "null", "[" * 100_000, '{"model_type": 3}', '{"model_type": "gpt2", "n_embd": "x"}')),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, damage: Any) -> None:
    folder = saved(tmp_path / "sft")
    damage(folder)
    with pytest.raises(BadInput, match=r"^model '.*sft' cannot be read: ") as caught:
        backbones(folder, sft_checkpoint=str(folder)).given("sft")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"version": "1.0"}', '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, text: str) -> None:
    folder = saved(tmp_path / "sft")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(BadInput, match=r"^tokenizer of '.*sft' cannot be read: ") as caught:
        tokenizer_for(LanguageConfig(sft_checkpoint=str(folder)), [])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_what_a_tokenizer_reads_is_part_of_a_checkpoints_identity(tmp_path: Path) -> None:
    folder, seen = saved(tmp_path / "sft"), set()
    for name in ("merges.txt", "vocab.txt", "tokenizer.model"):
        seen.add(contents(str(folder)))
        (folder / name).write_text(name)
    (folder / "README.txt").write_text("no part of it")
    assert len(seen | {contents(str(folder))}) == 4


def test_without_a_network_a_name_of_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hub's library raises: errors of connections are of its own HTTP library."""

    def unreachable(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    _commit.cache_clear()
    with pytest.raises(BadInput, match=r"model 'we/none' is no folder here, .* did not give it: no route to host$"):
        contents("we/none")


def test_a_name_of_the_hub_is_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's cache, as it lies on a machine without a network: what the branch stood for then is loaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    _commit.cache_clear()
    with pytest.raises(BadInput, match=r"model 'we/tiny' is no folder here, and the model hub did not give it"):
        contents("we/tiny")
    folder = tmp_path / "models--we--tiny"
    saved(folder / "snapshots" / ("c0" * 20), seed=1)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c0" * 20)
    assert contents("we/tiny") == f"we/tiny@{'c0' * 20}"
    given = backbones("we/tiny", sft_checkpoint="we/tiny").given("sft")
    whole = backbones(folder / "snapshots" / ("c0" * 20), sft_checkpoint=str(folder / "snapshots" / ("c0" * 20)))
    for name, value in whole.given("sft").state_dict().items():
        assert torch.equal(value, given.state_dict()[name])


def test_the_checkpoints_that_come_along_are_what_they_say(tmp_path: Path) -> None:
    """Made from this very corpus, by the tokens that it gives, with a reward model that is mostly right."""
    corpus = TLDR_SUITE.get("tldr-synthetic").load("auto")
    words = word_tokenizer([text for example in corpus.examples("train") for text in example])
    for name in ("sft", "reward_model"):
        path = f"shipped:tldr-synthetic/{name}"
        note = json.loads((shipped(path) / "checkpoint.json").read_text())
        assert note["sha256"] == contents(path) and note["stage"] == name
        assert note["identity"]["data"] == corpus.provenance.sha256
        assert vocabulary_hash(tokenizer_for(LanguageConfig(sft_checkpoint=path), [])) == vocabulary_hash(words)
    assert note["measured"]["gold_accuracy"] > 0.7
    done = invoke("--suite", "tldr-synthetic", "--preset", "demo", "--methods", "vgf", "--episodes", "4", "--set",
                  "rollouts=6", "--set", "vgf.test_flow_steps=0,1", "--results", str(tmp_path))  # fmt: skip
    assert done.exit_code == 0 and "1 of 1 runs finished" in done.stderr, done.stderr


def test_only_positions_that_end_count_as_too_few() -> None:
    """Not, for one, memory that runs out, which torch reports by the same class."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    assert reads(model, 8) and not reads(model, 9)
    fails = {"gather": "index 9 is out of bounds for dimension 1 with size 8", "memory": "can't allocate memory"}

    def failing(module: torch.nn.Module, inputs: object) -> None:
        raise RuntimeError(fails["now"])

    model.base_model.register_forward_pre_hook(failing)
    fails["now"] = fails["gather"]
    assert not reads(model, 9)
    fails["now"] = fails["memory"]
    with pytest.raises(RuntimeError, match="allocate memory"):
        reads(model, 9)
