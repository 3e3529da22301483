"""What a run left to be judged, and the verdicts beside it: `responses.jsonl` -> `verdicts-<judge>.csv`."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import checkpoints, records, responses
from core.errors import BadInput, reason
from core.files import read_plain, sweep, write_json, write_text
from core.knobs import Knobs
from tasks.judges import reward_model
from tasks.judges.core import Pair, Verdict
from tasks.language.core import whole_characters

TEXTS = ("prompt", "response", "reference")
VERDICT = ("verdict", "swap_consistent", "cost")  # columns after those that say which row it is about


@dataclass(frozen=True)
class Responses:
    """The responses of one seed of a run; of all its seeds where its records are of format 1."""

    folder: Path
    meta: records.RunRecord | records.SeedRecord  # its run.json
    keys: tuple[str, ...]  # of a row: seed, the knobs, episode
    rows: Sequence[Mapping[str, Any]]
    sha256: str  # of responses.jsonl
    order: Sequence[tuple[str, ...]]  # what every row of that file is known by, judged now or not

    @property
    def pairs(self) -> list[Pair]:
        """Each response beside its reference. Half characters, which no tokenizer or server takes, are replaced."""
        return [Pair(*(whole_characters(row[name]) for name in TEXTS)) for row in self.rows]

    @property
    def name(self) -> str:
        """Of the run, short, and of the seed where it has a folder of its own."""
        run = records.run_folder(self.folder, self.meta)
        seed = "" if run == self.folder else f" seed {records.seeds_of(self.meta)[0]}"
        return f"{run.parent.name} {run.name[:12]}{seed}"

    @property
    def optimised(self) -> set[str]:
        """Of the reward models that the run had to do with, whatever the seed: fingerprints of stages, what these made
        (`core.checkpoints.made`), and of a checkpoint what `reward_model.optimised` says."""
        run = records.run_folder(self.folder.resolve(), self.meta)
        stages = {
            stage["fingerprint"]
            for record in (self.meta, *_beside(run))
            for stage in record.get("stages") or []
            if stage["name"] == "reward_model"
        }
        above = run.parents  # results/runs/<suite>/<task>/<method>/<fingerprint>
        made = [checkpoints.made(above[4] / "artifacts" / stage) for stage in stages if len(above) > 4]
        setting = (self.meta.get("config") or {}).get("reward_checkpoint")
        value = setting.get("value") if isinstance(setting, dict) else None
        given = reward_model.optimised(value) if value and isinstance(value, str) else set()
        return stages.union(given, *made)


def _beside(run: Path) -> Iterator[records.RunRecord | records.SeedRecord]:
    """The records of all seeds of a run that can be read."""
    for path in run.glob("seed-*/run.json"):
        with contextlib.suppress(OSError, BadInput):
            yield records.read_run(path)


def find(places: Sequence[Path]) -> list[Path]:
    """Folders with responses: of a seed, of a run, or of any folder above, each once; seeds by their number.

    Raises: BadInput for a place without any.
    """
    found: list[Path] = []
    for place in places:
        here = sorted((path.parent for path in place.rglob("responses.jsonl") if path.is_file()), key=_by_number)
        if not here:
            raise BadInput(f"nothing to judge: no responses.jsonl in {place}, nor below it")
        found += [folder for folder in here if folder not in found]
    return found


def _by_number(path: Path) -> list[str | int]:
    """Sorts seed-10 after seed-9."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", str(path), flags=re.ASCII)]


def read(folder: Path, episodes: int | None = None) -> Responses:
    """The responses in a folder of a run or a seed, of the first so many prompts only where `episodes` says so.

    Raises: BadInput for files that are missing, empty, or not what `results/README.md` says, naming the line.
    """
    path = folder / "responses.jsonl"
    try:
        meta = records.read_run(folder / "run.json")
        content = read_plain(path)
    except OSError as error:
        raise BadInput(f"cannot judge {folder}: {reason(error)}") from error
    knobs = meta["knobs"]
    if {*knobs} & {"seed", "episode", *TEXTS, *VERDICT} or len({*knobs}) < len(knobs):
        raise BadInput(f"{folder / 'run.json'}: knobs {', '.join(knobs)} are not to be told from other columns")
    keys = ("seed", *knobs, "episode")
    rows = responses.parse(content, path, knobs)
    if not rows:
        raise BadInput(f"{path} is empty")
    if strangers := {row["seed"] for row in rows}.difference(records.seeds_of(meta)):
        raise BadInput(f"{path} has responses of seed {min(strangers)}, which the run.json beside it does not have")
    order = [tuple(_numbers(row, keys)) for row in rows]
    if episodes is not None:
        rows = [row for row in rows if row["episode"] < episodes]
        if not rows:
            raise BadInput(f"{path} has no prompt among the first {episodes}")
    if len(set(order)) < len(order):
        raise BadInput(f"{path} has two responses whose {', '.join(keys)} are the same to seven digits")
    return Responses(folder, meta, keys, rows, hashlib.sha256(content).hexdigest(), order)


def narrowed(found: Responses, knobs: Knobs) -> Responses:
    """The same without the responses at settings that are not meant; maybe none are left."""
    method, names = found.meta["method"], found.keys[1:-1]
    rows = [row for row in found.rows if knobs.keeps(method, {name: row[name] for name in names})]
    return replace(found, rows=rows)


def values_of(found: Responses) -> dict[str, set[float]]:
    """Knob -> the values at which there are responses."""
    return {name: {row[name] for row in found.rows} for name in found.keys[1:-1]}


def refuse_unwritable(found: Responses) -> None:
    """Raises: BadInput where no verdicts could be written, before they cost anything."""
    if not os.access(found.folder, os.W_OK | os.X_OK):
        raise BadInput(f"{found.folder} is not writable, so no verdicts could be kept there")


def write(found: Responses, judge: str, verdicts: Sequence[Verdict], about: Mapping[str, Any]) -> Path:
    """Writes verdicts-<judge>.csv, and as .json what the judge is and what it judged: `rows`, `episodes` (prompts) and
    `responses`, the SHA-256 of the texts' file. Each whole or not at all, the .json last: without it, or with that of
    other verdicts, the CSV counts for nothing. What the judge said before of other responses among the same texts, at
    other settings or of further prompts, stays. Returns the CSV's path.

    Raises: OSError.
    """
    sweep(found.folder)
    path = found.folder / records.file_name(f"verdicts-{judge}.csv")
    said = _kept(found, path)
    for row, one in zip(found.rows, verdicts, strict=True):
        said[tuple(_numbers(row, found.keys))] = [one.outcome, str(int(one.consistent)), f"{one.cost:.7g}"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*found.keys, *VERDICT])
    table.writerows([*key, *said[key]] for key in found.order if key in said)
    judged = {"rows": len(said), "episodes": len({key[-1] for key in said}), "responses": found.sha256}
    write_text(path, text.getvalue())
    write_json(path.with_suffix(".json"), {**about, **judged})
    return path


def _kept(found: Responses, path: Path) -> dict[tuple[str, ...], list[str]]:
    """Verdicts that lie there on the same texts, by what their rows are known by; none where they do not count."""
    try:
        before = records.read(path.with_suffix(".json"), records.VerdictsRecord)
        header, *rows = csv.reader(read_plain(path).decode().splitlines())
    except (OSError, BadInput, ValueError, csv.Error):
        return {}
    said = {tuple(row[:-3]): row[-3:] for row in rows}
    sound = header == [*found.keys, *VERDICT] and said.keys() <= set(found.order)
    return said if sound and (before["responses"], before["rows"]) == (found.sha256, len(said)) else {}


def swapped(found: Responses, verdicts: Sequence[Verdict]) -> str:
    """On what share of the valid verdicts both orders agree: "0.917", and where it is least of several settings."""
    by: dict[str, list[bool]] = {}
    for row, one in zip(found.rows, verdicts, strict=True):
        if one.outcome != "invalid":
            setting = " ".join(f"{name}={row[name]:.7g}" for name in found.keys[1:-1])
            by.setdefault(setting, []).append(one.consistent)
    every = [one for some in by.values() for one in some]
    share = {setting: sum(some) / len(some) for setting, some in by.items()}
    worst = min(share, key=lambda setting: share[setting], default="")
    least = f" (least: {share[worst]:.3f}, {worst})" if len(share) > 1 else ""
    return f"{sum(every) / max(len(every), 1):.3f}{least}"


def _numbers(row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """What a row is known by, as verdicts are written beside it."""
    return [f"{row[key]}" if isinstance(row[key], int) else f"{row[key]:.7g}" for key in keys]
