"""What a run left to be judged, and the verdicts beside it: `responses.jsonl` -> `verdicts-<judge>.csv`."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from core import records, strict_json
from core.errors import reason
from core.files import sweep, write_json, write_text
from methods.core import BadInput
from tasks.judges import reward_model
from tasks.judges.core import Pair, Verdict
from tasks.language import whole_characters

TEXTS = ("prompt", "response", "reference")
LARGEST = 2**63  # of a whole number in a row
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
        content = path.read_bytes()
        lines = content.decode().split("\n")
    except OSError as error:
        raise BadInput(f"cannot judge {folder}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: {error.reason} at byte {error.start}") from error
    knobs = meta.get("knobs", [])
    if {*knobs} & {"seed", "episode", *TEXTS, *VERDICT} or len({*knobs}) < len(knobs):
        raise BadInput(f"{folder / 'run.json'}: knobs {', '.join(knobs)} are not to be told from other columns")
    keys = ("seed", *knobs, "episode")
    rows = [_row(line, keys, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line]
    if not rows:
        raise BadInput(f"{path} is empty")
    if episodes is not None:
        rows = [row for row in rows if row["episode"] < episodes]
        if not rows:
            raise BadInput(f"{path} has no prompt among the first {episodes}")
    if len({tuple(row[key] for key in keys) for row in rows}) < len(rows):
        raise BadInput(f"{path} has two responses for the same {', '.join(keys)}")
    return Responses(folder, meta, keys, rows, hashlib.sha256(content).hexdigest())


def refuse_shrinking(responses: Responses, judge: str) -> None:
    """Raises: BadInput where there are more verdicts of the judge on the same texts than there are responses now."""
    path = responses.folder / f"verdicts-{judge}.json"
    try:
        before = records.read(path, records.VerdictsRecord)
    except (OSError, BadInput):
        return  # nothing that counts as verdicts on these texts
    if before["responses"] == responses.sha256 and before["rows"] > len(responses.rows):
        raise BadInput(f"{path.with_suffix('.csv')} has {before['rows']} verdicts on these texts, of which this would "
                       f"leave {len(responses.rows)}; judge without --episodes, or remove it")  # fmt: skip


def refuse_unwritable(responses: Responses) -> None:
    """Raises: BadInput where no verdicts could be written, before they cost anything."""
    if not os.access(responses.folder, os.W_OK | os.X_OK):
        raise BadInput(f"{responses.folder} is not writable, so no verdicts could be kept there")


def write(responses: Responses, judge: str, verdicts: Sequence[Verdict], about: Mapping[str, Any]) -> Path:
    """Writes verdicts-<judge>.csv, and as .json what the judge is and what it judged: `rows`, `episodes` (prompts) and
    `responses`, the SHA-256 of the texts' file. Each whole or not at all, the .json last: without it, or with that of
    other verdicts, the CSV counts for nothing. Returns the CSV's path.

    Raises: OSError.
    """
    sweep(responses.folder)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*responses.keys, *VERDICT])
    for row, one in zip(responses.rows, verdicts, strict=True):
        numbers = [f"{row[key]}" if isinstance(row[key], int) else f"{row[key]:.7g}" for key in responses.keys]
        table.writerow([*numbers, one.outcome, int(one.consistent), f"{one.cost:.7g}"])
    path = responses.folder / records.file_name(f"verdicts-{judge}.csv")
    episodes = len({row["episode"] for row in responses.rows})
    judged = {"rows": len(verdicts), "episodes": episodes, "responses": responses.sha256}
    write_text(path, text.getvalue())
    write_json(path.with_suffix(".json"), {**about, **judged})
    return path


def _row(line: str, keys: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = strict_json.parse(line, where)
    except BadInput as error:
        raise BadInput(str(error).replace(f"{where}:1:", f"{where}:", 1)) from None  # of this one line
    if not isinstance(row, dict):
        raise BadInput(f"{where}: no row")
    for name in (*keys, *TEXTS):
        value = row.get(name)
        if not (isinstance(value, str) if name in TEXTS else _number(value, whole=name in ("seed", "episode"))):
            raise BadInput(f"{where}: {name} is {repr(value)[:60]}")
    return row


def _number(value: Any, *, whole: bool) -> bool:
    """Whether a row can be known by the value."""
    if isinstance(value, float):
        return not whole and math.isfinite(value)
    return type(value) is int and (0 if whole else -LARGEST) <= value < LARGEST
