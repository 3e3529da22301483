"""`python -m analysis.tables results/`: a method x task table of scores, on the screen, as Markdown, CSV and LaTeX.

With `--paper table2` (or table1, table3, table7, qam, all) the published table with the measured numbers beside it.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.tables:app")

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import winrates
from analysis.choices import FIXED, HELD_OUT, NEW_SEEDS, OFFLINE, ORACLE
from analysis.compare import MARGIN, OTHER, Terms, unpublished
from analysis.layout import broken, fits
from analysis.notes import brief, grouped, tell
from analysis.output import (
    environment,
    folder,
    markdown,
    of_records,
    prepare,
    say,
    screen,
    short,
    write_csv,
)
from analysis.paper import legend as terms_of
from analysis.paper import power, summary, title, write
from analysis.paper import screen as print_of
from analysis.published import FOLDER, read
from analysis.query import Asked, Ends, Intervals, Methods, Names, Query, Runs, Select
from analysis.records.files import RecordError
from analysis.records.labels import natural
from analysis.records.load import Records
from analysis.records.mirror import default_out
from analysis.records.protocols import EVERY, heading
from analysis.records.runs import SHARES
from analysis.scoreboard import boards
from analysis.select import Endpoint, scores
from analysis.sheets import tex
from analysis.statistics.estimates import coverage
from analysis.statistics.significance import CORRECTIONS
from analysis.tuning.budget import curves
from core.files import write_text
from core.options import filled

WIDTH = 100
TASKS_ABREAST = 3
MISSING = "\N{EM DASH}"
Position = Callable[[str], Any]
UNFINISHED = "\N{DAGGER}"
WORDS = {"t": "t", "bca": "BCa bootstrap", "percentile": "percentile bootstrap"}
"""How intervals are called."""
RULES = {
    FIXED: "A row that names a setting shows that setting, chosen before looking.",
    NEW_SEEDS: "(new-seeds): each seed at the setting that is best on the other seeds: what new seeds would give.",
    HELD_OUT: "(held-out): picked on half of the episodes, scored on the other, and the reverse; of these seeds alone.",
    OFFLINE: "(offline:...): each seed at the setting that its critics and held-out data prefer; no score has a say.",
    ORACLE: "(oracle): the setting is picked on the episodes it is scored on: biased upward, not comparable.",
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    context: typer.Context,
    results: Annotated[Path, typer.Argument(parser=of_records, help="The folder that holds runs/, or its URL.")] = Path(
        "results"
    ),
    out: Annotated[Path | None, typer.Option(parser=folder, help="A folder; RESULTS/tables if unset.")] = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="Add the best setting in hindsight (biased).")] = False,
    budget: Annotated[bool, typer.Option("--budget", help="Add what choosing a knob costs: OUT/budget.csv.")] = False,
    methods: Methods = None,
    which: Runs = None,
    endpoint: Ends = "last",
    select: Select = None,
    protocol: Asked = None,
    names: Names = None,
    interval: Intervals = "t",
    paper: Annotated[str | None, typer.Option(help="table1, table2, table3, table7, qam or all.")] = None,
    margin: Annotated[float, typer.Option(help="--paper: points within which a difference is none.")] = MARGIN,
    correct: Annotated[str, typer.Option(help="--paper: holm, bh or none.")] = "holm",
    published: Annotated[
        Path | None, typer.Option(parser=folder, help="--paper: a folder of published numbers; ours if unset.")
    ] = None,
) -> None:
    """Scores of the final evaluation: mean +- std over seeds and a 95% interval."""
    _belong(context, paper is not None)
    if oracle and select is not None:
        raise RecordError("--oracle goes without --select, which shows what one rule picks; --select oracle is one")
    console = screen(WIDTH)
    query = Query.of(methods, which, protocol, endpoint, select, names, interval)
    if paper is None:
        place = prepare(out or default_out(results, "tables"))
        scored(query.load(results), place, query, oracle, budget, console)
        return
    if correct not in CORRECTIONS:
        raise RecordError(f"--correct {correct} is none of {', '.join(CORRECTIONS)}")
    if not 0 < margin < math.inf:
        raise RecordError(f"--margin {margin:g}: a number of points above 0")
    filled("--paper", paper)
    terms = Terms.of(query, margin, correct)
    records = query.load(results, empty=True, protocol=EVERY)  # print's own count where none is named
    beside(
        records, prepare(out or default_out(results, "tables") / "paper"), published or FOLDER, paper, terms, console
    )


def _belong(context: typer.Context, paper: bool) -> None:
    """Raises: RecordError: an option was given that only the other kind of table has."""
    for name in ("oracle", "budget", "interval") if paper else ("margin", "correct", "published"):
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
            option = next(one.opts[0] for one in context.command.params if one.name == name)
            raise RecordError(f"{option} does not go with --paper" if paper else f"{option} goes with --paper only")


def scored(records: Records, place: Path, query: Query, oracle: bool, budget: bool, console: Console) -> None:
    """Prints and writes place/scores.{md,csv,tex}, and place/budget.csv if asked for."""
    cells, remarks = scores(records, oracle, query.endpoint, query.rule if query.ruled else None, query.interval)
    notes = [*records.notes, *remarks, *_data(records)]
    if cells.empty:
        raise RecordError(f"no episodes to show under {records.root / 'runs'}: {brief(notes, records)}")
    write_text(place / "scores.md", page(cells, grouped(notes, records), records.position, query))
    write_csv(place / "scores.csv", cells)
    seen, remarks = boards(records, query.endpoint, query.rule)
    write_text(place / "scores.tex", tex(seen, Terms.of(query)))
    notes += remarks
    paths = [place / "scores.md", place / "scores.csv", place / "scores.tex"]
    if budget:
        paths.append(place / "budget.csv")
        write_csv(paths[-1], curves(records, query.endpoint))
    for table in tables_of(cells, console, records.position):
        console.print(table, "")
    console.print("\n".join(legend(cells, query.endpoint, query.interval)), style="dim", soft_wrap=True)
    say("", *paths)
    tell(notes, records, place / "scores-notes.csv")


def _data(records: Records) -> list[str]:
    """Which tasks' data need not be those in print."""
    tasks: dict[str, set[str]] = {}
    for one in records.runs:
        data = one.meta.get("dataset") or {}
        if data.get("origin") in OTHER and data.get("path"):
            tasks.setdefault(f"{data['origin']} data, {data.get('transitions', 0):,} transitions", set()).add(one.task)
    return [f"{', '.join(sorted(names))}: {text}" for text, names in sorted(tasks.items())]


def beside(records: Records, place: Path, published: Path, which: str, terms: Terms, console: Console) -> None:
    """Prints and writes place/<table>.{md,csv,tex} of the published tables asked for."""
    rows, notes = read(published)
    if which != "all":
        if which not in set(rows["table"]):
            raise RecordError(f"--paper {which}: there are {', '.join(sorted(set(rows['table'])))} and all")
        rows = rows[rows["table"] == which]
    compared, remarks, refused = winrates.beside(records, rows, terms)
    if refused and which != "all" and not (compared["runs"] > 0).any():
        raise RecordError("; ".join(refused))
    notes += records.notes + remarks
    more = unpublished(records, rows[~rows["suite"].isin(SHARES)], terms)
    paths = list(write(compared, terms, place, grouped(notes, records), more))
    for _, table in compared.groupby("table", sort=False):
        if (table["runs"] > 0).any():
            console.print(print_of(table, console))
            console.print()
        else:
            console.print(f"{title(table)}: {summary(table)}", soft_wrap=True)
    if (compared["runs"] > 0).any():
        console.print("\n".join([*terms_of(compared, terms), *power(compared, terms)]), style="dim", soft_wrap=True)
    say("", *paths)
    tell(notes, records, place / "notes.csv")


def blocks(cells: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """(suite, tasks side by side) for each table: at most TASKS_ABREAST tasks, an environment's tasks together."""
    for suite, rows in cells.groupby("suite", observed=True, sort=True):
        block: list[str] = []
        for _, group in groupby(sorted(map(str, rows["task"].unique())), key=environment):
            tasks = list(group)
            if block and len(block) + len(tasks) > TASKS_ABREAST:
                yield str(suite), block
                block = []
            block += tasks
            while len(block) > TASKS_ABREAST:
                yield str(suite), block[:TASKS_ABREAST]
                block = block[TASKS_ABREAST:]
        if block:
            yield str(suite), block


def cell(row: pd.Series) -> tuple[str, str]:
    """("91.2 ± 1.3", "[89.9, 92.5]") of a row of `scores`: "91.2 ± 1.3 n=4 of 5" where seeds are missing; a dagger on
    seeds that are not finished."""
    spread = "" if math.isnan(row["std"]) else f" \N{PLUS-MINUS SIGN} {row['std']:.1f}"
    spread += f" n={row['seeds']} of {row['meant']}" if row["seeds"] < row["meant"] else "" if spread else " n=1"
    mark = "" if row["status"] == "finished" else UNFINISHED
    interval = "" if math.isnan(row["low"]) else f"[{row['low']:.1f}, {row['high']:.1f}]"
    return f"{row['mean']:.1f}{spread}{mark}", interval


def grid(
    cells: pd.DataFrame, suite: str, tasks: list[str], position: Position = natural
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(row name, one `cell` a task) in the order to show; missing cells are a dash. `position`: of a label."""
    part = cells[(cells["suite"] == suite) & cells["task"].isin(tasks)]
    at = {(row["row"], row["task"]): cell(row) for _, row in part.iterrows()}
    for name in sorted(part["row"].unique(), key=lambda name: _position(part, name, position)):
        yield name, [at.get((name, task), (MISSING, "")) for task in tasks]


def tables_of(cells: pd.DataFrame, console: Console, position: Position = natural) -> Iterator[Table]:
    """The blocks for the terminal, with fewer tasks abreast where not all of a block's fit."""
    for suite, tasks in blocks(cells):
        while tasks:
            sizes = [(count, joint) for count in range(len(tasks), 0, -1) for joint in (" ", "\n")]
            tried = ((count, screen_of(cells, suite, tasks[:count], position, joint)) for count, joint in sizes)
            count, table = next((one for one in tried if fits(console, one[1])), (1, None))
            if table is None:  # names leave no room: they are parted, the numbers stay whole
                table = screen_of(cells, suite, tasks[:1], position, "\n")
                table.columns[0].no_wrap = False
            table.min_width = min(max(40, len(str(table.title))), console.width)
            yield table
            tasks = tasks[count:]


def screen_of(
    cells: pd.DataFrame, suite: str, tasks: list[str], position: Position = natural, joint: str = "\n"
) -> Table:
    """One block for the terminal; `joint` stands between a mean and its interval."""
    rows = list(grid(cells, suite, tasks, position))
    title = f"{named(cells, suite, tasks)}: {amount(cells, suite, tasks)}"
    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True, overflow="fold")
    for task in tasks:
        table.add_column(broken(short(task), 20), justify="right", no_wrap=True)
    for name, row in rows:
        texts = [Text.assemble(value, joint, (interval, "dim")) if interval else Text(value) for value, interval in row]
        table.add_row(Text(name, style="dim" if "(oracle)" in name else ""), *texts)
    return table


def page(cells: pd.DataFrame, notes: list[str], position: Position = natural, query: Query | None = None) -> str:
    """All blocks, what they mean, and the notes, as one Markdown page."""
    query = query or Query()
    lines = ["# Scores", "", *(f"{line}  " for line in legend(cells, query.endpoint, query.interval))]
    for suite, tasks in blocks(cells):
        names = [markdown(short(task)) for task in tasks]
        lines += [
            "",
            f"## {markdown(named(cells, suite, tasks))}: {', '.join(names)}",
            "",
            amount(cells, suite, tasks),
            "",
        ]
        lines += ["| method | " + " | ".join(names) + " |", "|:--|" + "--:|" * len(tasks)]
        for name, row in grid(cells, suite, tasks, position):
            lines.append(f"| {markdown(name)} | " + " | ".join(" ".join(texts).strip() for texts in row) + " |")
    if notes:
        lines += ["", "## Notes", "", *(f"- {markdown(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def named(cells: pd.DataFrame, suite: str, tasks: list[str]) -> str:
    """ "ogbench", or "ogbench (protocols fql and qam)" of a block's cells."""
    return heading(suite, cells.loc[(cells["suite"] == suite) & cells["task"].isin(tasks), "protocol"].tolist())


def amount(cells: pd.DataFrame, suite: str, tasks: list[str]) -> str:
    """ "5 seeds x 50 episodes" of a block's cells, as ranges where they differ."""
    part = cells[(cells["suite"] == suite) & cells["task"].isin(tasks)]
    span = {}
    for column in ("seeds", "episodes"):
        low, high = part[column].min(), part[column].max()
        span[column] = f"{low:g}" if low == high else f"{low:g}-{high:g}"
    return f"{span['seeds']} seed{'s' * (span['seeds'] != '1')} x {span['episodes']} episodes"


def legend(cells: pd.DataFrame, endpoint: Endpoint | None = None, interval: str = "t") -> list[str]:
    """What the numbers are, and their limits; `interval`: a key of INTERVALS."""
    lines = [f"Endpoint {endpoint}: {endpoint.meaning}."] if endpoint and endpoint != Endpoint() else []
    lines += [
        f"mean \N{PLUS-MINUS SIGN} std over seeds (ddof 1) [95% {WORDS[interval]} interval over seeds]",
        "A seed's spread counts as no less than that of its episodes: few seeds may agree by chance.",
    ][: 1 + (interval == "t")]
    several = cells.loc[cells["seeds"] > 1, "seeds"]
    if interval != "t" and len(several):
        least = int(several.min())
        lines.append(f"Such intervals of few seeds are too narrow: those of {least} cover about {coverage(least)}%.")
    if (cells["seeds"] == 1).any():
        lines.append("n=1: one seed, so no std, and an interval over its episodes, which speaks of that policy only.")
    if (cells["told"] != "").any():
        lines.append("n=4 of 5: four seeds of five that were started; the notes say what became of the others.")
    if (cells["status"] != "finished").any():
        lines.append(f"{UNFINISHED} not finished: the last complete evaluation.")
    shown = {rule.partition(":")[0] for rule in cells.loc[cells["picks"] != "", "rule"]}  # "offline:lcb"
    return lines + [said for rule, said in RULES.items() if rule in shown]


def _position(part: pd.DataFrame, name: str, of: Position) -> tuple[Any, int, tuple[float, ...]]:
    """Where a row stands: by label; settings by the knobs' values; then held-out, then oracle."""
    row = part[part["row"] == name].iloc[0]
    knobs = part.columns[part.columns.get_loc("picks") + 1 : part.columns.get_loc("status")]
    values = tuple(-math.inf if pd.isna(row[knob]) else float(row[knob]) for knob in knobs)
    return of(str(row["label"])), (FIXED, NEW_SEEDS, HELD_OUT, ORACLE, row["rule"]).index(row["rule"]), values
