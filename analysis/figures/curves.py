"""Curves of scores: over training steps, and over test-time knobs. Each is a frame of numbers and a drawing of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from analysis.figures.pyplot import plt
from analysis.figures.style import Look, at_least_a_point, finish, looks, shade
from analysis.output import short
from analysis.records.inference import UNITS, unit
from analysis.records.load import Records
from analysis.select import FIXED, HELD_OUT, settings
from analysis.statistics.estimates import generator, summarise

SIZE = (5.4, 3.8)  # without the legend
SETTINGS = 5  # of a method, in a learning curve
CROWD = 8  # methods that one panel of learning curves can show
PANELS = 3  # of learning curves in a row, each with its legend
BANDS = 6  # of methods without the knob; more hide each other
SHEET = 5  # panels in a row: the five tasks of an OGBench dataset


def learning(records: Records) -> pd.DataFrame:
    """One row a (run, knob setting, evaluation): suite, task, method, label, setting, phase, step, and the Summary."""
    points: list[dict[str, object]] = []
    for run, rows in records.each():
        for setting in settings(rows, run.knobs):
            for step, group in rows[rows["setting"] == setting].groupby("step"):
                rng = generator(run.suite, run.task)
                summary = summarise(group["score"].to_numpy(), group["seed"].to_numpy(), rng)
                name = {"suite": run.suite, "task": run.task, "method": run.method, "label": run.label}
                name["setting"] = setting
                points.append(name | {"phase": group["phase"].iloc[0], "step": step} | summary._asdict())
    return pd.DataFrame(points)


def legible(points: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The points of one task without those of a method's settings beyond SETTINGS, and a note on each such method."""
    kept, notes = [], []
    for label, run in points.groupby("label", observed=True, sort=True):
        order = run["setting"].drop_duplicates().to_list()
        if len(order) > SETTINGS:
            shown = [order[i] for i in np.linspace(0, len(order) - 1, SETTINGS).round().astype(int)]
            notes.append(
                f"{task_name(points)}: of {len(order)} settings of {label} the learning curve shows {', '.join(shown)}"
            )
            run = run[run["setting"].isin(shown)]
        kept.append(run)
    return pd.concat(kept, ignore_index=True), notes


def handover(points: pd.DataFrame) -> int | None:
    """The step at which the offline phase of runs that went on online ended, the first if they differ; None if no
    evaluation came after it."""
    ends = [run.loc[run["phase"] == "offline", "step"].max() for _, run in points.groupby("label", observed=True)]
    first = min(ends, default=math.nan)
    return int(first) if (points["step"] > first).any() else None


def draw_learning(points: pd.DataFrame, online_from: int | None = None, units: Mapping[str, str] = UNITS) -> Figure:
    """Score over steps of one task; a method's knob settings are shades of its colour, its interval a band. Where runs
    went on online (`online_from` a step), what came before stands on grey (the VGF paper's Figure 3). More than CROWD
    methods have a panel each, on one scale of scores."""
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    title = f"{task_name(points)}: {'learning curves' if online_from is None else 'offline to online'}"
    xlabel = f"training [gradient steps{'' if online_from is None else ' offline, then environment steps online'}]"
    runs = list(points.groupby("label", observed=True, sort=True))
    if len(runs) > CROWD:
        rows = -(-len(runs) // PANELS)
        figure, grid = plt.subplots(
            rows, PANELS, figsize=(2.6 * PANELS, 1.45 * rows + 0.5), sharey=True, squeeze=False, layout="constrained"
        )
        for axes, (label, run) in zip(grid.flat, runs, strict=False):
            lines = _learning_panel(axes, run, styles[str(label)], online_from)
            names = [name.removeprefix(str(label)).strip() for name in lines]
            if any(names):
                beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "fontsize": 6, "handlelength": 1.2}
                axes.legend(list(lines.values()), names, **beside)
            axes.set_title(str(label), fontsize=8, pad=3)
            axes.tick_params(labelsize=6.5)
        for axes in grid.flat[len(runs) :]:
            axes.set_axis_off()
        at_least_a_point(grid[0, 0])
        figure.supxlabel(xlabel, fontsize=9)
        figure.supylabel(unit(str(points["suite"].iloc[0]), units), fontsize=9)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        return figure
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    handles: dict[str, Any] = {}
    for label, run in runs:
        handles |= _learning_panel(axes, run, styles[str(label)], None)
    _offline_on_grey(axes, online_from)
    axes.set(xlabel=xlabel, ylabel=unit(str(points["suite"].iloc[0]), units))
    at_least_a_point(axes)
    return finish(figure, title, list(handles.values()), list(handles))


def _learning_panel(axes: Axes, run: pd.DataFrame, look: Look, online_from: int | None) -> dict[str, Any]:
    """Draws one method; a handle for each setting's line, by its name."""
    handles: dict[str, Any] = {}
    order = list(run["setting"].drop_duplicates())
    for i, setting in enumerate(order):
        line = run[run["setting"] == setting]
        color, many = shade(look.color, i, len(order)), len(order) > 1
        axes.fill_between(line["step"], line["low"], line["high"], color=color, alpha=0.1 if many else 0.18, lw=0)
        width, size = (1.1, 3) if many else (1.8, 4)
        (handles[f"{run['label'].iloc[0]} {setting}".strip()],) = axes.plot(
            line["step"], line["mean"], look.line, color=color, marker=look.marker, lw=width, ms=size, mew=0
        )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _offline_on_grey(axes, online_from)
    return handles


def _offline_on_grey(axes: Axes, online_from: int | None) -> None:
    if online_from is None:
        return
    left, right = axes.get_xlim()
    axes.axvspan(left, online_from, color="0.9", lw=0, zorder=0)
    axes.set_xlim(left, right)
    top = axes.get_xaxis_transform()
    for phase, align in (("offline ", "right"), (" online", "left")):
        axes.text(online_from, 1.01, phase, ha=align, va="bottom", fontsize=7.5, color="0.4", transform=top)


def knob_curve(cells: pd.DataFrame, knob: str, knobs: tuple[str, ...]) -> pd.DataFrame:
    """What the curve over a knob shows, of one task's rows of `select.scores`: the columns of it, and `line`.

    Methods that have the knob give a point a value (a line for each setting of their other knobs); the others give one
    row with the value missing: their score, by held-out choice if they have other knobs. Empty if no method has at
    least two values.
    """
    points = cells[(cells["rule"] == FIXED) & cells[knob].notna()].sort_values(["label", knob])
    others = [name for name in knobs if name != knob]
    rest = [" ".join(f"{n}={row[n]:g}" for n in others if not math.isnan(row[n])) for _, row in points.iterrows()]
    points = points.assign(line=[f"{label} {r}".strip() for label, r in zip(points["label"], rest, strict=True)])
    if points.empty or points.groupby("line")[knob].nunique().max() < 2:
        return points.iloc[:0]
    without = cells[~cells["label"].isin(points["label"])]
    chosen = without["rule"] == HELD_OUT
    bands = without[chosen | ((without["rule"] == FIXED) & ~without["label"].isin(without.loc[chosen, "label"]))]
    return pd.concat([points, bands.assign(line=bands["row"])], ignore_index=True)


def draw_knob_curve(points: pd.DataFrame, knob: str, axis: str = "", units: Mapping[str, str] = UNITS) -> Figure:
    """Score over a knob's values for one task; methods without the knob are horizontal lines, with bands if they
    are at most `BANDS`. `axis`: what the knob is (`inference.axes_of`), if more than its name is known."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    lines = _knob_panel(axes, points, knob, looks(dict(zip(points["label"], points["method"], strict=True))))
    axes.set(xlabel=axis or knob, ylabel=unit(str(points["suite"].iloc[0]), units))
    at_least_a_point(axes)
    return finish(figure, f"{task_name(points)}: score over {knob}", list(lines.values()), list(lines))


def draw_knob_sheet(points: pd.DataFrame, knob: str, axis: str = "", units: Mapping[str, str] = UNITS) -> Figure:
    """The same for every task of a suite, a panel each, on one scale of scores (the VGF paper's Figure 5)."""
    tasks = list(points.groupby("task", observed=True, sort=True))
    columns = min(len(tasks), SHEET)
    rows = -(-len(tasks) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(1.9 * columns + 0.4, 1.6 * rows + 0.6), sharey=True, squeeze=False, layout="constrained"
    )
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    lines: dict[str, Any] = {}
    for axes, (_, mine) in zip(grid.flat, tasks, strict=False):
        lines |= _knob_panel(axes, mine, knob, styles)
        axes.set_title(task_name(mine).partition(": ")[2] or task_name(mine), fontsize=6, pad=3)
        axes.tick_params(labelsize=6.5)
    for axes in grid.flat[len(tasks) :]:
        axes.set_axis_off()
    at_least_a_point(grid[0, 0])
    figure.supxlabel(axis or knob, fontsize=9)
    figure.supylabel(unit(str(points["suite"].iloc[0]), units), fontsize=9)
    return finish(
        figure, f"{points['suite'].iloc[0]}: score over {knob}, every task", list(lines.values()), list(lines)
    )


def _knob_panel(axes: Axes, points: pd.DataFrame, knob: str, styles: Mapping[str, Look]) -> dict[str, Any]:
    """Draws one task; a handle for each line, by its name."""
    handles: dict[str, Any] = {}
    with_knob, without = points[points[knob].notna()], points[points[knob].isna()]
    for label, run in with_knob.groupby("label", observed=True, sort=True):
        look, order = styles[str(label)], list(run["line"].drop_duplicates())
        for i, name in enumerate(order):
            line, color = run[run["line"] == name], shade(look.color, i, len(order))
            axes.fill_between(line[knob], line["low"], line["high"], color=color, alpha=0.2, lw=0)
            (handles[name],) = axes.plot(
                line[knob], line["mean"], look.line, color=color, marker=look.marker, ms=5, mew=0
            )
    across = axes.get_yaxis_transform()  # x from 0 to 1
    for _, row in without.sort_values("line").iterrows():
        look = styles[row["label"]]
        if len(without) <= BANDS:
            axes.axhspan(row["low"], row["high"], color=look.color, alpha=0.12, lw=0)
        (handles[row["line"]],) = axes.plot(
            [0, 0.02, 0.98, 1], [row["mean"]] * 4, "--", transform=across, color=look.color, lw=1.2,
            marker=look.marker, markevery=[1, 2], ms=4, mew=0,
        )  # fmt: skip
    scale(axes, np.sort(with_knob[knob].unique()))
    return handles


def scale(axes: Axes, values: np.ndarray) -> None:
    """Ticks at a knob's values (two or more, ascending), on an axis where they do not crowd."""
    if values[0] > 0 and values[-1] / values[0] >= 8:
        axes.set_xscale("log")
    elif np.diff(values).min() < 0.05 * (values[-1] - values[0]):
        least = float(np.abs(values[values != 0]).min())
        axes.set_xscale("symlog", linthresh=least)
        axes.set_xlim(float(values[0]) - 0.2 * least, 1.2 * float(values[-1]))  # the margins of a linear axis are huge
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [f"{value:g}" for value in values])


def task_name(points: pd.DataFrame) -> str:
    """The task of a figure, on its title: "ogbench: cube-single-play-task2"."""
    suite, task = points[["suite", "task"]].iloc[0]
    return str(task) if suite == task else f"{suite}: {short(str(task))}"
