"""What a run left to be judged, and the verdicts beside it: `responses.jsonl` -> `verdicts-<judge>.csv`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods.core import BadInput
from tasks.fetch import atomic_write
from tasks.judges import reward_model
from tasks.judges.core import Pair, Verdict

TEXTS = ("prompt", "response", "reference")
VERDICT = ("verdict", "swap_consistent", "cost")  # columns after those that say which row it is about


@dataclass(frozen=True)
class Responses:
    """The responses of one run."""

    folder: Path
    meta: Mapping[str, Any]  # its run.json
    keys: tuple[str, ...]  # of a row: seed, the knobs, episode
    rows: Sequence[Mapping[str, Any]]
    sha256: str  # of responses.jsonl

    @property
    def pairs(self) -> list[Pair]:
        """Each response beside its reference."""
        return [Pair(row["prompt"], row["response"], row["reference"]) for row in self.rows]

    @property
    def optimised(self) -> set[str]:
        """Of the reward models that the run had to do with: fingerprints of stages, the SHA-256 of what these made, and
        the path and weights of a checkpoint."""
        stages = {stage["fingerprint"] for stage in self.meta.get("stages") or [] if stage["name"] == "reward_model"}
        above = self.folder.resolve().parents  # results/runs/<suite>/<task>/<method>/<fingerprint>
        made = [reward_model.weights(str(above[4] / "artifacts" / stage)) for stage in stages if len(above) > 4]
        setting = (self.meta.get("config") or {}).get("reward_checkpoint") or {}
        given = reward_model.optimised(str(setting["value"])) if setting.get("value") else set()
        return stages.union(given, *made)


def find(places: Sequence[Path]) -> list[Path]:
    """Folders with responses: the places themselves, or all that lie below them.

    Raises: BadInput for a place without any.
    """
    found: list[Path] = []
    for place in places:
        whole = (place / "responses.jsonl").exists()
        here = [place] if whole else sorted(path.parent for path in place.rglob("responses.jsonl"))
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
        meta = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        content = path.read_bytes()
        lines = content.decode().split("\n")
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot judge {folder}: {' '.join(str(error).split())}") from error
    keys = ("seed", *meta.get("knobs", ()), "episode")
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
        before = json.loads(path.read_text(encoding="utf-8"))
        more = before["responses"] == responses.sha256 and before["rows"] > len(responses.rows)
    except (OSError, ValueError, LookupError, TypeError):
        return  # nothing that counts as verdicts on these texts
    if more:
        raise BadInput(f"{path.with_suffix('.csv')} has {before['rows']} verdicts on these texts, of which this would "
                       f"leave {len(responses.rows)}; judge without --episodes, or remove it")  # fmt: skip


def write(responses: Responses, judge: str, verdicts: Sequence[Verdict], about: Mapping[str, Any]) -> Path:
    """Writes verdicts-<judge>.csv, and as .json what the judge is and what it judged: `rows`, `episodes` (prompts) and
    `responses`, the SHA-256 of the texts' file. Each whole or not at all, the .json last: without it, or with that of
    other verdicts, the CSV counts for nothing. Returns the CSV's path."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*responses.keys, *VERDICT])
    for row, one in zip(responses.rows, verdicts, strict=True):
        numbers = [f"{row[key]:.7g}" for key in responses.keys]
        table.writerow([*numbers, one.outcome, int(one.consistent), f"{one.cost:.7g}"])
    path = responses.folder / f"verdicts-{judge}.csv"
    episodes = len({row["episode"] for row in responses.rows})
    judged = {"rows": len(verdicts), "episodes": episodes, "responses": responses.sha256}
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
    with atomic_write(path.with_suffix(".json")) as file:
        file.write((json.dumps({**about, **judged}, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def _row(line: str, keys: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from error
    for name in (*keys, *TEXTS):
        kind = str if name in TEXTS else int if name in ("seed", "episode") else (int, float)
        if not isinstance(row, dict) or not isinstance(row.get(name), kind) or isinstance(row.get(name), bool):
            raise BadInput(f"{where}: {name} is {row.get(name)!r}" if isinstance(row, dict) else f"{where}: no row")
    return row
