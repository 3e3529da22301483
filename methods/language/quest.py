"""QUEST: a Markov chain of texts whose law is pi_SFT(y) exp(r(y) / beta), by Metropolis-Hastings.

Faria et al. (arXiv 2406.00049). A step draws a place i of the response evenly, writes a new end y'_{>=i} with the SFT
model, and moves there with probability min(1, exp((r(y') - r(y)) / beta) |y| / |y'|): what SFT says of both texts
cancels, and the lengths are what the draw of i leaves. The answer is the best text that any chain came by, which is at
least as good a use of the chains as the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.core import MethodConfig, PositiveFloat
from methods.inference import Cost
from methods.language.core import Context
from methods.language.method import LanguageMethod
from methods.language.models import sample
from methods.language.respond import Responses
from methods.language.search import SearchConfig, Searching, SearchMethod, Walk


@dataclass(frozen=True)
class QUESTConfig(SearchConfig):
    beta: PositiveFloat = 0.5  # of the reward, in stds of the reward model's scores


def accepted(before: Tensor, after: Tensor, lengths: Tensor, new_lengths: Tensor, beta: float) -> Tensor:
    """The probability `[b]` of moving from texts worth `before` to texts worth `after`."""
    return (((after - before) / beta).exp() * lengths / new_lengths).clamp(max=1.0)


class Chaining(Searching):
    config: QUESTConfig

    def __init__(self, context: Context, config: QUESTConfig, prompts: int, method: LanguageMethod) -> None:
        super().__init__(context, config, prompts, method)
        self.chain: tuple[Responses, Tensor] | None = None

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        self.chain = None
        return super().answers(temperature, chunk)

    def step(self, walk: Walk, generator: torch.Generator) -> None:
        """Moves the chains; the walk keeps the best that each has seen."""
        texts, (here, worth) = self.context.texts, self.chain or ([*walk.responses], self.worth_of(walk))
        places = [int(torch.randint(len(text), (), generator=generator)) for text in here]
        kept = [text[:place] for text, place in zip(here, places, strict=True)]
        ends = self.ends([[*p, *k] for p, k in zip(walk.prompts, kept, strict=True)], walk.temperature, generator)
        room = [texts.max_response - len(text) for text in kept]
        there = [k + end[:r] for k, end, r in zip(kept, ends, room, strict=True)]
        proxy = self.proxies(walk.prompts, there)
        new = self.worth(proxy, there)
        old_length, new_length = (torch.tensor([float(len(text)) for text in some]) for some in (here, there))
        chance = accepted(worth, new, old_length, new_length, self.config.beta)
        moves = torch.rand(len(here), generator=generator) < chance
        seen = self.worth_of(walk)
        for i, better in enumerate((new > seen).tolist()):
            if better:
                walk.responses[i], walk.proxy[i] = there[i], proxy[i]
        self.chain = (
            [b if moved else a for a, b, moved in zip(here, there, moves.tolist(), strict=True)],
            torch.where(moves, new, worth),
        )

    def worth_of(self, walk: Walk) -> Tensor:
        return self.worth(walk.proxy, walk.responses)

    def ends(self, prefixes: list[list[int]], temperature: float, generator: torch.Generator) -> Responses:
        texts = self.context.texts
        return sample(self.sft, prefixes, texts.max_response, generator, eos=texts.eos, pad=texts.pad,
                      banned=texts.banned, tokens=texts.size, temperature=temperature)  # fmt: skip


@dataclass(frozen=True)
class QUEST(SearchMethod):
    """The best text that `n_starts` chains came by in S steps."""

    config: QUESTConfig
    Config: ClassVar[type[MethodConfig]] = QUESTConfig
    name: ClassVar[str] = "quest"
    Job: ClassVar[type[Searching]] = Chaining
    rule: ClassVar[str] = "the best text on chains of new ends"

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        """Greedy chains stand still."""
        return super().own_knobs(temperature) if temperature else ({"S": 0},)

    def step_cost(self) -> Cost:
        """A new end and its score; what is kept is read again, so both are passes of a whole sequence."""
        return Cost(2.0)
