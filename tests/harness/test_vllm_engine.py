"""Rollouts by vLLM, tested by its interface: a module with the names and types of 0.33 stands in, and samples with our
own loop from the folder that it is given."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from methods.language.models import sample
from tests.harness.command import invoke
from tests.harness.test_export import stage

SMALL = ("--suite", "tldr-synthetic", "--preset", "smoke", "--seeds", "1", "--jobs", "1", "--methods",
         "best_of_n")  # fmt: skip


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None
    detokenize: bool = True


@dataclass
class CompletionOutput:
    index: int
    token_ids: Sequence[int]
    finish_reason: str | None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


class LLM:
    made: list[LLM] = []  # noqa: RUF012

    def __init__(self, model: str, *, skip_tokenizer_init: bool = False, dtype: str = "auto",
                 max_model_len: int | None = None, gpu_memory_utilization: float = 0.92,
                 enable_prefix_caching: bool | None = None) -> None:  # fmt: skip
        from transformers import AutoModelForCausalLM, AutoTokenizer

        assert skip_tokenizer_init and max_model_len and gpu_memory_utilization < 1
        assert enable_prefix_caching is not None
        self.dtype = dtype
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.seeds: list[int | None] = []
        LLM.made.append(self)

    def generate(self, prompts: Any, sampling_params: Any, *, use_tqdm: bool = True) -> list[RequestOutput]:
        assert len(prompts) == len(sampling_params) and not use_tqdm
        found = []
        for prompt, asked in zip(prompts, sampling_params, strict=True):
            assert isinstance(asked, SamplingParams) and not asked.detokenize and asked.seed is not None
            self.seeds.append(asked.seed)
            (eos,) = asked.stop_token_ids or ()
            allowed = {*(asked.allowed_token_ids or ())}
            banned = [i for i in range(len(self.tokenizer)) if i not in allowed]
            assert eos in allowed and self.tokenizer.pad_token_id in banned
            texts = sample(self.model, [prompt["prompt_token_ids"]] * asked.n, asked.max_tokens or 16,
                           torch.Generator().manual_seed(asked.seed), eos=eos, pad=0, banned=banned,
                           tokens=len(self.tokenizer), temperature=asked.temperature)  # fmt: skip
            outputs = [CompletionOutput(i, tuple(ids), "stop" if ids[-1] == eos else "length")
                       for i, ids in enumerate(texts)]  # fmt: skip
            found.append(RequestOutput(outputs[::-1]))
        return found


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__spec__ = LLM, SamplingParams, ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(LLM, "made", [])
    return LLM


def rows(results: Path) -> list[dict[str, str]]:
    (path,) = results.glob("runs/*/*/*/*/seed-0/episodes.csv")
    return list(csv.DictReader(path.open()))


def test_records_are_those_of_our_own_loop(vllm: type[LLM], tmp_path: Path) -> None:
    for engine in ("own", "vllm"):
        done = invoke(*SMALL, "--results", str(tmp_path / engine), "--set", f"rollout_engine={engine}", "--set",
                      "test_temperatures=0,1")  # fmt: skip
        assert done.exit_code == 0, done.stderr
    own, other = rows(tmp_path / "own"), rows(tmp_path / "vllm")
    assert [list(row) for row in own] == [list(row) for row in other] and len(own) == len(other)
    assert {row["eos"] for row in other} <= {"0", "1"} and own != other, "other draws"
    greedy = [[row for row in some if row["T"] == "0"] for some in (own, other)]
    assert greedy[0] == greedy[1], "the likeliest tokens are the same ones"
    (made,) = vllm.made
    assert len(set(made.seeds)) == 6, "a seed a prompt, the same at every temperature"
    assert made.dtype == "float32"


@pytest.mark.parametrize(("rank", "dtype"), [(2, "float32"), (0, "bfloat16")])
def test_what_lora_learned_is_not_rounded_away(vllm: type[LLM], tmp_path: Path, rank: int, dtype: str) -> None:
    """With `dtype=bfloat16`, parts made by LoRA are read in float32, others in bfloat16; so vLLM has them, too."""
    done = invoke(*SMALL, "--results", str(tmp_path), "--set", "rollout_engine=vllm", "--set", f"lora_rank={rank}",
                  "--set", "dtype=bfloat16", "--set", "test_temperatures=1")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    (made,) = vllm.made
    _, part = stage(tmp_path, "sft")
    theirs = made.model.state_dict()
    assert (
        made.dtype == dtype and part.tensors and {value.dtype for value in theirs.values()} == {getattr(torch, dtype)}
    )
    assert all(torch.equal(theirs[name], value.to(theirs[name].dtype)) for name, value in part.tensors.items())


def test_where_it_is_not_installed_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, package=None: None if name == "vllm" else ModuleSpec(name, None)
    )
    done = invoke(*SMALL, "--results", str(tmp_path / "r"), "--set", "rollout_engine=vllm")
    assert done.exit_code == 2 and "rollout_engine=vllm needs vllm" in done.stderr
    assert not list((tmp_path / "r").glob("artifacts/*/state"))
