"""One-line summaries of descriptions and docstrings that are on the user's machine, by a real pretrained model.

Examples: pairs of `texts.py`. Preferences: of `sampling.py`. The gold reward: `gold.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from core.errors import BadInput
from core.files import digest, draft_folder, write_json, write_lines
from tasks.core import DataLocation, Provenance
from tasks.data import download
from tasks.language import local
from tasks.language.core import Corpus, Example, Gold, LanguageSpec, Preference, Suite, corpus_hash
from tasks.language.files import rows
from tasks.language.hub import spaced
from tasks.language.tldr_local import gold, sampling, texts
from tasks.screen import say

SHARES = (("test", 35), ("validation", 10), ("train", 55))  # percent of the pairs, by hash
FEWEST = 200  # training pairs
PAIRS, PREFERENCES = "pairs", "preferences"  # folders below that of the suite
_KINDS = {PAIRS: ("train", "validation", "test"), PREFERENCES: ("train", "validation")}


@dataclass(frozen=True)
class TLDRLocal:
    """See `tasks.language.core.LanguageTask`."""

    judge: Literal["gold", "proxy", "none"] = "gold"

    name: ClassVar[str] = "tldr-local"
    suite: ClassVar[str] = "tldr-local"
    spec: ClassVar[LanguageSpec] = LanguageSpec(max_prompt_tokens=96, max_response_tokens=24)
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"judge": ("gold", "proxy", "none")}

    @property
    def gold(self) -> Gold:
        return gold.GOLD

    @property
    def best(self) -> None:
        """Nobody knows the best summary."""

    def sized(self, episodes: int) -> TLDRLocal:
        del episodes  # there are as many pairs as there are
        return self

    def landscape(self) -> None:
        return None

    def data_location(self, data: str) -> DataLocation:
        """See `LanguageTask`. Raises: BadInput for "generate", or a folder without the files."""
        place = _place(data)
        missing = [kind for kind in _KINDS if not (place / kind).is_dir()]
        if missing and data not in ("auto", "download"):
            raise BadInput(f"--data {data} has no folder {missing[0]} (with train.jsonl, ...), as {home()} has it")
        missing += [name for name in (local.LANGUAGE_MODEL, local.EMBEDDER) if not local.where(name).is_dir()]
        if not missing:
            return DataLocation(str(place), True)
        return DataLocation(f"this machine's texts, to read into {place} (missing: {', '.join(missing)})", False)

    def ready(self, data: str) -> Path:
        """Fetches both models and reads the machine's texts, if that was not done before. Raises: BadInput."""
        place = _place(data)
        for name in (local.LANGUAGE_MODEL, local.EMBEDDER):
            local.ready(name)
        if data in ("auto", "download") and not (place / PAIRS).is_dir():
            read_machine(place / PAIRS)
        self.data_location(data)
        return place

    def load(self, data: str) -> Corpus:
        """See `LanguageTask`. Raises: BadInput: what is to be fetched or sampled is not there; names the command."""
        place = _place(data)
        self.data_location(data)
        for kind, command in ((PAIRS, "tasks.fetch"), (PREFERENCES, "tasks.collect")):
            if not (place / kind).is_dir():
                raise BadInput(f"tldr-local has no {kind} yet: python -m {command} tldr-local")
        examples = read_examples(place / PAIRS)
        told = sampling.check(place / PREFERENCES, corpus_hash(examples, {})) if _labelled_here(place) else {}
        preferences: dict[str, Sequence[Preference]] = {
            split: [Preference(**row) for row in rows(place / PREFERENCES / f"{split}.jsonl", Preference._fields)]
            for split in _KINDS[PREFERENCES]
        }
        hashes = {f"{kind}/{split}.jsonl": digest(place / kind / f"{split}.jsonl")
                  for kind, splits in _KINDS.items() for split in splits}  # fmt: skip
        details = {"files": hashes, "sampling": told, "gold": gold.RULE,
                   "models": {name: source.sha256 for name, source in local.SOURCES.items()}}  # fmt: skip
        origin = "built-in" if data in ("auto", "download") else "given"
        sha256 = corpus_hash(examples, preferences)
        return Corpus(examples, preferences, Provenance(self.name, sha256, origin, str(place), details))


def home() -> Path:
    """Where the suite's texts are kept."""
    return local.data_folder() / "tldr-local"


def _place(data: str) -> Path:
    if data == "generate":
        raise BadInput("tldr-local is people's writing, which cannot be generated; tldr-synthetic can")
    return home() if data in ("auto", "download") else Path(data).expanduser()


def _labelled_here(place: Path) -> bool:
    return (place / PREFERENCES / sampling.ABOUT).exists()


def read_examples(folder: Path) -> dict[str, Sequence[Example]]:
    """By split. Raises: BadInput: a file is missing, or not what it should be."""

    def of(split: str) -> list[Example]:
        return [Example(**row) for row in rows(folder / f"{split}.jsonl", Example._fields)]

    return {split: of(split) for split in _KINDS[PAIRS]}


def read_machine(out: Path) -> Path:
    """Reads the pairs that are on this machine, splits them by hash, and keeps them in `out`, whole or not at all.

    Raises:
      BadInput: there are too few, or they cannot be written.
    """
    with download.locked(out, "reading"):
        if out.is_dir():
            return out
        pairs, counts = texts.collect(lambda source: say(f"reading {source}"))
        splits: dict[str, list[dict[str, str]]] = {name: [] for name in _KINDS[PAIRS]}
        for pair in pairs:
            row = {
                "prompt": gold.prompt(pair.name, pair.text),
                "reference": spaced(pair.summary),
                "source": pair.source,
            }
            splits[texts.split_of(pair, SHARES)].append(row)
        found = Counter({name: len(rows) for name, rows in splits.items()})
        if found["train"] < FEWEST:
            raise BadInput(f"this machine has {found['train']} pairs to train on, {FEWEST} are needed: install more "
                           "packages with descriptions, or take --data PATH")  # fmt: skip
        try:
            with draft_folder(out) as draft:
                for name, own in splits.items():
                    write_lines(draft / f"{name}.jsonl", map(json.dumps, own))
                write_json(draft / sampling.ABOUT, {"pairs": found, "sources": counts})
        except OSError as error:
            raise download.unwritable(out, error) from error
    say(f"{sum(found.values())} pairs: " + ", ".join(f"{count} {name}" for name, count in found.items()))
    return out


def collect(recipe: sampling.Recipe) -> Path:
    """Samples and labels preferences for the pairs that were read; the folder they are in. Raises: BadInput."""
    if not (home() / PAIRS).is_dir():
        raise BadInput("tldr-local has no pairs yet: python -m tasks.fetch tldr-local")
    examples = read_examples(home() / PAIRS)
    return sampling.collect(recipe, dict(examples), corpus_hash(examples, {}), home() / PREFERENCES)


SOURCES, data_folder = local.SOURCES, local.data_folder  # of what `tasks.fetch --manifest` would say
TASK = TLDRLocal()
SUITE = Suite({TASK.name: TASK})
names, get = SUITE.names, SUITE.get
__all__ = ["SUITE", "TLDRLocal", "collect", "get", "names"]
