"""ARGS: decoding guided by the reward model, a token at a time.

Khanov et al. (arXiv 2402.01694): of the k likeliest next tokens, take the one (or draw it by a softmax) with the
largest log pi(v) + w r(x, y_<t v). The reward model is trained to read whole responses, so a part of one is read as if
it ended there (`partial` "ended"), or as it stands ("open").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from methods.core import MethodConfig, PositiveInt, Weight
from methods.inference import Cost, Knob
from methods.language.core import Context, LanguageConfig, LanguageStage, derived_seed
from methods.language.method import TEMPERATURE, LanguageMethod
from methods.language.respond import SAMPLING, Responding, Responses, responding, spent
from methods.language.reward_model import reward_stage
from methods.language.sampling import draw, forbid
from methods.language.sft import sft_stage


@dataclass(frozen=True)
class ARGSConfig(LanguageConfig):
    test_weights: tuple[Weight, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)  # w, of the reward in stds of its scores
    candidates: PositiveInt = 8  # k
    partial: Literal["ended", "open"] = "ended"


class Guided(Responding):
    """Writes a response to every prompt, anew for each setting."""

    config: ARGSConfig

    def __init__(self, context: Context, config: ARGSConfig, prompts: int, method: ARGS) -> None:
        super().__init__(context, config, prompts, scored=True, sampled=False)
        self.method = method

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        prompts, settings = [tokens.prompt for tokens, _ in self.prompts[chunk]], self.method.own_knobs(temperature)
        written = [self.write(prompts, one["w"], temperature, chunk.start) for one in settings]
        by_prompt = [written[k][p] for p in range(len(prompts)) for k in range(len(written))]
        proxy = self.proxies([prompt for prompt in prompts for _ in written], by_prompt)
        return self.measured(chunk, by_prompt, proxy, samples=1.0,
                             **spent(list(map(self.method.cost, settings)), len(prompts)))  # fmt: skip

    @torch.no_grad()
    def write(self, prompts: Sequence[Any], weight: float, temperature: float, number: int) -> Responses:
        """A response to each prompt; all weights from the same noise."""
        texts, found = self.context.texts, [list[int]() for _ in prompts]
        generator = torch.Generator().manual_seed(derived_seed(self.context.seed, "guided", number))
        width = min(self.config.candidates, texts.size)
        for _ in range(texts.max_response):
            open_ = [i for i, text in enumerate(found) if not text or text[-1] != texts.eos]
            if not open_:
                break
            value, candidates = self.likely([prompts[i] for i in open_], [found[i] for i in open_], weight)
            every = torch.zeros(len(prompts), width)  # a number is drawn for what has ended, too
            every[open_] = value
            pick = draw(every / temperature, generator)[open_] if temperature else value.argmax(-1)
            for i, token in zip(open_, candidates.gather(1, pick[:, None]).squeeze(1).tolist(), strict=True):
                found[i].append(token)
        return found

    def likely(self, prompts: Sequence[Any], texts: Responses, weight: float) -> tuple[Tensor, Tensor]:
        """(value `[b, k]`, token `[b, k]`) of the likeliest next tokens of each text."""
        corpus = self.context.texts
        last = self.likelihood.next_logits(prompts, texts).float().cpu()
        forbid(last, corpus.size, corpus.banned)
        value, candidates = last.log_softmax(-1).topk(min(self.config.candidates, corpus.size), dim=-1)
        return (value + weight * self.promise(prompts, texts, candidates) if weight else value), candidates

    def promise(self, prompts: Sequence[Any], texts: Responses, candidates: Tensor) -> Tensor:
        """The reward `[b, k]` of each text with each candidate behind it."""
        count = candidates.shape[1]
        longer = [[*text, token] for text, row in zip(texts, candidates.tolist(), strict=True) for token in row]
        repeated = [prompt for prompt in prompts for _ in range(count)]
        assert self.scorer is not None
        return self.scorer(repeated, longer, ended=self.config.partial == "ended").reshape(-1, count)


@dataclass(frozen=True)
class ARGS(LanguageMethod):
    """One response, each of its tokens weighed by the reward model."""

    config: ARGSConfig
    Config: ClassVar[type[MethodConfig]] = ARGSConfig
    name: ClassVar[str] = "args"
    inference: ClassVar[tuple[Knob, ...]] = (TEMPERATURE, Knob("w", "weight of the reward"))

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        del temperature
        return tuple({"w": weight} for weight in self.config.test_weights)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        """A sample and, of each candidate, a pass of one more sequence through a reward model that keeps what it has
        read; two where every token is followed by an end of text. (The code here reads everything anew.)"""
        each = 2 if self.config.partial == "ended" else 1
        return Cost(passes=1 + (each * self.config.candidates if knobs["w"] else 0))

    def stages(self) -> tuple[Any, ...]:
        return sft_stage(self.config), reward_stage(self.config)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        config = self.config
        kept = self.settings(*SAMPLING, "test_weights", "candidates", "partial") | {"prompts": prompts}
        return (
            responding("tokens weighed by the reward model", kept, frozenset({"sft", "reward"}), config,
                       lambda context: Guided(context, config, prompts, self)),
        )  # fmt: skip
