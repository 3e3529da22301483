"""GRPO: PPO without a value network: a response's advantage is its reward among those to the same prompt.

Shao et al. (arXiv 2402.03300, Eq. 3, 4): A_i = (r_i - mean) / std over a prompt's responses, the same at all of a
response's tokens; clipped ratios; the penalty is in the loss, its estimate pi_SFT/pi - log pi_SFT/pi - 1 a token; means
over a response's tokens, then over responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.core import MethodConfig, PositiveFloat, PositiveInt
from methods.language.core import Context, Job
from methods.language.policies import Sampled
from methods.language.policy_gradient import GroupConfig, GroupJob, GroupMethod


@dataclass(frozen=True)
class GRPOConfig(GroupConfig):
    epochs: PositiveInt = 4  # over each batch, as PPO's
    clip: PositiveFloat = 0.2  # of ratios


def normalised(rewards: Tensor, group: int) -> Tensor:
    """Rewards `[b]` to mean 0 and std 1 within their group; 0 where all of it are alike."""
    by_prompt = rewards.reshape(-1, group)
    centred = by_prompt - by_prompt.mean(1, keepdim=True)
    return (centred / (by_prompt.std(1, correction=0, keepdim=True) + 1e-6)).flatten()


def grpo_loss(logprobs: Tensor, group: Sampled, advantages: Tensor, clip: float, kl: float) -> Tensor:
    """Of log-probabilities `[b, l]` and advantages `[b]`."""
    mask, ratio, a = group.batch.response_mask, (logprobs - group.logprobs).exp(), advantages[:, None]
    gained = torch.minimum(a * ratio, a * ratio.clamp(1.0 - clip, 1.0 + clip))
    apart = group.reference - logprobs
    token = (gained - kl * (apart.exp() - apart - 1.0)) * mask
    return -(token.sum(1) / mask.sum(1)).mean()


class GRPOJob(GroupJob):
    def __init__(self, context: Context, config: GRPOConfig) -> None:
        super().__init__(context, config, "grpo")
        self.epochs = config.epochs

    def advantages(self, group: Sampled) -> Tensor:
        return normalised(group.score, self.config.group)

    def objective(self, logprobs: Tensor, group: Sampled, advantages: Tensor) -> Tensor:
        return grpo_loss(logprobs, group, advantages, self.config.clip, self.config.kl)


@dataclass(frozen=True)
class GRPO(GroupMethod):
    """Samples once from the policy that GRPO trained."""

    config: GRPOConfig
    Config: ClassVar[type[MethodConfig]] = GRPOConfig
    name: ClassVar[str] = "grpo"
    rule: ClassVar[str] = "GRPO on the reward model"
    own: ClassVar[tuple[str, ...]] = (*GroupMethod.own, "epochs", "clip")

    def begin(self, context: Context) -> Job:
        return GRPOJob(context, self.config)
