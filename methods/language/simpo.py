"""SimPO: preferences fitted by the policy's own mean log-probability, with a margin and without a reference model.

Loss (Meng et al., arXiv 2405.14734, Eq. 6): -log sigmoid(beta/|y_w| log pi(y_w) - beta/|y_l| log pi(y_l) - gamma).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.core import MethodConfig, PositiveFloat, PositiveInt, Weight
from methods.language.core import WEIGHTS, Context, LanguageConfig, LanguageStage, Part
from methods.language.method import LanguageMethod
from methods.language.models import adapted, causal, merged, token_logprobs, weights
from methods.language.respond import first_of, rollouts
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage
from methods.language.tokens import join
from methods.language.training import Training, prepared


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


class SimPOJob(Training):
    """Starts as the SFT model."""

    def __init__(self, context: Context, config: SimPOConfig) -> None:
        torch.manual_seed(context.seed)  # of adapters
        self.settings = config
        self.policy = prepared(adapted(causal(context, "sft"), config.lora_rank), context, config)
        self.data = [tokens for tokens, _ in context.texts.preferences("train")]
        super().__init__(
            context, config, "simpo", {"policy": self.policy}, config.steps, config.batch_size, config.learning_rate,
            len(self.data),
        )  # fmt: skip

    def loss(self, indices: Sequence[int], step: int) -> tuple[Tensor, dict[str, float]]:
        del step
        rows, texts, settings = [self.data[i] for i in indices], self.context.texts, self.settings
        loss, lead = simpo_loss(self.policy, rows, settings.beta, settings.margin, texts.pad, self.context.device)
        return loss, {"simpo/accuracy": float((lead > 0).float().mean()), "simpo/lead": float(lead.detach().mean())}

    def parts(self) -> dict[str, Part]:
        return {"policy": weights(merged(self.policy))}


@dataclass(frozen=True)
class SimPO(LanguageMethod):
    """Samples once from the policy that SimPO trained."""

    config: SimPOConfig
    Config: ClassVar[type[MethodConfig]] = SimPOConfig
    name: ClassVar[str] = "simpo"

    def stages(self) -> tuple[Any, ...]:
        config = self.config
        kept = self.settings(*WEIGHTS, "steps", "batch_size", "learning_rate", "beta", "margin")
        stage = LanguageStage(
            "simpo", frozenset({"policy"}), config.steps, "SimPO on preferences", kept,
            lambda context: SimPOJob(context, config), config.batch_size, reads=frozenset({"sft"}),
        )  # fmt: skip
        measuring = [reward_stage(config)] if config.measure_proxy else []
        return (sft_stage(config), stage, *measuring)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        return rollouts(self.config, prompts, "policy"), first_of(self.config, prompts, "policy")
