"""HotFlip: the swaps of a token that the reward model's gradient thinks best, tried as texts.

Ebrahimi et al. (arXiv 1712.06751), with candidates scored before they are taken, as in GCG (arXiv 2307.15043): to first
order a swap of token y_t for v gains <E_v - E_{y_t}, dr/dE_{y_t}>.
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
class HotFlipConfig(SwapConfig):
    """Nothing beside what all swapping methods have."""


def gains(fixed: Frame, tokens: Tensor, candidates: Tensor) -> Tensor:
    """What each swap gains to first order `[b, t, k]`, from one gradient at the tokens `[b, t]`."""
    with torch.enable_grad():
        leaf = fixed.table[tokens].requires_grad_(True)
        (slope,) = torch.autograd.grad(fixed.score(leaf).sum(), leaf)
    before = (leaf.detach() * slope).sum(-1, keepdim=True)
    return (fixed.table[candidates] @ slope[..., None]).squeeze(-1) - before


class Flipping(Swapping):
    def preference(self, fixed: Frame, tokens: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        del generator
        return gains(fixed, tokens, candidates)


@dataclass(frozen=True)
class HotFlip(SearchMethod):
    """The best text of `n_starts` samples after S flips."""

    config: HotFlipConfig
    Config: ClassVar[type[MethodConfig]] = HotFlipConfig
    name: ClassVar[str] = "hotflip"
    Job: ClassVar[type[Searching]] = Flipping
    rule: ClassVar[str] = "flips by the reward model's gradient, one after the other"

    def first_cost(self) -> float:
        return 1.0  # the teacher-forced pass that candidates come from

    def step_cost(self) -> Cost:
        """A gradient, whose forward pass is a pass, and the scores of the texts tried."""
        return Cost(1.0 + self.config.trials, gradients=1.0)
