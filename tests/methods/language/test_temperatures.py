"""The temperature of sampling as a test-time knob: greedy decoding, equal noise at all others, and every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import methods
from methods.language.best_of_n import BestOfN, BestOfNConfig, Choosing
from methods.language.core import LanguageConfig
from methods.language.models import causal, sample
from methods.language.respond import First, Rollouts, unpacked
from methods.language.sampling import draw
from methods.language.vgf import VGF, Flowing, VGFConfig
from tests.methods.language.common import EXAMPLES, SMALL, Bench

PROMPTS = len(EXAMPLES)


def bench_of(config: LanguageConfig, number: int | None = None) -> Bench:
    bench = Bench(config).untrained()
    draws = Rollouts(bench.context, config, PROMPTS, "sft", number or config.rollouts)
    draws.run(0, draws.total)
    bench.parts |= draws.parts()
    return bench


def answered(job: Any, bench: Bench) -> dict[str, Any]:
    job.run(0, job.total)
    return dict(job.parts()["responses"].tensors)


def by_hand(bench: Bench, prompt: Sequence[int]) -> list[int]:
    """The likeliest token each time, one forward pass a token, until the end."""
    model, texts = causal(bench.context, "sft"), bench.texts
    ids = list(prompt)
    for _ in range(texts.max_response):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        logits[texts.size :] = -torch.inf
        logits[list(texts.banned)] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == texts.eos:
            break
    return ids[len(prompt) :]


def test_greedy_takes_the_likeliest_token_each_time() -> None:
    bench = bench_of(LanguageConfig(**SMALL, test_temperatures=(0.0,)))
    found = bench.parts["rollouts"].tensors
    assert found["ids"].shape[1] == 1  # greedy samples are all alike: one is drawn
    prompts = [tokens.prompt for tokens, _ in bench.texts.prompts("test", PROMPTS)]
    assert unpacked(found["ids"], found["lengths"]) == [by_hand(bench, prompt) for prompt in prompts]


def test_a_low_temperature_comes_to_greedy() -> None:
    bench = Bench(LanguageConfig(**SMALL)).untrained()
    prompts, texts = [tokens.prompt for tokens, _ in bench.texts.prompts("test", PROMPTS)], bench.texts
    model = causal(bench.context, "sft")
    cold, greedy = (
        sample(model, prompts, texts.max_response, torch.Generator().manual_seed(seed), eos=texts.eos, pad=texts.pad,
               banned=texts.banned, tokens=texts.size, temperature=temperature)
        for seed, temperature in ((3, 1e-4), (4, 0.0))
    )  # fmt: skip
    assert cold == greedy


def test_rollouts_at_one_temperature_are_those_of_a_run_that_has_no_other() -> None:
    """Blocks stand one after the other; the same noise at each, so that at T = 1 nothing has changed."""
    alone = bench_of(LanguageConfig(**SMALL)).parts["rollouts"].tensors
    many = bench_of(LanguageConfig(**SMALL, test_temperatures=(0.0, 0.5, 1.0))).parts["rollouts"].tensors
    number = SMALL["rollouts"]
    assert many["ids"].shape[1] == 1 + 2 * number and alone["ids"].shape[1] == number
    assert torch.equal(many["ids"][:, 1 + number :], alone["ids"])
    assert not torch.equal(many["ids"][:, 1 : 1 + number], alone["ids"])


def test_best_of_n_chooses_at_each_temperature() -> None:
    config = BestOfNConfig(**SMALL, test_n=(1, 4), test_temperatures=(0.0, 1.0))
    method = BestOfN(config, None)
    assert list(method.knobs) == [{"T": 0.0, "N": 1}, {"T": 1.0, "N": 1}, {"T": 1.0, "N": 4}]
    bench = bench_of(config)
    found = answered(Choosing(bench.context, config, PROMPTS, BestOfN(config, None)), bench)
    alone = BestOfNConfig(**SMALL, test_n=(1, 4))
    beside = bench_of(alone)
    expected = answered(Choosing(beside.context, alone, PROMPTS, BestOfN(alone, None)), beside)
    for name in ("ids", "lengths", "proxy", "compute", "samples"):
        assert torch.equal(found[name][:, 1:], expected[name]), name
    assert found["compute"][:, 0].tolist() == [2.0] * PROMPTS  # a sample and its score
    greedy = bench.parts["rollouts"].tensors
    assert torch.equal(found["ids"][:, 0], greedy["ids"][:, 0])


def test_vgf_moves_one_particle_from_the_greedy_answer() -> None:
    config = VGFConfig(**SMALL, test_flow_steps=(0, 2), n_particles=3, test_temperatures=(0.0, 1.0))
    method = VGF(config, None)
    assert [dict(one) for one in method.knobs] == [
        {"T": t, "L_test": steps} for t in (0.0, 1.0) for steps in (0, 2)
    ]  # fmt: skip
    bench = bench_of(config)
    found = answered(Flowing(bench.context, config, PROMPTS), bench)
    assert torch.equal(found["ids"][:, 0], bench.parts["rollouts"].tensors["ids"][:, 0])  # unmoved
    compute = [method.cost(one).passes + 2 * method.cost(one).gradients for one in method.knobs]
    np.testing.assert_allclose(found["compute"][0], compute)
    assert compute[0] == 2 and compute[2] == 2 * 3  # a sample and its score each
    assert torch.isfinite(found["proxy"]).all()


@pytest.mark.parametrize("name", sorted({*methods.LANGUAGE} - {"optimum"}))
def test_every_method_has_the_knob(name: str) -> None:
    cls = methods.get(name, "language")
    one, two = (cls(cls.Config(test_temperatures=values), None) for values in ((1.0,), (0.0, 1.0)))
    assert all("T" not in knobs for knobs in one.knobs) and {knobs["T"] for knobs in two.knobs} == {0.0, 1.0}
    assert two.inference[0].name == "T"


def test_the_likelihood_ratio_of_a_policy_is_of_what_is_drawn() -> None:
    """At T = 0 nothing is drawn, so no divergence is told."""
    config = LanguageConfig(**SMALL, test_temperatures=(0.0, 0.7))
    bench = Bench(config).untrained()
    bench.parts["policy"] = bench.parts["sft"]
    draws = Rollouts(bench.context, config, PROMPTS, "policy", 1)
    draws.run(0, draws.total)
    bench.parts |= draws.parts()
    found = answered(First(bench.context, config, PROMPTS, "policy"), bench)
    assert torch.isnan(found["kl"][:, 0]).all()
    np.testing.assert_allclose(found["kl"][:, 1], 0.0, atol=1e-5)  # the policy is SFT itself


def test_draws_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chances 0, .25, .5, .25: summed 0, .25, .75, 1. A number that a sum equals belongs to the next token."""
    logits = torch.tensor([0.0, 0.25, 0.5, 0.25]).log().expand(6, -1)
    numbers = torch.tensor([[0.0], [0.2499], [0.25], [0.7499], [0.75], [1 - 1e-12]], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *size, **more: numbers)
    assert draw(logits, torch.Generator()).tolist() == [1, 1, 2, 2, 3, 3]


def test_a_large_vocabulary_is_drawn_from_to_its_last_token() -> None:
    """50,000 tokens of equal chance: draws are spread evenly, the last ones among them, the forbidden ones not."""
    logits = torch.zeros(2000, 50_000)
    logits[:, ::2] = -torch.inf
    found = draw(logits, torch.Generator().manual_seed(0))
    assert (found % 2 == 1).all()
    counts = torch.histc(found.double(), bins=10, min=0, max=50_000)
    assert float(((counts - 200.0) ** 2 / 200.0).sum()) < 27.9  # chi-square of 9 degrees at 0.1%


def test_the_first_samples_are_the_same_however_many_there_are() -> None:
    config = LanguageConfig(**SMALL, test_temperatures=(0.7, 0.0))
    few, many = (bench_of(config, number).parts["rollouts"].tensors["ids"] for number in (2, 5))
    assert torch.equal(few[:, :2], many[:, :2]) and torch.equal(few[:, 2], many[:, 5])
    assert not torch.equal(many[:, 0], many[:, 1])
