"""The rows of an episodes.csv: the whole table at once where every row is sound, else row by row to name the others."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

PHASES = ("offline", "online", "final")
BEFORE = ("seed", "phase", "step")
"""Columns before the knobs'."""
AFTER = ("episode", "return", "length", "success", "score")
OPTIONAL = frozenset({"success"})  # a task without a notion of success leaves it empty
INTEGERS = frozenset({"seed", "step", "episode"})


def parse(text: str, columns: Sequence[str]) -> tuple[pd.DataFrame, list[tuple[int, str]]]:
    """Rows of a table of whole lines, its header first, and (line, what is wrong) of the rows left out."""
    rows = _fast(text, columns)
    return (rows, []) if rows is not None else _carefully(text, columns)


def _fast(text: str, columns: Sequence[str]) -> pd.DataFrame | None:
    """The whole table by pandas' C parser, or None if any row needs a closer look."""
    if text.count(",") != text.count("\n") * (len(columns) - 1):
        return None
    try:
        rows = pd.read_csv(io.StringIO(text), dtype={"phase": "category"})
    except ValueError:
        return None
    numbers = [column for column in columns if column != "phase"]
    if not all(pd.api.types.is_numeric_dtype(rows[column]) for column in numbers):  # bool counts as numeric
        return None
    values = rows[[column for column in numbers if column not in OPTIONAL]].to_numpy(float)
    whole = all(pd.api.types.is_integer_dtype(rows[column]) for column in INTEGERS)
    return rows if whole and np.isfinite(values).all() and rows["phase"].isin(PHASES).all() else None


def _carefully(text: str, columns: Sequence[str]) -> tuple[pd.DataFrame, list[tuple[int, str]]]:
    """The sound rows one by one, and (line, what is wrong) of the others. A score of nan is wrong: it is none."""
    good: list[list[Any]] = []
    bad: list[tuple[int, str]] = []
    for line, row in enumerate(text.split("\n")[1:-1], start=2):
        fields = row.split(",")
        if len(fields) != len(columns):
            bad.append((line, f"{len(fields)} fields instead of {len(columns)}"))
            continue
        values = [_value(column, entry.strip()) for column, entry in zip(columns, fields, strict=True)]
        if None in values:
            at = values.index(None)
            bad.append((line, f"{columns[at]} is {fields[at].strip()!r}"))
        else:
            good.append(values)
    return pd.DataFrame(good, columns=list(columns)), bad


def _value(column: str, entry: str) -> float | int | str | None:
    """The field as a value, None if it is not one."""
    if column == "phase":
        return entry if entry in PHASES else None
    if column in OPTIONAL and entry in ("", "nan"):
        return math.nan
    try:
        number = float({"True": "1", "False": "0"}.get(entry, entry))
    except ValueError:
        return None
    if not math.isfinite(number) or (column in INTEGERS and number != int(number)):
        return None
    return int(number) if column in INTEGERS else number
