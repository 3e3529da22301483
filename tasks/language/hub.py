"""Language tasks whose texts people wrote: datasets of the hub, or folders with the same files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from core.errors import BadInput
from core.files import digest
from tasks.core import DataLocation, Provenance
from tasks.language.core import Best, Corpus, Example, Gold, LanguageSpec, Preference, corpus_hash
from tasks.language.files import cached, files, locate, rows

JUDGES = ("none", "proxy")  # "proxy": the reward model that methods optimise


@dataclass(frozen=True)
class HubTask:
    """What both tasks share; see `tasks.language.core.LanguageTask`."""

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
    def best(self) -> Best | None:
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

    def data_location(self, data: str) -> DataLocation:
        """See `LanguageTask`. Raises: BadInput for "generate", or a folder without the files."""
        if data == "generate":
            raise BadInput(f"{self.name} is people's writing, which cannot be generated; {self.name}-synthetic can")
        if data in ("auto", "download"):
            there = all(cached(repository, splits) for repository, splits in self.repositories.items())
            how = "in" if there else "to fetch into"
            return DataLocation(f"{' and '.join(self.repositories)}, {how} the hub's cache", there)
        return DataLocation(" and ".join(str(locate(repository, data)) for repository in self.repositories), True)

    def ready(self, data: str) -> Path | None:
        """See `LanguageTask`. Raises: BadInput in one line."""
        self.data_location(data)
        folders = [locate(repository, data) for repository in self.repositories]
        for folder, splits in zip(folders, self.repositories.values(), strict=True):
            for split in splits:
                files(folder, split)
        return folders[0] if len(folders) == 1 else None

    def load(self, data: str) -> Corpus:
        """See `LanguageTask`; reads all of the files. Raises: BadInput in one line."""
        self.data_location(data)
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


def spaced(response: str) -> str:
    """A response with one space before it: after "TL;DR:" and "Assistant:", a word begins with its space."""
    return f" {response.strip()}"
