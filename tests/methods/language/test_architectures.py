"""Other families of models, with random weights: each reads, is moved, samples and learns as GPT-NeoX does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from methods.core import BadInput
from methods.language.core import LanguageConfig
from methods.language.dpo import DPOConfig, DPOJob
from methods.language.models import causal, reward, sample
from methods.language.reward_model import RewardJob
from methods.language.scoring import Scorer, scores
from methods.language.sft import SFTJob
from methods.language.surrogates import Embedding, Frame, Simplex, frame
from tests.methods.language.common import SMALL, Bench

VOCABULARY = 16  # eleven tokens in use
LLAMA = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "intermediate_size": 32, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 1, "max_position_embeddings": 32}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "Gemma": LLAMA | {"head_dim": 8}, "Gemma2": LLAMA | {"head_dim": 8}, "Llama": LLAMA, "Qwen2": LLAMA,
    "Qwen3": LLAMA | {"head_dim": 8},
    "GPT2": {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "GPTNeoX": {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"},
    "Mamba": {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "expand": 2,
              "time_step_rank": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
}  # fmt: skip
PROMPTS = [[3, 4, 5], [4, 3], [6, 6, 6, 3]]
RESPONSES = [[5, 6, 7, 1], [3, 4, 5, 6, 7, 8], [9, 1]]  # one of them cut off


def build(family: str) -> Any:
    import transformers

    kind = getattr(transformers, f"{family}ForCausalLM" if family != "GPT2" else "GPT2LMHeadModel")
    return kind(getattr(transformers, f"{family}Config")(**SIZES[family]))


def at(family: str, config: LanguageConfig, scale: float = 4.0) -> Bench:
    """A bench whose models are of that family."""
    bench = Bench(config)
    models = replace_fresh(bench, lambda: build(family))
    bench.context = replace(bench.context, models=models)
    torch.manual_seed(0)
    return bench.untrained(scale)


def replace_fresh(bench: Bench, make: Callable[[], Any]) -> Any:
    models: Any = bench.context.models
    models.fresh = make
    return models


@pytest.fixture(scope="module", params=SIZES)
def bench(request: pytest.FixtureRequest) -> Bench:
    return at(request.param, LanguageConfig(**SMALL))


@pytest.fixture(scope="module")
def fixed(bench: Bench) -> Frame:
    texts = bench.texts
    scorer = Scorer(reward(bench.context), texts.eos, texts.pad)
    return frame(causal(bench.context, "sft"), scorer, PROMPTS, RESPONSES, banned=texts.banned, tokens=texts.size)


def text_scores(bench: Bench) -> torch.Tensor:
    model, texts = reward(bench.context), bench.texts
    return (scores(model, PROMPTS, RESPONSES, texts.eos, texts.pad) - model.mean).detach() / model.deviation


def test_unmoved_particles_score_what_the_text_scores(bench: Bench, fixed: Frame) -> None:
    expected = text_scores(bench)
    assert expected.std() > 1e-3, "texts differ in score"
    one_hot, embedded = Simplex(fixed, candidates=4, bonus=100.0), Embedding(fixed)
    z = one_hot.init()
    assert float(one_hot.probabilities(z)[..., 0][fixed.editable].min()) == 1.0
    for found in (fixed.score(one_hot.embed(z)), fixed.score(embedded.init())):
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(fixed.score(0.5 * embedded.init()).detach(), expected, atol=1e-4), "embeddings are read"


def test_sampling_is_that_of_whole_passes_however_long_other_prompts_are(bench: Bench) -> None:
    """Greedy, against the likeliest next token by a pass over everything so far, of each prompt alone."""
    model, texts = causal(bench.context, "sft"), bench.texts
    found = sample(model, PROMPTS, 6, torch.Generator().manual_seed(0), eos=texts.eos, pad=texts.pad,
                   banned=texts.banned, tokens=texts.size, temperature=0.0)  # fmt: skip
    for prompt, response in zip(PROMPTS, found, strict=True):
        rows: list[int] = []
        while len(rows) < 6 and texts.eos not in rows:
            logits = model(input_ids=torch.tensor([prompt + rows])).logits[0, -1].detach()
            logits[[*texts.banned, *range(texts.size, VOCABULARY)]] = -torch.inf
            rows.append(int(logits.argmax()))
        assert response == rows


WITHOUT_ADAPTERS = "Mamba"


def test_adapters_that_a_family_cannot_have_are_refused_by_name() -> None:
    config = LanguageConfig(**SMALL, lora_rank=2)
    with pytest.raises(BadInput, match=r"^lora_rank=2: peft puts no adapters into MambaForCausalLM: ") as caught:
        SFTJob(at(WITHOUT_ADAPTERS, config).context, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "rank"), [(one, rank) for one in SIZES for rank in (0, 2) if not (rank and one == WITHOUT_ADAPTERS)]
)
def test_training_moves_it(family: str, rank: int) -> None:
    config = DPOConfig(**SMALL, lora_rank=rank, gradient_checkpointing=rank == 0, micro_batch=2)
    bench = at(family, config, 1.0)
    for job in (SFTJob(bench.context, config), RewardJob(bench.context, config), DPOJob(bench.context, config)):
        before = {name: weight.detach().clone() for name, weight in job.trained.items()}
        metrics = job.run(0, 1)
        assert metrics[f"{job.name}/loss"] > 0
        assert any(not torch.equal(weight, before[name]) for name, weight in job.trained.items())
        bench.parts |= job.parts()
    assert torch.isfinite(text_scores(bench)).all()
