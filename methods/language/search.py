"""Search among texts: responses that begin as samples of the SFT model, and change for what the reward model prefers.

The rivals of VGF that never leave the space of texts: `hotflip.py`, `likely_swaps.py`, `random_swaps.py` and `quest.py`
bring one step each. They start from the rollouts that VGF and best-of-N start from; after no step they are best-of-N.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from methods.core import Count, PositiveInt
from methods.inference import Cost, Knob
from methods.language.best_of_n import choices
from methods.language.core import Context, LanguageConfig, LanguageStage, derived_seed, own_settings
from methods.language.method import TEMPERATURE, LanguageMethod
from methods.language.respond import (
    SAMPLING,
    Responding,
    Responses,
    changed,
    drawn,
    enough,
    responding,
    rollouts,
    spent,
)
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage
from methods.language.surrogates import Frame, accepted, frame, ranked


@dataclass(frozen=True)
class SearchConfig(LanguageConfig):
    """`test_steps` are evaluated on the way of one search."""

    n_starts: PositiveInt = 5  # samples of a prompt that are searched from; VGF's particles
    test_steps: tuple[Count, ...] = (0, 1, 2, 4, 8, 16)  # S


@dataclass(frozen=True)
class SwapConfig(SearchConfig):
    candidates: PositiveInt = 8  # likeliest tokens under SFT that a position may change to, as VGF's
    trials: PositiveInt = 4  # changed texts that the reward model scores a step, as many as VGF's decoder


class Start(NamedTuple):
    """What stays while tokens are swapped."""

    frame: Frame  # of the starting points
    candidates: Tensor  # `[b, t, k]`: the likeliest tokens under SFT
    allowed: Tensor  # `[b, t, k]` bool


@dataclass
class Walk:
    """Responses `[p n]` on their way, prompt by prompt."""

    prompts: Sequence[Any]
    responses: Responses
    proxy: Tensor  # `[p n]`
    temperature: float
    variant: Mapping[str, float]  # settings of the search beside its steps
    start: Start | None = None  # where a search changes single tokens
    failed: Tensor | None = None  # `[b, t, k]` bool: candidates that were tried in vain since the text last changed
    chain: tuple[Responses, Tensor] | None = None  # where a chain is, and what that is worth


class Searching(Responding):
    """Searches from the first `n_starts` rollouts of every prompt, and answers with the best text by the reward model
    at each number of steps. Subclasses bring `step`."""

    config: Any

    def __init__(self, context: Context, config: SearchConfig, prompts: int, method: SearchMethod) -> None:
        super().__init__(context, config, prompts, scored=True)
        self.method = method

    def step(self, walk: Walk, generator: torch.Generator) -> None:
        """Changes the walk's responses, and what they are worth."""
        raise NotImplementedError

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        n, settings = drawn(self.config.n_starts, temperature), self.method.own_knobs(temperature)
        starts = self.sampled(temperature, chunk, n)
        repeated = [tokens.prompt for tokens, _ in self.prompts[chunk] for _ in range(n)]
        begun = self.proxies(repeated, starts)
        found = [self.best(walk, starts, n) for walk in self.walks(repeated, starts, begun, temperature, chunk.start)]
        best, proxy, edits = zip(*found, strict=True)
        by_prompt = [best[k][p] for p in range(len(best[0])) for k in range(len(settings))]
        costs = [self.method.cost({TEMPERATURE.name: temperature, **one}) for one in settings]
        written = torch.tensor([self.method.samples(n, one) for one in settings]).expand(len(best[0]), -1)
        return self.measured(chunk, by_prompt, torch.stack(proxy, 1).flatten(), edit_fraction=torch.stack(edits, 1),
                             samples=written, **spent(costs, len(best[0])))  # fmt: skip

    def walks(
        self, prompts: Sequence[Any], starts: Responses, begun: Tensor, temperature: float, number: int
    ) -> Iterator[Walk]:
        """The walk at each of the method's settings, in their order; variants share the noise."""
        for variant in self.method.variants(temperature):
            walk = Walk(prompts, [*starts], begun, temperature, variant)
            generator = torch.Generator().manual_seed(derived_seed(self.context.seed, "search", number))
            levels = self.method.levels(temperature)
            seen: dict[int, Walk] = {}
            for step in range(max(levels) + 1):
                if step:
                    self.step(walk, generator)
                if step in levels:
                    seen[step] = replace(walk, responses=[*walk.responses])
            yield from (seen[level] for level in levels)

    def best(self, walk: Walk, starts: Responses, n: int) -> tuple[Responses, Tensor, Tensor]:
        """(best response, its proxy, its fraction of changed tokens) of every prompt."""
        best = choices(self.worth(walk.proxy, walk.responses).reshape(-1, n), (n,)).flatten()
        places = (torch.arange(len(best)) * n + best).tolist()
        edits = [changed(starts[i], walk.responses[i], self.context.texts.eos) for i in places]
        return [walk.responses[i] for i in places], walk.proxy[places], torch.tensor(edits)


class Swapping(Searching):
    """Each step tries `trials` changes of one token, at different places, and takes in one after the other those that
    the reward model prefers; what was tried in vain is not tried again until the text has changed. Length and end of
    text stay. Subclasses bring `preference`."""

    config: SwapConfig

    def preference(self, fixed: Frame, tokens: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        """How much each swap of tokens `[b, t]` for `candidates` `[b, t, k]` is to be tried, `[b, t, k]`."""
        raise NotImplementedError

    def start(self, walk: Walk) -> Start:
        """Made at the first step, by one teacher-forced pass."""
        if walk.start is None:
            texts = self.context.texts
            assert self.scorer is not None
            found = frame(self.sft, self.scorer, walk.prompts, walk.responses, banned=texts.banned, tokens=texts.size)
            top, candidates = found.logits.topk(min(self.config.candidates, texts.size), dim=-1)
            walk.start = Start(found, candidates, torch.isfinite(top) & found.editable[..., None])
        return walk.start

    def step(self, walk: Walk, generator: torch.Generator) -> None:
        fixed, candidates, allowed = self.start(walk)
        failed = torch.zeros_like(allowed) if walk.failed is None else walk.failed
        tokens = _tokens(walk.responses, fixed)
        wanted = self.preference(fixed, tokens, candidates, generator)
        wanted = wanted.masked_fill(~allowed | failed | (candidates == tokens[..., None]), -torch.inf)
        swaps = ranked(wanted, candidates, self.config.trials)
        before = walk.proxy
        walk.responses, walk.proxy = accepted(
            swaps, walk.responses, before, lambda texts: self.proxies(walk.prompts, texts)
        )
        rows = torch.arange(len(failed), device=failed.device)[:, None]
        tried = torch.zeros_like(failed)
        tried[rows, swaps.places] = candidates[rows, swaps.places] == swaps.tokens[..., None]
        changed = (walk.proxy > before).to(failed.device)
        walk.failed = torch.where(changed[:, None, None], False, failed | tried)


def _tokens(responses: Responses, fixed: Frame) -> Tensor:
    """Responses as `[b, t]`, as `Frame.start` has them."""
    found = fixed.start.clone()
    for row, response in zip(found, responses, strict=True):
        row[: len(response)] = torch.tensor(response)
    return found


@dataclass(frozen=True)
class SearchMethod(LanguageMethod):
    """Base of methods that search; a subclass brings `Job`, and `step_cost` of a starting point."""

    config: Any
    Job: ClassVar[type[Searching]]
    rule: ClassVar[str]
    steps: ClassVar[Knob] = Knob("S", "steps of the search", "steps", path=True)
    inference: ClassVar[tuple[Knob, ...]] = (TEMPERATURE, steps)

    def levels(self, temperature: float) -> tuple[int, ...]:
        """Steps to answer at."""
        del temperature
        return tuple(self.config.test_steps)

    def variants(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        """Settings of the search beside its steps."""
        del temperature
        return ({},)

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        return tuple({"S": steps, **one} for one in self.variants(temperature) for steps in self.levels(temperature))

    def step_cost(self) -> Cost:
        """What a step of one starting point costs."""
        raise NotImplementedError

    def first_cost(self) -> float:
        """Passes of a starting point before its first step."""
        return 0.0

    def samples(self, starts: int, knobs: Mapping[str, float]) -> float:
        """Texts that the SFT model writes, from so many starting points."""
        del knobs
        return float(starts)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        """A sample and its score of each starting point, then its steps."""
        n, steps, one = drawn(self.config.n_starts, self.temperature(knobs)), knobs["S"], self.step_cost()
        passes = 2 + (self.first_cost() if steps else 0.0) + steps * one.passes
        return Cost(n * passes, gradients=n * steps * one.gradients)

    def stages(self) -> tuple[Any, ...]:
        enough(self.config, f"{self.name}.n_starts", self.config.n_starts)
        return sft_stage(self.config), reward_stage(self.config)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        config = self.config
        kept = self.settings(*SAMPLING, *sorted(own_settings(config)), "missing_eos_penalty") | {"prompts": prompts}
        return (
            rollouts(config, prompts),
            responding(self.rule, kept, frozenset({"sft", "reward", "rollouts"}), config,
                       lambda context: self.Job(context, config, prompts, self)),
        )  # fmt: skip
