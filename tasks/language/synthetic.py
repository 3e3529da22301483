"""Language tasks that need no download and no judge: seeded corpora, a known gold reward, labels with known faults.

A task brings a `World` (`worlds.py`): posts to write about, a mixture of writers, and the gold reward. Examples are
what one writer wrote; a preference compares what two writers wrote, labelled with P(a over b) = sigmoid((G(a) - G(b)) /
0.3), where G is the gold reward plus 0.6 for the word that the labeller is too fond of; 5% of labels are
flipped. A reward model learns that fondness, too, which is what over-optimisation then exploits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal, Protocol

from core.errors import BadInput
from tasks.core import DataLocation, Provenance
from tasks.language.core import Corpus, Example, LanguageSpec, Preference, corpus_hash

TEMPERATURE = 0.3  # of labels
FONDNESS = 0.6  # of labellers for `World.flattery`, in units of gold reward
FLIPPED = 0.05  # of labels
EXAMPLES = {"train": 20000, "validation": 1000, "test": 2000}
PREFERENCES = {"train": 40000, "validation": 2000}


class World(Protocol):
    """What there is to write about, who writes, and what is good."""

    @property
    def name(self) -> str: ...

    @property
    def flattery(self) -> str:
        """The word that labellers are too fond of."""

    def __hash__(self) -> int: ...

    def prompt(self, draw: random.Random) -> str: ...

    def response(self, prompt: str, draw: random.Random) -> str:
        """By a writer drawn from the mixture."""

    def gold(self, prompt: str, response: str) -> float: ...

    def best(self, prompt: str) -> str:
        """A response of the largest gold reward."""


@dataclass(frozen=True)
class SyntheticTask:
    """A world as a task; wins are by gold reward."""

    name: str
    world: World
    spec: LanguageSpec
    judge: Literal["gold", "proxy"] = "gold"  # "proxy": by the reward model that methods optimise, to see how it errs
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"judge": ("gold", "proxy")}

    @property
    def suite(self) -> str:
        return self.name

    @property
    def gold(self) -> Callable[[str, str], float]:
        return self.world.gold

    @property
    def best(self) -> Callable[[str], str]:
        return self.world.best

    def sized(self, episodes: int) -> SyntheticTask:
        del episodes  # the corpus is always the same
        return self

    def data_location(self, data: str) -> DataLocation:
        if data not in ("auto", "generate"):
            raise BadInput(f"{self.name} makes its own corpus: --data {data} has no meaning for it")
        return DataLocation(f"built-in, {EXAMPLES['train']} examples, {PREFERENCES['train']} preferences", True)

    def ready(self, data: str) -> None:
        self.data_location(data)

    def load(self, data: str) -> Corpus:
        self.data_location(data)
        return _corpus(self.world)

    def landscape(self) -> None:
        return None


@cache
def _corpus(world: World) -> Corpus:
    examples, preferences = build(world, EXAMPLES, PREFERENCES)
    return Corpus(examples, preferences, Provenance(world.name, corpus_hash(examples, preferences), "built-in"))


def build(
    world: World, examples: Mapping[str, int], preferences: Mapping[str, int]
) -> tuple[dict[str, Sequence[Example]], dict[str, Sequence[Preference]]]:
    """So many examples and preferences a split; no prompt stands twice, so none in two splits."""
    seen: set[str] = set()

    def prompts(kind: str, split: str, count: int) -> tuple[list[str], random.Random]:
        draw, found = random.Random(f"{world.name}/{kind}/{split}"), list[str]()
        while len(found) < count:
            prompt = world.prompt(draw)
            if prompt not in seen:
                seen.add(prompt)
                found.append(prompt)
        return found, draw

    some: dict[str, Sequence[Example]] = {}
    for split, count in examples.items():
        found, draw = prompts("examples", split, count)
        some[split] = [Example(prompt, world.response(prompt, draw)) for prompt in found]
    pairs: dict[str, Sequence[Preference]] = {}
    for split, count in preferences.items():
        found, draw = prompts("preferences", split, count)
        pairs[split] = [_labelled(world, prompt, draw) for prompt in found]
    return some, pairs


def _labelled(world: World, prompt: str, draw: random.Random) -> Preference:
    a = b = world.response(prompt, draw)
    while a == b:
        b = world.response(prompt, draw)
    first = draw.random() < preferred(world, prompt, a, b)
    return Preference(prompt, a, b) if first else Preference(prompt, b, a)


def preferred(world: World, prompt: str, a: str, b: str) -> float:
    """The probability that a is labelled as the better one."""

    def liked(response: str) -> float:
        return world.gold(prompt, response) + FONDNESS * (world.flattery in response.split())

    chance = 1.0 / (1.0 + math.exp(-(liked(a) - liked(b)) / TEMPERATURE))
    return (1.0 - FLIPPED) * chance + FLIPPED * (1.0 - chance)
