"""SFT: supervised fine-tuning on references; answers by sampling.

Loss: -sum_t log pi(y_t | x, y_<t) over the response's tokens, the end of text among them, averaged over the batch's
tokens. Every other method starts from this model, and it is the reference distribution that they are to stay near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.core import MethodConfig
from methods.language.core import GIVEN, READING, WEIGHTS, Context, Job, LanguageConfig, LanguageStage, Part, kept
from methods.language.method import LanguageMethod
from methods.language.models import adapted, merged, token_logprobs, weights
from methods.language.respond import first_of, rollouts
from methods.language.reward_model import reward_stage
from methods.language.tokens import join
from methods.language.training import Nothing, Training, prepared, steps_of
from methods.language.trl_backend import TRLSFT


def sft_loss(model: Any, prompts: Sequence[Any], responses: Sequence[Any], pad: int, device: Any = "cpu") -> Tensor:
    """Mean negative log-likelihood of the responses' tokens."""
    batch = join(prompts, responses, pad, device)
    return -token_logprobs(model, batch).sum() / batch.response_mask.sum()


class SFTJob(Training):
    """Fine-tunes the fresh model."""

    def __init__(self, context: Context, config: LanguageConfig) -> None:
        torch.manual_seed(context.seed)
        model = adapted(context.models.fresh(), config.lora_rank)
        self.model = prepared(model, context, config)
        self.data = [tokens for tokens, _ in context.texts.examples("train")]
        steps = steps_of(config.sft_epochs, config.sft_steps, len(self.data), config.sft_batch_size)
        super().__init__(context, config, "sft", {"sft": self.model}, steps, config.sft_batch_size,
                         config.sft_learning_rate, len(self.data))  # fmt: skip

    def loss(self, indices: Sequence[int], step: int) -> tuple[Tensor, dict[str, float]]:
        del step
        rows = [self.data[i] for i in indices]
        prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
        return sft_loss(self.model, prompts, responses, self.context.texts.pad, self.context.device), {}

    def weight(self, indices: Sequence[int]) -> float:
        return sum(len(self.data[i].response) for i in indices)

    def parts(self) -> dict[str, Part]:
        return {"sft": weights(merged(self.model))}


def sft_stage(config: LanguageConfig) -> LanguageStage:
    """The stage that makes the part "sft", or takes a checkpoint for it."""
    path = config.sft_checkpoint
    if path:
        return LanguageStage("sft", frozenset({"sft"}), 0, GIVEN, kept(config, "dtype", *READING),
                             lambda context: Nothing("sft"), 1, files=(path,))  # fmt: skip

    def begin(context: Context) -> Job:
        if config.backend == "trl":
            return TRLSFT(context, config)
        return SFTJob(context, config)

    steps = 0 if config.sft_epochs else config.sft_steps
    settings = kept(config, *WEIGHTS, *READING, "sft_epochs", "sft_batch_size", "sft_learning_rate", "backend")
    settings |= {} if config.sft_epochs else {"sft_steps": steps}
    files = () if config.model == "tiny" else (config.model,)
    return LanguageStage("sft", frozenset({"sft"}), steps, "cross-entropy of responses", settings, begin,
                         config.sft_batch_size, files=files)  # fmt: skip


@dataclass(frozen=True)
class SFT(LanguageMethod):
    """Samples once from the fine-tuned model."""

    config: LanguageConfig
    Config: ClassVar[type[MethodConfig]] = LanguageConfig
    name: ClassVar[str] = "sft"

    def stages(self) -> tuple[Any, ...]:
        return (sft_stage(self.config), *([reward_stage(self.config)] if self.config.measure_proxy else []))

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        return (rollouts(self.config, prompts), first_of(self.config, prompts))
