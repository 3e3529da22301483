"""Soft best-of-N: one of N samples, drawn by a softmax of its reward, so that a flawed reward is trusted less.

Verdun et al. (arXiv 2505.03156): sample i with probability exp(r_i / lambda) / sum_j exp(r_j / lambda); lambda -> 0 is
best-of-N, lambda -> infinity a plain sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.core import MethodConfig, PositiveFloat, PositiveInt
from methods.inference import SAMPLES, Cost, Knob
from methods.language.best_of_n import Choosing, answer_cost
from methods.language.core import LanguageConfig, LanguageStage, derived_seed
from methods.language.method import TEMPERATURE, LanguageMethod
from methods.language.respond import SAMPLING, enough, responding, rollouts
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage


@dataclass(frozen=True)
class SoftBestOfNConfig(LanguageConfig):
    test_n: tuple[PositiveInt, ...] = (16, 64)
    test_lambdas: tuple[PositiveFloat, ...] = (0.1, 0.3, 1.0)  # in stds of the reward model's scores


def soft_choices(worth: Tensor, scale: float, noise: Tensor) -> Tensor:
    """Index `[p]` drawn from the softmax of worth / scale `[p, n]`, by Gumbel noise `[p, n]`."""
    return (worth / scale + noise).argmax(1)


class SoftlyChoosing(Choosing):
    """All settings share the noise, so that what differs is theirs."""

    def picks(self, worth: Tensor, settings: Sequence[Mapping[str, float]], chunk: slice) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.context.seed, "soft", chunk.start))
        noise = -torch.empty(worth.shape, dtype=torch.float64).exponential_(generator=generator).log()
        drawn = [(int(one["N"]), one["lambda"]) for one in settings]
        return torch.stack([soft_choices(worth[:, :n], scale, noise[:, :n]) for n, scale in drawn], dim=1)


@dataclass(frozen=True)
class SoftBestOfN(LanguageMethod):
    """A sample of N, the likelier the better the reward model finds it."""

    config: SoftBestOfNConfig
    Config: ClassVar[type[MethodConfig]] = SoftBestOfNConfig
    name: ClassVar[str] = "soft_best_of_n"
    inference: ClassVar[tuple[Knob, ...]] = (TEMPERATURE, SAMPLES, Knob("lambda", "temperature of the choice"))

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        """Greedy samples are all alike, so that there is nothing to choose."""
        if not temperature:
            return ({"N": 1, "lambda": self.config.test_lambdas[0]},)
        return tuple({"N": n, "lambda": scale} for n in self.config.test_n for scale in self.config.test_lambdas)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return answer_cost(knobs["N"])

    def stages(self) -> tuple[Any, ...]:
        enough(self.config, "soft_best_of_n.test_n", max(self.config.test_n))
        return sft_stage(self.config), reward_stage(self.config)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        config = self.config
        kept = self.settings(*SAMPLING, "test_n", "test_lambdas", "missing_eos_penalty") | {"prompts": prompts}
        return (
            rollouts(config, prompts),
            responding("a sample drawn by its reward", kept, frozenset({"sft", "reward", "rollouts"}), config,
                       lambda context: SoftlyChoosing(context, config, prompts, self)),
        )  # fmt: skip
