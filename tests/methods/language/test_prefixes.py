"""Prompts read once give what whole passes give, for every family of models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from methods.language import prefixes
from methods.language.core import LanguageConfig
from methods.language.models import causal, reward, sample, token_logprobs
from methods.language.prefixes import Prompts, Reader, whole
from methods.language.scoring import Likelihood, Scorer, behind, scores
from methods.language.tokens import join
from tests.methods.language.common import SMALL, Bench
from tests.methods.language.test_architectures import SIZES, at

# of different lengths, some several times
PROMPTS = [[3, 4, 5], [4, 3], [6, 6, 6, 3], [3, 4, 5], [6, 6, 6, 3], [3, 4, 5]]
RESPONSES = [[5, 6, 7, 1], [3, 4, 5, 6, 7, 8], [9, 1], [7, 1], [9, 1], [5, 6, 7, 1]]


@pytest.fixture(scope="module", params=SIZES)
def bench(request: pytest.FixtureRequest) -> Bench:
    return at(request.param, LanguageConfig(**SMALL))


def passes(body: Any, counted: list[int]) -> Any:
    """Notes the tokens of every pass; the handle that ends it."""

    def seen(module: Any, given: Any, rest: Any, out: Any) -> None:
        tokens = rest["input_ids"] if rest.get("input_ids") is not None else rest["inputs_embeds"]
        counted.append(tokens.shape[0] * tokens.shape[1])

    return body.register_forward_hook(seen, with_kwargs=True)


@pytest.mark.parametrize("short", [False, True])
def test_scores_and_likelihoods_are_those_of_whole_passes(bench: Bench, short: bool) -> None:
    texts, model, judge = bench.texts, causal(bench.context, "sft"), reward(bench.context)
    judge.mean, judge.deviation = 0.3, 1.7
    prompts = [*PROMPTS[:-1], [8]] if short else PROMPTS  # nothing to keep of a prompt of one token
    expected = (scores(judge, prompts, RESPONSES, texts.eos, texts.pad).detach() - 0.3) / 1.7
    found = Scorer(judge, texts.eos, texts.pad)(prompts, RESPONSES)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-3
    with torch.no_grad():
        by_token = token_logprobs(model, join(prompts, RESPONSES, texts.pad), 0.7).sum(1)
    likelihood = Likelihood(model, texts.pad)
    torch.testing.assert_close(likelihood(prompts, RESPONSES, 0.7), by_token, rtol=1e-5, atol=1e-4)
    last = likelihood.next_logits(prompts, [[], *RESPONSES[1:]])
    for row, (prompt, text) in enumerate(zip(prompts, [[], *RESPONSES[1:]], strict=True)):
        alone = model(input_ids=torch.tensor([prompt + text])).logits[0, -1].detach()
        torch.testing.assert_close(last[row], alone, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_whole_passes(bench: Bench) -> None:
    model, pad = reward(bench.context), bench.texts.pad
    batch = behind(PROMPTS, RESPONSES, pad, "cpu")
    begun = model.backbone.get_input_embeddings()(batch.ids).detach()
    begun += 0.1 * torch.randn(begun.shape, generator=torch.Generator().manual_seed(0))
    slopes, rows = [], [tuple(prompt) for prompt in PROMPTS]
    for read in (lambda leaf: Reader(model.backbone, pad).hidden(PROMPTS, embeds=leaf),
                 lambda leaf: whole(model.backbone, rows, pad, None, leaf)):  # fmt: skip
        leaf = begun.clone().requires_grad_(True)
        slopes += torch.autograd.grad(model.at(batch.last, read(leaf)).sum(), leaf)
    assert slopes[1].abs().max() > 1e-3
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)


def test_samples_do_not_change_where_a_prompt_is_read_for_several(bench: Bench) -> None:
    model, texts = causal(bench.context, "sft"), bench.texts
    common = {"eos": texts.eos, "pad": texts.pad, "banned": texts.banned, "tokens": texts.size}
    found = sample(model, PROMPTS, 6, torch.Generator().manual_seed(0), **common, temperature=0.0)
    alone = [sample(model, [prompt], 6, torch.Generator(), **common, temperature=0.0)[0] for prompt in PROMPTS]
    assert found == alone


def test_a_prompt_is_read_once() -> None:
    bench = at("Llama", LanguageConfig(**SMALL))
    model, eos, pad = reward(bench.context), bench.texts.eos, bench.texts.pad
    scorer, prompt = Scorer(model, eos, pad), [3, 4, 5, 6, 7, 8, 9, 3]
    answers = [[n, eos] for n in (4, 5, 6, 7)]
    scorer([prompt], answers[:1])
    counted: list[int] = []
    hook = passes(model.backbone, counted)
    before = scorer([prompt] * 4, answers)
    assert counted == [4 * 3], "the prompt's last token, the word, the end: of each answer"
    assert torch.equal(scorer([prompt] * 6, [*answers, answers[0], answers[3]]), before[[0, 1, 2, 3, 0, 3]])
    assert counted == [12, 12], "what is the same is read once"
    scorer([prompt[:-1]], answers[:1])
    assert counted[2:] == [6, 3], "another prompt is read"
    hook.remove()


def test_pieces_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = at("Llama", LanguageConfig(**SMALL))
    model, pad = reward(bench.context), bench.texts.pad
    expected = Scorer(model, bench.texts.eos, pad)(PROMPTS, RESPONSES)
    kept = 2 * 2 * 8 * 3  # keys and values, layers, one head of 8, the longest prompt's tokens but one
    monkeypatch.setattr(prefixes, "KEPT", 2 * kept + 1)
    assert Prompts(model.backbone, [tuple(p) for p in PROMPTS], pad).rows(4) == 2
    counted: list[int] = []
    hook = passes(model.backbone, counted)
    found = Scorer(model, bench.texts.eos, pad)(PROMPTS, RESPONSES)
    hook.remove()
    assert len(counted) == 1 + 2, "four different texts in two pieces"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_cache_that_tells_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = at("Llama", LanguageConfig(**SMALL))
    model, texts = reward(bench.context), bench.texts
    expected = Scorer(model, texts.eos, texts.pad)(PROMPTS, RESPONSES)
    monkeypatch.setattr(prefixes, "_alike", {})
    read = Prompts.hidden
    monkeypatch.setattr(Prompts, "hidden", lambda *given, **named: 1.1 * read(*given, **named))
    found = Scorer(model, texts.eos, texts.pad)(PROMPTS, RESPONSES)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert prefixes._alike == {type(model.backbone): False}
