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
from methods.language.core import WEIGHTS, Context, Job, LanguageConfig, LanguageStage, Part
from methods.language.method import LanguageMethod
from methods.language.models import adapted, causal, merged, token_logprobs, weights
from methods.language.respond import first_of, rollouts
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage
from methods.language.tokens import join
from methods.language.training import Training, prepared
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


class DPOJob(Training):
    """Starts as the SFT model."""

    def __init__(self, context: Context, config: DPOConfig) -> None:
        torch.manual_seed(context.seed)  # of adapters
        self.reference, self.beta = causal(context, "sft"), config.beta
        self.policy = prepared(adapted(causal(context, "sft"), config.lora_rank), context, config)
        self.data = [tokens for tokens, _ in context.texts.preferences("train")]
        super().__init__(
            context, config, "dpo", {"policy": self.policy}, config.steps, config.batch_size, config.learning_rate,
            len(self.data),
        )  # fmt: skip

    def loss(self, indices: Sequence[int], step: int) -> tuple[Tensor, dict[str, float]]:
        del step
        rows, texts = [self.data[i] for i in indices], self.context.texts
        loss, margin = dpo_loss(self.policy, self.reference, rows, self.beta, texts.pad, self.context.device)
        return loss, {"dpo/accuracy": float((margin > 0).float().mean()), "dpo/margin": float(margin.detach().mean())}

    def parts(self) -> dict[str, Part]:
        return {"policy": weights(merged(self.policy))}


def begin(context: Context, config: DPOConfig) -> Job:
    if config.backend == "trl":
        return TRLDPO(context, config)
    return DPOJob(context, config)


@dataclass(frozen=True)
class DPO(LanguageMethod):
    """Samples once from the policy that DPO trained."""

    config: DPOConfig
    Config: ClassVar[type[MethodConfig]] = DPOConfig
    name: ClassVar[str] = "dpo"

    def stages(self) -> tuple[Any, ...]:
        config = self.config
        kept = self.settings(*WEIGHTS, "steps", "batch_size", "learning_rate", "beta", "backend")
        stage = LanguageStage(
            "dpo", frozenset({"policy"}), config.steps, "DPO on preferences", kept,
            lambda context: begin(context, config), config.batch_size, reads=frozenset({"sft"}),
        )  # fmt: skip
        measuring = [reward_stage(config)] if config.measure_proxy else []
        return (sft_stage(config), stage, *measuring)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        return rollouts(self.config, prompts, "policy"), first_of(self.config, prompts, "policy")
