"""Search among texts: responses that begin as samples of the SFT model, and change for what the reward model prefers.

The rivals of VGF that never leave the space of texts: `hotflip.py`, `random_swaps.py` and `quest.py` bring one step
each. They start from the rollouts that VGF and best-of-N start from, and after no step they are best-of-N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from methods.core import BadInput, Count, PositiveInt
from methods.inference import Cost, Knob
from methods.language.best_of_n import choices
from methods.language.core import Context, LanguageConfig, LanguageStage, derived_seed, own_settings
from methods.language.method import TEMPERATURE, LanguageMethod
from methods.language.respond import SAMPLING, Responding, Responses, changed, drawn, responding, rollouts, spent
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage
from methods.language.surrogates import Frame, frame


@dataclass(frozen=True)
class SearchConfig(LanguageConfig):
    """`test_steps` are evaluated on the way of one search."""

    n_starts: PositiveInt = 5  # samples of a prompt that are searched from; VGF's particles
    test_steps: tuple[Count, ...] = (0, 1, 2, 4, 8, 16)  # S


@dataclass(frozen=True)
class SwapConfig(SearchConfig):
    candidates: PositiveInt = 8  # likeliest tokens under SFT that a position may change to, as VGF's
    trials: PositiveInt = 1  # changed texts that the reward model scores a step


@dataclass
class Walk:
    """Responses `[p n]` on their way, prompt by prompt."""

    prompts: Sequence[Any]
    responses: Responses
    proxy: Tensor  # `[p n]`
    temperature: float
    fixed: Fixed | None = None  # where a search changes single tokens


class Fixed(NamedTuple):
    """What stays while tokens are swapped."""

    frame: Frame  # of the starting points
    candidates: Tensor  # `[b, t, k]`: the likeliest tokens under SFT
    allowed: Tensor  # `[b, t, k]` bool


class Searching(Responding):
    """Searches from the first `n_starts` rollouts of every prompt, and answers with the best text by the reward model
    at each number of steps. Subclasses bring `step`."""

    config: Any

    def __init__(self, context: Context, config: SearchConfig, prompts: int, method: LanguageMethod) -> None:
        super().__init__(context, config, prompts, scored=True)
        self.method = method
        for weight in self.reward.parameters() if self.reward else ():
            weight.requires_grad_(False)  # gradients are of texts alone

    def step(self, walk: Walk, generator: torch.Generator) -> None:
        """Changes the walk's responses, and what they are worth."""
        raise NotImplementedError

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        n, count = drawn(self.config.n_starts, temperature), len(self.prompts[chunk])
        starts = self.sampled(temperature, chunk, n)
        repeated = [tokens.prompt for tokens, _ in self.prompts[chunk] for _ in range(n)]
        walk = Walk(repeated, [*starts], self.proxies(repeated, starts), temperature)
        generator = torch.Generator().manual_seed(derived_seed(self.context.seed, "search", chunk.start))
        levels, found = [knobs["S"] for knobs in self.method.own_knobs(temperature)], {}
        for step in range(int(max(levels)) + 1):
            if step:
                self.step(walk, generator)
            if step in levels:
                found[step] = self.best(walk, starts, n)
        best, proxy, edits = zip(*(found[int(level)] for level in levels), strict=True)
        by_prompt = [best[k][p] for p in range(count) for k in range(len(levels))]
        costs = [self.method.cost({TEMPERATURE.name: temperature, "S": level}) for level in levels]
        return self.measured(chunk, by_prompt, torch.stack(proxy, 1).flatten(), edit_fraction=torch.stack(edits, 1),
                             samples=float(n), **spent(costs, count))  # fmt: skip

    def best(self, walk: Walk, starts: Responses, n: int) -> tuple[Responses, Tensor, Tensor]:
        """(best response, its proxy, its fraction of changed tokens) of every prompt."""
        best = choices(self.worth(walk.proxy, walk.responses).reshape(-1, n), (n,)).flatten()
        places = (torch.arange(len(best)) * n + best).tolist()
        edits = [changed(starts[i], walk.responses[i], self.context.texts.eos) for i in places]
        return [walk.responses[i] for i in places], walk.proxy[places], torch.tensor(edits)


class Swapping(Searching):
    """Each step proposes `trials` texts that differ in one token, and takes the best of them if the reward model
    prefers it to what there is. Length and end of text stay. Subclasses bring `preference`."""

    config: SwapConfig

    def preference(self, fixed: Frame, tokens: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        """How much each swap of tokens `[b, t]` for `candidates` `[b, t, k]` is to be tried, `[b, t, k]`."""
        raise NotImplementedError

    def fixed(self, walk: Walk) -> Fixed:
        """Made at the first step, by one teacher-forced pass."""
        if walk.fixed is None:
            texts = self.context.texts
            assert self.reward is not None
            found = frame(self.sft, self.reward, walk.prompts, walk.responses, eos=texts.eos, pad=texts.pad,
                          banned=texts.banned, tokens=texts.size, device=self.context.device)  # fmt: skip
            top, candidates = found.logits.topk(min(self.config.candidates, texts.size), dim=-1)
            walk.fixed = Fixed(found, candidates, torch.isfinite(top) & found.editable[..., None])
        return walk.fixed

    def step(self, walk: Walk, generator: torch.Generator) -> None:
        fixed, candidates, allowed = self.fixed(walk)
        tokens = _tokens(walk.responses, fixed)
        wanted = self.preference(fixed, tokens, candidates, generator)
        wanted = wanted.masked_fill(~allowed | (candidates == tokens[..., None]), -torch.inf).flatten(1)
        value, swaps = wanted.topk(min(self.config.trials, wanted.shape[1]), dim=1)  # `[b, m]`
        width, tried = candidates.shape[-1], list[list[int]]()
        for row, some in zip(walk.responses, swaps.tolist(), strict=True):
            tried += [[*row] for _ in some]
        replaced = candidates.flatten(1).gather(1, swaps).flatten().tolist()
        possible = torch.isfinite(value).flatten().tolist()
        for text, swap, token, good in zip(tried, swaps.flatten().tolist(), replaced, possible, strict=True):
            if good:
                text[swap // width] = token
        count = swaps.shape[1]
        proxy = self.proxies([prompt for prompt in walk.prompts for _ in range(count)], tried).reshape(-1, count)
        better, best = proxy.max(1)
        for i, (taken, k) in enumerate(zip((better > walk.proxy).tolist(), best.tolist(), strict=True)):
            if taken:
                walk.responses[i] = tried[i * count + k]
        walk.proxy = torch.maximum(walk.proxy, better)


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

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        del temperature
        return tuple({"S": steps} for steps in self.config.test_steps)

    def step_cost(self) -> Cost:
        """What a step of one starting point costs."""
        raise NotImplementedError

    def first_cost(self) -> float:
        """Passes of a starting point before its first step."""
        return 0.0

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        """A sample and its score of each starting point, then its steps."""
        n, steps, one = drawn(self.config.n_starts, self.temperature(knobs)), knobs["S"], self.step_cost()
        passes = 2 + (self.first_cost() if steps else 0.0) + steps * one.passes
        return Cost(n * passes, gradients=n * steps * one.gradients)

    def stages(self) -> tuple[Any, ...]:
        if self.config.n_starts > self.config.rollouts:
            raise BadInput(f"{self.name}.n_starts={self.config.n_starts} is more than rollouts={self.config.rollouts}")
        return sft_stage(self.config), reward_stage(self.config)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        config = self.config
        kept = self.settings(*SAMPLING, *sorted(own_settings(config)), "missing_eos_penalty") | {"prompts": prompts}
        return (
            rollouts(config, prompts),
            responding(self.rule, kept, frozenset({"sft", "reward", "rollouts"}), config,
                       lambda context: self.Job(context, config, prompts, self)),
        )  # fmt: skip
