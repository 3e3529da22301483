"""Anthropic-HH: replies of a helpful and harmless assistant.

Dahoas/full-hh-rlhf (112,052 rows, the paper's number), or Anthropic/hh-rlhf (--set task.source=hh-rlhf), cut by
`dialogues.py`; examples are the chosen responses. Both lack a validation split: rows whose prompt hashes to it are
taken from the training split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tasks.language.core import Example, LanguageSpec, Preference, Suite
from tasks.language.hh.dialogues import read_rows
from tasks.language.hub import JUDGES, HubTask, Reader

HELD_OUT = 50  # one training prompt in so many is of the validation split


@dataclass(frozen=True)
class HH(HubTask):
    """Replies of a helpful and harmless assistant."""

    source: str = "full-hh-rlhf"

    name: ClassVar[str] = "hh"
    spec: ClassVar[LanguageSpec] = LanguageSpec(max_prompt_tokens=348, max_response_tokens=160)  # 160: our choice
    sources: ClassVar[Mapping[str, str]] = {"full-hh-rlhf": "Dahoas/full-hh-rlhf", "hh-rlhf": "Anthropic/hh-rlhf"}

    @property
    def choices(self) -> Mapping[str, tuple[str, ...]]:
        return {"judge": JUDGES, "source": tuple(self.sources)}

    @property
    def repositories(self) -> Mapping[str, tuple[str, ...]]:
        return {self.sources[self.source]: ("train", "test")}

    def read(self, reader: Reader) -> tuple[dict[str, Sequence[Example]], dict[str, Sequence[Preference]]]:
        (repository,) = self.repositories
        columns = ("prompt", "chosen", "rejected") if self.source == "full-hh-rlhf" else ("chosen", "rejected")
        found: dict[str, list[Preference]] = {split: [] for split in self.splits}
        for split in self.repositories[repository]:
            kept, left = read_rows(reader(repository, split, columns), f"{repository}, split {split!r},")
            reader.left_out.update({f"{split}: {reason}": count for reason, count in left.items()})
            for row in kept:
                found["validation" if split == "train" and held_out(row.prompt) else split].append(row)
        examples: dict[str, Sequence[Example]] = {}
        for split, pairs in found.items():
            first = {row.prompt: row.chosen for row in reversed(pairs)}  # several rows share a prompt
            examples[split] = [Example(prompt, response) for prompt, response in reversed(first.items())]
        return examples, dict(found)


def held_out(prompt: str) -> bool:
    """Whether a training prompt is one for validation: always the same, and all rows of a prompt alike."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % HELD_OUT == 0


TASK = HH()
SUITE = Suite({TASK.name: TASK})
names, get = SUITE.names, SUITE.get
