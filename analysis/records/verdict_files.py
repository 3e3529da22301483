"""The texts of a language run and the verdicts on them, read and checked (`results/README.md`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.records.episodes import setting_name
from analysis.records.files import RecordError, content, shown
from analysis.records.files import table as read_csv
from core import responses, strict_json
from core.errors import reason
from core.records import VerdictsRecord, check, file_name

SCORES = {"win": 1.0, "tie": 0.5, "loss": 0.0, "invalid": math.nan}


def verdict_files(run_folder: Path, notes: list[str]) -> dict[str, Path]:
    """Judge -> its file. Raises: RecordError: the folder cannot be listed."""
    found: dict[str, Path] = {}
    try:
        paths = sorted(run_folder.glob("verdicts-*.csv"))
    except OSError as error:
        raise RecordError(reason(error)) from error
    for path in paths:
        judge = path.stem.removeprefix("verdicts-")
        try:
            found[file_name(judge)] = path
        except ValueError as error:
            notes.append(f"{path}: the judge's name {error}, left out")
    return found


def judged(path: Path, knobs: Sequence[str], sha256: str) -> tuple[pd.DataFrame, VerdictsRecord]:
    """(the rows of a verdicts file about the texts with that hash, what its judge is). Raises: RecordError if it is
    none."""
    numbers = ["seed", *knobs, "episode", "swap_consistent", "cost"]
    expected = [*numbers[:-2], "verdict", *numbers[-2:]]
    table = read_csv(path, content(path) or b"")
    if list(table) != expected:
        found = shown(",".join(map(str, table)), quote=False, longest=200)
        raise RecordError(f"{path}:1: the header is {found}, expected {','.join(expected)}")
    try:
        table[numbers] = table[numbers].astype(float)
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordError(f"{path}: {shown(reason(error), quote=False, longest=200)}") from error
    if unknown := sorted(set(table["verdict"].astype(str)) - set(SCORES)):
        raise RecordError(f"{path}: {shown(unknown[0])} is no verdict")
    if not np.isfinite(table[numbers]).all(axis=None) or not table["swap_consistent"].isin((0, 1)).all():
        raise RecordError(f"{path}: a number is missing, or a swap_consistent is neither 0 nor 1")
    if table.duplicated(["seed", *knobs, "episode"]).any():
        raise RecordError(f"{path} has two verdicts on one response")
    seal = path.with_name(f"{path.stem}.json")
    if (text := content(seal)) is None:
        raise RecordError(f"{path}: no {seal.name} says which texts it judged; judge again")
    about = check(strict_json.parse(text, str(seal)), VerdictsRecord, str(seal))
    of, rows = about["responses"], about["rows"]
    if (of, rows) != (sha256, len(table)):
        what = f"{len(table)} verdicts, of {rows}" if of == sha256 else "verdicts on other texts than are there now"
        raise RecordError(f"{path} has {what}; judge again")
    score = table["verdict"].map(SCORES)
    consistent = table["swap_consistent"].where(score.notna())
    return table.assign(score=score, consistent=consistent, setting=_settings(table, knobs)), about


def texts(path: Path, knobs: Sequence[str]) -> tuple[pd.DataFrame, dict[int, str], str]:
    """(seed, setting, episode, longer; episode -> a name of its prompt, another one for another text; the file's
    SHA-256). Raises: BadInput, as `core.responses.parse`; RecordError if the file cannot be read."""
    text = content(path) or b""
    rows, names = [], dict[int, str]()
    for row in responses.parse(text, path, knobs):
        keys = {name: row[name] for name in ("seed", *knobs, "episode")}
        rows.append(keys | {"longer": len(row["response"]) - len(row["reference"])})
        if row["episode"] not in names:
            sha256 = hashlib.sha256(row["prompt"].encode("utf-8", "surrogatepass"))
            names[row["episode"]] = f"{row['episode']} {sha256.hexdigest()[:16]}"
    table = pd.DataFrame(rows, columns=["seed", *knobs, "episode", "longer"])
    about = table.assign(setting=_settings(table, knobs))[["seed", "setting", "episode", "longer"]]
    return about, names, hashlib.sha256(text).hexdigest()


def _settings(table: pd.DataFrame, knobs: Sequence[str]) -> list[str]:
    grid = table[list(knobs)].astype(float).to_numpy()
    return [setting_name(dict(zip(knobs, row, strict=True))) for row in grid]
