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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from core.files import digest
from methods.core import BadInput
from tasks import hh
from tasks.core import Provenance, Whereabouts
from tasks.language import Corpus, Example, Gold, LanguageSpec, Preference, Suite, corpus_hash, fault
from tasks.language_files import cached, files, locate, rows

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
    def repositories(self) -> Mapping[str, tuple[str, ...]]:
        """On the hub, each with the splits that are read of it."""
        raise NotImplementedError

    def sized(self, episodes: int) -> HubTask:
        del episodes  # datasets are as large as they are
        return self

    def landscape(self) -> None:
        return None

    def whereabouts(self, data: str) -> Whereabouts:
        """See `LanguageTask`. Raises: BadInput for "generate", or a folder without the files."""
        if data == "generate":
            raise BadInput(f"{self.name} is people's writing, which cannot be generated; {self.name}-synthetic can")
        if data in ("auto", "download"):
            there = all(cached(repository, splits) for repository, splits in self.repositories.items())
            how = "in" if there else "to fetch into"
            return Whereabouts(f"{' and '.join(self.repositories)}, {how} the hub's cache", there)
        return Whereabouts(" and ".join(str(locate(repository, data)) for repository in self.repositories), True)

    def ready(self, data: str) -> Path | None:
        """See `LanguageTask`. Raises: BadInput in one line."""
        self.whereabouts(data)
        folders = [locate(repository, data) for repository in self.repositories]
        for folder, splits in zip(folders, self.repositories.values(), strict=True):
            for split in splits:
                files(folder, split)
        return folders[0] if len(folders) == 1 else None

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
            self.hashes[f"{repository}/{path.relative_to(folder).as_posix()}"] = digest(path)

    def sound(
        self, repository: str, split: str, columns: Sequence[str], reason: Callable[[Mapping[str, str]], str]
    ) -> list[dict[str, str]]:
        """The rows that `reason` has nothing against; the others are counted. Raises: BadInput if none is left."""
        kept, left = [], Counter[str]()
        for row in self(repository, split, columns):
            if why := reason(row):
                left[why] += 1
            else:
                kept.append(row)
        if not kept:
            raise BadInput(f"{repository}: no row of split {split!r} can be used ({left.most_common(1)[0][0]})")
        self.left_out.update({f"{split}: {why}": count for why, count in left.items()})
        return kept


@dataclass(frozen=True)
class TLDR(HubTask):
    """Summaries of Reddit posts."""

    name: ClassVar[str] = "tldr"
    spec: ClassVar[LanguageSpec] = LanguageSpec(max_prompt_tokens=448, max_response_tokens=53)  # N+'s (2403.17031)
    repositories: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "trl-lib/tldr": HubTask.splits, "trl-lib/tldr-preference": ("train", "validation"),
    }  # fmt: skip

    def read(self, reader: Reader) -> tuple[dict[str, Sequence[Example]], dict[str, Sequence[Preference]]]:
        summaries, compared = self.repositories
        examples: dict[str, Sequence[Example]] = {}
        for split in self.repositories[summaries]:
            found = reader.sound(summaries, split, ("prompt", "completion"), lambda row: fault(row["completion"]))
            examples[split] = [Example(row["prompt"].rstrip(), spaced(row["completion"])) for row in found]
        preferences: dict[str, Sequence[Preference]] = {}
        for split in self.repositories[compared]:
            found = reader.sound(compared, split, ("prompt", "chosen", "rejected"), self.reason)
            preferences[split] = [
                Preference(row["prompt"].rstrip(), spaced(row["chosen"]), spaced(row["rejected"])) for row in found
            ]
        return examples, preferences

    @staticmethod
    def reason(row: Mapping[str, str]) -> str:
        """Why a row of preferences is left out; "" if it is not."""
        if not row["prompt"].startswith(REDDIT):
            return f"no Reddit post, which begins with {REDDIT.strip()!r}"
        return fault(row["chosen"], row["rejected"])


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
