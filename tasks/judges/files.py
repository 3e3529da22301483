"""What a run left to be judged, and the verdicts beside it: `responses.jsonl` -> `verdicts-<judge>.csv`."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from core import records, responses
from core.errors import BadInput, reason
from core.files import read_plain, sweep, write_json, write_text
from tasks.judges import reward_model
from tasks.judges.core import Pair, Verdict
from tasks.language.core import whole_characters

TEXTS = ("prompt", "response", "reference")
VERDICT = ("verdict", "swap_consistent", "cost")  # columns after those that say which row it is about


_SHAPE = ConfigDict(strict=True, extra="allow")


@with_config(_SHAPE)
class JudgedStage(TypedDict):
    """Of run.json's stages."""

    name: str
    fingerprint: records.Name


@with_config(_SHAPE)
class JudgedRun(TypedDict):
    """What a judge needs of run.json, which others may write, too."""

    suite: records.Name
    task: records.Name
    knobs: NotRequired[list[records.Name]]
    stages: NotRequired[list[JudgedStage] | None]
    config: NotRequired[dict[str, Any] | None]


@dataclass(frozen=True)
class Responses:
    """The responses of one run."""

    folder: Path
    meta: JudgedRun  # its run.json
    keys: tuple[str, ...]  # of a row: seed, the knobs, episode
    rows: Sequence[Mapping[str, Any]]
    sha256: str  # of responses.jsonl

    @property
    def pairs(self) -> list[Pair]:
        """Each response beside its reference. Half characters, which no tokenizer or server takes, are replaced."""
        return [Pair(*(whole_characters(row[name]) for name in TEXTS)) for row in self.rows]

    @property
    def optimised(self) -> set[str]:
        """Of the reward models that the run had to do with: fingerprints of stages, the SHA-256 of what these made, and
        the path and weights of a checkpoint."""
        stages = {stage["fingerprint"] for stage in self.meta.get("stages") or [] if stage["name"] == "reward_model"}
        above = self.folder.resolve().parents  # results/runs/<suite>/<task>/<method>/<fingerprint>
        made = [reward_model.weights(str(above[4] / "artifacts" / stage)) for stage in stages if len(above) > 4]
        setting = (self.meta.get("config") or {}).get("reward_checkpoint")
        value = setting.get("value") if isinstance(setting, dict) else None
        given = reward_model.optimised(value) if value and isinstance(value, str) else set()
        return stages.union(given, *made)


def find(places: Sequence[Path]) -> list[Path]:
    """Folders with responses: the places themselves, or all that lie below them.

    Raises: BadInput for a place without any.
    """
    found: list[Path] = []
    for place in places:
        whole = (place / "responses.jsonl").is_file()
        here = [place] if whole else sorted(path.parent for path in place.rglob("responses.jsonl") if path.is_file())
        if not here:
            raise BadInput(f"nothing to judge: no responses.jsonl in {place}, nor below it")
        found += [folder for folder in here if folder not in found]
    return found


def read(folder: Path, episodes: int | None = None) -> Responses:
    """The responses of a run, of its first so many prompts only where `episodes` says so.

    Raises: BadInput for files that are missing, empty, or not what `results/README.md` says, naming the line.
    """
    path = folder / "responses.jsonl"
    try:
        meta = records.read(folder / "run.json", JudgedRun)
        content = read_plain(path)
    except OSError as error:
        raise BadInput(f"cannot judge {folder}: {reason(error)}") from error
    knobs = meta.get("knobs", [])
    if {*knobs} & {"seed", "episode", *TEXTS, *VERDICT} or len({*knobs}) < len(knobs):
        raise BadInput(f"{folder / 'run.json'}: knobs {', '.join(knobs)} are not to be told from other columns")
    keys = ("seed", *knobs, "episode")
    rows = responses.parse(content, path, knobs)
    if not rows:
        raise BadInput(f"{path} is empty")
    if episodes is not None:
        rows = [row for row in rows if row["episode"] < episodes]
        if not rows:
            raise BadInput(f"{path} has no prompt among the first {episodes}")
    if len({tuple(_numbers(row, keys)) for row in rows}) < len(rows):
        raise BadInput(f"{path} has two responses whose {', '.join(keys)} are the same to seven digits")
    return Responses(folder, meta, keys, rows, hashlib.sha256(content).hexdigest())


def refuse_shrinking(found: Responses, judge: str) -> None:
    """Raises: BadInput where there are more verdicts of the judge on the same texts than there are responses now."""
    path = found.folder / f"verdicts-{judge}.json"
    try:
        before = records.read(path, records.VerdictsRecord)
    except (OSError, BadInput):
        return  # nothing that counts as verdicts on these texts
    if before["responses"] == found.sha256 and before["rows"] > len(found.rows):
        raise BadInput(f"{path.with_suffix('.csv')} has {before['rows']} verdicts on these texts, of which this would "
                       f"leave {len(found.rows)}; judge without --episodes, or remove it")  # fmt: skip


def refuse_unwritable(found: Responses) -> None:
    """Raises: BadInput where no verdicts could be written, before they cost anything."""
    if not os.access(found.folder, os.W_OK | os.X_OK):
        raise BadInput(f"{found.folder} is not writable, so no verdicts could be kept there")


def write(found: Responses, judge: str, verdicts: Sequence[Verdict], about: Mapping[str, Any]) -> Path:
    """Writes verdicts-<judge>.csv, and as .json what the judge is and what it judged: `rows`, `episodes` (prompts) and
    `responses`, the SHA-256 of the texts' file. Each whole or not at all, the .json last: without it, or with that of
    other verdicts, the CSV counts for nothing. Returns the CSV's path.

    Raises: OSError.
    """
    sweep(found.folder)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*found.keys, *VERDICT])
    for row, one in zip(found.rows, verdicts, strict=True):
        table.writerow([*_numbers(row, found.keys), one.outcome, int(one.consistent), f"{one.cost:.7g}"])
    path = found.folder / records.file_name(f"verdicts-{judge}.csv")
    episodes = len({row["episode"] for row in found.rows})
    judged = {"rows": len(verdicts), "episodes": episodes, "responses": found.sha256}
    write_text(path, text.getvalue())
    write_json(path.with_suffix(".json"), {**about, **judged})
    return path


def _numbers(row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """What a row is known by, as verdicts are written beside it."""
    return [f"{row[key]}" if isinstance(row[key], int) else f"{row[key]:.7g}" for key in keys]
