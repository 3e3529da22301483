"""QUEST: a Markov chain of texts whose law is pi_T(y) exp(r(y) / beta), by Metropolis-Hastings.

Faria et al. (arXiv 2406.00049) propose so; the law is that of Faria & Smith (QAlign, arXiv 2504.03790), with pi_T the
SFT model at the temperature of sampling. A step draws a place i of the response evenly, writes a new end y'_{>=i} with
the model, and moves there with probability min(1, exp((r(y') - r(y)) / beta) |y| / |y'|): what the model says of both
texts cancels, and the lengths are what the draw of i leaves. The answer is the best text that any chain proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.core import MethodConfig, PositiveFloat
from methods.inference import Cost, Knob
from methods.language.method import TEMPERATURE
from methods.language.respond import Responses
from methods.language.sampling import sample
from methods.language.search import SearchConfig, Searching, SearchMethod, Walk


@dataclass(frozen=True)
class QUESTConfig(SearchConfig):
    test_betas: tuple[PositiveFloat, ...] = (0.3,)  # of the reward, in stds of the reward model's scores


def accepted(before: Tensor, after: Tensor, lengths: Tensor, new_lengths: Tensor, beta: float) -> Tensor:
    """The probability `[b]` of moving from texts worth `before` to texts worth `after`."""
    return (((after - before) / beta).exp() * lengths / new_lengths).clamp(max=1.0)


class Chaining(Searching):
    config: QUESTConfig

    def step(self, walk: Walk, generator: torch.Generator) -> None:
        """Moves the chains; the walk keeps the best that each has proposed."""
        seen = self.worth(walk.proxy, walk.responses)
        here, worth = walk.chain or ([*walk.responses], seen)
        places = [int(torch.randint(len(text), (), generator=generator)) for text in here]
        kept = [text[:place] for text, place in zip(here, places, strict=True)]
        there = [k + end for k, end in zip(kept, self.ends(walk, kept, generator), strict=True)]
        proxy = self.proxies(walk.prompts, there)
        new = self.worth(proxy, there)
        old_length, new_length = (torch.tensor([float(len(text)) for text in some]) for some in (here, there))
        beta = walk.variant.get("beta", self.config.test_betas[0])
        moves = torch.rand(len(here), generator=generator) < accepted(worth, new, old_length, new_length, beta)
        better = new > seen
        walk.responses = [b if taken else a for a, b, taken in zip(walk.responses, there, better.tolist(), strict=True)]
        walk.proxy = torch.where(better, proxy, walk.proxy)
        chain = [b if moved else a for a, b, moved in zip(here, there, moves.tolist(), strict=True)]
        walk.chain = chain, torch.where(moves, new, worth)

    def ends(self, walk: Walk, kept: Responses, generator: torch.Generator) -> Responses:
        """New ends behind what is kept of the responses, no longer than there is room for."""
        texts = self.context.texts
        prefixes = [[*prompt, *text] for prompt, text in zip(walk.prompts, kept, strict=True)]
        return sample(self.sft, prefixes, texts.max_response, generator, eos=texts.eos, pad=texts.pad,
                      banned=texts.banned, tokens=texts.size, temperature=walk.temperature,
                      limits=[texts.max_response - len(text) for text in kept])  # fmt: skip


@dataclass(frozen=True)
class QUEST(SearchMethod):
    """The best text that `n_starts` chains came by in S steps."""

    config: QUESTConfig
    Config: ClassVar[type[MethodConfig]] = QUESTConfig
    name: ClassVar[str] = "quest"
    Job: ClassVar[type[Searching]] = Chaining
    rule: ClassVar[str] = "the best text on chains of new ends"

    inference: ClassVar[tuple[Knob, ...]] = (TEMPERATURE, SearchMethod.steps, Knob("beta", "temperature of the chain"))

    def levels(self, temperature: float) -> tuple[int, ...]:
        """Greedy chains stand still."""
        return super().levels(temperature) if temperature else (0,)

    def variants(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        betas = self.config.test_betas if temperature else self.config.test_betas[:1]
        several = len(self.config.test_betas) > 1
        return tuple({"beta": beta} for beta in betas) if several else super().variants(temperature)

    def samples(self, starts: int, knobs: Mapping[str, float]) -> float:
        """A new end each step, too."""
        return starts * (1 + knobs["S"])

    def step_cost(self) -> Cost:
        """A new end and its score; what is kept is read again, so both are passes of a whole sequence."""
        return Cost(2.0)
