"""`python -m harness.export` of parts that did not begin as the tiny model: transformers loads them as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from core.files import write_json
from harness.export import app
from harness.store import LaneStore
from harness.tensors import TensorFormat
from methods.language.core import Part
from methods.language.models import reward_from
from methods.language.tokens import word_tokenizer
from tasks.language.tldr_synthetic.suite import TASK
from tests.harness.command import invoke
from tests.tasks.test_language_data import write_tldr

SMALL = ("--suite", "tldr-synthetic", "--preset", "smoke", "--seeds", "1", "--jobs", "1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of random weights, whose input and output embeddings are one tensor."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("models") / "base"
    words = [text for example in TASK.load("auto").examples("train") for text in example]
    tokenizer = word_tokenizer(words)
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=len(tokenizer) + 3, n_embd=16, n_layer=1, n_head=2, n_positions=64,
                        pad_token_id=0, eos_token_id=1, bos_token_id=1)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stage(results: Path, name: str) -> tuple[Path, Part]:
    """The folder of the run's only lane that made the part `name`, and the part."""
    for path in (results / "artifacts").glob("*/stage.json"):
        identity = json.loads(path.read_text())["identity"]
        if identity["trains"] == [name] and identity["steps"]:
            return path.parent, LaneStore(path.parent, identity, TensorFormat()).load()[name]
    raise AssertionError(f"no stage made {name}")


def exported(artifact: Path, out: Path, *more: str) -> Any:
    return CliRunner().invoke(app, [str(artifact), "--out", str(out), *more])


@pytest.fixture(scope="module")
def results(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT of that model by LoRA, and a reward model and DPO on top."""
    folder = tmp_path_factory.mktemp("results")
    done = invoke(*SMALL, "--methods", "dpo", "--results", str(folder), "--set", f"model={base}", "--set",
                  "lora_rank=2", "--set", "sft_steps=3", "--set", "test_temperatures=1")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["sft", "policy"])
def test_a_language_model_is_loaded_as_it_was_trained(name: str, results: Path, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    artifact, part = stage(results, name)
    done = exported(artifact, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    model, before = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "out", base))
    assert type(model).__name__ == "GPT2LMHeadModel"
    theirs = model.state_dict()
    assert part.tensors and all(torch.equal(theirs[key], value) for key, value in part.tensors.items())
    assert any(not torch.equal(theirs[key], value) for key, value in before.state_dict().items()), "trained"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("lost keys")["input_ids"] == AutoTokenizer.from_pretrained(base)("lost keys")["input_ids"]


def test_a_reward_model_scores_as_a_classifier_what_it_scored_here(results: Path, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    artifact, part = stage(results, "reward")
    assert exported(artifact, tmp_path / "out").exit_code == 0
    judge = reward_from(AutoModelForCausalLM.from_pretrained(base)).eval()
    judge.load_state_dict(part.tensors)
    ids = torch.tensor([[5, 9, 12, 7, 1], [4, 8, 1, 0, 0]])
    ours = judge(torch.tensor([4, 2]), ids=ids)
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    theirs = other(input_ids=ids, attention_mask=torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])).logits.squeeze(1)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_what_began_as_a_given_checkpoint_needs_its_like(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "results"
    done = invoke(*SMALL, "--methods", "dpo", "--results", str(folder), "--set", f"sft_checkpoint={base}", "--set",
                  "measure_proxy=off")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    artifact, part = stage(folder, "policy")
    refused = exported(artifact, tmp_path / "out")
    assert refused.exit_code == 2 and "it began as a checkpoint that the run was given; --like" in refused.stderr
    done = exported(artifact, tmp_path / "out", "--like", str(base))
    assert done.exit_code == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in part.tensors.items())
    assert json.loads((tmp_path / "out" / "checkpoint.json").read_text())["command"].endswith(f"--like {base}")


def test_another_architecture_is_refused_and_leaves_nothing(base: Path, results: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

    wide = tmp_path / "wide"
    tokenizer = AutoTokenizer.from_pretrained(base)
    AutoModelForCausalLM.from_config(GPT2Config(vocab_size=len(tokenizer) + 3, n_embd=32, n_layer=1, n_head=2,
                                                n_positions=64)).save_pretrained(wide)  # fmt: skip
    tokenizer.save_pretrained(wide)
    artifact, _ = stage(results, "policy")
    done = exported(artifact, tmp_path / "out", "--like", str(wide))
    assert done.exit_code == 2 and "has shape" in done.stderr and not (tmp_path / "out").exists()


def test_of_a_family_without_a_classifier_all_but_the_reward_model_is_exported(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base)
    config = MambaConfig(vocab_size=len(tokenizer) + 3, hidden_size=16, num_hidden_layers=1, state_size=4, expand=2,
                         time_step_rank=2, pad_token_id=0, bos_token_id=1, eos_token_id=1)  # fmt: skip
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    done = invoke(*SMALL, "--methods", "best_of_n", "--results", str(tmp_path / "results"), "--set",
                  f"model={tmp_path / 'mamba'}", "--set", "test_temperatures=1")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    refused = exported(stage(tmp_path / "results", "reward")[0], tmp_path / "out")
    assert refused.exit_code == 2 and not (tmp_path / "out").exists()
    assert refused.stderr.startswith("error: a reward model of the family 'mamba' cannot be made a classifier")
    assert refused.stderr.count("\n") == 1
    artifact, part = stage(tmp_path / "results", "sft")
    assert exported(artifact, tmp_path / "out").exit_code == 0
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert part.tensors and all(torch.equal(theirs[key], value) for key, value in part.tensors.items())


def test_the_words_of_a_tiny_model_come_from_the_data_of_its_run(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_tldr(tmp_path / "one")
    for path in write_tldr(tmp_path / "other").rglob("*.parquet"):
        rows = pq.read_table(path).to_pylist()
        changed = [{key: text.replace("roof", "shed") for key, text in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(changed), path)
    done = invoke(*SMALL, "--suite", "tldr", "--methods", "sft", "--episodes", "2", "--data",
                  str(tmp_path / "one"), "--results", str(tmp_path / "results"), "--set",
                  "test_temperatures=1")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    artifact, _ = stage(tmp_path / "results", "sft")
    for data in ("other", "nowhere"):
        refused = exported(artifact, tmp_path / "out", "--data", str(tmp_path / data))
        assert refused.exit_code == 2 and f"--data {tmp_path / data}" in refused.stderr
        assert refused.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    done = exported(artifact, tmp_path / "out", "--data", str(tmp_path / "one"))
    assert done.exit_code == 0, done.stderr
    words = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert "roof." in words and "shed." not in words
    note = json.loads((tmp_path / "out" / "checkpoint.json").read_text())
    assert note["command"].endswith(f"--out PATH --data {tmp_path / 'one'}")


def test_a_part_that_nothing_trained_is_not_exported(tmp_path: Path) -> None:
    identity = {"stage": "sft", "trains": ["sft"], "task": "tldr-synthetic/tldr-synthetic", "data": "", "seed": 0,
                "config": {"dtype": "float32"}, "steps": 0, "rule": "a checkpoint given"}  # fmt: skip
    write_json(tmp_path / "stage.json", {"finished": True, "step": 0, "identity": identity, "files": {}})
    done = exported(tmp_path, tmp_path / "out")
    assert done.exit_code == 2 and "its model is the checkpoint that the run was given" in done.stderr
