"""Logits of response tokens alone: the same numbers as from all of them, whatever the model does to its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from methods.language.core import LanguageConfig
from methods.language.heads import own_head, response_logits, token_logprobs
from methods.language.models import adapted, tiny_model
from methods.language.sft import sft_loss
from methods.language.tokens import Batch, join

SIZES: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                         "num_key_value_heads": 2, "intermediate_size": 32, "head_dim": 8, "pad_token_id": 0,
                         "bos_token_id": 1, "eos_token_id": 1}  # fmt: skip
PROMPTS = [[3, 4, 5, 6, 7, 8, 9], [4], [9, 3, 4]]  # ragged
RESPONSES = [[6, 7, 1], [8, 1], [5, 5, 3, 4, 2]]


def neox() -> Any:
    return tiny_model(LanguageConfig(layers=2, width=16, heads=2), 30, 32)


def capped() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.5))


def scaled() -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM(CohereConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"}, logit_scale=3.0))


def within_lora() -> Any:
    model = adapted(neox(), 2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    return model


def one_piece() -> Any:
    """A model that asks its body for more than hidden states."""
    from transformers import GPTNeoXForCausalLM

    class Curious(GPTNeoXForCausalLM):
        def forward(self, *args: Any, **settings: Any) -> Any:
            assert len(self.gpt_neox.layers)
            found = super().forward(*args, **settings)
            found.logits = found.logits * 2.0
            return found

    return Curious(neox().config)


KINDS = (neox, capped, scaled, within_lora, one_piece)


def made(kind: Any) -> Any:
    torch.manual_seed(0)
    return kind().double().eval()


def by_all_logits(model: Any, batch: Batch, temperature: float) -> torch.Tensor:
    """log pi `[b, l]` from the logits of every token."""
    chances = (model(input_ids=batch.ids).logits / temperature).log_softmax(-1)
    found = torch.zeros(batch.ids.shape, dtype=chances.dtype)
    found[:, 1:] = chances[:, :-1].gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
    return found * batch.response_mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [False, True])
def test_values_and_gradients_are_those_of_all_logits(kind: Any, pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = made(kind), join(PROMPTS, RESPONSES, 0)
    if pieces:
        monkeypatch.setattr("methods.language.heads.LOGITS", 3 * 32)  # three tokens at a time, of ten
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found, expected = token_logprobs(model, batch, 0.7), by_all_logits(model, batch, 0.7)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    ours, theirs = (torch.autograd.grad((x * factors).sum(), weights, allow_unused=True) for x in (found, expected))
    assert any(gradient is not None for gradient in ours)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(token_logprobs(model, batch, 0.7), expected, rtol=0, atol=1e-10)
        wide, logits = response_logits(model, batch, 5), model(input_ids=batch.ids).logits
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        first = len(prompt) - 1
        torch.testing.assert_close(wide[row, : len(response)], logits[row, first : first + len(response)], atol=1e-10,
                                   rtol=0)  # fmt: skip


def test_a_head_that_is_none_of_its_own_is_told() -> None:
    assert own_head(made(one_piece)) is None
    assert all(own_head(made(kind)) is not None for kind in (neox, capped, scaled))


def test_no_more_logits_than_response_tokens_are_made_and_of_those_a_piece_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prompts of 1 and 7 tokens in a batch: ten response tokens, of 36 places."""
    model, rows = made(neox), list[int]()
    assert own_head(model) is not None
    model.get_output_embeddings().register_forward_hook(lambda _, given, __: rows.append(given[0].shape[-2]))
    token_logprobs(model, join(PROMPTS, RESPONSES, 0))
    assert rows == [10]
    rows.clear()
    monkeypatch.setattr("methods.language.heads.LOGITS", 4 * 32)
    sft_loss(model, PROMPTS, RESPONSES, 0).backward()
    assert sorted(rows) == [2, 2, 4, 4, 4, 4], "each piece again for its gradient, none of them kept"
