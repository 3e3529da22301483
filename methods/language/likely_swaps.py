"""Likely swaps: VGF's decoder without its particles, the control that shows what gradients add to it.

A step tries the swaps that the SFT model finds likeliest, log pi(v) - log pi(y_t), teacher-forced on the sample, and
takes in those that the reward model prefers. No gradient is taken.
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
class LikelySwapsConfig(SwapConfig):
    """Nothing beside what all swapping methods have."""


class Preferring(Swapping):
    def preference(self, fixed: Frame, tokens: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        del generator
        return fixed.logits.gather(-1, candidates) - fixed.logits.gather(-1, tokens[..., None])


@dataclass(frozen=True)
class LikelySwaps(SearchMethod):
    """The best text of `n_starts` samples after S steps of the likeliest swaps."""

    config: LikelySwapsConfig
    Config: ClassVar[type[MethodConfig]] = LikelySwapsConfig
    name: ClassVar[str] = "likely_swaps"
    Job: ClassVar[type[Searching]] = Preferring
    rule: ClassVar[str] = "likely swaps that the reward model prefers, one after the other"

    def first_cost(self) -> float:
        return 1.0  # the teacher-forced pass that candidates come from

    def step_cost(self) -> Cost:
        return Cost(float(self.config.trials))
