"""`python -m analysis.report results/ --out report/`: all there is to say about the records, as static pages.

It opens with the scores, method x task, and the verdicts; figures, runs and provenance follow.
Of each suite and protocol there is a leaderboard on a page of its own. Pages ask the network for nothing: styles,
script, figures and their numbers are inside, and a policy of their own forbids the rest.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.report:app")

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import typer
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from analysis import paper, sheets, winrates
from analysis.against import Against, against
from analysis.compare import Terms
from analysis.figures.costs import device
from analysis.figures.embed import Picture, picture, uri
from analysis.figures.style import theme
from analysis.leaderboard import command_of, counted, leaderboards
from analysis.missing import gaps
from analysis.notes import grouped, tell
from analysis.output import csv_text, folder, of_records, prepare, say, short
from analysis.plots import figures
from analysis.published import FOLDER, read
from analysis.query import Asked, Ends, Intervals, Methods, Names, Query, Runs, Select
from analysis.records.load import Records
from analysis.records.mirror import spoken
from analysis.records.runs import Run
from analysis.scoreboard import Board, Row, Score, boards
from analysis.select import scores
from analysis.statistics.significance import Comparison
from analysis.tables import legend
from core.files import write_text

DASH = "\N{EM DASH}"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=of_records, help="The folder that holds runs/, or its URL.")] = Path(
        "results"
    ),
    out: Annotated[Path, typer.Option(parser=folder, help="The folder of index.html.")] = Path("report"),
    published: Annotated[
        Path | None, typer.Option(parser=folder, help="A folder of published numbers; ours if unset.")
    ] = None,
    methods: Methods = None,
    which: Runs = None,
    endpoint: Ends = "last",
    select: Select = None,
    protocol: Asked = None,
    names: Names = None,
    interval: Intervals = "t",
) -> None:
    """Scores, verdicts, figures, runs with their configurations, what is missing, provenance: OUT/index.html; and a
    leaderboard of each suite and protocol beside it."""
    prepare(out)
    query = Query.of(methods, which, protocol, endpoint, select, names, interval)
    records = query.load(results, empty=True)
    pages, notes = build(records, published or FOLDER, query, out)
    for name, page in pages.items():
        write_text(out / name, page)
        say(f"{out / name} ({len(page) / 1e6:.1f} MB)")
    tell(notes, records)


class Cell(NamedTuple):
    """A cell of a sortable table: what it says, and what it is sorted by."""

    text: str
    value: float | str


class Table(NamedTuple):
    """A sortable table."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Mean(NamedTuple):
    """A cell of a table of scores."""

    text: str
    spread: str = ""
    note: str = ""
    best: bool = False


def build(
    records: Records, published: Path, query: Query | None = None, out: Path = Path("report")
) -> tuple[dict[str, str], list[str]]:
    """(pages by the names of their files, the report last; notes). `query`: what was asked for, by which `records` are
    labelled already; `out`: where the pages will lie, from which they link to records.

    Raises: RecordError if there are no published numbers.
    """
    rows, notes = read(published)
    query = query or Query()
    terms = Terms.of(query)
    compared, remarks, _ = winrates.beside(records, rows, terms)
    notes += records.notes + remarks
    found, remarks = boards(records, query.endpoint, query.rule)
    notes += remarks
    cells, _ = scores(records, False, query.endpoint, query.rule if query.ruled else None, query.interval)
    pictures: dict[str, list[Picture]] = defaultdict(list)
    theme()

    def embed(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
        pictures["/".join(stem.parts[:-1])].append(picture(figure, frame, stem.name))
        return [stem]

    if len(cells):
        list(figures(records, Path(), notes, embed, query))
    tables = [verdicts(table) for _, table in compared.groupby("table", sort=False)]
    standing = leaderboards(records, found, out, query.rule)
    if found and not standing:
        notes.append("no leaderboard under the oracle: its scores are those that it chose on, so they rank nothing")
    every = list(dict.fromkeys(notes))
    values = {
        "root": spoken(records.root), "runs": len(records.runs), "episodes": len(records.episodes),
        "statuses": pd.Series([run.status for run in records.runs]).value_counts().to_dict(),
        "leaderboards": list(counted(standing)), "boards": [summary(board, terms) for board in found],
        "between": [between(one) for board in found if (one := against(board, records))],
        "compared": [one for one in tables if one["compared"].rows],
        "unmeasured": [one for one in tables if not one["compared"].rows],
        "rules": paper.legend(compared, terms), "power": paper.power(compared, terms),
        "scores": scored(cells), "legend": legend(cells, query.endpoint, query.interval) if len(cells) else [],
        "suites": suites(records, pictures), "provenance": provenance(records), "missing": gaps(records, rows),
        "notes": grouped(notes, records),
        "every_note": uri("text/csv", _csv(pd.DataFrame({"note": every}, dtype=object))),
    }  # fmt: skip
    loader = PackageLoader("analysis", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    board = environment.get_template("leaderboard.html.j2")
    pages = {one.file: board.render(page=one) for one in standing}
    return pages | {"index.html": environment.get_template("report.html.j2").render(values)}, notes


def summary(board: Board, terms: Terms) -> dict[str, Any]:
    """Method x task: of environments where some have several tasks, with the tasks to unfold; else of tasks."""
    whole = _rows(board, board.tasks)
    first = _rows(board, board.groups) if board.groups else whole
    return {
        "title": board.title, "methods": board.methods, "rows": first, "tasks": whole if board.groups else [],
        "said": sheets.caption(board, [*board.tasks, *board.groups], board.title, terms),
    }  # fmt: skip


def _rows(board: Board, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of a table of scores: a name, whether it is a mean among others, and a `Mean` a method."""
    found = []
    for row in rows:
        among = row.mean and (rows is board.tasks or not row.group)
        name = row.name if row.mean else short(row.name)
        name = f"{name}, mean" if among and row.group else name
        found.append({"name": name, "mean": among, "cells": [_mean(score, board.seeds[1]) for score in row.scores]})
    return found


def _mean(score: Score | None, seeds: int) -> Mean:
    """`seeds`: of which it is told where there are fewer."""
    if score is None:
        return Mean(DASH)
    mark = ("" if score.finished else sheets.UNFINISHED) + (sheets.FEWER if score.seeds < score.meant else "")
    note = mark + (f" n={score.seeds}" if score.seeds < seeds else "")
    spread = "" if math.isnan(score.std) else f"\N{PLUS-MINUS SIGN} {score.std:.1f}"
    return Mean(f"{score.mean:.1f}", spread, note, score.best)


def between(of: Against) -> dict[str, Any]:
    """The verdicts of a suite's first method against the others, and the tests of each task behind them."""
    pairs = []
    for pair in of.pairs:
        units = pair.environments
        pairs.append([
            _word(pair.second), _word(pair.verdict), Cell(_interval(pair.over), _number(pair.over.difference)),
            _p(pair.over.p), _p(units.p if units else math.nan), Cell(str(pair.tasks), pair.tasks),
            Cell(f"{pair.better} of {pair.tested}", pair.better), Cell(f"{pair.worse} of {pair.tested}", pair.worse),
        ])  # fmt: skip
    head = ["against", "over these tasks", "mean difference [95%]", "p, new seeds", "p, environments as units", "tasks"]
    tests = []
    for row in of.tests.to_dict("records"):
        reach = "" if math.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]"
        tests.append([
            _word(short(row["task"])), _word(row["second"]), _digit(row["first_mean"]), _digit(row["second_mean"]),
            Cell(f"{row['difference']:+.1f}{reach}", _number(row["difference"])), _p(row["p_welch"]),
            _p(row["p_welch_holm"]), Cell(f"{row['improvement']:.2f}", _number(row["improvement"])),
        ])  # fmt: skip
    columns = ["task", "against", of.first, "the other", "difference [95%]", "Welch's p", "Holm", "P(a seed is better)"]
    return {
        "suite": of.suite, "first": of.first, "count": len(of.tests),
        "pairs": Table(f"{of.suite}: {of.first} against the others", [*head, "better on", "worse on"], pairs),
        "tests": Table(f"{of.suite}: {of.first} against the others, by task", columns, tests),
    }  # fmt: skip


def verdicts(rows: pd.DataFrame) -> dict[str, Any]:
    """A published table: its title and counts, what was compared, and what print has beside nothing."""
    shown, alone = [], []
    for row in rows.to_dict("records"):
        one = {str(key): value for key, value in row.items()}
        place = paper.place_of(one)
        name = f"{one['published_method']} ({one['method']})" if one["runs"] else str(one["published_method"])
        cells = [_word(place), _word(name), Cell(paper.printed(one), _number(one["published"]))]
        if one["runs"]:
            shown.append([
                *cells, Cell(paper.own(one), _number(one["measured"])),
                Cell(paper.difference(one), _number(one["difference"])), _p(one["p_corrected"]),
                _word(paper.verdict(one)),
            ])  # fmt: skip
        else:
            alone.append([*cells, Cell(_plain(one["published_seeds"]), _number(one["published_seeds"]))])
    title = paper.title(rows)
    head = ["task", "method", "published"]
    more = ["measured", "difference [95%]", "p, corrected", "verdict"]
    return {
        "title": title, "summary": paper.summary(rows),
        "compared": Table(f"{title}: compared", [*head, *more], shown),
        "alone": Table(f"{title}: print alone", [*head, "seeds"], alone),
    }  # fmt: skip


def scored(cells: pd.DataFrame) -> Table:
    """Every method and setting of every task."""
    columns = ["suite", "task", "method", "mean", "std", "95% interval", "seeds", "episodes a seed", "step", "status"]
    rows = []
    for row in cells.to_dict("records"):
        interval = f"[{row['low']:.1f}, {row['high']:.1f}]" + (" episodes" if row["over"] != "seeds" else "")
        rows.append([
            _word(row["suite"]), _word(short(row["task"])), _word(row["row"]), _digit(row["mean"]), _digit(row["std"]),
            Cell(interval, row["low"]),
            Cell(str(row["seeds"]) + (f" of {row['meant']}" if row["seeds"] < row["meant"] else ""), row["seeds"]),
            Cell(f"{row['episodes']:g}", row["episodes"]), Cell(f"{row['step']:,}", row["step"]), _word(row["status"]),
        ])  # fmt: skip
    return Table("Scores", columns, rows)


def suites(records: Records, pictures: Mapping[str, Sequence[Picture]]) -> list[dict[str, Any]]:
    """Of each suite its figures, and of each of its tasks the figures and runs."""
    tasks: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(records.runs, key=lambda run: (run.suite, run.task, *records.position(run.label))):
        tasks[run.suite][run.task].append(run)
    return [
        {"name": suite, "pictures": pictures.get(suite, []), "tasks": [
            {"name": task, "short": short(task), "pictures": pictures.get(f"{suite}/{task}", []),
             "runs": [described(records, run) for run in runs]}
            for task, runs in of.items()
        ]}
        for suite, of in tasks.items()
    ]  # fmt: skip


def described(records: Records, run: Run) -> dict[str, Any]:
    """One run: what it was, where, of what data, by which code and settings."""
    meta, data, git = run.meta, _mapping(run.meta.get("dataset")), _mapping(run.meta.get("git"))
    clock = _mapping(meta.get("wall_clock_s"))
    why = meta.get("error") if run.old else run.unfinished
    facts = {
        "status": run.status + (f": {why}" if why else ""), "seeds": ", ".join(map(str, run.meant)),
        "fingerprint": run.fingerprint, "protocol": run.protocol or DASH, "device": device(meta),
        "wall-clock [s]": ", ".join(f"{phase} {_plain(seconds)}" for phase, seconds in clock.items()) or DASH,
        "dataset": f"{data.get('name', DASH)} ({data.get('origin', 'origin unknown')})",
        "dataset SHA-256": data.get("sha256", DASH),
        "code": str(git.get("sha") or DASH) + (" and changes" if git.get("dirty") else ""),
        "written": f"{meta.get('created', DASH)} to {meta.get('updated', DASH)}",
        "command, as far as the record tells": command_of(records.root, run) or DASH,
    }  # fmt: skip
    config = [
        (key, *((one.get("value"), one.get("origin", "")) if isinstance(one, dict) else (one, "")))
        for key, one in sorted(run.config.items())
    ]
    place = Path(run.elsewhere["file"]) if run.elsewhere else run.folder
    return {"label": run.label, "facts": facts, "config": config, "folder": place.relative_to(records.root)}


def provenance(records: Records) -> list[Table]:
    """Versions, devices, code and data, and how many runs each is behind."""
    found: dict[str, dict[tuple[str, ...], int]] = {name: defaultdict(int) for name in PROVENANCE}
    for run in records.runs:
        for name, row in dict.fromkeys(one for source in run.sources for one in _behind(source.meta)):
            found[name][row] += 1
    return [
        Table(
            name, [*PROVENANCE[name], "runs"], [[*map(_word, key), Cell(str(n), n)] for key, n in sorted(rows.items())]
        )
        for name, rows in found.items()
    ]


def _behind(meta: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(table, row) of what a run.json says of where its numbers come from."""
    git, data = _mapping(meta.get("git")), _mapping(meta.get("dataset"))
    for package, version in _mapping(meta.get("versions")).items():
        yield "Versions", (str(package), str(version))
    yield "Devices", (device(meta),)
    yield "Code", (str(git.get("sha") or DASH), {"True": "yes", "False": "no"}.get(str(git.get("dirty")), DASH))
    yield "Datasets", tuple(str(data.get(key, DASH)) for key in ("name", "sha256", "origin", "transitions"))


PROVENANCE = {
    "Versions": ("package", "version"), "Devices": ("device",), "Code": ("commit", "changed since"),
    "Datasets": ("dataset", "SHA-256", "origin", "transitions"),
}  # fmt: skip


def _csv(frame: pd.DataFrame) -> bytes:
    return csv_text(frame).encode("utf-8", "backslashreplace")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(text: Any) -> Cell:
    return Cell(str(text), str(text).lower())


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else float(value)


def _digit(value: float) -> Cell:
    return Cell(DASH if math.isnan(value) else f"{value:.1f}", _number(value))


def _p(value: float) -> Cell:
    return Cell(DASH if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.2g}", _number(value))


def _interval(one: Comparison) -> str:
    if math.isnan(one.difference):
        return DASH
    return f"{one.difference:+.1f}" + ("" if math.isnan(one.low) else f" [{one.low:.1f}, {one.high:.1f}]")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return DASH if math.isnan(value) else f"{value:g}"
    return str(value)
