"""RLOO: REINFORCE with the mean of a prompt's other responses for a baseline.

Ahmadian et al. (arXiv 2402.14740): R_i = r(x, y_i) - beta log pi/pi_SFT (y_i); the gradient of
-mean_i (R_i - mean_{j != i} R_j) log pi(y_i), a whole response being one action; one step a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from methods.core import MethodConfig
from methods.language.core import Context, Job
from methods.language.policies import Sampled
from methods.language.policy_gradient import GroupConfig, GroupJob, GroupMethod


@dataclass(frozen=True)
class RLOOConfig(GroupConfig):
    """Nothing beside what methods with groups have."""


def left_out(rewards: Tensor, group: int) -> Tensor:
    """Rewards `[b]` less the mean of the others of their group."""
    by_prompt = rewards.reshape(-1, group)
    others = (by_prompt.sum(1, keepdim=True) - by_prompt) / (group - 1)
    return (by_prompt - others).flatten()


class RLOOJob(GroupJob):
    def __init__(self, context: Context, config: RLOOConfig) -> None:
        super().__init__(context, config, "rloo")

    def advantages(self, group: Sampled) -> Tensor:
        divergence = (group.logprobs - group.reference).sum(1)
        return left_out(group.score - self.config.kl * divergence, self.config.group)

    def objective(self, logprobs: Tensor, group: Sampled, advantages: Tensor) -> Tensor:
        del group
        return -(advantages * logprobs.sum(1)).mean()


@dataclass(frozen=True)
class RLOO(GroupMethod):
    """Samples once from the policy that RLOO trained."""

    config: RLOOConfig
    Config: ClassVar[type[MethodConfig]] = RLOOConfig
    name: ClassVar[str] = "rloo"
    rule: ClassVar[str] = "RLOO on the reward model"

    def begin(self, context: Context) -> Job:
        return RLOOJob(context, self.config)
