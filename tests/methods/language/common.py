"""A world of a few words, models with random weights in double precision, and a context to work in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from methods.language.core import Context, LanguageConfig, Part
from methods.language.models import RewardModel, reward_from, tiny_model, weights
from methods.language.tokens import Texts, word_tokenizer
from tasks.core import Provenance
from tasks.language.core import Corpus, Example, Preference

WORDS = tuple("abcdefgh")
EXAMPLES = [Example("a b c", "d e f g"), Example("b a", "e d"), Example("c", "h g f"), Example("d d d a", "a b c")]
PREFERENCES = [Preference("a b", "c d", "e"), Preference("c", "d e f", "g h"), Preference("a c d", "b", "h h h")]
MAX_PROMPT, MAX_RESPONSE = 8, 6
SMALL = {"layers": 2, "width": 16, "heads": 2, "sft_batch_size": 4, "reward_batch_size": 3, "batch_size": 3,
         "sft_steps": 4, "reward_steps": 4, "steps": 4, "rollouts": 6, "respond_batch": 2}  # fmt: skip


def corpus() -> Corpus:
    splits = ("train", "validation", "test")
    origin = Provenance("letters", "0", "built-in")
    return Corpus(dict.fromkeys(splits, EXAMPLES), dict.fromkeys(splits, PREFERENCES), origin)


def texts() -> Texts:
    return Texts(corpus(), word_tokenizer(WORDS), MAX_PROMPT, MAX_RESPONSE)


def length_of(prompt: str, response: str) -> float:
    """A gold reward: words."""
    del prompt
    return float(len(response.split()))


@dataclass
class Fresh:
    """Models with random weights."""

    config: LanguageConfig
    tokens: int

    def fresh(self) -> Any:
        model = tiny_model(self.config, self.tokens, MAX_PROMPT + MAX_RESPONSE + 1)
        return model.to(getattr(torch, self.config.dtype))

    def given(self, part: str) -> Any:
        raise AssertionError(f"{part} asked for")


@dataclass
class Bench:
    """What jobs of one seed work in; `parts` fills as they finish."""

    config: LanguageConfig
    seed: int = 0
    parts: dict[str, Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.texts = texts()
        torch.manual_seed(self.seed)
        models = Fresh(self.config, self.texts.size)
        self.context = Context(
            self.seed, self.texts, models, lambda name: self.parts[name], torch.device("cpu"), length_of
        )

    def untrained(self, scale: float = 8.0) -> Bench:
        """With an SFT model and a reward model of random weights, larger than they begin, so that scores differ."""
        sft, judge = self.context.models.fresh(), reward_from(self.context.models.fresh())
        with torch.no_grad():
            for model in (sft, judge):
                for weight in model.parameters():
                    weight.mul_(scale if weight.ndim > 1 else 1.0)
        self.parts |= {"sft": weights(sft), "reward": weights(judge, mean=0.3, deviation=2.0)}
        return self


def double(model: Any) -> Any:
    return model.double().eval()


def rewards(bench: Bench) -> RewardModel:
    from methods.language.models import reward

    return reward(bench.context)
