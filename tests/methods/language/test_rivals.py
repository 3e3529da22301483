"""What stands beside VGF on the same rollouts: searches among texts, soft choices, guided decoding, the optimum."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

import methods
from methods.core import BadInput, Unfit
from methods.language.args import ARGSConfig
from methods.language.core import LanguageConfig
from methods.language.hotflip import gains
from methods.language.models import reward
from methods.language.optimum import Optimum
from methods.language.quest import accepted
from methods.language.respond import Rollouts, changed, unpacked
from methods.language.search import Walk
from methods.language.soft_best_of_n import soft_choices
from methods.language.surrogates import Swaps
from methods.language.surrogates import accepted as taken_in
from tasks.language.core import LanguageSpec
from tests.methods.language.common import EXAMPLES, SMALL, Bench
from tests.methods.language.test_surrogates import Linear, make

PROMPTS = len(EXAMPLES)
SEARCHES = ("random_swaps", "likely_swaps", "hotflip", "quest")


def answered(name: str, bench: Bench | None = None, **settings: Any) -> tuple[dict[str, Any], Bench]:
    """The part "responses" of a method whose models are untrained, and the bench."""
    cls = methods.get(name, "language")
    method = cls(cls.Config(**{**SMALL, **settings}), None)
    bench = bench or Bench(method.config).untrained()
    draws = Rollouts(bench.context, method.config, PROMPTS, "sft", method.config.rollouts)
    draws.run(0, draws.total)
    bench.parts |= draws.parts()
    job = method.responding(PROMPTS)[-1].begin(bench.context)
    job.run(0, job.total)
    return dict(job.parts()["responses"].tensors), bench


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_begins_as_best_of_n_and_never_does_worse(name: str) -> None:
    found, _ = answered(name, n_starts=2, test_steps=(0, 1, 3, 12))
    best, _ = answered("best_of_n", test_n=(2,))
    assert torch.equal(found["ids"][:, :1], best["ids"]) and found["edit_fraction"][:, 0].eq(0).all()
    worth = found["proxy"] - (1 - found["eos"])
    assert (worth.diff(dim=1) >= -1e-5).all() and (worth[:, -1] > worth[:, 0] + 1e-4).any(), "nothing was found"
    assert found["edit_fraction"][:, -1].gt(0).any()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_the_same_again_and_on_the_way_to_more_steps(name: str) -> None:
    short, _ = answered(name, test_steps=(0, 2))
    long, _ = answered(name, test_steps=(2, 5))
    assert torch.equal(short["ids"][:, 1], long["ids"][:, 0]), "what comes later changes nothing before"


@pytest.mark.parametrize("name", ["random_swaps", "likely_swaps", "hotflip"])
def test_swaps_keep_length_and_take_candidates_of_sft(name: str) -> None:
    found, bench = answered(name, n_starts=1, test_steps=(0, 8), candidates=2)
    start, end = (unpacked(found["ids"][:, k], found["lengths"][:, k]) for k in (0, 1))
    assert [len(text) for text in start] == [len(text) for text in end] and start != end
    fixed = make(bench, start, [tokens.prompt for tokens, _ in bench.texts.prompts("test", PROMPTS)])
    likely = fixed.logits.topk(2, dim=-1).indices
    for p, (before, after) in enumerate(zip(start, end, strict=True)):
        for t, (a, b) in enumerate(zip(before, after, strict=True)):
            assert a == b or b in likely[p, t].tolist()


def test_gains_of_a_linear_reward_are_what_swaps_gain() -> None:
    bench = Bench(LanguageConfig(**SMALL)).untrained()
    fixed = make(bench, [[5, 6, 7, 1], [3, 4, 5, 6, 7, 8], [9, 1]], judge=Linear(reward(bench.context).double()))
    candidates = fixed.logits.topk(3, dim=-1).indices
    found, before = gains(fixed, fixed.start, candidates), fixed.score(fixed.table[fixed.start])
    for b, t in fixed.editable.nonzero().tolist():
        for k in range(3):
            swapped = fixed.start.clone()
            swapped[b, t] = candidates[b, t, k]
            by_hand = fixed.score(fixed.table[swapped])[b] - before[b]
            assert float(found[b, t, k]) == pytest.approx(float(by_hand), abs=1e-9)


def test_the_chain_is_in_detailed_balance() -> None:
    """pi(y) q(y'|y) alpha(y, y') is symmetric, for pi(y) = p(y) exp(r / beta) and q(y'|y) = sum over the places where
    both agree before of p(y') / p(prefix) / |y|: here of two texts that share their first token."""
    beta, p, r, n = 0.7, (0.2, 0.05), (0.3, -0.4), (3.0, 5.0)
    prefix = 0.5  # p of the shared token; places 0 and 1 lead from one to the other
    flow = []
    for here, there in ((0, 1), (1, 0)):
        rest = (torch.tensor([x[here]]) for x in (r, n))
        worth, length = rest
        alpha = accepted(worth, torch.tensor([r[there]]), length, torch.tensor([n[there]]), beta)
        proposed = (p[there] + p[there] / prefix) / n[here]
        flow.append(p[here] * math.exp(r[here] / beta) * proposed * float(alpha))
    assert flow[0] == pytest.approx(flow[1], rel=1e-6)
    assert float(accepted(torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([2.0]), 1.0)) == 1


def test_what_was_tried_in_vain_is_not_tried_again() -> None:
    """A reward that likes no change sees every candidate of every place once, and none twice."""
    cls = methods.get("hotflip", "language")
    config = cls.Config(**SMALL, n_starts=1, trials=2, candidates=3, test_steps=(30,))
    bench = Bench(config).untrained()
    draws = Rollouts(bench.context, config, PROMPTS, "sft", 1)
    draws.run(0, draws.total)
    bench.parts |= draws.parts()
    job: Any = cls(config, None).responding(PROMPTS)[-1].begin(bench.context)
    starts, seen = [[3, 4, 5, 1], [6, 7, 1]], [Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()]

    def proxies(prompts: Any, texts: Any) -> torch.Tensor:
        for row, text in enumerate(texts):
            seen[row][tuple(text)] += text != starts[row]
        return torch.tensor([-float(text != start) for text, start in zip(texts, starts, strict=True)])

    job.proxies = proxies
    walk = Walk([[3, 4], [5]], [[*text] for text in starts], torch.zeros(2), 1.0, {})
    for _ in range(10):
        job.step(walk, torch.Generator())
    assert walk.responses == starts
    for row, places in ((0, 3), (1, 2)):
        tried = {text: count for text, count in seen[row].items() if count}
        assert set(tried.values()) == {1} and 2 * places <= len(tried) <= 3 * places


def test_the_chain_comes_to_its_law() -> None:
    """Two tokens and an end, at most two long: frequencies of the chain's states over many steps, against pi(y)
    exp(r(y) / beta); what is cut off at two tokens is a state, too."""
    cls = methods.get("quest", "language")
    chains, beta = 400, 0.5
    config = cls.Config(**{**SMALL, "rollouts": chains}, n_starts=chains, test_betas=(beta,))
    bench = Bench(config).untrained(2.0)
    bench.texts = replace(bench.texts, max_response=2)
    bench.context = replace(bench.context, texts=bench.texts)
    draws = Rollouts(bench.context, config, 1, "sft", chains)
    draws.run(0, 1)
    bench.parts |= draws.parts()
    job: Any = cls(config, None).responding(1)[-1].begin(bench.context)
    rewards: dict[tuple[int, ...], float] = {}
    job.proxies = lambda prompts, texts: torch.tensor(
        [rewards.setdefault(tuple(y), hash(tuple(y)) % 7 / 7) for y in texts]
    )
    job.worth = lambda proxy, texts: proxy
    prompt = bench.texts.prompts("test", 1)[0][0].prompt
    starts = job.sampled(1.0, slice(0, 1), chains)
    walk, generator = (
        Walk([prompt] * chains, starts, job.proxies(None, starts), 1.0, {}),
        torch.Generator().manual_seed(1),
    )
    counts = Counter[tuple[int, ...]]()
    for step in range(60):
        job.step(walk, generator)
        if step >= 20:
            counts.update(tuple(text) for text in walk.chain[0])
    allowed = [i for i in range(bench.texts.size) if i not in bench.texts.banned]
    states = [(a,) if a == bench.texts.eos else (a, b) for a in allowed for b in allowed]
    states = list(dict.fromkeys(states))
    likelihood = job.likelihood([prompt] * len(states), [[*y] for y in states])
    rest = torch.tensor([rewards.get(y, 0.0) for y in states])
    law = (likelihood + rest / beta).softmax(0)
    found = torch.tensor([counts[y] for y in states]) / sum(counts.values())
    plain = likelihood.softmax(0)
    assert (found - law).abs().sum() < 0.12 < 0.5 * (plain - law).abs().sum()


def test_greedy_chains_stand_still() -> None:
    cls = methods.get("quest", "language")
    method = cls(cls.Config(test_temperatures=(0.0, 1.0), test_steps=(0, 4)), None)
    assert [dict(one) for one in method.knobs] == [{"T": 0.0, "S": 0}, {"T": 1.0, "S": 0}, {"T": 1.0, "S": 4}]


def test_soft_choices_follow_the_softmax() -> None:
    worth, scale, count = torch.tensor([0.3, -0.5, 1.0]), 0.6, 20_000
    generator = torch.Generator().manual_seed(0)
    noise = -torch.empty(count, 3, dtype=torch.float64).exponential_(generator=generator).log()
    found = torch.bincount(soft_choices(worth.expand(count, -1), scale, noise), minlength=3) / count
    expected = (worth / scale).softmax(0)
    assert (found - expected).abs().max() < 4 * math.sqrt(0.25 / count)
    assert soft_choices(worth.expand(5, -1), 1e-6, noise[:5]).tolist() == [2] * 5


def test_softly_chosen_samples_come_to_the_best_as_lambda_falls() -> None:
    found, _ = answered("soft_best_of_n", test_n=(2, 5), test_lambdas=(1e-6, 100.0))
    best, _ = answered("best_of_n", test_n=(2, 5))
    torch.testing.assert_close(found["proxy"][:, [0, 2]], best["proxy"], atol=1e-4, rtol=0)
    assert (found["proxy"][:, [1, 3]] < best["proxy"] - 1e-4).any()


def test_guided_decoding_without_a_weight_is_greedy_decoding() -> None:
    found, _ = answered("args", test_temperatures=(0.0,), test_weights=(0.0, 3.0))
    greedy, _ = answered("sft", test_temperatures=(0.0,))
    assert torch.equal(found["ids"][:, :1], greedy["ids"])
    assert not torch.equal(found["ids"][:, 1], found["ids"][:, 0])


@pytest.mark.parametrize("partial", ["ended", "open"])
def test_a_large_weight_takes_the_likely_token_that_is_worth_most(partial: str) -> None:
    settings: dict[str, Any] = {"test_temperatures": (0.0,), "test_weights": (1e4,), "candidates": 3}
    found, bench = answered("args", partial=partial, **settings)
    cls = methods.get("args", "language")
    job: Any = cls(ARGSConfig(**SMALL, **settings, partial=partial), None).responding(PROMPTS)[-1].begin(bench.context)  # type: ignore[arg-type]
    prompts = [tokens.prompt for tokens, _ in bench.texts.prompts("test", PROMPTS)]
    for p, (prompt, text) in enumerate(zip(prompts, unpacked(found["ids"][:, 0], found["lengths"][:, 0]), strict=True)):
        with torch.no_grad():
            logits = job.sft(input_ids=torch.tensor([[*prompt, *text[:-1]]])).logits[0, -1]
            logits[bench.texts.size :], logits[bench.texts.banned] = -torch.inf, -torch.inf
            candidates = logits.topk(3).indices
            worth = job.promise([prompt], [text[:-1]], candidates[None])[0]
        assert float(worth[candidates.tolist().index(text[-1])]) > float(worth.max()) - 1e-3, p


def test_decoding_takes_in_swaps_that_raise_the_reward() -> None:
    """A reward that counts sevens less eights: of three swaps the first and the last are taken, one is not possible."""
    swaps = Swaps(torch.tensor([[0, 1, 2, 3]]), torch.tensor([[7, 8, 7, 7]]), torch.tensor([[True, True, True, False]]))

    def proxies(texts: Any) -> torch.Tensor:
        return torch.tensor([float(text.count(7) - text.count(8)) for text in texts])

    starts = [[3, 3, 3, 3, 1]]
    found, proxy = taken_in(swaps, starts, proxies(starts), proxies)
    assert found == [[7, 3, 7, 3, 1]] and proxy.tolist() == [2.0] and starts == [[3, 3, 3, 3, 1]]


@pytest.mark.parametrize("kind", ["simplex", "embedding", "embedding_nn"])
def test_decoded_steps_never_lose_reward(kind: str) -> None:
    found, _ = answered("vgf", surrogate=kind, n_particles=4, test_flow_steps=(0, 1, 4), test_step_sizes=(0.3,))
    best, _ = answered("best_of_n", test_n=(4,))
    assert torch.equal(found["ids"][:, :1], best["ids"])
    assert (found["proxy"] >= found["proxy"][:, :1] - 1e-5).all() and (
        found["proxy"][:, 1:] > found["proxy"][:, :1]
    ).any()
    assert torch.isfinite(found["soft"]).all()


def test_small_steps_raise_the_reward_that_is_climbed() -> None:
    found, _ = answered("vgf", n_particles=3, kernel="none", test_flow_steps=(0, 1, 2, 4, 8), test_step_sizes=(0.02,))
    free = found["lengths"][:, 0] > 1  # the end of text alone does not move
    assert free.any() and (found["soft"].diff(dim=1)[free] > 0).all()


def test_steps_decay_as_declared() -> None:
    from methods.language.vgf import VGFConfig, flow

    rule = VGFConfig(step_decay=0.5)
    assert [flow(rule, 0.8, step).step_size for step in (1, 4, 16)] == [0.8, 0.4, 0.2]


def test_what_changed_is_counted_place_by_place() -> None:
    assert changed([3, 4, 5, 1], [3, 9, 5, 1], 1) == pytest.approx(1 / 3)
    assert changed([3, 4, 1], [3, 4, 5, 6, 1], 1) == pytest.approx(2 / 4)
    assert changed([1], [1], 1) == 0.0


def test_the_optimum_is_what_the_task_says() -> None:
    bench = Bench(LanguageConfig(**SMALL)).untrained()
    with pytest.raises(Unfit, match="no response of this task is known to be best"):
        Optimum(bench.config, LanguageSpec(8, 6)).stages()
    method = Optimum(bench.config, LanguageSpec(8, 6, best_known=True))
    job = method.responding(PROMPTS)[-1].begin(bench.context)
    with pytest.raises(BadInput, match="no response known to be best"):
        job.run(0, 1)
    known = replace(bench.context, best=lambda prompt: prompt[::-1])
    job = method.responding(PROMPTS)[-1].begin(known)
    job.run(0, job.total)
    found = job.parts()["responses"].tensors
    texts = [bench.texts.decode(ids) for ids in unpacked(found["ids"][:, 0], found["lengths"][:, 0])]
    assert texts == [example.prompt[::-1] for example in EXAMPLES]
