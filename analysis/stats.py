"""`python -m analysis.stats results/ --compare vgf,fql`: the tests on the terminal, and what they allow to be said."""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.stats:app")

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.choices import ORACLE
from analysis.compare import Terms, measured_by_name
from analysis.endpoint import windows
from analysis.layout import broken, fits, joined, listed
from analysis.notes import brief, tell
from analysis.output import below, folder, of_records, prepare, say, screen, short, write_csv
from analysis.pairs import Matchup, Over, matchups, missing, over_tasks, tests
from analysis.query import Asked, Ends, Methods, Names, Query, Runs, Select
from analysis.records.files import RecordError
from analysis.records.load import Records
from analysis.records.mirror import default_out, spoken
from analysis.statistics.design import design, sentences, signed_rank_p
from analysis.statistics.estimates import Estimate, stratified_coverage
from analysis.statistics.significance import ALPHA, Comparison

WIDTH = 100
LONGEST_NAME = 120  # bytes, of a file
DASH = "\N{EM DASH}"
SIDES = ("first", "second")
SEEN = "with the seeds that chose their own settings, on these tasks"
"""Where held-out episodes or the oracle picked: what a seed gains by its own choice, a new one need not."""
NAMES = {"holm": "Holm", "bh": "BH"}
OVER = ("difference [95%]", "t p", "signed-rank p", "its smallest")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=of_records, help="The folder that holds runs/, or its URL.")] = Path(
        "results"
    ),
    compare: Annotated[
        str | None, typer.Option(help="The first of these against each of the others: vgf,fql. As --methods if unset.")
    ] = None,
    out: Annotated[Path | None, typer.Option(parser=folder, help="A folder; RESULTS/tables if unset.")] = None,
    methods: Methods = None,
    which: Runs = None,
    endpoint: Ends = "last",
    select: Select = None,
    protocol: Asked = None,
    names: Names = None,
) -> None:
    """Welch, Mann-Whitney, tests paired over start states, signed ranks over tasks; Holm and Benjamini-Hochberg."""
    console = screen(WIDTH)
    place = prepare(out or default_out(results, "tables"))
    query = Query.of(methods, which, protocol, endpoint, select, names)
    records, terms = query.load(results), Terms.of(query)
    sides = _sides(compare, query, records)
    cells = {(*key[:2], query.shown(key[2])): cell for key, cell in measured_by_name(records, sides, terms).items()}
    sides = [query.shown(side) for side in sides]
    if absent := [side for side in sides if missing(cells, side)]:
        there = ", ".join(_present(records)) or "none with an evaluation"
        why = [note for note in records.notes if any(f"/{side.partition(' ')[0]}/" in note for side in absent)]
        line = f"no run of {', '.join(absent)} under {spoken(results)}/runs; there is {there}"
        raise RecordError("; ".join([line, *why[:3]]))
    notes = [*records.notes, *windows(records, query.endpoint)]
    notes += [f"{'/'.join(key)}: {cell.remark}" for key, cell in cells.items() if cell.remark]
    pairs = {other: matchups(cells, sides[0], other) for other in sides[1:]}
    apart = [note for _, remarks in pairs.values() for note in remarks]
    rows = tests([matchup for found, _ in pairs.values() for matchup in found])
    if rows.empty:
        raise RecordError(
            f"{', '.join(sides)}: no task has two of them with an evaluation; {brief(apart + notes, records)}"
        )
    notes += apart
    path = below(place, _file(sides))
    write_csv(path, rows)
    for other, (found, _) in pairs.items():
        if found:
            show(console, sides[0], other, rows[rows["second"] == other], found, len(rows), terms)
    say("", path)
    tell(notes, records, path.with_name(f"{path.stem}-notes.csv"))


def _sides(compare: str | None, query: Query, records: Records) -> list[str]:
    """Names of methods or labels, two or more: those of --compare, or all that --methods asks for, in its order.

    Raises: RecordError: there are fewer, or one stands there twice.
    """
    if compare is None and query.methods:
        found = _present(records)
        given = f"--methods {','.join(query.methods)}"
    else:
        found = [name.strip() for name in (compare or "").split(",")]
        given = f"--compare {compare or 'is missing'}"
    if len(found) < 2 or "" in found or len(set(found)) < len(found):
        there = ", ".join(_present(records)) or "none"
        raise RecordError(f"{given}: name two methods or more, of {there}")
    return found


def _present(records: Records) -> list[str]:
    """The labels of runs with an evaluation, in the order to show them."""
    return sorted({run.label for run, _ in records.each()}, key=records.position)


def _file(sides: Sequence[str]) -> str:
    """A file's name for a comparison; of many sides, or long ones, cut and with a digest."""
    name = re.sub(r"[^\w .+=#()\[\]-]", "+", f"compare-{'-'.join(sides)}")
    if len(name.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[:LONGEST_NAME].decode(errors='ignore').rstrip()}-{digest}"
    return f"{name}.csv"


def show(
    console: Console, first: str, second: str, rows: pd.DataFrame, of: Sequence[Matchup], family: int, terms: Terms
) -> None:
    """Prints one pair: the tests of each task, those over tasks, and what follows."""
    console.print(screen_of(rows, first, second, console))
    console.print("\n".join(legend(rows, family, terms)), "", style="dim", soft_wrap=True)
    summaries = list(over_tasks(of))
    for suite, over in summaries:
        console.print(table_of(suite, over, console))
        console.print()
    for line in conclusions(rows, summaries, family):
        console.print(line)


def screen_of(rows: pd.DataFrame, first: str, second: str, console: Console) -> Table | Text:
    """The tests of one pair of methods, a task a row; a task's numbers in lines where the rows do not fit."""
    title, entries = f"{first} against {second}", rows.to_dict("records")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task")
    tests = ("Welch\np", "\nHolm", "\nBH", "M-W p\n(Holm)", "paired p\n(Holm)", "P(1st\nbetter)")
    for name in (broken(first, 10), broken(second, 10), "difference\n[95%]", *tests):
        table.add_column(name, justify="right", no_wrap=True)
    for row in entries:
        sides = [Text.assemble(f"{row[f'{s}_mean']:.1f}", (f"\n{_n(row, s)}", "dim")) for s in SIDES]
        table.add_row(
            broken(short(row["task"]), 20), *sides,
            Text.assemble(f"{row['difference']:+.1f}", (f"\n{_interval(row)}", "dim")),
            p_of(row["p_welch"]), p_of(row["p_welch_holm"]), p_of(row["p_welch_bh"]),
            f"{p_of(row['p_rank'])}\n({p_of(row['p_rank_holm'])})",
            f"{p_of(row['p_paired'])}\n({p_of(row['p_paired_holm'])})", f"{row['improvement']:.2f}",
        )  # fmt: skip
    if fits(console, table):
        return table
    return listed(title, ((short(row["task"]), _sentences(row)) for row in entries), console.width)


def _sentences(row: Mapping[Any, Any]) -> list[str]:
    """The numbers of one task in lines."""
    sides = [joined(f"{row[f'{side}_mean']:.1f} ({_n(row, side)})") for side in SIDES]
    found = [f"{' against '.join(sides)}; difference {row['difference']:+.1f} {joined(_interval(row))}"]
    for name, test, corrections in (
        ("Welch", "welch", "holm bh"),
        ("M-W", "rank", "holm"),
        ("paired", "paired", "holm"),
    ):
        ps = [f"p {p_of(row[f'p_{test}'])}"]
        ps += [f"{NAMES[one]} {p_of(row[f'p_{test}_{one}'])}" for one in corrections.split()]
        found.append(f"{name}: {', '.join(map(joined, ps))}")
    return [*found, f"P(1st better) {row['improvement']:.2f}"]


def _interval(row: Mapping[Any, Any]) -> str:
    return DASH if math.isnan(row["low"]) else f"[{row['low']:.1f}, {row['high']:.1f}]"


def _n(row: Mapping[Any, Any], side: str) -> str:
    """ "n=5", or "n=4 of 5" where seeds are missing."""
    return f"n={row[f'{side}_seeds']}" + (f" of {row[f'{side}_meant']}" if row[f"{side}_told"] else "")


def table_of(suite: str, over: Over, console: Console) -> Table | Text:
    """The tests over the tasks of one suite; in lines where a row does not fit."""
    rows, count = _over_rows(over), len(over.matchups)
    title = f"{suite}: over {count} tasks in {over.environments} environments"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("question", *OVER):
        table.add_column(name, justify="left" if name == "question" else "right", no_wrap=True)
    for row in rows:
        table.add_row(broken(row[0], 36), *row[1:])
    table.caption, table.caption_justify = _coverage(over), "left"
    if fits(console, table):
        return table
    found = [(name, ", ".join(f"{what} {joined(cell)}" for what, cell in zip(OVER, cells, strict=True) if cell)
              if any(cells[1:]) else cells[0]) for name, *cells in rows]  # fmt: skip
    return listed(title, [*((name, [said]) for name, said in found), ("", [_coverage(over)])], console.width)


def _over_rows(over: Over) -> list[list[str]]:
    """A question a row: its words, then what stands in the columns of OVER."""
    first, second, count = over.matchups[0].first, over.matchups[0].second, len(over.matchups)
    rows, units = list[list[str]](), over.units
    seeds = "new seeds" if over.of_new_seeds else "seeds like these"
    rows.append([f"{seeds}, these tasks (Welch, averaged)", *_shown(over.seeds), "", ""])
    rows.append([f"{seeds} and new starts, these tasks (paired)", *_shown(over.starts), "", ""])
    for name, one, ranks, n in (
        ("tasks as units", units.tasks, units.wilcoxon_tasks, count),
        ("environments as units", units.environments, units.wilcoxon_environments, over.environments),
    ):
        rows.append([name, *_shown(one), p_of(ranks), p_of(signed_rank_p(n))])
    rows.append([f"P(a seed of {first} beats one of {second})", _estimate(over.improvement, 2), "", "", ""])
    rows += [[f"IQM of {name}", _estimate(iqm, 1), "", "", ""] for name, iqm in over.iqm()]
    return rows


def legend(rows: pd.DataFrame, family: int, terms: Terms) -> list[str]:
    """What the numbers are."""
    least = int(rows[["first_seeds", "second_seeds"]].to_numpy().min())
    lines = [
        f"Endpoint {terms.endpoint}, test-time knobs by {terms.rule}. Holm and BH (Benjamini-Hochberg) over {family} "
        f"comparison{'s' * (family > 1)}.",
        "M-W: Mann-Whitney, exact, ties included. Paired: over the start states that both share.",
        "P(1st better): how often a seed of the first beats one of the second, ties half.",
    ]
    if terms.rule.name == ORACLE:
        lines.append("The oracle picks knobs on the episodes they are scored on: these tests are biased.")
    if least > 1:
        lines.append("A seed's spread counts as no less than that of its episodes: few seeds may agree by chance.")
    return lines


def conclusions(rows: pd.DataFrame, summaries: Sequence[tuple[str, Over]], family: int) -> list[str]:
    """What can and what cannot be concluded, in sentences."""
    first, second = rows[["first", "second"]].iloc[0]
    shown = rows["p_welch_holm"] < ALPHA
    better, worse = int((shown & (rows["difference"] > 0)).sum()), int((shown & (rows["difference"] < 0)).sum())
    tested, count = int(rows["p_welch"].notna().sum()), len(rows)
    lines = ["Can be concluded:"]
    seen = "" if rows["of_new_seeds"].all() else ", with the seeds that chose their own settings"
    if better + worse:
        lines.append(f"- By task{seen} (Welch, Holm at 5%), {first} is better on {better} of {tested} tested, {second} "
                     f"on {worse}; on {tested - better - worse} no difference is shown.")  # fmt: skip
    elif tested:
        lines.append(f"- By task{seen}: nothing. On none of {tested} tested is a difference shown (Welch, Holm at 5%).")
    else:
        lines.append(f"- By task: nothing; none of {count} has two seeds of both.")
    for suite, over in summaries:
        lines += [f"- {line}" for line in _over_sentences(suite, over)]
    lines.append("Cannot be concluded:")
    if tested > better + worse:
        widest = rows.loc[~shown & rows["low"].notna()].eval("high - low").median() / 2
        lines.append(f"- That the methods are alike where none is shown: those intervals reach {widest:.1f} points "
                     "(median) to either side.")  # fmt: skip
    if not summaries:
        lines.append("- Anything over tasks: that takes two tasks of a suite.")
    seeds = rows[["first_seeds", "second_seeds"]]
    a, b = map(int, seeds.loc[seeds.min(axis=1).idxmin()])
    spread = float(np.sqrt(np.nanmean(np.square(rows[["first_std", "second_std"]].to_numpy(float)))) if tested else 0)
    plan = sentences(design(a, b, max(family, 1)), spread or None)
    lines.append(f"- More than the seeds can show{', at the fewest' if len(seeds.drop_duplicates()) > 1 else ''}. "
                 + " ".join(plan))  # fmt: skip
    return lines


def _over_sentences(suite: str, over: Over) -> list[str]:
    """What holds over the tasks of a suite, by each reading."""
    first, second = over.matchups[0].first, over.matchups[0].second
    seeds = "with new seeds on these tasks" if over.of_new_seeds else SEEN
    readings = {
        seeds: over.seeds, "on other tasks of this kind": over.units.tasks,
        "on other environments": over.units.environments,
    }  # fmt: skip
    units = {"on other tasks of this kind": len(over.matchups), "on other environments": over.environments}
    shown = {question: one for question, one in readings.items() if one.p < ALPHA}
    lines = []
    for question, one in shown.items():
        name, other = (first, second) if one.difference > 0 else (second, first)
        few = units.get(question, 99)
        alone = f" (by the t-test alone: signed ranks of {few} can show nothing)" if signed_rank_p(few) > ALPHA else ""
        lines.append(f"{suite}, {question}: {name} scores {abs(one.difference):.1f} points above {other}{alone}.")
    open_ = [question for question, one in readings.items() if question not in shown]
    if open_:
        lines.append(f"{suite}: not shown {', nor '.join(open_)}.")
    if "on other tasks of this kind" in shown and "on other environments" not in shown:
        lines.append("Tasks of an environment share a dataset: of these readings, trust the environments'.")
    return lines


def _coverage(over: Over) -> str:
    least = min(len(side) for matchup in over.matchups for side in matchup.means)
    if least < 2:
        return "A task with one seed gives its bootstrap intervals no width."
    percent = stratified_coverage(least)
    return f"Each row has its own 5%. The IQM's bootstrap intervals of {least} seeds a task cover {percent}%, not 95%."


def _shown(one: Comparison) -> tuple[str, str]:
    if math.isnan(one.difference):
        return DASH, DASH
    interval = "" if math.isnan(one.low) else f" [{one.low:.1f}, {one.high:.1f}]"
    return f"{one.difference:+.1f}{interval}", p_of(one.p)


def _estimate(one: Estimate, digits: int) -> str:
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"


def p_of(p: float) -> str:
    """ "0.012", "<.0001", a dash where there is none."""
    return DASH if math.isnan(p) else "<.0001" if p < 1e-4 else f"{p:.2g}" if p >= 0.001 else f"{p:.1g}"
