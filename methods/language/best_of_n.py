"""Best-of-N: the one of N samples of the SFT model that the reward model likes best. N is a test-time knob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.core import MethodConfig, PositiveInt
from methods.inference import SAMPLES, Cost, Knob
from methods.language.core import Context, LanguageConfig, LanguageStage
from methods.language.method import TEMPERATURE, LanguageMethod
from methods.language.respond import SAMPLING, Responding, enough, responding, rollouts, spent
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage


@dataclass(frozen=True)
class BestOfNConfig(LanguageConfig):
    test_n: tuple[PositiveInt, ...] = (1, 5, 16, 25, 48, 64)  # 5: VGF's particles; 25, 48: its passes at L_test = 1, 4


def choices(worth: Tensor, numbers: Sequence[int]) -> Tensor:
    """Index `[p, k]` of the best of the first n of `worth` `[p, N]`, for each n; the earlier of equals."""
    return torch.stack([worth[:, :n].argmax(1) for n in numbers], dim=1)


def numbers_at(config: BestOfNConfig, temperature: float) -> tuple[int, ...]:
    """N to evaluate; of greedy decoding, whose samples are all alike, 1."""
    return config.test_n if temperature else (1,)


def answer_cost(n: float) -> Cost:
    """N samples and their scores."""
    return Cost(passes=2 * n)


class Choosing(Responding):
    """Scores all rollouts once, and chooses among the first N at each of the method's settings."""

    config: Any

    def __init__(self, context: Context, config: LanguageConfig, prompts: int, method: LanguageMethod) -> None:
        super().__init__(context, config, prompts, scored=True)
        self.method = method

    def picks(self, worth: Tensor, settings: Sequence[Mapping[str, float]], chunk: slice) -> Tensor:
        """Index `[p, k]` of what is chosen, from what samples `[p, N]` are worth."""
        del chunk
        return choices(worth, [int(one["N"]) for one in settings])

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        settings = self.method.own_knobs(temperature)
        numbers = [one["N"] for one in settings]
        most, prompts = int(max(numbers)), [tokens.prompt for tokens, _ in self.prompts[chunk]]
        responses = self.sampled(temperature, chunk, most)
        proxy = self.proxies([prompt for prompt in prompts for _ in range(most)], responses)
        best = self.picks(self.worth(proxy, responses).reshape(-1, most), settings, chunk)
        places = (torch.arange(len(prompts))[:, None] * most + best).flatten()
        counts = torch.tensor(numbers, dtype=torch.float32).expand(best.shape)
        return self.measured(chunk, [responses[i] for i in places.tolist()], proxy[places], edit_fraction=0.0,
                             samples=counts, **spent(list(map(answer_cost, numbers)), len(prompts)))  # fmt: skip


@dataclass(frozen=True)
class BestOfN(LanguageMethod):
    """argmax of the reward model over N samples."""

    config: BestOfNConfig
    Config: ClassVar[type[MethodConfig]] = BestOfNConfig
    name: ClassVar[str] = "best_of_n"
    inference: ClassVar[tuple[Knob, ...]] = (TEMPERATURE, SAMPLES)

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        return tuple({"N": n} for n in numbers_at(self.config, temperature))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return answer_cost(knobs["N"])

    def stages(self) -> tuple[Any, ...]:
        enough(self.config, "best_of_n.test_n", max(self.config.test_n))
        return sft_stage(self.config), reward_stage(self.config)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        config = self.config
        kept = self.settings(*SAMPLING, "test_n", "missing_eos_penalty") | {"prompts": prompts}
        return (
            rollouts(config, prompts),
            responding("the best sample by the reward model", kept, frozenset({"sft", "reward", "rollouts"}), config,
                       lambda context: Choosing(context, config, prompts, self)),
        )  # fmt: skip
