"""The real language tasks: Reddit TL;DR and Anthropic-HH, from the hub or from folders with the same files.

  suite  examples                          preferences
  tldr   trl-lib/tldr                      trl-lib/tldr-preference, without the CNN/DM articles of its validation split
  hh     chosen responses of the right     Dahoas/full-hh-rlhf (112,052 rows, the paper's number), or
                                           Anthropic/hh-rlhf (--set task.source=hh-rlhf), cut by `tasks/hh.py`

Both HH sets lack a validation split: rows whose prompt hashes to it are taken from the training split.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from methods.core import BadInput
from tasks import fetch, hh
from tasks.core import Provenance
from tasks.language import Corpus, Example, Gold, LanguageSpec, Preference, Suite, corpus_hash
from tasks.language_files import files, locate, rows

REDDIT = "SUBREDDIT: "  # what Reddit posts begin with; CNN/DM articles begin with their title
HELD_OUT = 50  # one training prompt in so many is HH's validation split
JUDGES = ("none", "proxy")  # "proxy": the reward model that methods optimise


@dataclass(frozen=True)
class HubTask:
    """What both tasks share; see `tasks.language.LanguageTask`."""

    judge: str = "none"  # `python -m tasks.judge` comes later

    name: ClassVar[str]
    spec: ClassVar[LanguageSpec]
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    @property
    def suite(self) -> str:
        return self.name

    @property
    def gold(self) -> Gold | None:
        """Nobody knows the true reward."""
        return None

    @property
    def choices(self) -> Mapping[str, tuple[str, ...]]:
        return {"judge": JUDGES}

    @property
    def repositories(self) -> tuple[str, ...]:
        """On the hub."""
        raise NotImplementedError

    def sized(self, episodes: int) -> HubTask:
        del episodes  # datasets are as large as they are
        return self

    def landscape(self) -> None:
        return None

    def whereabouts(self, data: str) -> str:
        """See `LanguageTask`. Raises: BadInput for "generate", or a folder without the files."""
        if data == "generate":
            raise BadInput(f"{self.name} is people's writing, which cannot be generated; {self.name}-synthetic can")
        if data in ("auto", "download"):
            return f"{' and '.join(self.repositories)}, from the hub or its cache"
        return " and ".join(str(locate(repository, data)) for repository in self.repositories)

    def load(self, data: str) -> Corpus:
        """See `LanguageTask`; reads all of the files. Raises: BadInput in one line."""
        self.whereabouts(data)
        folders = {repository: locate(repository, data) for repository in self.repositories}
        reader = Reader(folders)
        examples, preferences = self.read(reader)
        given = data not in ("auto", "download")
        details: dict[str, Any] = {"files": reader.hashes, "left_out": dict(reader.left_out)}
        if not given:
            details["revisions"] = {repository: folder.name for repository, folder in folders.items()}
        name, path = ", ".join(self.repositories), ", ".join(map(str, folders.values()))
        origin = "given" if given else "downloaded"
        return Corpus(
            examples, preferences, Provenance(name, corpus_hash(examples, preferences), origin, path, details)
        )

    def read(self, reader: Reader) -> tuple[dict[str, Sequence[Example]], dict[str, Sequence[Preference]]]:
        """(examples, preferences), by split."""
        raise NotImplementedError


class Reader:
    """Reads splits of datasets, and keeps account of it."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = folders
        self.hashes: dict[str, str] = {}  # <repository>/<file> -> SHA-256
        self.left_out: Counter[str] = Counter()  # rows, by reason

    def __call__(self, repository: str, split: str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
        """The texts of those columns, row by row."""
        folder = self.folders[repository]
        for path in files(folder, split):
            yield from rows(path, columns)
            self.hashes[f"{repository}/{path.relative_to(folder).as_posix()}"] = fetch.digest(path)


@dataclass(frozen=True)
class TLDR(HubTask):
    """Summaries of Reddit posts."""

    name: ClassVar[str] = "tldr"
    spec: ClassVar[LanguageSpec] = LanguageSpec(max_prompt_tokens=448, max_response_tokens=53)  # N+'s (2403.17031)
    repositories: ClassVar[tuple[str, ...]] = ("trl-lib/tldr", "trl-lib/tldr-preference")

    def read(self, reader: Reader) -> tuple[dict[str, Sequence[Example]], dict[str, Sequence[Preference]]]:
        summaries, compared = self.repositories
        examples: dict[str, Sequence[Example]] = {
            split: [
                Example(row["prompt"].rstrip(), spaced(row["completion"]))
                for row in reader(summaries, split, ("prompt", "completion"))
            ]
            for split in self.splits
        }
        preferences: dict[str, Sequence[Preference]] = {}
        for split in ("train", "validation"):
            kept = []
            for row in reader(compared, split, ("prompt", "chosen", "rejected")):
                if row["prompt"].startswith(REDDIT):
                    kept.append(Preference(row["prompt"].rstrip(), spaced(row["chosen"]), spaced(row["rejected"])))
                else:
                    reader.left_out[f"{split}: no Reddit post"] += 1
            if not kept:
                raise BadInput(f"{compared}: no prompt of split {split!r} begins with {REDDIT!r}")
            preferences[split] = kept
        return examples, preferences


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
    def repositories(self) -> tuple[str, ...]:
        return (self.sources[self.source],)

    def read(self, reader: Reader) -> tuple[dict[str, Sequence[Example]], dict[str, Sequence[Preference]]]:
        (repository,) = self.repositories
        columns = ("prompt", "chosen", "rejected") if self.source == "full-hh-rlhf" else ("chosen", "rejected")
        found: dict[str, list[Preference]] = {split: [] for split in self.splits}
        for split in ("train", "test"):
            kept, left = hh.read_rows(reader(repository, split, columns), f"{repository}, split {split!r},")
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


def spaced(response: str) -> str:
    """A response with one space before it: after "TL;DR:" and "Assistant:", a word begins with its space."""
    return f" {response.strip()}"


TLDR_SUITE = Suite({"tldr": TLDR()})
HH_SUITE = Suite({"hh": HH()})
