"""What a score costs: over wall-clock of training, and over value gradients when acting, as methods declare them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from analysis.figures.curves import SIZE, task_name
from analysis.figures.pyplot import plt
from analysis.figures.style import at_least_a_point, finish, looks
from analysis.records.inference import UNITS, Cost, unit
from analysis.records.inference import costs as declared
from analysis.records.load import Records
from analysis.select import FIXED, HELD_OUT, PICKS, Rule, choose
from analysis.statistics.estimates import generator


def clock(records: Records, rule: Rule | None = None) -> tuple[pd.DataFrame, list[str]]:
    """One row a (run, evaluation): suite, task, method, label, device, step, seconds, picks, and the Summary of the
    choice by the rule (held-out if unset) at that evaluation; notes on runs whose stages do not say how long they took.

    Seconds are those of all its stages, whoever trained them: what the method costs alone. Within its last stage time
    is taken to go evenly over the steps; of its evaluations only those in that stage, before any online phase.
    """
    points: list[dict[str, object]] = []
    notes = []
    for run, rows in records.each():
        name = {"suite": run.suite, "task": run.task, "method": run.method, "label": run.label}
        stages = [(stage.get("seconds"), stage.get("steps")) for stage in run.meta.get("stages") or []]
        if run.online or not stages or not all(_positive(s) and _positive(n) for s, n in stages[-1:]):
            trains_last = not stages or stages[-1][1] != 0  # a language run's last stages respond and judge
            if not run.online and trains_last:
                notes.append(f"{run.suite}/{run.task} {run.label}: no seconds of its stages, not over wall-clock")
            continue
        before = sum(seconds or 0.0 for seconds, _ in stages[:-1])
        last, steps = stages[-1]
        for step, group in rows.groupby("step"):
            choice = choose(run, group, rule or Rule())
            if isinstance(choice, str) or step > steps:
                continue
            summary = choice.summary(generator(run.suite, run.task))
            at = {"device": device(run.meta), "step": step, "seconds": before + last * step / steps}
            points.append(name | at | {"picks": " / ".join(choice.picks)} | summary._asdict())
    return pd.DataFrame(points), notes


def device(meta: Mapping[str, Any]) -> str:
    """ "cpu", "NVIDIA H200", as a run.json says."""
    found = meta.get("device")
    return str(found.get("kind") or found.get("platform")) if isinstance(found, dict) else str(found)


def draw_clock(points: pd.DataFrame, units: Mapping[str, str] = UNITS) -> Figure:
    """Score over seconds of training, log scale; runs on other devices have open markers."""
    devices = list(points["device"].value_counts().index)
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    handles, names = [], []
    for label, line in points.groupby("label", observed=True, sort=True):
        look = styles[str(label)]
        elsewhere = line["device"].iloc[0] != devices[0]
        axes.fill_between(line["seconds"], line["low"], line["high"], color=look.color, alpha=0.15, lw=0)
        error = [line["mean"] - line["low"], line["high"] - line["mean"]]
        face = "none" if elsewhere else look.color
        drawn = axes.errorbar(
            line["seconds"], line["mean"], error, color=look.color, fmt=f"{look.marker}{look.line}", lw=1.4, ms=4,
            elinewidth=0.8, markerfacecolor=face,
        )  # fmt: skip
        handles.append(drawn)
        names.append(str(label) + (f" ({line['device'].iloc[0]})" if elsewhere else ""))
    axes.set_xscale("log")
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(ScalarFormatter())
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))  # more labels would run into each other
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.set(
        xlabel=f"training of all seeds, compilation included [s on {devices[0]}]",
        ylabel=unit(str(points["suite"].iloc[0]), units),
    )  # fmt: skip
    at_least_a_point(axes)
    return finish(figure, f"{task_name(points)}: score over wall-clock", handles, names)


def over_gradients(records: Records, cells: pd.DataFrame) -> pd.DataFrame:
    """Rows of `select.scores` with the declared `passes` and `gradients` (an action), of runs that declare them.

    Rows: every setting that costs gradients, and of each run one point without any: its setting at none, the held-out
    choice if there are several (whose passes are unknown where its picks differ in them).
    """
    rows = []
    known = {(run.suite, run.task, run.label): declared(run) for run in records.runs}
    for key, run in cells.groupby(["suite", "task", "label"], observed=True, sort=False):
        of = known[key]
        fixed = run[run["rule"] == FIXED]
        if not set(fixed["setting"]) <= of.keys():
            continue
        fixed = _priced(fixed, [of[setting] for setting in fixed["setting"]])
        free = fixed[fixed["gradients"] == 0]
        if len(free) > 1 and len(free) == len(fixed):
            chosen = run[run["rule"] == HELD_OUT]
            free = _chosen(chosen, of) if len(chosen) else free.iloc[-1:]
        elif len(free) > 1:  # a guidance of weight zero: the one with the most samples
            free = free.loc[[free["passes"].idxmax()]]
        rows.append(pd.concat([free, fixed[fixed["gradients"] > 0]]).sort_values("gradients"))
    return pd.concat(rows, ignore_index=True) if rows else cells.iloc[:0].assign(passes=0.0, gradients=0.0)


def undeclared(records: Records) -> list[str]:
    """A note that names the methods of which records do not say what an action costs; none if all do."""
    methods = sorted({run.method for run in records.runs if not declared(run)})
    what = f"records of {', '.join(methods)} do not declare what an action costs, so are not shown over gradients"
    return [what] if methods else []


def _priced(rows: pd.DataFrame, of: Sequence[Cost]) -> pd.DataFrame:
    return rows.assign(passes=[cost.passes for cost in of], gradients=[cost.gradients for cost in of])


def _chosen(rows: pd.DataFrame, of: Mapping[str, Cost]) -> pd.DataFrame:
    """Held-out rows with what their picks cost: one number, or NaN where the picks differ."""
    each = [{of[pick] for pick in picks.split(PICKS)} for picks in rows["picks"]]
    return _priced(rows, [costs.pop() if len(costs) == 1 else Cost(math.nan, 0.0) for costs in each])


def draw_gradients(points: pd.DataFrame, units: Mapping[str, str] = UNITS) -> Figure:
    """Score over gradient evaluations an action; those without any stand side by side around zero.

    Lines join the settings of one knob; where several settings cost the same, each is named instead.
    """
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    handles, names = [], []
    crowd = sorted(set(points.loc[points["gradients"] == 0, "label"].astype(str)))
    for label, line in points.groupby("label", observed=True, sort=True):
        look = styles[str(label)]
        error = [line["mean"] - line["low"], line["high"] - line["mean"]]
        aside = 0.5 * (crowd.index(str(label)) + 0.5) / len(crowd) - 0.25 if str(label) in crowd else 0.0
        at = line["gradients"].replace(0, aside)
        handles.append(
            axes.errorbar(at, line["mean"], error, color=look.color, fmt=look.marker, ms=4.5, elinewidth=0.8, mew=0)
        )
        paid = line["gradients"] > 0
        if line["gradients"].is_unique:
            axes.plot(at[paid], line.loc[paid, "mean"], look.line, color=look.color, lw=1.2)
        else:  # settings that cost the same are told apart by name
            for x, y, row in zip(at[paid], line.loc[paid, "mean"], line.loc[paid, "row"], strict=True):
                name = str(row).removeprefix(str(label)).strip()
                axes.annotate(name, (x, y), (4, 0), textcoords="offset points", fontsize=5, va="center", color="0.35")
        names.append(
            str(label) + (f" {line['row'].iloc[0].removeprefix(str(label)).strip()}" if len(line) == 1 else "")
        )
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_minor_locator(NullLocator())
    most = points["gradients"].max()
    axes.set_xticks(ticks := [t for t in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if t <= 1.5 * most], map(str, ticks))
    axes.set_xlim(-0.3, max(1.3 * most, 1.2))
    axes.set(
        xlabel="value-gradient evaluations per action at test time [-]; at 0: side by side",
        ylabel=unit(str(points["suite"].iloc[0]), units),
    )
    at_least_a_point(axes)
    return finish(figure, f"{task_name(points)}: score over gradient evaluations", handles, names)


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and value > 0
