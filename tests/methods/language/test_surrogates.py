"""The surrogates: exact gradients, what never changes, and what may."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from methods.language.models import RewardModel, causal, reward
from methods.language.prefixes import Reader
from methods.language.scoring import Scorer
from methods.language.surrogates import Embedding, Frame, Simplex, Surrogate, frame
from methods.language.vgf import Particles, VGFConfig, flow, surrogate
from tests.methods.language.common import SMALL, Bench, double

PROMPTS = [[3, 4, 5], [4, 3], [6, 6, 6, 3]]
KINDS = ("simplex", "embedding", "embedding_nn")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(VGFConfig(**SMALL)).untrained()


@pytest.fixture(scope="module")
def fixed(bench: Bench) -> Frame:
    """Three particles: one of full length, one cut off, one of a word."""
    eos = bench.texts.eos
    return make(bench, [[5, 6, 7, eos], [3, 4, 5, 6, 7, 8], [9, eos]])


def make(bench: Bench, responses: list[list[int]], prompts: Any = PROMPTS, judge: Any = None) -> Frame:
    texts = bench.texts
    scorer = Scorer(judge or double(reward(bench.context)), texts.eos, texts.pad)
    if isinstance(judge, Linear):
        scorer.reader = Straight(judge.backbone, texts.pad)
    sft = double(causal(bench.context, "sft"))
    return frame(sft, scorer, prompts, responses, banned=texts.banned, tokens=texts.size)


def of(kind: str, fixed: Frame, **settings: Any) -> Surrogate:
    return surrogate(fixed, VGFConfig(**SMALL, surrogate=kind, candidates=4, **settings))


def as_double(one: Surrogate, fixed: Frame) -> torch.Tensor:
    return one.init().double()


def test_the_simplex_gradient_is_that_of_central_differences(fixed: Frame) -> None:
    one = of("simplex", fixed)
    assert isinstance(one, Simplex)
    z = as_double(one, fixed)
    z += torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)  # away from the start
    exact = one.grad(z)
    free = [tuple(i) for i in (one.valid & fixed.editable[..., None]).nonzero().tolist()]
    assert len(free) >= 20
    for place in free:
        step = torch.zeros_like(z)
        step[place] = 1e-5
        up, down = (fixed.score(one.embed(z + sign * step)).detach()[place[0]] for sign in (1, -1))
        assert float(exact[place]) == pytest.approx(float(up - down) / 2e-5, rel=1e-6, abs=1e-8)
    held = exact[~(one.valid & fixed.editable[..., None])]
    assert len(held) and not held.any()


def test_the_embedding_gradient_is_that_of_central_differences_at_the_decoded_tokens(fixed: Frame) -> None:
    one = of("embedding", fixed)
    z = as_double(one, fixed)
    exact, tokens = one.grad(z), fixed.table[one.decode(z)]
    for place in [(0, 0, 0), (0, 2, 7), (1, 5, 3), (2, 0, 15)]:
        step = torch.zeros_like(tokens)
        step[place] = 1e-4
        up, down = (fixed.score(tokens + sign * step).detach()[place[0]] for sign in (1, -1))
        assert float(exact[place]) == pytest.approx(float(up - down) / 2e-4, rel=1e-5, abs=1e-8)
    assert not exact[0, 3].any() and not exact[2, 1:].any(), "the end of text does not move"


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_decodes_to_itself(kind: str, fixed: Frame) -> None:
    one = of(kind, fixed)
    assert torch.equal(one.decode(one.init()), fixed.start)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_moves_only_response_tokens_change_and_only_to_candidates(
    kind: str, bench: Bench, fixed: Frame
) -> None:
    one, lengths = of(kind, fixed, fluency=0.0), [4, 6, 2]
    z = one.init()
    moved = z + 50.0 * one.unit * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    decoded = one.decode(torch.where(torch.isfinite(z), moved, z))
    assert (decoded != fixed.start).sum() >= 4, "nothing moved"
    assert torch.equal(decoded[~fixed.editable], fixed.start[~fixed.editable])
    after = fixed.responses(decoded, lengths)
    eos, texts = bench.texts.eos, bench.texts
    assert [row[-1] == eos for row in after] == [True, False, True] and sum(row.count(eos) for row in after) == 2
    flat = [token for row in after for token in row]
    assert max(flat) < texts.size < fixed.scorer.model.config.vocab_size, "a surplus row was chosen"
    assert not set(flat) & {texts.pad, *texts.banned}
    if kind == "simplex":
        allowed = fixed.logits.topk(4).indices
        for b, t in fixed.editable.nonzero().tolist():
            assert int(decoded[b, t]) in {*allowed[b, t].tolist(), int(fixed.start[b, t])}


def test_padding_is_not_the_end_of_text_and_changes_no_score(bench: Bench) -> None:
    assert bench.texts.pad != bench.texts.eos
    model, eos, pad = double(reward(bench.context)), bench.texts.eos, bench.texts.pad
    alone = torch.tensor([[3, 4, 5, 6, eos]])
    padded = torch.cat([alone, torch.full((1, 7), pad)], dim=1)
    other = torch.cat([alone, torch.full((1, 7), eos)], dim=1)
    last = torch.tensor([4])
    scores = [float(model(last, ids=ids).detach()) for ids in (alone, padded, other)]
    embedded = float(model(last, embeds=model.backbone.get_input_embeddings()(padded)))
    assert max(*scores, embedded) - min(*scores, embedded) < 1e-5


class Linear(RewardModel):
    """A reward that is linear in embeddings: a weight for each, summed over the sequence."""

    def __init__(self, of: RewardModel) -> None:
        super().__init__(of.backbone, of.score.weight.shape[1])
        self.direction = torch.randn(self.score.weight.shape[1], generator=torch.Generator().manual_seed(2)).double()

    def at(self, last: Any, hidden: torch.Tensor) -> torch.Tensor:
        del last
        return (hidden.double() @ self.direction).sum(1)


class Straight(Reader):
    """Hands embeddings on as they are."""

    def hidden(self, prompts: Any, *, ids: Any = None, embeds: Any = None) -> torch.Tensor:
        del prompts, ids
        return embeds


@pytest.mark.parametrize("kind", ["simplex", "embedding"])
def test_a_linear_reward_never_falls_with_more_steps_where_particles_climb_alone(kind: str, bench: Bench) -> None:
    fixed = make(bench, [[5, 6, 7, 1], [3, 4, 5, 6, 7, 8], [9, 1]], judge=Linear(double(reward(bench.context))))
    one = of(kind, fixed, kernel="none", fluency=0.0)
    config = VGFConfig(**SMALL, kernel="none")
    moving, table = Particles(one, fixed, 1, partial(flow, config, 0.5)), fixed.table
    values = []
    for _ in range(12):
        values.append(fixed.score(table[one.decode(moving.z)]))
        moving.step()
    rises = torch.stack(values).diff(dim=0)
    assert (rises >= -1e-9).all() and (rises > 1e-3).any()


def test_one_particle_moves_along_its_own_gradient(fixed: Frame) -> None:
    one = of("simplex", fixed)
    moving = Particles(one, fixed, 1, partial(flow, VGFConfig(**SMALL), 0.7))
    before, gradient = moving.z.clone(), one.grad(moving.z)
    moving.step()
    went = torch.where(torch.isfinite(before), moving.z - before, 0.0)
    for b, length in enumerate([3, 6, 1]):
        expected = 0.7 * length**0.5 * gradient[b] / gradient[b].norm()
        torch.testing.assert_close(went[b].double(), expected.double(), rtol=1e-4, atol=1e-6)


def test_particles_share_gradients_by_how_near_they_are_token_by_token(bench: Bench) -> None:
    """One step of three particles with different candidates, against phi_i = 1/N sum_j k_ij g_j written out over the
    vocabulary: what another's gradient says of a token moves one's own coordinate of that token."""
    fixed = make(bench, [[5, 6, 7, 1], [3, 4, 8, 1], [9, 8, 1]], [PROMPTS[0]] * 3)
    one = surrogate(fixed, VGFConfig(**SMALL, candidates=3))
    assert isinstance(one, Simplex)
    assert not torch.equal(one.tokens[0, 1], one.tokens[1, 1]), "candidates differ"
    z, gradients, number = one.init(), one.grad(one.init()), 3
    chances = torch.softmax(z / one.tau, dim=-1)
    whole = torch.zeros(number, z.shape[1], bench.texts.size, dtype=z.dtype)  # p over the vocabulary
    scores = torch.zeros_like(whole)
    movable = [tuple(place) for place in (one.valid & fixed.editable[..., None]).nonzero().tolist()]
    for i, t, k in movable:
        whole[i, t, one.tokens[i, t, k]] = chances[i, t, k]
        scores[i, t, one.tokens[i, t, k]] = gradients[i, t, k]
    apart = [[float((whole[i] - whole[j]).square().sum()) for j in range(number)] for i in range(number)]
    sigma2 = sorted(d for row in apart for d in row)[number**2 // 2] / (2 * math.log(number + 1))
    kernel = [[math.exp(-d / (1e-6 + 2 * sigma2)) for d in row] for row in apart]
    expected = torch.zeros_like(z)
    for i, t, k in movable:
        shared = sum(kernel[i][j] * float(scores[j, t, one.tokens[i, t, k]]) for j in range(number))
        expected[i, t, k] = 0.7 * shared / number
    went = {}
    for name in ("rbf", "none"):
        rule = VGFConfig(**SMALL, kernel=name, particle_optimizer="sgd")
        moving = Particles(one, fixed, number, partial(flow, rule, 0.7))
        start = moving.transport()
        moving.step()
        went[name] = torch.where(torch.isfinite(z), moving.z - z, 0.0)
        assert float(start[0]) == pytest.approx(0.0, abs=1e-6) and float(moving.transport()[0]) > 1e-6
    torch.testing.assert_close(went["rbf"], expected, rtol=1e-6, atol=1e-9)
    alone = 0.7 * gradients / number  # of itself alone: k_ii = 1
    assert float((went["rbf"] - alone).abs().max()) > 0.01 * float(alone.abs().max()), "nothing is shared"
    torch.testing.assert_close(went["none"], 0.7 * gradients, rtol=1e-6, atol=1e-9)


def test_the_distance_between_neighbours_is_taken_over_the_whole_vocabulary(fixed: Frame) -> None:
    """Rows in pairs 0.1 apart, of which a sample of every other row sees but one."""
    table = torch.zeros(1040, fixed.table.shape[1], dtype=fixed.table.dtype)
    places = torch.arange(1040, dtype=table.dtype)
    table[:, 0] = 10.0 * (places // 2) + 0.1 * (places % 2)
    assert Embedding(replace(fixed, table=table)).delta2 == pytest.approx(0.01)


def test_the_common_space_gives_back_what_it_was_given(fixed: Frame) -> None:
    one = of("simplex", fixed)
    assert isinstance(one, Simplex)
    values = torch.randn(one.tokens.shape, generator=torch.Generator().manual_seed(3))
    values = torch.where(one.valid & fixed.editable[..., None], values, 0.0)
    torch.testing.assert_close(one.gather(one.spread(values)), values)
    inside, across = (values * values).sum((1, 2)), one.spread(values).square().sum(1)
    torch.testing.assert_close(inside, across)


def test_embedding_without_fluency_is_the_nearest_token(fixed: Frame) -> None:
    one = of("embedding_nn", fixed)
    assert isinstance(one, Embedding) and one.k == 0 and one.fluency == 0.0
    z = one.init() + 0.8 * one.unit * torch.randn(one.init().shape, generator=torch.Generator().manual_seed(4))
    allowed = torch.isfinite(fixed.logits[0, 0]).nonzero().flatten()
    for b, t in fixed.editable.nonzero().tolist():
        options = torch.tensor(sorted({*allowed.tolist(), int(fixed.start[b, t])}))
        nearest = options[(fixed.table[options] - z[b, t]).norm(dim=1).argmin()]
        assert one.decode(z)[b, t] == nearest


def test_fluency_holds_back_tokens_that_sft_finds_unlikely(bench: Bench) -> None:
    """A vector halfway past the boundary to a token l nats less likely is taken there if and only if tau_f delta^2 l is
    less than what it gains in distance."""
    fixed = make(bench, [[5, 6, 7, 1], [3, 4, 5, 6, 7, 8], [9, 1]])
    free = of("embedding", fixed, fluency=0.0)
    assert isinstance(free, Embedding)
    own = int(fixed.start[0, 0])
    logits = fixed.logits[0, 0]
    other = int(torch.where(logits < logits[own], logits, -torch.inf)[: bench.texts.size].argmax())
    if other not in free.tokens[0, 0]:
        pytest.skip("not a candidate")
    z = free.init()
    towards = fixed.table[other] - fixed.table[own]
    z[0, 0] += 0.6 * towards
    gain, drop = 0.1 * float(towards.square().sum()), float(logits[own] - logits[other])
    threshold = gain / (free.delta2 * drop)
    before, after = (int(of("embedding", fixed, fluency=f * threshold).decode(z)[0, 0]) for f in (0.5, 2.0))
    assert before != own and after == own
