"""SimPO: preferences fitted by the policy's own mean log-probability, with a margin and without a reference model.

Loss (Meng et al., arXiv 2405.14734, Eq. 6): -log sigmoid(beta/|y_w| log pi(y_w) - beta/|y_l| log pi(y_l) - gamma).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from methods.core import MethodConfig, PositiveFloat, PositiveInt, Weight
from methods.language.core import Context, Job, LanguageConfig
from methods.language.models import token_logprobs
from methods.language.policies import PolicyMethod, PreferringJob
from methods.language.tokens import join


@dataclass(frozen=True)
class SimPOConfig(LanguageConfig):
    steps: PositiveInt = 300
    learning_rate: PositiveFloat = 2e-4
    beta: PositiveFloat = 2.0  # the paper's first choice
    margin: Weight = 1.0  # gamma; the paper's gamma / beta is 0.5 there


def simpo_loss(
    policy: Any, rows: Sequence[tuple[Any, Any, Any]], beta: float, margin: float, pad: int, device: Any = "cpu"
) -> tuple[Tensor, Tensor]:
    """The loss, and what the chosen response leads by before the margin `[b]`, of (prompt, chosen, rejected)."""
    batch = join([row[0] for row in rows] * 2, [row[1] for row in rows] + [row[2] for row in rows], pad, device)
    mean = token_logprobs(policy, batch).sum(1) / batch.response_mask.sum(1)
    lead = beta * (mean[: len(rows)] - mean[len(rows) :])
    return -nn.functional.logsigmoid(lead - margin).mean(), lead


class SimPOJob(PreferringJob):
    def __init__(self, context: Context, config: SimPOConfig) -> None:
        super().__init__(context, config, "simpo")

    def pair_loss(self, rows: Sequence[tuple[Any, Any, Any]]) -> tuple[Tensor, Tensor]:
        config = self.config
        return simpo_loss(self.policy, rows, config.beta, config.margin, self.context.texts.pad, self.context.device)


@dataclass(frozen=True)
class SimPO(PolicyMethod):
    """Samples once from the policy that SimPO trained."""

    config: SimPOConfig
    Config: ClassVar[type[MethodConfig]] = SimPOConfig
    name: ClassVar[str] = "simpo"
    rule: ClassVar[str] = "SimPO on preferences"
    own: ClassVar[tuple[str, ...]] = ("beta", "margin")
    rewarded: ClassVar[bool] = False

    def begin(self, context: Context) -> Job:
        return SimPOJob(context, self.config)
