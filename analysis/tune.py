"""`python -m analysis.tune results/ --rule heldout-seeds`: every setting that was tried, the one that a rule picks,
what it is worth on seeds or tasks that had no say, what trying cost, and the rows for the table of settings.

Without `--rule` it shows the settings and picks none: a rule that is stated after the scores were seen is no rule.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.tune:app")

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.choices import ORACLE
from analysis.layout import fits, joined, listed
from analysis.notes import brief, tell
from analysis.output import folder, of_records, prepare, say, screen, short
from analysis.query import Ends
from analysis.records.files import RecordError, shown
from analysis.records.load import Records, load
from analysis.records.mirror import spoken
from analysis.records.protocols import Asked
from analysis.select import Endpoint, Rule
from analysis.tuning.picking import SEEDS, TASKS, Picked, by_seeds, by_tasks, csv_of, merged, table_at
from analysis.tuning.spending import Spent, spent
from analysis.tuning.sweeps import Sweep, Unscored, sweeps
from core.files import write_text
from core.options import filled, parts
from core.text import nearest

WIDTH = 100
PHASES = ("offline", "online")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=of_records, help="The folder that holds runs/, or its URL.")] = Path(
        "results"
    ),
    rule: Annotated[str | None, typer.Option(help=f"{SEEDS} or {TASKS}; without one, none is picked.")] = None,
    choose_on: Annotated[
        str | None, typer.Option(help="Seeds (0-2 or 0,1) or tasks (names, *) to choose on; all splits if unset.")
    ] = None,
    keys: Annotated[
        str | None, typer.Option(help="Only runs that differ in these settings alone: alpha,tau; else in any.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="One suite only.")] = None,
    protocol: Asked = None,
    phase: Annotated[str | None, typer.Option(help="offline or online runs only.")] = None,
    methods: Annotated[str | None, typer.Option(help="Some methods only; * stands for anything.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Some tasks only; * stands for anything.")] = None,
    endpoint: Ends = "last",
    select: Annotated[
        str, typer.Option(help="Test-time knobs: fixed:1, fixed:w=0.02,N=4, new-seeds, held-out or offline:lcb.")
    ] = "new-seeds",
    out: Annotated[
        Path | None, typer.Option(parser=folder, help="A table of settings that gets the rows; the screen if unset.")
    ] = None,
) -> None:
    """Every setting of each method with its score, interval and n; the one picked, its held-out score, and the cost."""
    if rule not in (None, SEEDS, TASKS):
        raise RecordError(f"--rule {shown(str(rule))} is none of: {SEEDS}, {TASKS}")
    for option, given in (("--choose-on", choose_on), ("--out", out)):
        if given is not None and rule is None:
            raise RecordError(f"{option} goes with --rule: nothing is picked without one")
    if choose_on is not None:
        filled("--choose-on", choose_on)
    knobs = Rule.parse(select)
    if knobs.name == ORACLE:
        raise RecordError("--select oracle: a score that is chosen on its own episodes cannot be tuned on")
    kept = table_at(prepare(out.parent) / out.name) if out is not None else ""
    records = load(results, protocol=protocol)
    found, notes = sweeps(records, Endpoint.parse(endpoint), knobs, _known(records, keys))
    if not found:
        why = brief([*notes, *records.notes], records) or "python -m harness.run --sweep METHOD.KEY=V1,V2 makes some"
        raise RecordError(f"no method has two settings on a task under {spoken(results)}/runs; {why}")
    found = _wanted(_of(found, suite, phase), methods, tasks)
    picks = {SEEDS: by_seeds, TASKS: by_tasks}
    picked = list(picks[rule](found, choose_on, notes)) if rule is not None else []
    if rule is not None and not picked:
        raise RecordError(f"--rule {rule} can pick nothing: {brief(notes[-3:], records)}")
    tables = {one.table: [row for other in picked if other.table == one.table for row in other.rows] for one in picked}
    if out is not None and len(tables) > 1:
        raise RecordError(f"--out {out}: the picks belong in {' and '.join(tables)}; --suite and --phase choose")
    _show(screen(WIDTH), found, picked)
    if rule is None:
        say(f"No --rule was stated, so none is picked: {SEEDS} or {TASKS}.")
    elif out is None:
        for number, (table, rows) in enumerate(tables.items()):
            say(*([""] if number else []), f"rows for {table}:", *csv_of(rows).splitlines())
    else:
        write_text(out, merged(kept, [row for rows in tables.values() for row in rows], notes))
        say(out)
    tell([*records.notes, *notes], records)


def _known(records: Records, keys: str | None) -> list[str]:
    """The keys that an option names; [] if unset. Raises: RecordError: no run has such a setting."""
    found = parts("--keys", keys, "settings") if keys is not None else []
    there = sorted({key for run in records.runs for key in run.settings})
    for key in found:
        if key not in there:
            raise RecordError(f"--keys {shown(key)}: no run has such a setting; {nearest(key, there, '')}")
    return found


def _of(found: Sequence[Sweep], suite: str | None, phase: str | None) -> list[Sweep]:
    """The sweeps of a suite and a phase. Raises: RecordError: there are none."""
    suites = sorted({one.suite for one in found})
    if suite is not None and suite not in suites:
        raise RecordError(f"--suite {shown(suite)}: two settings have {', '.join(suites)}")
    if phase not in (None, *PHASES):
        raise RecordError(f"--phase {shown(str(phase))} is none of: {', '.join(PHASES)}")
    here = [one for one in found if suite in (None, one.suite) and phase in (None, PHASES[one.online])]
    if not here:
        raise RecordError(f"--phase {phase}: no method has two settings there")
    return here


def _wanted(found: Sequence[Sweep], methods: str | None, tasks: str | None) -> list[Sweep]:
    """Raises: BadInput: a name that is nowhere among what was found."""
    for option, given, what in (("--methods", methods, "method"), ("--tasks", tasks, "task")):
        if given is None:
            continue
        patterns = parts(option, given, f"{what}s")
        there = sorted({getattr(one, what) for one in found})
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in there):
                raise RecordError(f"{option} {shown(pattern)}: two settings have {', '.join(there)}")
        found = [one for one in found if any(fnmatchcase(getattr(one, what), pattern) for pattern in patterns)]
    if not found:
        raise RecordError(f"--methods {methods} has no two settings on --tasks {tasks}")
    return list(found)


def _show(console: Console, found: Sequence[Sweep], picked: Sequence[Picked]) -> None:
    by_place = {(one.place, one.label): one for one in picked}
    for sweep in found:
        one = by_place.get((f"{sweep.suite}/{sweep.task}", sweep.label))
        console.print(_screen(sweep, one, console))
        console.print("\n".join([*([_said(one)] if one else []), _cost(spent(sweep.runs)), ""]), soft_wrap=True)
    for one in picked:
        if here := [sweep for sweep in found if (sweep.suite, sweep.label) == (one.place, one.label)]:
            cost = _cost(spent(run for sweep in here for run in sweep.runs))
            console.print(f"{one.place}, {one.label}: {_said(one)}\n{cost}\n", soft_wrap=True)


def _screen(sweep: Sweep, picked: Picked | None, console: Console) -> Table | Text:
    """The settings of one method on one task, the one picked in bold; in lines where a row does not fit."""
    title = f"{sweep.suite}: {short(sweep.task)}: {sweep.label}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("setting")
    names = ["mean \N{PLUS-MINUS SIGN} std", "95% interval", "n", *(["splits that\npick it"] if picked else [])]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    entries = list[tuple[str, list[str]]]()
    numbers = {one.run.key: number for number, one in enumerate(sweep.settings)}
    for one in sweep.tried:
        if isinstance(one, Unscored):
            why = Text(f"{one.name} ({one.why})")
            entries.append((one.name, [one.why, f"n 0 of {len(one.run.meant)}"]))
            table.add_row(why, "", "", f"0 of {len(one.run.meant)}", *([""] if picked else []))
            continue
        number, summary = numbers[one.run.key], one.summary
        spread = "" if math.isnan(summary.std) else f" \N{PLUS-MINUS SIGN} {summary.std:.1f}"
        cells = [one.name, f"{summary.mean:.1f}{spread}", f"[{summary.low:.1f}, {summary.high:.1f}]"]
        cells.append(f"{summary.seeds}" + (f" of {len(one.run.meant)}" if one.told else ""))
        cells += [f"{picked.held.counts[number]} of {picked.splits}"] if picked else []
        style = "bold" if picked and number == picked.held.pick else ""
        table.add_row(*(Text(cell, style=style) for cell in cells))
        said = [joined(f"{name} {cell}".replace("\n", " ")) for name, cell in zip(names[1:], cells[2:], strict=True)]
        entries.append((f"{one.name}{' (picked)' if style else ''}", [", ".join([joined(cells[1]), *said])]))
    return table if fits(console, table) else listed(title, entries, console.width)


def _said(one: Picked) -> str:
    """The pick and what it is worth."""
    value, low, high = (float(number) for number in one.held.value)
    interval = "" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    pick = f"{one.name}{' (the best over all)' if one.splits > 1 else ''}"
    return f"{one.rule}.\npicked: {pick}; held-out score {value:.1f}{interval}"


def _cost(of: Spent) -> str:
    """ "spent: 3 settings x 5 seeds x 1,000 gradient steps = 15,000; 900 s of training, 30 s of evaluation"."""
    if of.each is not None:
        what = f"{of.settings} settings x {of.seeds // of.settings} seeds x {of.each:,} gradient steps = {of.steps:,}"
    else:
        what = f"{of.settings} settings, {of.seeds} seeds in all, {of.steps:,} gradient steps"
    times = f"{of.training:,.0f} s of training, {of.evaluation:,.0f} s of evaluation"
    return f"spent: {what}; {times}" + (f" ({of.untimed} stages do not say their time)" if of.untimed else "")
