"""`python -m analysis.report results/ --out report/`: all there is to say about the records, as one static page.

The page asks the network for nothing: styles, script, figures and their numbers are inside, and its own policy forbids
the rest.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.report:app")

import base64
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import typer
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from analysis import paper
from analysis.compare import Terms, compare
from analysis.figures.costs import device
from analysis.figures.pyplot import plt
from analysis.figures.style import theme
from analysis.missing import again, gaps
from analysis.notes import grouped, tell
from analysis.output import csv_text, folder, prepare, say, short
from analysis.plots import figures
from analysis.published import FOLDER, read
from analysis.query import Asked, Ends, Methods, Names, Query, Runs, Select
from analysis.records.load import Records
from analysis.records.runs import Run
from analysis.select import scores
from analysis.tables import legend
from core.files import write_text

DPI = 110
DASH = "\N{EM DASH}"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=folder, help="The folder that holds runs/.")] = Path("results"),
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
) -> None:
    """Provenance, verdicts, tables, figures, runs with their configurations, and what is missing: OUT/index.html."""
    path = prepare(out) / "index.html"
    query = Query.of(methods, which, protocol, endpoint, select, names)
    records = query.load(results, empty=True)
    page, notes = build(records, published or FOLDER, query)
    write_text(path, page)
    say(f"{path} ({len(page) / 1e6:.1f} MB)")
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


class Picture(NamedTuple):
    """A figure of a page, and the numbers it shows, as data URIs."""

    name: str
    image: str
    numbers: str
    width: int
    height: int


def build(records: Records, published: Path, query: Query | None = None) -> tuple[str, list[str]]:
    """(the page, notes); `query`: what was asked for, by which `records` are labelled already.

    Raises: RecordError if there are no published numbers.
    """
    rows, notes = read(published)
    query = query or Query()
    terms = Terms.of(query)
    compared, remarks = compare(records, rows, terms)
    notes += records.notes + remarks
    cells, _ = scores(records, endpoint=query.endpoint, rule=query.rule if query.ruled else None)
    pictures: dict[str, list[Picture]] = defaultdict(list)
    theme()

    def embed(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
        pictures["/".join(stem.parts[:-1])].append(picture(figure, frame, stem.name))
        return [stem]

    if len(cells):
        list(figures(records, Path(), notes, embed, query))
    lacking = gaps(records, rows)
    values = {
        "root": records.root, "runs": len(records.runs), "episodes": len(records.episodes),
        "statuses": pd.Series([run.status for run in records.runs]).value_counts().to_dict(),
        "verdicts": [verdicts(table) for _, table in compared.groupby("table", sort=False)],
        "rules": paper.legend(compared, terms), "power": paper.power(compared, terms),
        "scores": scored(cells), "legend": legend(cells, query.endpoint) if len(cells) else [],
        "suites": suites(records, pictures),
        "provenance": provenance(records), "missing": lacking, "notes": grouped(notes, records),
        "every_note": _uri("text/csv", _csv(pd.DataFrame({"note": list(dict.fromkeys(notes))}, dtype=object))),
    }  # fmt: skip
    loader = PackageLoader("analysis", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2").render(values), notes


def picture(figure: Figure, frame: pd.DataFrame, name: str) -> Picture:
    """The figure as a PNG, closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    width, height = figure.canvas.get_width_height()
    plt.close(figure)
    return Picture(name, _uri("image/png", buffer.getvalue()), _uri("text/csv", _csv(frame)), width, height)


def verdicts(rows: pd.DataFrame) -> dict[str, Any]:
    """A published table: its title and counts, what was compared, and what print has beside nothing."""
    shown, alone = [], []
    for row in rows.to_dict("records"):
        one = {str(key): value for key, value in row.items()}
        place = short(one["task"]) if one["task"] else str(one["environment"])
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
        "command, as far as the record tells": again(records.root, run),
    }  # fmt: skip
    config = [
        (key, *((one.get("value"), one.get("origin", "")) if isinstance(one, dict) else (one, "")))
        for key, one in sorted(run.config.items())
    ]
    return {"label": run.label, "facts": facts, "config": config, "folder": run.folder.relative_to(records.root)}


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


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


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


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return DASH if math.isnan(value) else f"{value:g}"
    return str(value)
