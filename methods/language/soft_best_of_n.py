"""Soft best-of-N: one of N samples, drawn by a softmax of its reward, so that a flawed reward is trusted less.

Verdun et al. (arXiv 2505.03156): sample i with probability exp(r_i / lambda) / sum_j exp(r_j / lambda); lambda -> 0 is
best-of-N, lambda -> infinity a plain sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.core import BadInput, MethodConfig, PositiveFloat, PositiveInt
from methods.inference import SAMPLES, Cost, Knob
from methods.language.best_of_n import answer_cost
from methods.language.core import Context, LanguageConfig, LanguageStage, derived_seed
from methods.language.method import TEMPERATURE, LanguageMethod
from methods.language.respond import SAMPLING, Responding, responding, rollouts, spent
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage


@dataclass(frozen=True)
class SoftBestOfNConfig(LanguageConfig):
    test_n: tuple[PositiveInt, ...] = (16, 64)
    test_lambdas: tuple[PositiveFloat, ...] = (0.1, 0.3, 1.0)  # in stds of the reward model's scores


def soft_choices(worth: Tensor, scale: float, noise: Tensor) -> Tensor:
    """Index `[p]` drawn from the softmax of worth / scale `[p, n]`, by Gumbel noise `[p, n]`."""
    return (worth / scale + noise).argmax(1)


class SoftlyChoosing(Responding):
    """Scores all rollouts once; all settings share the noise, so that what differs is theirs."""

    config: SoftBestOfNConfig

    def __init__(self, context: Context, config: SoftBestOfNConfig, prompts: int, method: SoftBestOfN) -> None:
        super().__init__(context, config, prompts, scored=True)
        self.method = method

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        settings = self.method.own_knobs(temperature)
        most, prompts = int(max(one["N"] for one in settings)), [tokens.prompt for tokens, _ in self.prompts[chunk]]
        responses = self.sampled(temperature, chunk, most)
        proxy = self.proxies([prompt for prompt in prompts for _ in range(most)], responses)
        worth = self.worth(proxy, responses).reshape(-1, most)
        generator = torch.Generator().manual_seed(derived_seed(self.context.seed, "soft", chunk.start))
        noise = -torch.empty(worth.shape, dtype=torch.float64).exponential_(generator=generator).log()
        picks = [soft_choices(worth[:, : int(one["N"])], one["lambda"], noise[:, : int(one["N"])]) for one in settings]
        best = torch.stack(picks, dim=1)
        places = (torch.arange(len(prompts))[:, None] * most + best).flatten()
        counts = torch.tensor([float(one["N"]) for one in settings]).expand(best.shape)
        return self.measured(chunk, [responses[i] for i in places.tolist()], proxy[places], edit_fraction=0.0,
                             samples=counts, **spent(list(map(self.method.cost, settings)), len(prompts)))  # fmt: skip


@dataclass(frozen=True)
class SoftBestOfN(LanguageMethod):
    """A sample of N, the likelier the better the reward model finds it."""

    config: SoftBestOfNConfig
    Config: ClassVar[type[MethodConfig]] = SoftBestOfNConfig
    name: ClassVar[str] = "soft_best_of_n"
    inference: ClassVar[tuple[Knob, ...]] = (TEMPERATURE, SAMPLES, Knob("lambda", "temperature of the choice"))

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        """Of greedy decoding, whose samples are all alike, N = 1."""
        numbers = self.config.test_n if temperature else (1,)
        return tuple({"N": n, "lambda": scale} for n in numbers for scale in self.config.test_lambdas)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return answer_cost(knobs["N"])

    def stages(self) -> tuple[Any, ...]:
        if max(self.config.test_n) > self.config.rollouts:
            most = max(self.config.test_n)
            raise BadInput(f"soft_best_of_n.test_n={most} is more than rollouts={self.config.rollouts}")
        return sft_stage(self.config), reward_stage(self.config)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        config = self.config
        kept = self.settings(*SAMPLING, "test_n", "test_lambdas", "missing_eos_penalty") | {"prompts": prompts}
        return (
            rollouts(config, prompts),
            responding("a sample drawn by its reward", kept, frozenset({"sft", "reward", "rollouts"}), config,
                       lambda context: SoftlyChoosing(context, config, prompts, self)),
        )  # fmt: skip
