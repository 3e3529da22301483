"""`python -m analysis.verdicts results/`: win rates of language runs, by every judge there was (`judged.py`)."""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.verdicts:app")

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.choices import FIXED, HELD_OUT, Arms, average, held_out
from analysis.judged import MEASURED, each, numbers, rewards, there
from analysis.layout import fits, joined, listed
from analysis.notes import brief, tell
from analysis.output import folder, of_records, prepare, say, screen, write_csv
from analysis.records.files import RecordError, shown
from analysis.records.load import Records, load
from analysis.records.mirror import default_out, spoken
from analysis.records.protocols import EVERY
from analysis.records.runs import Run
from analysis.statistics.estimates import generator
from analysis.statistics.winrate import by_seeds, paired
from analysis.validated import VALIDATION, first_of, parted, picks, remark, shared
from analysis.validated import passes as answer_passes
from core.knobs import HELP, Knobs

REWARD = "reward_model"  # the stage
DASH = "\N{EM DASH}"


class Scored(NamedTuple):
    """A row of the table: seeds by prompts, which are named by number and hash."""

    row: str
    run: Run
    score: pd.DataFrame
    rewards: Mapping[str, pd.DataFrame]
    """MEASURED."""


Scores = dict[tuple[str, str, str], dict[str, list[Scored]]]
"""(suite, task, judge) -> method, or a row's name -> each of its runs."""

WIDTH = 120

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=of_records, help="The folder that holds runs/, or its URL.")] = Path(
        "results"
    ),
    out: Annotated[Path | None, typer.Option(parser=folder, help="A folder; RESULTS/tables if unset.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="A judge's id or its beginning, recorded among them; all if unset.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="Methods or rows, e.g. 'vgf,best_of_n N=5': one against others.")
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            help="Who picks among a method's settings: held-out (prompts of the same records) or validation "
            "(the same runs with prompt_split=validation)."
        ),
    ] = HELD_OUT,
    passes: Annotated[
        float | None, typer.Option(help="With --select validation: pick among settings of at most so many passes.")
    ] = None,
    knob: Annotated[list[str] | None, typer.Option(help=HELP)] = None,
) -> None:
    """(win + tie / 2) / valid with 95% intervals over prompts; ties, invalid answers, agreement of the two orders; the
    win rate at equal lengths; differences between methods over the same prompts."""
    names = () if compare is None else _names(compare)
    if judge is not None and not judge.strip():
        raise RecordError("--judge is empty")
    if select not in (HELD_OUT, VALIDATION):
        raise RecordError(f"--select {shown(select)} is neither {HELD_OUT} nor {VALIDATION}")
    if passes is not None and (select != VALIDATION or not passes > 0):
        raise RecordError(f"--passes {passes:g}: it takes a number above 0, and --select {VALIDATION}")
    place, knobs = prepare(out or default_out(results, "tables")), Knobs.parse(knob or ())
    records = load(results, protocol=EVERY)  # language suites have no names for them
    knobs.check(there(records))
    beside, records = parted(records) if select == VALIDATION else (None, records)
    table, differences, notes = tabulate(records, judge or "", names, knobs, beside, passes)
    if table.empty:
        why = brief(notes, records)
        of = f" of {judge}" if judge else ""
        raise RecordError(f"no verdicts{of} under {spoken(results)}/runs" + (f"; {why}" if why else ""))
    paths = [place / "winrates.csv"]
    write_csv(paths[0], table)
    if names:
        paths.append(place / "winrate-differences.csv")
        write_csv(paths[-1], differences)
    console = screen(WIDTH)
    for key, rows in table.groupby(["suite", "task", "judge"], sort=False):
        console.print(_screen(" / ".join(dict.fromkeys(key)), rows, console))
        console.print()
    took = table.set_index(["suite", "task", "judge", "row"])["passes"]
    for row in differences.to_dict("records"):
        value, low, high = (100 * row[name] for name in ("value", "low", "high"))
        here = (row["suite"], row["task"], row["judge"])
        first, second = (f"{row[side]}{_in_passes(took[*here, row[side]])}" for side in ("first", "second"))
        console.print(f"{row['task']}, {row['judge']}: {first} - {second} = {value:+.1f} points "
                      f"[{low:+.1f}, {high:+.1f}] over {row['prompts']} prompts{_by_seeds(row)}")  # fmt: skip
    if len(differences):
        fewest = int(table["seeds"].min())
        policies = f"these policies ({fewest} seed{'s' * (fewest > 1)})"
        console.print(f"Each interval has its own 5%. That over prompts is for new prompts to {policies}; that over "
                      "seeds (t) is for new trainings, on these prompts.", style="dim")  # fmt: skip
    say("", *paths)
    tell([*records.notes, *notes], records, place / "winrates-notes.csv")


def _names(compare: str) -> tuple[str, ...]:
    names = tuple(map(str.strip, compare.split(",")))
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise RecordError(f"--compare {compare!r}: name two methods or rows, or more")
    return names


def tabulate(
    records: Records,
    judge: str = "",
    compare: Sequence[str] = (),
    knobs: Knobs | None = None,
    validation: Records | None = None,
    most: float | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """(a row a run, judge and setting; a row a difference of `compare`'s first method from another; notes).

    Rows beside the settings' own: "(validation)", of the settings of at most `most` passes the one that wins most in
    the records `validation`; without those "(held-out)", picked on the even prompts and scored on the odd ones, and the
    reverse.
    Columns: suite, task, judge, method, label, row, rule, picks, seeds, meant and told (of seeds without
    verdicts), those of `judged.numbers`, passes (of one sequence through a network, an answer's mean; NaN where not
    recorded), gold, proxy and soft (rewards of the answers that were judged, means over prompts and seeds; NaN where
    not recorded).
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    scored: Scores = {}
    picked = {} if validation is None else picks(validation, judge, notes, knobs, most)
    for one in each(records, judge, notes, knobs):
        run, order, values = one.run, one.settings, one.values
        told = run.told(one.seeds.tolist(), "without its verdicts")
        notes += [f"{run.name}, {one.judge}: {told}"] if told else []
        chosen = [(name, FIXED, name, {key: value[k] for key, value in values.items()}) for k, name in enumerate(order)]
        many = len(order) > 1
        choice = held_out(Arms(values["score"], order, one.seeds, one.prompts)) if many and validation is None else None
        if choice is not None:
            mine = {key: np.take_along_axis(value, choice.at[None], 0)[0] for key, value in values.items()}
            chosen.append(("(held-out)", HELD_OUT, " / ".join(choice.picks), mine))
        by_validation = picked.get(shared(one), [])
        if many and (name := first_of(by_validation, one)):
            at = order.index(name)
            mine = {name: value[at] for name, value in values.items()}
            chosen.append(("(validation)", VALIDATION, order[at], mine))
        identity = {"suite": run.suite, "task": run.task, "judge": one.judge, "method": run.method, "label": run.label}
        here, spent = scored.setdefault((run.suite, run.task, one.judge), {}), answer_passes(records, run)
        for name, rule, behind, mine in chosen:
            row = f"{run.label} {name}".strip()
            known = {"row": row, "rule": rule, "picks": behind, "seeds": len(one.seeds), "meant": len(run.meant)}
            known |= {"told": told}
            took = average(np.array([spent.get(setting, math.nan) for setting in behind.split(" / ")]), 0)
            rows.append(identity | known | numbers(mine, run) | {"passes": float(took)} | rewards(mine))
            frames = {name: pd.DataFrame(mine[name], one.seeds, one.names) for name in ("score", *MEASURED)}
            latest = Scored(row, run, frames.pop("score"), frames)
            if row != run.method:
                here.setdefault(row, []).append(latest)
        why = remark(by_validation, one) if validation is not None and many else ""
        if many and choice is None and validation is None:
            why = "no held-out row; some setting has no even or no odd prompts"
        notes += [f"{run.name}, {one.judge}: {why}"] if why else []
        if not many or len(chosen) > len(order):  # judged by its only setting, or by the choice, which comes last
            here.setdefault(run.method, []).append(latest)
    return pd.DataFrame(rows), pd.DataFrame(_differences(scored, compare, notes)), notes


def _differences(scored: Scores, compare: Sequence[str], notes: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of differences. Raises: RecordError for a name that is nowhere."""
    there = sorted({name for methods in scored.values() for name in methods})
    for name in compare:
        if name not in there:
            raise RecordError(f"--compare: nothing is called {name!r}; there is {', '.join(there)}")
    for (suite, task, by), methods in scored.items() if compare else ():
        for other in compare[1:]:
            if any(len(methods.get(name, ())) != 1 for name in (compare[0], other)):
                notes.append(f"{suite}/{task}, {by}: not one run each of {compare[0]} and {other}, so no difference")
                continue
            one, its = methods[compare[0]][0], methods[other][0]
            a, b = one.score.dropna(how="all"), its.score.dropna(how="all")  # without seeds of no valid verdict
            here = f"{suite}/{task}, {by}: {one.row} and {its.row}"
            both, seeds = a.columns.intersection(b.columns), a.index.intersection(b.index)
            if not len(both) or not len(seeds):
                notes.append(f"{here} share no {'prompt' if len(seeds) else 'seed'}, so no difference")
                continue
            for what, mine, either in (
                ("prompts", both, a.columns.union(b.columns)),
                ("seeds", seeds, a.index.union(b.index)),
            ):
                if len(mine) < len(either):
                    notes.append(f"{here} share {len(mine)} of {len(either)} {what}; their difference is over those")
            a, b = a.loc[seeds, both], b.loc[seeds, both]
            found = paired(a.to_numpy(), b.to_numpy(), generator(suite, task))
            trained = by_seeds(a.to_numpy(), b.to_numpy())
            if trained.seeds > 1 and math.isnan(trained.seeds_low):
                notes.append(f"{here} differ by as much on each of {trained.seeds} seeds, so no interval over seeds")
            known = {"suite": suite, "task": task, "judge": by, "first": one.row, "second": its.row}
            gained = {name: _gained(one.rewards[name], its.rewards[name], seeds, both) for name in MEASURED}
            scored_both = not math.isnan(gained["proxy"]) or not math.isnan(gained["soft"])
            if scored_both and _reward_models(one.run, seeds) != _reward_models(its.run, seeds):
                notes.append(f"{here} have other reward models, so no difference of proxy and soft")
                gained |= {"proxy": math.nan, "soft": math.nan}
            yield known | found._asdict() | trained._asdict() | gained


def _gained(a: pd.DataFrame, b: pd.DataFrame, seeds: pd.Index, prompts: pd.Index) -> float:
    """The mean of a reward minus that of another over the answers that both have; NaN without any."""
    return float((a.loc[seeds, prompts] - b.loc[seeds, prompts]).stack().mean())


def _reward_models(run: Run, seeds: pd.Index) -> dict[int, set[str]]:
    """Seed -> fingerprints of its reward models."""
    return {
        seed: {stage["fingerprint"] for stage in source.meta.get("stages") or [] if stage["name"] == REWARD}
        for source in run.sources for seed in source.seeds if seed in seeds
    }  # fmt: skip


def _in_passes(took: float) -> str:
    return "" if math.isnan(took) else f" ({took:.0f} passes)"


def _by_seeds(row: dict[str, Any]) -> str:
    """What the seeds say of a difference; "" where they cannot."""
    if math.isnan(row["seeds_low"]):
        return ""
    return f", [{100 * row['seeds_low']:+.1f}, {100 * row['seeds_high']:+.1f}] over {row['seeds']} seeds"


def _screen(title: str, rows: pd.DataFrame, console: Console) -> Table | Text:
    """The win rates of one judge on one task; in lines where the rows do not fit."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    names = ("win rate [95%]", "passes", "at equal length", "win", "tie", "loss", "invalid", "orders agree",
             "longer by", "n")  # fmt: skip
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    entries = []
    for row in rows.to_dict("records"):
        shares = [_percent(row[name]) for name in ("win", "tie", "loss", "invalid", "consistent")]
        of = f" of {row['meant']}" if row["seeds"] < row["meant"] else ""
        longer = DASH if math.isnan(row["longer"]) else f"{row['longer']:+.0f} chars"
        passes = DASH if math.isnan(row["passes"]) else f"{row['passes']:.0f}"
        cells = [_interval(row, "win_rate", "low", "high"), passes,
                 _interval(row, "controlled", "controlled_low", "controlled_high"), *shares, longer,
                 f"{row['prompts']} x {row['seeds']}" + of]  # fmt: skip
        table.add_row(row["row"], *cells)
        said = [joined(f"{name} {cell}") for name, cell in zip(names, cells, strict=True)]
        entries.append((row["row"], [", ".join(said)]))
    return table if fits(console, table) else listed(title, entries, console.width)


def _interval(row: dict[str, Any], value: str, low: str, high: str) -> str:
    known = not math.isnan(row[value])
    return f"{100 * row[value]:.1f} [{100 * row[low]:.1f}, {100 * row[high]:.1f}]" if known else DASH


def _percent(share: float) -> str:
    return DASH if math.isnan(share) else f"{100 * share:.1f}"
