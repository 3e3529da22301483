"""The optimum: a response of the largest gold reward, which the task computes; no method, but the top of every table.

Only tasks whose gold reward is known in full have one. Where it does not win, it ties with the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.core import BadInput, MethodConfig, Unfit
from methods.inference import Cost, Knob
from methods.language.core import LanguageConfig, LanguageStage
from methods.language.method import LanguageMethod
from methods.language.respond import Responding, responding
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage
from methods.language.tokens import plain_ids

KEPT = ("prompt_split", "respond_batch", "dtype", "measure_proxy")


class Knowing(Responding):
    """Answers with what the task knows to be best."""

    def rows(self, number: int, chunk: slice) -> dict[str, Tensor]:
        del number
        texts, best = self.context.texts, self.context.best
        if best is None:
            raise BadInput("optimum: this task has no response known to be best")
        found = plain_ids(texts.tokenizer, [best(example.prompt) for _, example in self.prompts[chunk]])
        responses = [texts.ended(ids) for ids in found]
        proxy = self.proxies([tokens.prompt for tokens, _ in self.prompts[chunk]], responses)
        nothing = torch.zeros(len(responses), 1)
        return self.measured(chunk, responses, proxy, gradients=nothing, compute=nothing, samples=0.0)


@dataclass(frozen=True)
class Optimum(LanguageMethod):
    """Writes what the gold reward likes best."""

    config: LanguageConfig
    Config: ClassVar[type[MethodConfig]] = LanguageConfig
    name: ClassVar[str] = "optimum"
    inference: ClassVar[tuple[Knob, ...]] = ()

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        return ({},)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(passes=0)

    def stages(self) -> tuple[Any, ...]:
        if not self.spec.best_known:
            raise Unfit("optimum: no response of this task is known to be best")
        return (sft_stage(self.config), *([reward_stage(self.config)] if self.config.measure_proxy else []))

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        config, scored = self.config, self.config.measure_proxy
        reads = frozenset({"sft"}) | (frozenset({"reward"}) if scored else frozenset())
        kept = self.settings(*KEPT) | {"prompts": prompts}
        return (
            responding("the task's best response", kept, reads, config,
                       lambda context: Knowing(context, config, prompts, scored=scored, sampled=False)),
        )  # fmt: skip
