"""`python -m analysis.offline results/`: what is lost by choosing settings without the environment, by each rule of
`offline_rules.py`, against the choice on held-out episodes.

Half of the environments, by a hash of their names that stands here, are kept for confirmation: they are shown with
`--confirm`, and alone. So a rule that was preferred on the others is judged where nobody has looked.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.offline:app")

import hashlib
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy
import typer
from rich import box
from rich.table import Table

from analysis.choices import FIXED, Arms, arms, average, by_estimates, held_out, settings
from analysis.notes import brief, tell
from analysis.offline_rules import RULES, Estimates, estimates, preferences
from analysis.output import environment, folder, markdown, of_records, prepare, say, screen, write_csv
from analysis.query import Asked, Ends, Methods, Query, Runs
from analysis.records.files import RecordError, shown
from analysis.records.load import Records
from analysis.records.mirror import default_out, spoken
from analysis.records.runs import Run
from analysis.select import Endpoint, Rule
from analysis.statistics.estimates import student
from analysis.statistics.noise import settled
from analysis.tuning.sweeps import Sweep, sweeps
from core.files import write_text
from core.options import parts

WIDTH = 110
KNOBS, SWEEP = "knobs", "sweep"
ALL = "all methods"
HEADS = {"regret": "points below the held-out choice [95%]", "spearman": "rank correlation", "oracle_regret":
         "points below the best of each seed", "fixed_regret": "regret of the fixed setting"}  # fmt: skip
LEGEND = ("Regret: points of the held-out choice less those of the rule's pick; below 0 the pick is better. Rank "
          "correlation: Spearman's, of the rule's preference and the score over settings. Points below the best of "
          "each seed are biased upward, as that is chosen on what it is scored on.")  # fmt: skip

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Case(NamedTuple):
    """k settings to choose among, on one task."""

    scope: str
    """KNOBS: the test-time settings of one run; SWEEP: those of several runs together, L_train among them."""
    suite: str
    task: str
    method: str
    label: str
    arms: Arms
    known: Estimates
    fixed: int | None
    """The arm that was stated before looking, if one was."""


class Outcome(NamedTuple):
    """What one rule lost on one case; a value a seed, `[s]`."""

    case: Case
    rule: str
    seeds: np.ndarray
    regret: np.ndarray
    """Mean score of the held-out choice less that of the rule's pick."""
    oracle_regret: np.ndarray
    """The largest mean score over settings less that of the pick: never negative, and biased as the oracle is."""
    fixed_regret: np.ndarray
    """As `regret`, of the fixed setting; NaN where none was stated."""
    spearman: float
    """Between preferences and mean scores over settings, a mean over seeds; NaN where either is constant."""


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=of_records, help="The folder that holds runs/, or its URL.")] = Path(
        "results"
    ),
    confirm: Annotated[bool, typer.Option("--confirm", help="The environments kept for confirmation, alone.")] = False,
    fixed: Annotated[str, typer.Option(help="The setting to compare with: fixed:1 (L_test), fixed:w=0.02,N=4.")] = (
        "fixed:1"
    ),
    keys: Annotated[
        str, typer.Option(help="Settings of training to choose among trained runs: those of L_train if unset.")
    ] = "train_flow_steps",
    out: Annotated[Path | None, typer.Option(parser=folder, help="A folder; RESULTS/tables if unset.")] = None,
    methods: Methods = None,
    which: Runs = None,
    endpoint: Ends = "last",
    protocol: Asked = None,
) -> None:
    """Regret and rank correlation of each rule that chooses settings from data and trained parts alone."""
    stated = Rule.parse(fixed)
    if stated.name != FIXED:
        raise RecordError(f"--fixed {shown(fixed)}: it states a setting, as fixed:1 does")
    place = prepare(out or default_out(results, "tables"))
    query = Query.of(methods, which, protocol, endpoint)
    records = query.load(results)
    found, notes = cases(records, query.endpoint, stated.at, parts("--keys", keys, "settings"))
    if not found:
        raise RecordError(f"no run under {spoken(results)}/runs has estimates and two settings; "
                          f"{brief([*notes, *records.notes], records)}")  # fmt: skip
    kept = [case for case in found if confirming(environment(case.task)) == confirm]
    if len(kept) < len(found):
        others = sorted({environment(case.task) for case in found} - {environment(case.task) for case in kept})
        why = "shown without --confirm" if confirm else "kept for confirmation: --confirm"
        notes.append(f"{len(others)} environment{'s' * (len(others) > 1)} {why}: {', '.join(others)}")
    if not kept:
        raise RecordError(notes[-1])
    outcomes = [one for case in kept for one in judged(case, notes)]
    if not outcomes:
        raise RecordError(f"nothing can be chosen: {brief(notes, records)}")
    table = summary(outcomes)
    name = "offline-confirm" if confirm else "offline"
    write_csv(place / f"{name}.csv", table)
    write_csv(place / f"{name}-cases.csv", each(outcomes))
    write_text(place / f"{name}.md", page(table, confirm, notes))
    console = screen(WIDTH)
    for (scope, suite), rows in table.groupby(["scope", "suite"], sort=False):
        console.print(_screen(f"{suite}: choosing {_scoped(str(scope))}", rows))
    say(place / f"{name}.md", place / f"{name}.csv", place / f"{name}-cases.csv")
    tell([*records.notes, *notes], records, place / f"{name}-notes.csv")


def confirming(name: str) -> bool:
    """Whether an environment is kept for confirmation: the SHA-256 of its name is odd."""
    return bool(hashlib.sha256(name.encode()).digest()[-1] % 2)


# ---- what there is to choose among ----


def cases(
    records: Records, endpoint: Endpoint, fixed: Mapping[str, float], keys: Sequence[str]
) -> tuple[list[Case], list[str]]:
    """Every run with two settings and estimates, and every two runs or more that differ in `keys` alone."""
    found, notes = list[Case](), list[str]()
    pieces: dict[tuple[Path, bool], tuple[pd.DataFrame, Estimates]] = {}
    for run, rows in records.each():
        rows, missing = endpoint.of(run, rows)
        known = estimates(run) if len(rows) else missing or "no evaluation that counts"
        if isinstance(known, str):
            if run.knobs or "offline.csv" not in known:
                notes.append(f"{run.suite}/{run.task} {run.label}: {known}")
            continue
        pieces[run.key] = rows, known
        names = settings(rows, run.knobs)
        if len(names) > 1:
            place = _stated(fixed, run.knobs, {name: _values(rows, run, name) for name in names})
            found.append(Case(KNOBS, run.suite, run.task, run.method, run.label, arms(rows, names), known, place))
    for sweep in sweeps(records, endpoint, Rule(), keys)[0]:
        case = _united(sweep, pieces, fixed)
        found += [case] if isinstance(case, Case) else []
        notes += [f"{sweep.suite}/{sweep.task} {sweep.label}: {case}"] if isinstance(case, str) else []
    return found, notes


def _united(
    sweep: Sweep, pieces: Mapping[tuple[Path, bool], tuple[pd.DataFrame, Estimates]], fixed: Mapping[str, float]
) -> Case | str | None:
    """All settings of all runs of a sweep as one case; why not, or None where fewer than two runs have estimates."""
    members = [one for one in sweep.settings if one.run.key in pieces]
    if len(members) < 2:
        return None
    frames, tables, order, values = list[pd.DataFrame](), list[pd.DataFrame](), list[str](), dict[str, dict[str, Any]]()
    for one in members:
        rows, known = pieces[one.run.key]
        own = settings(rows, one.run.knobs)
        order += [f"{one.name} {name}".strip() for name in own]
        frames.append(rows.assign(setting=[f"{one.name} {name}".strip() for name in rows["setting"].astype(str)]))
        tables.append(known.table.assign(setting=[f"{one.name} {name}".strip() for name in known.table["setting"]]))
        values |= {f"{one.name} {name}".strip(): {**one.values, **_values(rows, one.run, name)} for name in own}
    table = pd.concat(tables, ignore_index=True)
    if table[["data", "transitions", "split", "updates"]].drop_duplicates().shape[0] > 1:
        return "estimates at other transitions, or of other lengths, cannot be compared: not chosen among"
    rows = pd.concat(frames, ignore_index=True)
    rows["setting"] = pd.Categorical(rows["setting"], order)
    names = [*members[0].values, *members[0].run.knobs]
    known = Estimates(table, np.sort(table["seed"].unique()))
    return Case(SWEEP, sweep.suite, sweep.task, sweep.method, sweep.label, arms(rows, order), known,
                _stated(fixed, names, values))  # fmt: skip


def _values(rows: pd.DataFrame, run: Run, setting: str) -> dict[str, float]:
    """The knobs of a setting."""
    first = rows[rows["setting"] == setting].iloc[0]
    return {knob: float(first[knob]) for knob in run.knobs}


def _stated(fixed: Mapping[str, float], names: Sequence[str], of: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The place of the setting that `fixed` states for all `names`; None where it does not, or there is none."""
    if not set(names) <= set(fixed):
        return None
    same = [all(_number(values[name]) == fixed[name] for name in names) for values in of.values()]
    return same.index(True) if True in same else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


# ---- what each rule loses ----


def judged(case: Case, notes: list[str]) -> Iterator[Outcome]:
    """What each rule made of a case; notes on those that cannot be asked."""
    name = f"{case.suite}/{case.task} {case.label}"
    best = held_out(case.arms)
    if best is None:
        notes.append(f"{name}: some setting has no even or no odd episodes to choose on")
        return
    yardstick = best.means()
    means = settled(average(case.arms.scores, 2))  # [k, s]
    for rule in RULES:
        values, seeds = preferences(case.known, rule, case.arms.settings)
        choice = by_estimates(case.arms, values, seeds, rule)
        if choice is None:
            notes.append(f"{name}: {rule} says nothing of these settings")
            continue
        at = [case.arms.seeds.tolist().index(seed) for seed in choice.seeds]
        picked, there = choice.means().to_numpy(float), yardstick[choice.seeds].to_numpy(float)
        of_fixed = np.full(len(at), math.nan) if case.fixed is None else there - means[case.fixed, at]
        mine = values[:, [seeds.tolist().index(seed) for seed in choice.seeds]]
        yield Outcome(case, rule, choice.seeds, there - picked, np.nanmax(means[:, at], axis=0) - picked, of_fixed,
                      correlation(mine, means[:, at]))  # fmt: skip


def correlation(preferred: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's rank correlation over settings, a mean over seeds, of `[k, s]` each; NaN where none has any."""
    found = []
    for one, other in zip(preferred.T, scores.T, strict=True):
        kept = ~np.isnan(one) & ~np.isnan(other)
        if kept.sum() > 1 and np.ptp(one[kept]) > 0 and np.ptp(other[kept]) > 0:
            found.append(float(scipy.stats.spearmanr(one[kept], other[kept]).statistic))
    return float(np.mean(found)) if found else math.nan


def summary(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row a (scope, suite, method, rule), and over all methods of a suite where there are several."""
    groups: dict[tuple[str, str, str, str], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[one.case.scope, one.case.suite, one.case.method, one.rule].append(one)
    for scope, suite in dict.fromkeys((one.case.scope, one.case.suite) for one in outcomes):
        if len({key[2] for key in groups if key[:2] == (scope, suite)}) > 1:
            for rule in RULES:
                every = [one for one in outcomes if (one.case.scope, one.case.suite, one.rule) == (scope, suite, rule)]
                groups[scope, suite, ALL, rule] += every
    rows = []
    for (scope, suite, method, rule), some in groups.items():
        if not some:
            continue
        value, low, high, over = overall(some, "regret")
        rows.append({
            "scope": scope, "suite": suite, "method": method, "rule": rule, "cases": len(some),
            "environments": len({environment(one.case.task) for one in some}),
            "regret": value, "low": low, "high": high, "over": over,
            "fixed_regret": overall(some, "fixed_regret")[0],
            "fixed_cases": sum(one.case.fixed is not None for one in some),
            "oracle_regret": overall(some, "oracle_regret")[0],
            "spearman": _mean([one.spearman for one in some]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def overall(outcomes: Sequence[Outcome], what: str) -> tuple[float, float, float, str]:
    """(mean, low, high, what the interval is over) of a loss. Environments weigh alike, and cases within each; the
    interval is Student's over environments, or where there is one over its seeds, by their means over cases. NaN where
    a case has none, unless all lack it."""
    by_environment = defaultdict[str, list[float]](list)
    by_seed = defaultdict[int, list[float]](list)
    for one in outcomes:
        values = getattr(one, what)
        if np.isnan(values).all():
            continue
        by_environment[environment(one.case.task)].append(float(np.nanmean(values)))
        for seed, value in zip(one.seeds.tolist(), values.tolist(), strict=True):
            by_seed[seed].append(value)
    if not by_environment:
        return math.nan, math.nan, math.nan, ""
    means = np.array([np.mean(of) for of in by_environment.values()])
    over = "environments" if len(means) > 1 else "seeds"
    units = means if len(means) > 1 else np.array([np.mean(of) for of in by_seed.values()])
    if len(units) < 2:
        return float(means.mean()), math.nan, math.nan, over
    low, high = student(units)
    return float(means.mean()), float(low), float(high), over


def _mean(values: Sequence[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but NaN
        return float(np.nanmean(values))


# ---- how it is shown ----


def each(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row a (case, rule): means over seeds."""
    return pd.DataFrame([
        {"scope": one.case.scope, "suite": one.case.suite, "task": one.case.task, "method": one.case.method,
         "label": one.case.label, "rule": one.rule, "settings": len(one.case.arms.settings), "seeds": len(one.seeds),
         "regret": float(one.regret.mean()), "fixed_regret": float(one.fixed_regret.mean()),
         "oracle_regret": float(one.oracle_regret.mean()), "spearman": one.spearman}
        for one in outcomes
    ])  # fmt: skip


def page(table: pd.DataFrame, confirm: bool, notes: Sequence[str]) -> str:
    """The table, what it means, and the notes, as Markdown."""
    half = "kept for confirmation" if confirm else "not kept for confirmation"
    lines = ["# Choosing without the environment", "", f"Of the environments {half}. {LEGEND}"]
    for (scope, suite), rows in table.groupby(["scope", "suite"], sort=False):
        lines += ["", f"## {markdown(str(suite))}: choosing {_scoped(str(scope))}", ""]
        lines += [
            "| method | rule | cases | " + " | ".join(HEADS.values()) + " |",
            "|:--|:--|--:|" + "--:|" * len(HEADS),
        ]
        lines += ["| " + " | ".join(map(markdown, _cells(row))) + " |" for _, row in rows.iterrows()]
    lines += ["", "## Notes", "", *(f"- {markdown(note)}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _scoped(scope: str) -> str:
    return "test-time settings" if scope == KNOBS else "among trained runs and their test-time settings"


def _cells(row: pd.Series) -> list[str]:
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}] over {row['over']}"
    numbers = ["" if math.isnan(row[name]) else f"{row[name]:.{2 if name == 'spearman' else 1}f}" for name in HEADS]
    return [str(row["method"]), str(row["rule"]), f"{row['cases']}", numbers[0] + interval, *numbers[1:]]


def _screen(title: str, rows: pd.DataFrame) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("method", "rule", "cases", *HEADS.values()):
        table.add_column(head, justify="left" if head in ("method", "rule") else "right")
    for _, row in rows.iterrows():
        table.add_row(*_cells(row))
    return table
