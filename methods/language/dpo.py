"""DPO: the policy is fitted to preferences directly, no reward model in between.

Loss (Rafailov et al., 2305.18290, Eq. 7): -log sigmoid(beta [log pi/pi_SFT (y_chosen) - log pi/pi_SFT (y_rejected)]).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.core import MethodConfig, PositiveFloat, PositiveInt
from methods.language.core import Context, Job, LanguageConfig
from methods.language.models import causal, token_logprobs
from methods.language.policies import PolicyMethod, PreferringJob
from methods.language.tokens import join
from methods.language.trl_backend import TRLDPO


@dataclass(frozen=True)
class DPOConfig(LanguageConfig):
    steps: PositiveInt = 300
    learning_rate: PositiveFloat = 2e-4
    beta: PositiveFloat = 0.1  # strength of the pull towards SFT (TRL's default)


def dpo_loss(
    policy: Any, reference: Any, rows: Sequence[tuple[Any, Any, Any]], beta: float, pad: int, device: Any = "cpu"
) -> tuple[Tensor, Tensor]:
    """The loss, and the implied reward margins `[b]`, of (prompt, chosen, rejected)."""
    batch = join([row[0] for row in rows] * 2, [row[1] for row in rows] + [row[2] for row in rows], pad, device)
    with torch.no_grad():
        before = token_logprobs(reference, batch).sum(1)
    ratio = token_logprobs(policy, batch).sum(1) - before
    margin = beta * (ratio[: len(rows)] - ratio[len(rows) :])
    return -nn.functional.logsigmoid(margin).mean(), margin


class DPOJob(PreferringJob):
    """Starts as the SFT model."""

    def __init__(self, context: Context, config: DPOConfig) -> None:
        self.reference = causal(context, "sft")
        super().__init__(context, config, "dpo")

    def pair_loss(self, rows: Sequence[tuple[Any, Any, Any]]) -> tuple[Tensor, Tensor]:
        texts = self.context.texts
        return dpo_loss(self.policy, self.reference, rows, self.config.beta, texts.pad, self.context.device)


@dataclass(frozen=True)
class DPO(PolicyMethod):
    """Samples once from the policy that DPO trained."""

    config: DPOConfig
    Config: ClassVar[type[MethodConfig]] = DPOConfig
    name: ClassVar[str] = "dpo"
    rule: ClassVar[str] = "DPO on preferences"
    own: ClassVar[tuple[str, ...]] = ("beta", "backend")
    rewarded: ClassVar[bool] = False

    def begin(self, context: Context) -> Job:
        return (TRLDPO if self.config.backend == "trl" else DPOJob)(context, self.config)
