"""What a row of a published table says, measured and printed, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.choices import ORACLE
from analysis.compare import OPEN
from analysis.output import short
from analysis.published import TITLES, ours_of

Row = Mapping[str, Any]
"""Of the frame of `compare`, or of `winrates.beside`."""

MISSING = "\N{EM DASH}"
UNKNOWN = "n unknown"
"""Beside a printed win rate that does not say how many prompts are behind it."""


def own(row: Row) -> str:
    """ "72.1 ± 1.3", with the estimated bias where the oracle chose; of a win rate "62.4 [58.6, 66.6]"."""
    if math.isnan(row["measured"]):
        return MISSING
    if judged(row):
        return f"{row['measured']:.1f} [{row['measured_low']:.1f}, {row['measured_high']:.1f}]"
    spread = " n=1" if math.isnan(row["std"]) else f" \N{PLUS-MINUS SIGN} {row['std']:.1f}"
    return f"{row['measured']:.1f}{spread}" + (f" (bias {row['bias']:+.1f})" if ORACLE in row["rule"] else "")


def printed(row: Row) -> str:
    """ "60 ± 2", with the digits of print; of a win rate "48.5 [45.4, 51.6]", or "48.5 (n unknown)"."""
    if math.isnan(row["published"]):
        return MISSING
    digits = 0 if row["published_unit"] == 1 else 1
    if judged(row) and math.isnan(row["published_std"]):
        known = not math.isnan(row["published_low"])
        interval = f"[{row['published_low']:.1f}, {row['published_high']:.1f}]" if known else f"({UNKNOWN})"
        return f"{row['published']:.{digits}f} {interval}"
    if math.isnan(spread := row["published_std"]):
        return f"{row['published']:.{digits}f}"
    shown = f"{spread:g}" if spread != round(spread) else f"{spread:.{digits}f}"
    return f"{row['published']:.{digits}f} \N{PLUS-MINUS SIGN} {shown}"


def difference(row: Row) -> str:
    """ "+1.2 [-0.4, 2.8]", without the interval where there is none."""
    if math.isnan(row["difference"]):
        return MISSING
    return f"{row['difference']:+.1f}" + ("" if math.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]")


def verdict(row: Row) -> str:
    """The verdict in words, its reason and what to keep in mind."""
    joint = ": " if row["verdict"] == OPEN else "; "
    return joint.join(filter(None, (row["verdict"], row["why"]))) + (f" ({row['remark']})" if row["remark"] else "")


def judged(row: Row) -> bool:
    """Whether it is a win rate's, which has a judge ("" where nobody has judged yet)."""
    return isinstance(row.get("judge"), str)


def rows_of(rows: pd.DataFrame) -> list[Row]:
    """The rows of a frame, one by one."""
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def place_of(row: Row) -> str:
    """The task or environment; of a win rate also who judged."""
    where = short(row["task"]) if row["task"] else str(row["environment"])
    return f"{where} by {row['judge']}" if judged(row) and row["judge"] else where


def named(row: Row) -> str:
    """The paper's name; with ours where it is not the first that the paper's may mean."""
    first = (ours_of(row["published_method"]) or (row["method"],))[0]
    return str(row["published_method"]) + ("" if row["method"] == first else f" ({row['method']})")


def title(rows: pd.DataFrame) -> str:
    """ "Table 2: OGBench by environment, ..."."""
    table = str(rows["table"].iloc[0])
    name = f"Table {table.removeprefix('table')}" if table.startswith("table") else table.upper()
    return f"{name}: {TITLES.get(table, '')}"
