"""A published table with the measured numbers beside it: on the screen, as Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from analysis import paper_winrates as winrates
from analysis.cells import (
    MISSING,
    Row,
    difference,
    judged,
    named,
    own,
    place_of,
    printed,
    rows_of,
    title,
    verdict,
)
from analysis.choices import ORACLE
from analysis.compare import DIFFERS, OPEN, REPRODUCED, Terms, counts, overall
from analysis.latex import NONE, Cell, Line, Sheet, rounded, source
from analysis.layout import fits, joined, listed, wrapped
from analysis.output import below, write_csv
from analysis.output import markdown as plain
from analysis.pitfalls import PITFALLS
from analysis.statistics.design import design, sentences
from core.files import write_text

AVERAGE = "Average"
VERDICT = 28  # characters a line, at the least
MARKS = {REPRODUCED: "=", DIFFERS: "\N{NOT EQUAL TO}", OPEN: "?"}


def write(
    compared: pd.DataFrame, terms: Terms, folder: Path, notes: list[str], unpublished: pd.DataFrame | None = None
) -> Iterator[Path]:
    """Writes folder/<table>.{md,csv,tex} for each table in `compared`, and yields their paths; `unpublished` are the
    rows of methods that print does not have."""
    for table, rows in compared.groupby("table", sort=False):
        more = unpublished[unpublished["table"] == table] if unpublished is not None and len(unpublished) else None
        page, numbers, text = (below(folder, f"{table}.{kind}") for kind in ("md", "csv", "tex"))
        write_text(page, markdown(rows, terms, notes, more))
        every = _with(rows, more) if _judged(rows) else _with(rows, more).loc[:, :"remark"]
        write_csv(numbers, every.assign(endpoint=str(terms.endpoint), select=str(terms.rule)))
        write_text(text, latex(rows, terms, more))
        yield from (page, numbers, text)


def screen(rows: pd.DataFrame, console: Console) -> RenderableType:
    """The cells of one table that have runs; the others are counted in its title. Where the verdicts would have little
    room beside the numbers they stand below them."""
    if _judged(rows):
        return winrates.screen(rows, console)
    found = rows_of(rows[rows["runs"] > 0])
    heading, numbers = f"{title(rows)}\n{summary(rows)}", Table()
    for name, justify in (("", "left"), ("method", "left"), ("measured", "right"), ("published", "right")):
        numbers.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    numbers.add_column("difference", justify="right", no_wrap=True)
    numbers.add_column("verdict", max_width=VERDICT)
    before = ""
    for row in found:
        before, place = place_of(row), place_of(row) if place_of(row) != before else ""
        numbers.add_row(place, named(row), own(row), printed(row), difference(row), verdict(row))
    if fits(console, numbers):
        numbers.title, numbers.title_justify, numbers.min_width = heading, "left", min(40, console.width)
        numbers.columns[-1].max_width = None
        return numbers
    entries = (
        (f"{place_of(row)}: {named(row)}", (
            f"{joined(own(row))}, published {joined(printed(row))}, difference {joined(difference(row))}", verdict(row)
        )) for row in found
    )  # fmt: skip
    return Text("\n").join([Text(wrapped(one, console.width)) for one in heading.split("\n")]
                           + [listed("", entries, console.width)])  # fmt: skip


def markdown(rows: pd.DataFrame, terms: Terms, notes: list[str], unpublished: pd.DataFrame | None = None) -> str:
    """Verdicts counted; the table side by side; every comparison; what the design can show; notes."""
    if _judged(rows):
        return "\n".join([*winrates.markdown(rows, terms), *_notes(notes)]) + "\n"
    columns, grid = _grid(_with(rows, unpublished))
    lines = [f"# {plain(title(rows))}", "", *(f"{line}  " for line in legend(rows, terms)), "", summary(rows), ""]
    lines += ["| | " + " | ".join(map(plain, columns)) + " |", "|:--|" + "--:|" * len(columns)]
    for place, cells in grid:
        texts = [_pair(row) if row is not None else "" for row in cells]
        lines.append(f"| {plain(place)} | " + " | ".join(texts) + " |")
    found = rows[rows["runs"] > 0]
    if len(found):
        lines += ["", "## Differences", "", "| | method | measured | published | difference [95%] | p | verdict |"]
        lines += ["|:--|:--|--:|--:|--:|--:|:--|"]
        for row in rows_of(found):
            p = MISSING if math.isnan(row["p_corrected"]) else f"{row['p_corrected']:.2g}"
            texts = [plain(place_of(row)), plain(named(row)), own(row), printed(row), difference(row), p]
            texts.append(plain(verdict(row)))
            lines.append("| " + " | ".join(texts) + " |")
        lines += _over_all(rows)
        lines += ["", "## What these seeds can show", "", *(f"{line}  " for line in power(rows, terms))]
    return "\n".join([*lines, *_notes(notes)]) + "\n"


def _notes(notes: Sequence[str]) -> list[str]:
    return ["", "## Notes", "", *(f"- {plain(note)}" for note in notes)] if notes else []


def _judged(rows: pd.DataFrame) -> bool:
    """Whether a table is one of win rates."""
    return any(map(judged, rows_of(rows.head(1))))


def latex(rows: pd.DataFrame, terms: Terms, unpublished: pd.DataFrame | None = None) -> str:
    """Two lines a row: the measured number with the sign of its verdict, below it the published one in parentheses;
    rows of one environment below its name."""
    columns, grid = _grid(_with(rows, unpublished))
    groups = {place_of(row): str(row["environment"]) for row in rows_of(rows)}
    several = len(set(groups.values())) < len(groups)
    lines = list[Line]()
    for number, (group, members) in enumerate(groupby(grid, lambda one: groups[one[0]])):
        lines += [Line(group, rule=number > 0)] if several else []
        for place, cells in members:
            short_ = place.rpartition("-")[2] if several and "-task" in place else place
            lines += [Line(short_, [*map(_measured, cells)]), Line("", [*map(_published, cells)])]
    averaged = len(grid) > 1 and not _judged(rows)  # a mean over judges means nothing
    lines += _averages([cells for _, cells in grid]) if averaged else []
    text = " ".join([f"{title(rows)}.", *legend(rows, terms, below=True)])
    if unpublished is not None:
        text += f" Not in print: {', '.join(dict.fromkeys(map(named, rows_of(unpublished))))}."
    if averaged:
        text += f" {AVERAGE}: the mean over rows, where all are there."
    return source(Sheet(str(rows["table"].iloc[0]), text, columns, lines))


def _measured(row: Row | None) -> Cell:
    if row is None or math.isnan(row["measured"]):
        return NONE if row is not None else Cell()
    if judged(row):
        value, _, interval = own(row).partition(" ")
        return Cell(value, "", f" {interval}")
    note = " n=1" if math.isnan(row["std"]) else ""
    note += f" (bias {row['bias']:+.1f})" if ORACLE in row["rule"] else ""
    digits = 0 if row["published_unit"] == 1 else 1  # as the published number below it
    spread = "" if math.isnan(row["std"]) else rounded(row["std"], digits)
    return Cell(rounded(row["measured"], digits), spread, note, _mark(row))


def _published(row: Row | None) -> Cell:
    if row is None or math.isnan(row["published"]):
        return Cell()
    if judged(row):
        interval = "" if math.isnan(row["published_low"]) else f" {printed(row).partition(' ')[2]}"
        return Cell(printed(row).partition(" ")[0], "", interval, quoted=True)
    value, _, spread = printed(row).partition(" \N{PLUS-MINUS SIGN} ")
    return Cell(value, spread, quoted=True)


def _averages(rows: Sequence[Sequence[Row | None]]) -> list[Line]:
    """Means over the rows, of the columns where all are there; without a std, which print does not have either."""
    lines = []
    for name, key in ((AVERAGE, "measured"), ("", "published")):
        columns = [[math.nan if row is None else row[key] for row in column] for column in zip(*rows, strict=True)]
        means = [sum(values) / len(values) for values in columns]
        blank = Cell() if key == "published" else NONE
        cells = [blank if math.isnan(mean) else Cell(rounded(mean, 1), quoted=not name) for mean in means]
        lines.append(Line(name, cells, rule=bool(name)))
    return lines


def legend(rows: pd.DataFrame, terms: Terms, below: bool = False) -> list[str]:
    """By what the numbers were chosen, and what the marks mean. `below`: the published number stands there."""
    rates = rows[[judged(row) for row in rows_of(rows)]]
    rows = rows.drop(rates.index)
    of_rates = winrates.legend(rates, terms) if len(rates) else []
    if rows.empty:
        return of_rates
    lines = [
        f"Measured: mean \N{PLUS-MINUS SIGN} std over seeds; endpoint {terms.endpoint}, test-time knobs by {terms.rule}"
        f"; published{' below' if below else ''} in parentheses.",
        f"{MARKS[REPRODUCED]} reproduced: the 90% interval of the difference lies within {terms.margin:g} points (two "
        f"one-sided tests at 5%). {MARKS[DIFFERS]} differs: Welch's test at 5%, "
        f"{'uncorrected' if terms.correction == 'none' else terms.correction + '-corrected over the table'}. "
        f"{MARKS[OPEN]} not enough data: neither can be said; detects: the true difference found four times in "
        "five by one test at 5%; a correction needs more.",
    ]
    lines += dict.fromkeys(line for table in rows["table"].unique() for line in PITFALLS.get(table, ()))
    if rows["rule"].str.contains(ORACLE).any():
        mean = rows.loc[rows["rule"].str.contains(ORACLE), "bias"].mean()
        lines.append(
            f"Oracle rows chose on the episodes they are scored on: biased, by an estimated {mean:+.1f} on average."
        )
    return lines + of_rates


def summary(rows: pd.DataFrame) -> str:
    """ "3 reproduced, 1 differs, 2 not enough data, 57 without a run"; of win rates who judged what."""
    if _judged(rows):
        return winrates.summary(rows)
    found = counts(rows)
    names = {REPRODUCED: "reproduced", DIFFERS: "differ", OPEN: "not enough data", "no run": "without a run"}
    return ", ".join(f"{found[key]} {name}" for key, name in names.items())


def power(rows: pd.DataFrame, terms: Terms) -> list[str]:
    """What the most common number of measured seeds can show, between methods and against print."""
    rows = rows[[not judged(row) for row in rows_of(rows)]]
    tested = rows[rows["seeds"] > 0]
    if rows.empty:
        return []
    if tested.empty:
        return ["No measured numbers yet."]
    seeds, std = int(tested["seeds"].mode().iloc[0]), float(tested["std"].median())
    spread = None if math.isnan(std) else std
    family = max(int(tested["p"].notna().sum()), 1)
    lines = ["Between two measured methods, " + " ".join(sentences(design(seeds, seeds, family), spread))]
    if (known := tested["detectable"].dropna()).any():
        lines.append(
            f"Against print, Welch's test alone is possible; uncorrected, it finds a true difference of "
            f"{known.median():.1f} points (median over cells) four times in five. Where that is far above "
            f"{terms.margin:g}, no cell can count as reproduced."
        )
    return lines


def _over_all(rows: pd.DataFrame) -> list[str]:
    found = overall(rows)
    if found.empty:
        return []
    said = "Mean of measured minus published over environments. Tasks of an environment share a dataset: "
    said += "where the two readings disagree, distrust the one that counts each row."
    head = ["method", "rows", "difference [95%], environments as units", "signed-rank p"]
    head += ["[95%], rows as units", "signed-rank p"]
    lines = ["", "## Over all rows", "", said, "", f"| {' | '.join(head)} |"]
    lines.append("|:--|--:|--:|--:|--:|--:|")
    for row in rows_of(found):
        texts = [plain(named(row)), f"{row['rows']} in {row['environments']}", f"{row['difference']:+.1f}"]
        for name in ("environments", "rows"):
            interval = f"[{row[f'low_{name}']:.1f}, {row[f'high_{name}']:.1f}]"
            known = not math.isnan(row[f"low_{name}"])
            texts += [interval if known else MISSING, f"{row[f'wilcoxon_{name}']:.2g}"]
        lines.append("| " + " | ".join([*texts[:2], " ".join(texts[2:4]), *texts[4:]]) + " |")
    return lines


def _grid(rows: pd.DataFrame) -> tuple[list[str], list[tuple[str, list[Row | None]]]]:
    """(column names, (place, a row of `compared` or None for each column))."""
    order = list(dict.fromkeys(rows["published_method"]))  # as in print
    names = {named(row): (order.index(row["published_method"]), row["method"]) for row in rows_of(rows)}
    columns = sorted(names, key=lambda name: names[name])
    at = {(place_of(row), named(row)): row for row in rows_of(rows)}
    places = list(dict.fromkeys(place_of(row) for row in rows_of(rows)))
    return columns, [(place, [at.get((place, name)) for name in columns]) for place in places]


def _pair(row: Row) -> str:
    """ "72.1 ± 1.3 = (74 ± 2)"."""
    return own(row) if math.isnan(row["published"]) else f"{own(row)} {_mark(row)} ({printed(row)})"


def _mark(row: Row) -> str:
    return MARKS.get(row["verdict"], "") if row["runs"] else ""


def _with(rows: pd.DataFrame, unpublished: pd.DataFrame | None) -> pd.DataFrame:
    return rows if unpublished is None else pd.concat([rows, unpublished], ignore_index=True)
