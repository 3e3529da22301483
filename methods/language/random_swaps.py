"""Random swaps: HotFlip without its gradient, a control of every method that uses one.

A step tries swaps of one token for one of SFT's likeliest, drawn evenly, and takes in those that the reward model
prefers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.core import MethodConfig
from methods.inference import Cost
from methods.language.search import Searching, SearchMethod, SwapConfig, Swapping
from methods.language.surrogates import Frame


@dataclass(frozen=True)
class RandomSwapsConfig(SwapConfig):
    """Nothing beside what all swapping methods have."""


class Guessing(Swapping):
    def preference(self, fixed: Frame, tokens: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        del fixed, tokens
        return torch.rand(candidates.shape, generator=generator).to(candidates.device)


@dataclass(frozen=True)
class RandomSwaps(SearchMethod):
    """The best text of `n_starts` samples after S random trials each."""

    config: RandomSwapsConfig
    Config: ClassVar[type[MethodConfig]] = RandomSwapsConfig
    name: ClassVar[str] = "random_swaps"
    Job: ClassVar[type[Searching]] = Guessing
    rule: ClassVar[str] = "random swaps that the reward model prefers, one after the other"

    def first_cost(self) -> float:
        return 1.0  # the teacher-forced pass that candidates come from

    def step_cost(self) -> Cost:
        return Cost(float(self.config.trials))
