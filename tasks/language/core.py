"""What a language task gives the harness: prompts with references, preferences, and a judge's view of a response.

Texts only: whoever has a tokenizer counts tokens. This file imports no torch, transformers or datasets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from core.errors import BadInput
from core.text import nearest
from tasks.core import DataLocation, Provenance

UNFINISHED = " …"  # stands at the end of a response that was cut off: whoever judges the text sees that it has no end
_HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate, which JSON can spell out, but no UTF-8

_Row = TypeVar("_Row")
Gold = Callable[[str, str], float]
"""(prompt, response) -> the true reward of the response; one that was cut off ends with `UNFINISHED`."""
Best = Callable[[str], str]
"""prompt -> a response of the largest true reward."""


class Example(NamedTuple):
    """A prompt, and the response that a person (or the corpus) gave."""

    prompt: str
    reference: str


class Preference(NamedTuple):
    """Two responses to a prompt, of which a labeller preferred one."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class LanguageSpec:
    """What a method may know of a task; sizes in tokens of the model's own tokenizer."""

    max_prompt_tokens: int  # longer prompts are left out
    max_response_tokens: int  # the end-of-text token among them
    best_known: bool = False  # whether the task can write a response of the largest true reward


@dataclass(frozen=True)
class Corpus:
    """The texts of a task, by split; a split may lack one of the two kinds."""

    of_examples: Mapping[str, Sequence[Example]]
    of_preferences: Mapping[str, Sequence[Preference]]
    provenance: Provenance  # its sha256 identifies the texts: see `corpus_hash`

    def examples(self, split: str) -> Sequence[Example]:
        """Raises `BadInput` where there is no such split."""
        return _split(self.of_examples, split, self.provenance.name, "examples")

    def preferences(self, split: str) -> Sequence[Preference]:
        """Raises `BadInput` where there is no such split."""
        return _split(self.of_preferences, split, self.provenance.name, "preferences")

    @property
    def identity(self) -> str:
        """What fingerprints know the texts by."""
        return self.provenance.sha256

    def __len__(self) -> int:
        """Texts to train on: examples and preferences."""
        return len(self.of_examples.get("train", ())) + len(self.of_preferences.get("train", ()))


class LanguageTask(Protocol):
    """One row of the language benchmark: a frozen dataclass, whose module or suite object has `names` and `get`."""

    @property
    def suite(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> LanguageSpec: ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits: "train", "validation" (of reward models), "test" (of prompts to respond to)."""

    @property
    def gold(self) -> Gold | None:
        """The true reward, where the task has one."""

    @property
    def best(self) -> Best | None:
        """A response of the largest true reward, where that can be computed."""

    @property
    def choices(self) -> Mapping[str, tuple[str, ...]]:
        """As of every task (`tasks/core.py`). A language task has at least `judge`: who compares a response with the
        reference while the harness runs."""

    @property
    def judge(self) -> str:
        """One of `choices["judge"]`: "gold", "proxy" (the reward model that methods optimise, to see how it errs), or
        "none" (then `python -m tasks.judge` comes later)."""

    def sized(self, episodes: int) -> LanguageTask: ...

    def data_location(self, data: str) -> DataLocation:
        """What `load(data)` would read, fetch or make, without doing it. Raises `BadInput` where that is bound to
        fail."""

    def ready(self, data: str) -> Path | None:
        """Fetches what `load(data)` needs, without loading it; where it lies, None where that is not one place. Raises
        `BadInput` like `load`."""

    def load(self, data: str) -> Corpus:
        """Its texts. `data`: "auto", "generate" (built-in corpora), "download", or a path. Raises `BadInput`."""

    def landscape(self) -> None: ...


@dataclass(frozen=True)
class Suite:
    """A suite of language tasks by name."""

    tasks: Mapping[str, LanguageTask]

    def names(self) -> tuple[str, ...]:
        return tuple(self.tasks)

    def get(self, name: str) -> LanguageTask:
        """Raises `BadInput` where there is none of that name."""
        if name not in self.tasks:
            raise BadInput(f"unknown language task {name!r}; {nearest(name, list(self.tasks), '--list')}")
        return self.tasks[name]


def half_character(text: str) -> str:
    """The first lone surrogate of a text, as JSON spells it out; "" where there is none, as there should be."""
    found = _HALF.search(text)
    return f"\\u{ord(found[0]):04x}" if found else ""


def whole_characters(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD, as a model's reader would see it."""
    return _HALF.sub("\N{REPLACEMENT CHARACTER}", text)


def fault(*responses: str) -> str:
    """Why nothing can be learnt from one response, or from two to the same prompt, in a few words; "" if it can."""
    texts = [response.strip() for response in responses]
    if not all(texts):
        return "a response is empty"
    return "both responses are the same" if len(set(texts)) < len(texts) else ""


def corpus_hash(examples: Mapping[str, Sequence[Example]], preferences: Mapping[str, Sequence[Preference]]) -> str:
    """SHA-256 of all texts with their splits and order, in hexadecimal digits."""
    digest = hashlib.sha256()
    for kind, splits in (("examples", examples), ("preferences", preferences)):
        for split in sorted(splits):
            digest.update(f"{kind}/{split}\n".encode())
            for row in splits[split]:
                digest.update(json.dumps(list(row), ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _split(splits: Mapping[str, Sequence[_Row]], name: str, corpus: str, what: str) -> Sequence[_Row]:
    if name not in splits:
        raise BadInput(f"{corpus} has no {what} in a split called {name!r}; {nearest(name, sorted(splits))}")
    if not splits[name]:
        raise BadInput(f"{corpus}: split {name!r} has no {what}")
    return splits[name]
