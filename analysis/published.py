"""The numbers that papers report (`analysis/publications/*.csv`), and what their names are here.

`python -m analysis.published import FILE` lays scores of another code base, by seed, beside our runs.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.published_command:app")

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records.files import RecordError, content, shown
from analysis.records.runs import PROTOCOLS
from core.errors import BadInput
from core.records import file_name
from core.text import printable

FOLDER = Path(str(files("analysis") / "publications"))
COLUMNS = ("table", "suite", "environment", "task", "method", "mean", "std", "seeds", "steps", "protocol", "endpoint",
           "licence", "source")  # fmt: skip
"""`protocol`: its name, "" where the suite has none; `endpoint`: in words, what a number is the mean of."""
FURTHER = ("prompts", "judge")
"""Columns that a file may have after those: of a win rate how many prompts were judged, and by whom."""
_OLDER = (*COLUMNS[:9], "protocol", "source")  # until 2026-11; its `protocol` is today's `endpoint`
TITLES = {
    "table1": "D4RL, normalised score", "table2": "OGBench by environment, success in percent (mean of five tasks)",
    "table3": "Language, win rate in percent", "table7": "OGBench by task, success in percent",
    "qam": "OGBench by task under QAM's protocol after 1M offline steps, success in percent",
    "qam_online": "OGBench by task under QAM's protocol after 500K online steps, success in percent",
}  # fmt: skip

# The paper's name -> ours (none of some), in the order to show. Which variant made VGF's columns is open (facts/vgf.md,
# item 6): where both were run, both stand beside them.
METHODS = {
    "BC": ("bc",), "IQL": ("iql",), "ReBRAC": ("rebrac",), "FBRAC": ("fbrac",), "IDQL": ("idql",), "FQL": ("fql",),
    "VGF": ("vgf", "avgf"), "TD3+BC": ("td3bc",), "IVR": ("ivr",), "Diffusion-QL": ("diffusion_ql",),
    "SfBC": ("sfbc",), "SFT": ("sft",), "PPO": ("ppo",), "DPO": ("dpo",), "BoN": ("best_of_n",), "QAM": ("qam",),
    "QAM-F": ("qam_f",), "QAM-E": ("qam_e",), "IFQL": ("ifql",), "DSRL": ("dsrl",), "FEdit": ("fedit",),
    "QSM": ("qsm",), "DAC": ("dac",), **dict.fromkeys(("BAM", "CGQL", "CGQL-M", "CGQL-L", "FAWAC", "RLPD"), ()),
}  # fmt: skip

# The paper's OGBench environment -> its dataset; task 1 to 5 of `<dataset>-singletask-task<i>-v0` are its five tasks.
DATASETS = {
    "antmaze-giant": "antmaze-giant-navigate", "humanoidmaze-medium": "humanoidmaze-medium-navigate",
    "humanoidmaze-large": "humanoidmaze-large-navigate", "antsoccer-arena": "antsoccer-arena-navigate",
    "cube-single": "cube-single-play", "cube-double": "cube-double-play", "scene": "scene-play",
    "puzzle-3x3": "puzzle-3x3-play", "puzzle-4x4": "puzzle-4x4-play", "antmaze-large": "antmaze-large-navigate",
    "cube-triple": "cube-triple-play", "cube-quadruple": "cube-quadruple-play",
}  # fmt: skip

# What `<dataset>-singletask-v0`, without a number, is: OGBench's default task, by what the dataset's name begins with.
DEFAULTS = {"antmaze": 1, "humanoidmaze": 1, "antsoccer": 4, "cube": 2, "scene": 2, "puzzle": 4}


ONLINE = " online"
"""What ends the name of a method in print that went on online, as in the labels of ours."""


def ours_of(method: str) -> tuple[str, ...]:
    """The names of ours behind one of print: "FQL online" -> ("fql online",). None of what we do not have."""
    stem = method.removesuffix(ONLINE)
    return tuple(name + ONLINE * (stem != method) for name in METHODS.get(stem, (stem.lower(),)))


def canonical(task: str) -> str:
    """The numbered name of a default task: `cube-single-play-singletask-v0` -> `...-singletask-task2-v0`."""
    number = DEFAULTS.get(task.split("-")[0])
    return re.sub(r"-singletask-v(\d+)$", rf"-singletask-task{number}-v\1", task) if number else task


def protocol_of(row: Mapping[Any, Any]) -> str:
    """The protocol of a published row; "" where its suite has no names for protocols."""
    return str(row["protocol"]) or PROTOCOLS.get(row["suite"], "")


def tasks_of(row: Mapping[Any, Any]) -> list[str]:
    """The tasks behind a published row: its own, or the five of its environment."""
    if row["task"]:
        return [row["task"]]
    dataset = DATASETS.get(row["environment"], row["environment"])
    return [f"{dataset}-singletask-task{i}-v0" for i in range(1, 6)]


def environments(published: pd.DataFrame) -> dict[str, str]:
    """Task -> the paper's environment, of every task that print knows."""
    return {task: row["environment"] for row in published.to_dict("records") for task in tasks_of(row)}


def read(folder: Path = FOLDER) -> tuple[pd.DataFrame, list[str]]:
    """All published rows, and notes on those left out: COLUMNS, FURTHER, and `unit`, 1 or 0.1, of the mean's last
    digit.

    `mean`, `std`, `seeds`, `steps` and `prompts` are floats, NaN where print has none.

    Raises: RecordError if there is no such row.
    """
    rows: list[dict[str, object]] = []
    notes: list[str] = []
    for path in sorted(folder.glob("*.csv")):
        try:
            for line, fields, names in _table(path):
                try:
                    rows.append(_row(fields, names))
                except BadInput as error:
                    notes.append(f"{path}:{line}: {error}, left out")
        except BadInput as error:
            notes.append(f"left out: {error}")
    if not rows:
        raise RecordError("; ".join([f"no published numbers under {folder}", *notes[:3]]))
    return pd.DataFrame(rows, columns=[*COLUMNS, *FURTHER, "unit"]), notes


def _table(path: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """(line, fields, what the columns are called) of every row of a file. Raises: RecordError: it is no table of
    these."""
    reader = csv.reader(io.StringIO((content(path) or b"").decode("utf-8-sig", errors="replace"), newline=""))
    try:
        header = next(reader, [])
        if older := tuple(header) == _OLDER:
            header = list(COLUMNS)
        if tuple(header) not in (COLUMNS, (*COLUMNS, *FURTHER)):
            found = shown(",".join(header), quote=False, longest=200)
            raise RecordError(f"{path}:1: the header is {found}, expected {','.join(COLUMNS)}")
        for fields in reader:
            if fields:
                whole = older and len(fields) == len(_OLDER)
                yield (
                    reader.line_num, [*fields[:9], "", fields[9], "", fields[10]] if whole else fields, header
                )  # fmt: skip
    except csv.Error as error:  # a field of more than 128 KiB
        raise RecordError(f"{path}:{reader.line_num}: {error}") from None


def _row(fields: list[str], names: list[str]) -> dict[str, object]:
    if len(fields) != len(names):
        raise RecordError(f"{len(fields)} fields instead of {len(names)}")
    row = dict.fromkeys(FURTHER, "") | dict(zip(names, map(printable, fields), strict=True))
    numbers: dict[str, float] = {}
    for name, least in (("mean", -math.inf), ("std", 0), ("seeds", 1), ("steps", 1), ("prompts", 1)):
        try:
            numbers[name] = float(row[name]) if row[name] or name == "mean" else math.nan
        except ValueError:
            raise RecordError(f"{name} is {shown(row[name])}") from None
        if row[name] and not least <= numbers[name] < math.inf:
            raise RecordError(f"{name} is {shown(row[name])}")
    try:
        file_name(row["table"])  # it will be one
    except ValueError as error:
        raise RecordError(f"table {shown(row['table'])} {error}") from None
    return {**row, **numbers, "unit": 10.0 ** -len(row["mean"].partition(".")[2])}
