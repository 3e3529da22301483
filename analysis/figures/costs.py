"""What a score costs: over wall-clock of training, and over value gradients when acting, as methods declare them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from analysis.choices import FIXED
from analysis.figures import page as on
from analysis.figures.curves import BANDS, task_name
from analysis.figures.knobs import how
from analysis.figures.looks import looks
from analysis.figures.material import Frames, Material, by_task, cells, curve, picked
from analysis.figures.page import Page
from analysis.figures.style import at_least_a_point
from analysis.records.inference import Cost
from analysis.records.inference import costs as declared
from analysis.records.load import Records
from analysis.select import PICKS


@by_task
def clock(material: Material) -> pd.DataFrame:
    """One row a (run, evaluation): suite, task, method, label, device, step, seconds, picks, and the Summary of the
    choice at that evaluation; notes on runs whose stages do not say how long they took.

    Seconds are those of all its stages, whoever trained them: what the method costs alone. Within its last stage time
    is taken to go evenly over the steps; of its evaluations only those in that stage, before any online phase.
    """
    at = material.once(curve)
    if at.empty:
        return at
    at, frames = at.drop(columns=["online", "phase"]), []
    of = dict(list(at.groupby(["suite", "task", "label"], observed=True, sort=False)))
    for run, _ in material.records.each():
        stages = [(stage.get("seconds"), stage.get("steps")) for stage in run.meta.get("stages") or []]
        if run.online or not stages or not all(_positive(s) and _positive(n) for s, n in stages[-1:]):
            trains_last = not stages or stages[-1][1] != 0  # a language run's last stages respond and judge
            if not run.online and trains_last:
                note = f"{run.suite}/{run.task} {run.label}: no seconds of its stages, not over wall-clock"
                material.notes.append(note)
            continue
        before = sum(seconds or 0.0 for seconds, _ in stages[:-1])
        last, steps = stages[-1]
        mine = of.get((run.suite, run.task, run.label), at.iloc[:0])
        mine = mine[mine["step"] <= steps]
        mine.insert(4, "device", device(run.meta))
        mine.insert(6, "seconds", before + last * mine["step"] / steps)
        frames.append(mine)
    return pd.concat(frames, ignore_index=True) if frames else at.iloc[:0]


def of_clock(material: Material, suite: str, task: str) -> Frames:
    if len(points := material.here(clock, suite, task)):
        yield "wall-clock", points


@by_task
def paid(material: Material) -> pd.DataFrame:
    material.notes.extend(line for line in undeclared(material.records) if line not in material.notes)
    return over_gradients(material.records, material.once(cells), material.once(picked))


def of_gradients(material: Material, suite: str, task: str) -> Frames:
    points = material.here(paid, suite, task)
    if len(points) and points["gradients"].max() > 0:
        yield "gradients", points


def device(meta: Mapping[str, Any]) -> str:
    """ "cpu", "NVIDIA H200", as a run.json says."""
    found = meta.get("device")
    return str(found.get("kind") or found.get("platform")) if isinstance(found, dict) else str(found or "not known")


def draw_clock(points: pd.DataFrame, page: Page) -> Figure:
    """Score over seconds of training, log scale; runs on other devices have open markers."""
    devices = list(points["device"].value_counts().index)
    figure, axes = on.panel(page)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    lines: dict[str, Any] = {}
    crowd = points["label"].nunique() > BANDS
    for label, line in points.groupby("label", observed=True, sort=False):
        look = styles[str(label)]
        elsewhere = line["device"].iloc[0] != devices[0]
        if not crowd:
            axes.fill_between(line["seconds"], line["low"], line["high"], color=look.color, alpha=0.15, lw=0)
        name = str(label) + (f" ({line['device'].iloc[0]})" if elsewhere else "")
        (lines[name],) = axes.plot(
            line["seconds"], line["mean"], color=look.color, marker=look.marker, ls=look.line, lw=1.1, ms=3.4,
            markerfacecolor="none" if elsewhere else look.color, mew=0.7 if elsewhere else 0,
        )  # fmt: skip
    axes.set_xscale("log")
    plain_log(axes)
    on.label(axes, page, f"training of all seeds, compilation included [s on {devices[0]}]",
             page.score(points["suite"].iloc[0]))  # fmt: skip
    at_least_a_point(axes)
    on.legend(figure, page, list(lines.values()), list(lines))
    on.title(figure, page, f"{task_name(points)}: score over wall-clock")
    return figure


def plain_log(axes: Axes) -> None:
    """Plain numbers on a logarithmic axis, as many as have room."""
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)) if decades < 1.6 else NullLocator())
    axes.xaxis.set_minor_formatter(EngFormatter(sep=""))
    axes.tick_params(axis="x", which="minor", labelsize=on.SMALL)


def over_gradients(records: Records, cells: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """Rows of `select.scores` (`picked`: those of the rule that is asked for) with the declared `passes` and
    `gradients` (an action), of runs that declare them.

    Rows: every setting that costs gradients, and of each run one point without any: its setting at none, what is picked
    if there are several (whose passes are unknown where the picks differ in them).
    """
    rows = []
    known = {(run.suite, run.task, run.label): declared(run) for run in records.runs}
    keys = ["suite", "task", "label"]
    choices = dict(list(picked.groupby(keys, observed=True))) if len(picked) else {}
    for key, run in cells.groupby(keys, observed=True, sort=False):
        of = known[key]
        fixed = run[run["rule"] == FIXED]
        if not set(fixed["setting"]) <= of.keys():
            continue
        fixed = _priced(fixed, [of[setting] for setting in fixed["setting"]])
        free = fixed[fixed["gradients"] == 0]
        if len(free) > 1 and len(free) == len(fixed):
            free = _chosen(choices[key], of) if key in choices else free.iloc[-1:]
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
    """Rows with what their picks cost: one number, or NaN where the picks differ."""
    each = [{of[pick] for pick in picks.split(PICKS)} for picks in rows["picks"]]
    return _priced(rows, [costs.pop() if len(costs) == 1 else Cost(math.nan, 0.0) for costs in each])


def draw_gradients(points: pd.DataFrame, page: Page) -> Figure:
    """Score over gradient evaluations an action; those without any stand side by side around zero.

    Lines join the settings of one knob; where several settings cost the same, they are points alone.
    """
    figure, axes = on.panel(page)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    handles: dict[str, Any] = {}
    crowd = list(points.loc[points["gradients"] == 0, "label"].astype(str).drop_duplicates())
    for label, line in points.groupby("label", observed=True, sort=False):
        look = styles[str(label)]
        error = [line["mean"] - line["low"], line["high"] - line["mean"]]
        aside = 0.9 * (crowd.index(str(label)) + 0.5) / len(crowd) - 0.45 if str(label) in crowd else 0.0
        at = line["gradients"].replace(0, aside)
        drawn = axes.errorbar(at, line["mean"], error, color=look.color, fmt=look.marker, ms=3.6, elinewidth=0.7, mew=0)
        paid = line["gradients"] > 0
        if line["gradients"].is_unique:
            axes.plot(at[paid], line.loc[paid, "mean"], ls=look.line, color=look.color, lw=1.0)
        alone = len(line) == 1 and line["rule"].iloc[0] == FIXED
        handles[str(line["row"].iloc[0] if alone else label)] = drawn
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_minor_locator(NullLocator())
    most = points["gradients"].max()
    axes.set_xticks(ticks := [t for t in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if t <= 1.5 * most], map(str, ticks))
    axes.set_xlim(-0.55, max(1.3 * most, 1.2))
    on.label(axes, page, "value gradients an action at test time [-]; at 0: side by side",
             page.score(points["suite"].iloc[0]))  # fmt: skip
    at_least_a_point(axes)
    on.legend(figure, page, list(handles.values()), list(handles))
    on.title(figure, page, f"{task_name(points)}: score over gradient evaluations{how(points)}")
    return figure


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and value > 0
