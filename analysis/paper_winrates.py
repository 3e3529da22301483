"""A published table of win rates with ours beside it, a table a judge: on the screen and as Markdown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.cells import MISSING, UNKNOWN, Row, named, own, printed, rows_of, title
from analysis.compare import Terms
from analysis.layout import fits, joined, listed, wrapped
from analysis.output import markdown as plain
from analysis.output import short

HEAD = ("measured [95%]", "orders agree", "n", "setting", "published")


def legend(rows: pd.DataFrame, terms: Terms) -> list[str]:
    """What the numbers are, who the judges are, and why nothing is compared."""
    lines = [
        "Measured: (win + tie / 2) / valid against the reference, in percent, with a 95% interval over prompts, which "
        f"speaks of new prompts to these policies; responses of the final evaluation, test-time knobs by {terms.rule}.",
        "Orders agree: of the valid verdicts, those that did not change when the two texts changed places; the others "
        "are ties, so a judge that goes by the order says 50.",
        "Win rates by different judges are never compared, ours neither with one another nor with print, whose judge "
        "is another one or not known: there is no difference and no verdict.",
    ]
    lines += [f"Judge {judge}: {said}." for judge, said in _judges(rows)]
    lines += [f"Print's judge: {name}." for name in dict.fromkeys(rows["published_judge"]) if name]
    known = rows.loc[rows["published"].notna(), "published_prompts"]
    if known.isna().any():
        lines.append(f"{UNKNOWN}: print does not say how many prompts were judged, so its number has no interval.")
    if known.notna().any():
        lines.append("Published intervals are Wilson's over as many prompts as print states.")
    return lines


def _judges(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(id, who that is) of those that judged something."""
    seen = rows.loc[rows["judge_is"] != "", ["judge", "judge_is"]].drop_duplicates("judge")
    return list(zip(seen["judge"], seen["judge_is"], strict=True))


def summary(rows: pd.DataFrame) -> str:
    """ "tldr, judged by http-m-1: 3 of 5 methods (the others: no run); hh: none of 5 methods (no run)"."""
    return "; ".join(_counts(rows))


def _counts(rows: pd.DataFrame) -> list[str]:
    said = []
    for heading, of in _groups(rows):
        printed_ = of[of["published"].notna()]
        count = int((printed_["runs"] > 0).sum())
        whys = sorted(set(printed_.loc[printed_["runs"] == 0, "why"]))
        others = f" ({'the others: ' * (count > 0)}{', '.join(whys)})" if whys else ""
        said.append(f"{heading}: {count or 'none'} of {len(printed_)} methods{others}")
    return said


def screen(rows: pd.DataFrame, console: Console) -> RenderableType:
    """The rows that have a number of ours, by judge; in lines where a table does not fit."""
    found: list[RenderableType] = [Text(wrapped(one, console.width)) for one in (title(rows), *_counts(rows))]
    for heading, of in _groups(rows[rows["runs"] > 0]):
        table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("", overflow="fold")
        for name in HEAD:
            table.add_column(name, justify="left" if name == "setting" else "right", no_wrap=name != "setting")
        entries = []
        for row in rows_of(of):
            cells = _cells(row)
            table.add_row(named(row), *cells)
            said = [joined(f"{name} {cell}") for name, cell in zip(HEAD, cells, strict=True) if cell]
            entries.append((named(row), [", ".join(said)]))
        found += [Text(), table if fits(console, table) else listed(heading, entries, console.width)]
        found += [Text(wrapped(line, console.width, 2)) for line in _remarks(of)]
    return Group(*found)


def markdown(rows: pd.DataFrame, terms: Terms) -> list[str]:
    """Everything print has beside ours, a table a judge; what the numbers are."""
    lines = [
        f"# {plain(title(rows))}",
        "",
        *(f"{plain(line)}  " for line in legend(rows, terms)),
        "",
        plain(summary(rows)),
    ]
    for heading, of in _groups(rows):
        lines += ["", f"## {plain(heading)}", "", f"| | {' | '.join(HEAD)} |", "|:--|--:|--:|--:|:--|--:|"]
        lines += [f"| {' | '.join(map(plain, (named(row), *_cells(row))))} |" for row in rows_of(of)]
        remarks = [*_remarks(of[of["runs"] > 0])]
        lines += ["", *(f"- {plain(one)}" for one in remarks)] if remarks else []
    return lines


def _groups(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (task, judge), of in rows.groupby(["task", "judge"], sort=False):
        yield short(str(task)) + (f", judged by {judge}" if judge else ""), of


def _cells(row: Row) -> tuple[str, ...]:
    """What stands under HEAD."""
    if math.isnan(row["measured"]):
        return MISSING, "", "", str(row["why"]) if row["runs"] else "", printed(row)
    agree = MISSING if math.isnan(row["consistent"]) else f"{100 * row['consistent']:.1f}%"
    rule = f" ({row['rule']})" if row["rule"] else ""
    return own(row), agree, f"{row['prompts']:.0f} x {row['seeds']:.0f}", f"{row['picks']}{rule}", printed(row)


def _remarks(rows: pd.DataFrame) -> Iterator[str]:
    """What must be known of rows, each once: "SFT, VGF: model tiny"; and how many answers held no verdict."""
    of: dict[str, list[str]] = defaultdict(list)
    for row in rows_of(rows):
        invalid = [f"{100 * row['invalid']:.1f}% of the verdicts invalid"] if row["invalid"] > 0 else []
        for one in filter(None, (*row["remark"].split("; "), *invalid)):
            of[one].append(named(row))
    for remark, names in of.items():
        yield f"{', '.join(names) if len(names) < len(rows) else 'All'}: {remark}"
