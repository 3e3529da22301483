"""Losses of SimPO, RLOO and GRPO by hand, and the groups that the last two learn from."""

from __future__ import annotations

import math

import pytest
import torch

import methods
from methods.core import BadInput
from methods.language.grpo import GRPOConfig, GRPOJob, grpo_loss, normalised
from methods.language.models import causal, token_logprobs
from methods.language.policies import Sampled
from methods.language.rloo import RLOOConfig, RLOOJob, left_out
from methods.language.simpo import SimPOConfig, simpo_loss
from methods.language.tokens import join
from tests.methods.language.common import SMALL, Bench, double


def test_simpo_by_hand() -> None:
    bench = Bench(SimPOConfig(**SMALL)).untrained()
    policy, pad = double(causal(bench.context, "sft")), bench.texts.pad
    rows = [([3, 4], [5, 6, 1], [7, 1]), ([5], [6, 1], [8, 8, 8, 1])]
    loss, lead = simpo_loss(policy, rows, 2.0, 0.7, pad)
    expected = []
    for prompt, chosen, rejected in rows:
        means = [float(token_logprobs(policy, join([prompt], [y], pad)).sum().detach()) / len(y)
                 for y in (chosen, rejected)]  # fmt: skip
        expected.append(2.0 * (means[0] - means[1]))
    torch.testing.assert_close(lead.detach(), torch.tensor(expected, dtype=torch.float64))
    by_hand = sum(math.log1p(math.exp(-(x - 0.7))) for x in expected) / 2
    assert float(loss.detach()) == pytest.approx(by_hand, rel=1e-9)


def test_a_baseline_leaves_its_own_response_out() -> None:
    found = left_out(torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0]), 3)
    assert found.tolist() == [1 - 4, 2 - 3.5, 6 - 1.5, -1.5, -1.5, 3.0]


def test_rewards_are_normalised_within_their_group() -> None:
    found = normalised(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2)
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0, 0.0, 0.0]), atol=1e-5, rtol=0)


def group_of(old: torch.Tensor, reference: torch.Tensor) -> Sampled:
    """Of two responses, of two and of one token, behind prompts of one."""
    batch = join([[3], [4]], [[5, 1], [1]], 0)
    return Sampled(batch, torch.zeros(2), old, reference)


def test_grpo_by_hand() -> None:
    """A ratio above 1 + clip is cut where the advantage is positive; the penalty is exp(d) - d - 1 a token."""
    old = torch.tensor([[0.0, -1.0, -2.0], [0.0, -0.5, 0.0]])
    new = torch.tensor([[0.0, -0.5, -2.1], [0.0, -0.9, 0.0]])
    reference = torch.tensor([[0.0, -1.2, -2.0], [0.0, -0.4, 0.0]])
    advantages, clip, kl = torch.tensor([2.0, -1.0]), 0.2, 0.1

    def penalty(a: float, b: float) -> float:
        return math.exp(a - b) - (a - b) - 1

    first = (2.0 * 1.2 - kl * penalty(-1.2, -0.5) + 2.0 * math.exp(-0.1) - kl * penalty(-2.0, -2.1)) / 2
    second = -1.0 * 0.8 - kl * penalty(-0.4, -0.9)  # min(-exp(-0.4), -0.8)
    found = grpo_loss(new, group_of(old, reference), advantages, clip, kl)
    assert float(found) == pytest.approx(-(first + second) / 2, rel=1e-5)


def test_at_the_first_step_grpo_ascends_the_advantages() -> None:
    old = torch.tensor([[0.0, -1.0, -2.0], [0.0, -0.5, 0.0]])
    new = old.clone().requires_grad_(True)
    grpo_loss(new, group_of(old, old), torch.tensor([2.0, -1.0]), 0.2, 0.3).backward()
    assert new.grad is not None
    torch.testing.assert_close(new.grad, torch.tensor([[0.0, -0.5, -0.5], [0.0, 0.5, 0.0]]))


def test_rloo_takes_the_divergence_off_the_reward_and_weighs_whole_responses() -> None:
    config = RLOOConfig(**{**SMALL, "batch_size": 2}, group=2, kl=0.5)
    bench = Bench(config).untrained()
    job = RLOOJob(bench.context, config)
    old, reference = (
        torch.tensor([[0.0, -1.0, -2.0], [0.0, -0.5, 0.0]]),
        torch.tensor([[0.0, -1.5, -2.5], [0.0, -0.1, 0.0]]),
    )
    group = group_of(old, reference)._replace(score=torch.tensor([1.0, 3.0]))
    rewards = [1.0 - 0.5 * 1.0, 3.0 - 0.5 * -0.4]
    found = job.advantages(group)
    assert found.tolist() == pytest.approx([rewards[0] - rewards[1], rewards[1] - rewards[0]])
    objective = job.objective(old, group, found)
    assert float(objective) == pytest.approx(-(found[0] * -3.0 + found[1] * -0.5) / 2)


@pytest.mark.parametrize(("name", "config", "job"), [("rloo", RLOOConfig, RLOOJob), ("grpo", GRPOConfig, GRPOJob)])
def test_groups_answer_the_same_prompt_and_reward_is_learnt(name: str, config: type, job: type) -> None:
    settings = config(**{**SMALL, "batch_size": 12, "steps": 30}, group=4, learning_rate=3e-3, kl=0.0)
    bench = Bench(settings).untrained(scale=2.0)
    training = job(bench.context, settings)
    group, _ = training.gather(1)
    prompts = [row[: int(start)].tolist() for row, start in zip(group.batch.ids, group.batch.starts, strict=True)]
    assert all(prompts[i] == prompts[i - i % 4] for i in range(12)) and len(set(map(tuple, prompts))) > 1
    before = training.run(0, 3)[f"{name}/proxy"]
    training.run(3, 24)
    after = training.run(27, 3)[f"{name}/proxy"]
    assert after > before + 0.1


def test_groups_that_do_not_fit_are_refused() -> None:
    for group in (1, 5):
        cls = methods.get("rloo", "language")
        with pytest.raises(BadInput, match=f"rloo.group={group} is not 2 or more, or does not divide batch_size=64"):
            cls(cls.Config(group=group), None).stages()
