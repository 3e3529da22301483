"""The reward model: the SFT model with a scalar head, fitted to preferences.

Loss (Bradley-Terry): -log sigmoid(r(x, y_chosen) - r(x, y_rejected)), r read at the end-of-text token, which is
appended to a response that lacks it, in training as in scoring. Afterwards scores are normalised to mean 0 and
std 1 over the validation pairs' responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.language.core import (
    GIVEN,
    READING,
    WEIGHTS,
    Context,
    Job,
    LanguageConfig,
    LanguageStage,
    Part,
    derived_seed,
    kept,
)
from methods.language.models import RewardModel, adapted, causal, merged, reward_from, weights
from methods.language.scoring import scores, validated
from methods.language.training import Nothing, Training, prepared, steps_of
from methods.language.trl_backend import TRLReward


def preference_loss(
    model: RewardModel, rows: Sequence[tuple[Any, Any, Any]], eos: int, pad: int, device: Any = "cpu"
) -> tuple[Tensor, Tensor]:
    """The loss, and the margins `[b]`, of (prompt, chosen, rejected)."""
    prompts = [row[0] for row in rows] * 2
    both = scores(model, prompts, [row[1] for row in rows] + [row[2] for row in rows], eos, pad, device)
    margin = both[: len(rows)] - both[len(rows) :]
    return -nn.functional.logsigmoid(margin).mean(), margin


class RewardJob(Training):
    """Fits the head and the model below it."""

    def __init__(self, context: Context, config: LanguageConfig) -> None:
        torch.manual_seed(derived_seed(context.seed, "reward"))
        self.model = reward_from(causal(context, "sft"))
        # the adapters go into the backbone alone; the head is new, and trained whole
        self.model.backbone = adapted(self.model.backbone, config.lora_rank)
        prepared(self.model.backbone, context, config)
        self.model.score.to(context.device, torch.float32)
        self.data = [tokens for tokens, _ in context.texts.preferences("train")]
        super().__init__(
            context, config, "reward", {"reward": self.model},
            steps_of(config.reward_epochs, config.reward_steps, len(self.data), config.reward_batch_size),
            config.reward_batch_size, config.reward_learning_rate, len(self.data),
        )  # fmt: skip

    def loss(self, indices: Sequence[int], step: int) -> tuple[Tensor, dict[str, float]]:
        del step
        texts = self.context.texts
        loss, margin = preference_loss(
            self.model, [self.data[i] for i in indices], texts.eos, texts.pad, self.context.device
        )
        return loss, {"reward/accuracy": float((margin > 0).float().mean())}

    def parts(self) -> dict[str, Part]:
        self.model.backbone = merged(self.model.backbone)
        return {"reward": weights(self.model, **validated(self.model.eval(), self.context))}


class GivenReward(Nothing):
    """A reward model from a folder: its scores are normalised and its accuracy measured, its weights left there."""

    def __init__(self, context: Context) -> None:
        super().__init__("reward")
        self.context = context

    def parts(self) -> dict[str, Part]:
        model = self.context.models.given("reward").to(self.context.device).eval()
        return {"reward": Part({}, {"given": True, **validated(model, self.context)})}


def reward_stage(config: LanguageConfig) -> LanguageStage:
    """The stage that makes the part "reward", or takes a checkpoint for it."""
    path = config.reward_checkpoint
    if path:
        return LanguageStage("reward_model", frozenset({"reward"}), 0, GIVEN, kept(config, "dtype", *READING),
                             GivenReward, 1, files=(path,))  # fmt: skip

    def begin(context: Context) -> Job:
        if config.backend == "trl":
            return TRLReward(context, config)
        return RewardJob(context, config)

    steps = 0 if config.reward_epochs else config.reward_steps
    settings = kept(config, *WEIGHTS, "reward_epochs", "reward_batch_size", "reward_learning_rate", "backend")
    settings |= {} if config.reward_epochs else {"reward_steps": steps}
    return LanguageStage(
        "reward_model", frozenset({"reward"}), steps, "Bradley-Terry on preferences", settings, begin,
        config.reward_batch_size, reads=frozenset({"sft"}),
    )  # fmt: skip
