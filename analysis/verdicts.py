"""`python -m analysis.verdicts results/`: win rates of language runs against the reference, by every judge there was.

Judges: `recorded:<task.judge>`, who gave the scores of episodes.csv, and each `verdicts-<judge>.csv` that
`python -m tasks.judge` left beside a run's responses, as long as these are the ones it judged.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.verdicts:app")

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.choices import FIXED, HELD_OUT, Arms, average, best, held_out, settings
from analysis.layout import fits, joined, listed
from analysis.notes import brief, tell
from analysis.output import folder, of_records, prepare, say, screen, write_csv
from analysis.records.files import RecordError, shown
from analysis.records.labels import labelled
from analysis.records.load import Records, load, only
from analysis.records.mirror import default_out, spoken
from analysis.records.protocols import EVERY
from analysis.records.runs import Run
from analysis.records.verdict_files import judged, texts, verdict_files
from analysis.select import headline
from analysis.statistics.estimates import generator
from analysis.statistics.winrate import by_seeds, length_controlled, paired, rates, wilson, win_rate
from core.errors import BadInput

RECORDED = "recorded"
VALIDATION = "validation"  # a rule of choice, and the split of prompts that it is made on
VALUES = ("score", "consistent", "longer", "cost")
"""Of a verdict; `longer`: characters that the response has more than the reference. NaN where not known."""
DASH = "\N{EM DASH}"

Judges = dict[str, list[tuple[Path, str]]]
"""Judge -> of each seed, the file of its verdicts and the SHA-256 of the texts beside it."""
Verdicts = dict[str, np.ndarray]
"""VALUES -> `[k, s, e]`."""
Scores = dict[tuple[str, str, str], dict[str, list[tuple[str, pd.DataFrame]]]]
"""(suite, task, judge) -> method, or a row's name -> of each of its runs (row, seeds by prompts, which are named by
number and hash)."""

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
) -> None:
    """(win + tie / 2) / valid with 95% intervals over prompts; ties, invalid answers, agreement of the two orders; the
    win rate at equal lengths; differences between methods over the same prompts."""
    names = () if compare is None else _names(compare)
    if judge is not None and not judge.strip():
        raise RecordError("--judge is empty")
    place = prepare(out or default_out(results, "tables"))
    records = load(results, protocol=EVERY)  # language suites have no names for them
    if select not in (HELD_OUT, VALIDATION):
        raise RecordError(f"--select {shown(select)} is neither {HELD_OUT} nor {VALIDATION}")
    beside = _of_split(records, validation=True) if select == VALIDATION else None
    if beside is not None:
        records = _of_split(records, validation=False)
    table, differences, notes = tabulate(records, judge or "", names, beside)
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
    for row in differences.to_dict("records"):
        value, low, high = (100 * row[name] for name in ("value", "low", "high"))
        console.print(f"{row['task']}, {row['judge']}: {row['first']} - {row['second']} = {value:+.1f} points "
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
    records: Records, judge: str = "", compare: Sequence[str] = (), validation: Records | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """(a row a run, judge and setting; a row a difference of `compare`'s first method from another; notes).

    Rows beside the settings' own: "(validation)", the setting that wins most in the records `validation`; without those
    "(held-out)", picked on the even prompts and scored on the odd ones, and the reverse.
    Columns: suite, task, judge, method, label, row, rule, picks, seeds, meant and told (of seeds without
    verdicts), those of `winrate.Rates`, win_rate, low, high, wilson_low, wilson_high, controlled, controlled_low,
    controlled_high, longer (mean characters), cost (USD), passes
    (of one sequence through a network, an answer's mean; NaN where not recorded).
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    scored: Scores = {}
    picked = {} if validation is None else _picked(validation, judge, notes)
    for run_, by, order, seeds, prompts, names, values in _found(records, judge, notes):
        told = run_.told(seeds.tolist(), "without its verdicts")
        notes += [f"{run_.name}, {by}: {told}"] if told else []
        of = Arms(values["score"], order, seeds, prompts)
        chosen = [(name, FIXED, name, {key: value[k] for key, value in values.items()}) for k, name in enumerate(order)]
        choice = held_out(of) if len(order) > 1 and validation is None else None
        on_validation = picked.get((run_.suite, run_.task, by, run_.label))
        if on_validation in order and len(order) > 1:
            mine = {key: value[order.index(str(on_validation))] for key, value in values.items()}
            chosen.append(("(validation)", VALIDATION, str(on_validation), mine))
        elif validation is not None and len(order) > 1:
            notes.append(f"{run_.name}, {by}: no setting picked on validation prompts (of these: {on_validation})")
        if choice is not None:
            pick = np.where(prompts % 2 == 1, order.index(choice.picks[0]), order.index(choice.picks[-1]))
            mine = {key: value[pick, :, np.arange(len(prompts))].T for key, value in values.items()}
            chosen.append(("(held-out)", HELD_OUT, " / ".join(choice.picks), mine))
        identity = {"suite": run_.suite, "task": run_.task, "judge": by, "method": run_.method, "label": run_.label}
        here, spent = scored.setdefault((run_.suite, run_.task, by), {}), _passes(records, run_)
        for name, rule, picks, mine in chosen:
            row = f"{run_.label} {name}".strip()
            known = {"row": row, "rule": rule, "picks": picks, "seeds": len(seeds), "meant": len(run_.meant)}
            known |= {"told": told}
            passes = average(np.array([spent.get(pick, math.nan) for pick in picks.split(" / ")]), 0)
            rows.append(identity | known | _numbers(mine, run_) | {"passes": float(passes)})
            score = pd.DataFrame(mine["score"], index=seeds, columns=names)
            if row != run_.method:
                here.setdefault(row, []).append((row, score))
        if len(order) > 1 and choice is None and validation is None:
            notes.append(f"{run_.name}, {by}: no held-out row; some setting has no even or no odd prompts")
        elif len(order) == 1 or len(chosen) > len(order):  # by its only setting, or by the choice, which comes last
            here.setdefault(run_.method, []).append((row, score))
    return pd.DataFrame(rows), pd.DataFrame(_differences(scored, compare, notes)), notes


def _picked(validation: Records, judge: str, notes: list[str]) -> dict[tuple[str, str, str, str], str]:
    """(suite, task, judge, label) -> the setting that wins most on validation prompts."""
    return {
        (run_.suite, run_.task, by, run_.label): order[best(values["score"])]
        for run_, by, order, _, _, _, values in _found(validation, judge, notes)
    }


def _of_split(records: Records, *, validation: bool) -> Records:
    """The runs on prompts of the validation split, or those on others, called by what tells them apart among their own.
    Raises: RecordError: there are none."""
    runs = [run for run in records.runs if (run.settings.get("prompt_split") == VALIDATION) == validation]
    if not runs:
        which = "with" if validation else "without"
        raise RecordError(f"--select {VALIDATION}: no run {which} prompt_split={VALIDATION}")
    labels, _ = labelled(runs)
    return only(records, runs, {run.label: labels.get(run.key, run.series) for run in runs})


def _passes(records: Records, run_: Run) -> dict[str, float]:
    """Setting -> passes of one sequence that an answer took, the mean of the evaluation that counts."""
    rows = headline(records.measured(run_))
    return {} if "compute" not in rows else rows.groupby("setting", observed=True)["compute"].mean().to_dict()


def _numbers(of: Verdicts, run_: Run) -> dict[str, float]:
    """The columns of one row, from its verdicts `[s, e]`."""
    scores, longer = of["score"], of["longer"]
    judged = ~np.isnan(of["cost"])  # both judged and recorded rows have one
    rng = generator(run_.suite, run_.task)
    own, found = win_rate(scores, rng), rates(scores, of["consistent"], judged)
    prompts = int((~np.isnan(scores)).any(axis=0).sum())
    low, high = wilson(float(own.value), prompts)
    level = length_controlled(scores, longer) if not np.isnan(longer[~np.isnan(scores)]).any() else [math.nan] * 3
    more = float(np.nanmean(longer)) if not np.isnan(longer).all() else math.nan
    names = ("controlled", "controlled_low", "controlled_high")
    return (
        found._asdict()
        | dict(zip(("win_rate", "low", "high"), map(float, own), strict=True))
        | {"wilson_low": low, "wilson_high": high}
        | dict(zip(names, map(float, level), strict=True))
        | {"longer": more, "cost": float(np.nansum(of["cost"]))}
    )


def _found(
    records: Records, judge: str, notes: list[str]
) -> Iterator[tuple[Run, str, list[str], np.ndarray, np.ndarray, list[str], Verdicts]]:
    """(run, judge, settings, seeds, prompts, their names, verdicts) of every run that was judged."""
    for run_, rows in records.each(scored=False):
        about, names, judges = _texts(run_, notes)
        if about is None:
            continue
        order = settings(headline(rows), run_.knobs)
        itself = ":".join(filter(None, (RECORDED, (run_.meta.get("task_options") or {}).get("judge"))))
        for by in [*([itself] if rows["score"].notna().any() else []), *sorted(judges)]:
            if not by.startswith(judge):
                continue
            try:
                tables = [_recorded(rows, run_)] if by == itself else []
            except BadInput as error:
                notes.append(f"{run_.name}: {error}, left out")
                continue
            for path, sha256 in judges.get(by, ()):
                try:
                    tables.append(judged(path, run_.knobs, sha256))
                except BadInput as error:
                    notes.append(f"{run_.name}: {error}, left out")
            if not tables:
                continue
            table = pd.concat(tables, ignore_index=True)
            table = table[table["seed"].isin(about["seed"])]
            known = table["setting"].isin(order)
            if not known.all():
                notes.append(
                    f"{run_.name}, {by}: {(~known).sum()} verdicts on settings that the records lack, left out"
                )
            table = table[known].merge(about, on=["seed", "setting", "episode"], how="left")
            if len(table):
                mine = [name for name in order if name in set(table["setting"])]
                seeds, prompts, values = _arrays(table, mine)
                yield run_, by, mine, seeds, prompts, [names.get(one, f"{one}") for one in prompts], values


def _texts(run_: Run, notes: list[str]) -> tuple[pd.DataFrame | None, dict[int, str], Judges]:
    """(what `texts` says of all seeds, None without any; names of the prompts; verdicts files by judge).

    A seed whose texts cannot be read, or which answered other prompts, is left out with a note.
    """
    frames, names, judges = list[pd.DataFrame](), dict[int, str](), Judges()
    for source in run_.sources:
        path = source.folder / "responses.jsonl"
        if not path.exists():
            continue
        try:
            about, own, sha256 = texts(path, run_.knobs)
            files = verdict_files(source.folder, notes)
            if not about["seed"].isin(source.seeds).all():
                raise RecordError(f"{path} has responses of other seeds than its run.json")
            if any(names.get(episode, name) != name for episode, name in own.items()):
                raise RecordError(f"{path} answers other prompts than the seeds before it")
        except BadInput as error:
            notes.append(f"{run_.name}: {error}, left out")
            continue
        frames.append(about)
        names |= own
        for by, file in files.items():
            judges.setdefault(by, []).append((file, sha256))
    return pd.concat(frames, ignore_index=True) if frames else None, names, judges


def _arrays(table: pd.DataFrame, order: list[str]) -> tuple[np.ndarray, np.ndarray, Verdicts]:
    """(seeds, prompts, VALUES as `[k, s, e]`)."""
    seed, seeds = pd.factorize(table["seed"].to_numpy(), sort=True)
    episode, prompts = pd.factorize(table["episode"].to_numpy(), sort=True)
    at = (pd.Categorical(table["setting"], categories=order).codes, seed, episode)
    values = {name: np.full((len(order), len(seeds), len(prompts)), np.nan) for name in VALUES}
    for name, array in values.items():
        array[at] = table[name].to_numpy(float)
    return seeds, prompts, values


def _recorded(rows: pd.DataFrame, run_: Run) -> pd.DataFrame:
    """The verdicts behind the scores of the evaluation that counts. Raises: RecordError if they are none."""
    last = headline(rows)
    scores = last["score"].to_numpy(float) / 100  # read in percent
    if (odd := ~np.isin(scores, (0.0, 0.5, 1.0)) & ~np.isnan(scores)).any():
        raise RecordError(f"a score of {scores[odd][0]:g} is no verdict")
    table = last[["seed", "episode"]].assign(setting=last["setting"].astype(str), score=scores, cost=0.0)
    return table.assign(consistent=np.nan)


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
            (first, a), (second, b) = methods[compare[0]][0], methods[other][0]
            both, either = a.columns.intersection(b.columns), a.columns.union(b.columns)
            if len(both) < len(either):
                notes.append(f"{suite}/{task}, {by}: {first} and {second} share {len(both)} of {len(either)} prompts; "
                             "their difference is over those")  # fmt: skip
            found = paired(a[both].to_numpy(), b[both].to_numpy(), generator(suite, task))
            seeds = a.index.intersection(b.index)
            trained = by_seeds(a.loc[seeds, both].to_numpy(), b.loc[seeds, both].to_numpy())
            known = {"suite": suite, "task": task, "judge": by, "first": first, "second": second}
            yield known | found._asdict() | trained._asdict()


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
