"""Curves of scores over a test-time knob: of one task, and of every task of a suite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.choices import FIXED
from analysis.figures import page as on
from analysis.figures.curves import BANDS, ROOM, task_name
from analysis.figures.looks import Look, looks, shade
from analysis.figures.material import Frames, Material, cells, picked
from analysis.figures.page import Page
from analysis.figures.style import at_least_a_point
from analysis.output import short


def of_task(material: Material, suite: str, task: str) -> Frames:
    """A curve for every knob with two values or more."""
    rows, one = material.here(cells, suite, task), material.here(picked, suite, task)
    for knob in material.records.knobs:
        points = knob_curve(rows, one, knob, material.records.knobs)
        if len(points):
            yield f"knob-{knob}", points
        elif rows[knob].notna().any():
            material.notes.append(f"{suite}/{task}: one value of {knob} only, so no curve over it")


def of_suite(material: Material, suite: str, task: str = "") -> Frames:
    """The same for all tasks of a suite, ROOM a picture."""
    rows, knobs = material.here(cells, suite), material.records.knobs
    for knob in knobs:
        found = [
            knob_curve(mine, material.here(picked, suite, str(task)), knob, knobs)
            for task, mine in rows.groupby("task", sort=True)
        ]
        found = [one for one in found if len(one)]
        if len(found) > 1:
            for number, start in enumerate(range(0, len(found), ROOM)):
                some = pd.concat(found[start : start + ROOM], ignore_index=True)
                yield f"knob-{knob}" + (f"-{number + 1}" if number else ""), some


def knob_curve(cells: pd.DataFrame, picked: pd.DataFrame, knob: str, knobs: tuple[str, ...]) -> pd.DataFrame:
    """What the curve over a knob shows, of one task's rows of `select.scores` (`picked`: those of the rule that is
    asked for): the columns of it, `knob` and `line`.

    Methods that have the knob give a point a value (a line for each setting of their other knobs); the others give one
    row with the value missing: what is picked of them. Empty if no method has at least two values.
    """
    points = cells[(cells["rule"] == FIXED) & cells[knob].notna()]
    place = {label: i for i, label in enumerate(points["label"].drop_duplicates())}
    points = points.assign(at=points["label"].map(place)).sort_values(["at", knob]).drop(columns="at")
    others = [name for name in knobs if name != knob]
    rest = [" ".join(f"{n}={row[n]:g}" for n in others if not math.isnan(row[n])) for _, row in points.iterrows()]
    points = points.assign(
        line=[f"{label} {r}".strip() for label, r in zip(points["label"], rest, strict=True)], knob=knob
    )
    if points.empty or points.groupby("line")[knob].nunique().max() < 2:
        return points.iloc[:0]
    bands = picked[~picked["label"].isin(points["label"])]
    bands = bands.assign(line=bands["row"].where(bands["rule"] == FIXED, bands["label"]), knob=knob, **{knob: math.nan})
    return pd.concat([points, bands], ignore_index=True) if len(bands) else points.reset_index(drop=True)


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """Score over a knob's values for one task; methods without the knob are horizontal lines, with bands if they
    are at most `BANDS`."""
    knob = str(points["knob"].iloc[0])
    figure, axes = on.panel(page)
    lines = _panel(axes, points, knob, looks(dict(zip(points["label"], points["method"], strict=True))))
    few_ticks(axes, page.width - 1.2)  # names of lines and of the axis take the rest
    on.label(axes, page, page.axes.get(knob, knob), page.score(points["suite"].iloc[0]))
    at_least_a_point(axes)
    on.named(figure, page, axes, lines)
    on.title(figure, page, f"{task_name(points)}: score over {knob}{how(points)}")
    return figure


def draw_sheet(points: pd.DataFrame, page: Page) -> Figure:
    """The same for every task of a suite, a panel each, on one scale of scores (the VGF paper's Figure 5)."""
    knob = str(points["knob"].iloc[0])
    tasks = list(points.groupby("task", observed=True, sort=True))
    abreast = min(page.abreast(5 if len(tasks) > 8 else 4, 2), len(tasks))
    figure, every = on.panels(page, len(tasks), abreast, 0.98, sharey=True)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    lines: dict[str, Any] = {}
    for axes, (task, mine) in zip(every, tasks, strict=True):
        lines |= _panel(axes, mine, knob, styles)
        axes.set_title(on.wrapped(short(str(task)), page.width / abreast - 0.2), fontsize=on.SMALL)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        few_ticks(axes, page.width / abreast - 0.25)
    at_least_a_point(every[0])
    on.shared(figure, page, page.axes.get(knob, knob), page.score(points["suite"].iloc[0]))
    on.legend(figure, page, list(lines.values()), list(lines))
    on.title(figure, page, f"{points['suite'].iloc[0]}: score over {knob}, every task{how(points)}")
    return figure


def how(points: pd.DataFrame) -> str:
    """What picked the settings of methods that are shown at one, as the end of a title."""
    rules = sorted(set(points["rule"]) - {FIXED})
    return f"; others' settings by {', '.join(rules)}" if rules else ""


def _panel(axes: Axes, points: pd.DataFrame, knob: str, styles: Mapping[str, Look]) -> dict[str, Any]:
    """Draws one task; a handle for each line, by its name."""
    handles: dict[str, Any] = {}
    with_knob, without = points[points[knob].notna()], points[points[knob].isna()]
    for label, run in with_knob.groupby("label", observed=True, sort=False):
        look, order = styles[str(label)], list(run["line"].drop_duplicates())
        for i, name in enumerate(order):
            line, color = run[run["line"] == name], shade(look.color, i, len(order))
            axes.fill_between(line[knob], line["low"], line["high"], color=color, alpha=0.2, lw=0)
            (handles[name],) = axes.plot(
                line[knob], line["mean"], ls=look.line, color=color, marker=look.marker, ms=3.6, mew=0
            )
    across = axes.get_yaxis_transform()  # x from 0 to 1
    for row in without.to_dict("records"):
        look = styles[row["label"]]
        if len(without) <= BANDS:
            axes.axhspan(row["low"], row["high"], color=look.color, alpha=0.12, lw=0)
        (handles[row["line"]],) = axes.plot(
            [0, 0.02, 0.98, 1], [row["mean"]] * 4, ls=look.line, transform=across, color=look.color, lw=0.9,
            marker=look.marker, markevery=[1, 2], ms=3.2, mew=0,
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


def few_ticks(axes: Axes, inches: float) -> None:
    """Leaves out the names of ticks that would run into the one before; the axis is so long."""
    ticks = axes.get_xticks()
    ends = axes.transAxes.inverted()
    at = [float(ends.transform(axes.transData.transform((tick, 0)))[0]) * inches for tick in ticks]
    names, free = [], -1.0
    for place, tick in zip(at, ticks, strict=True):
        half = on.length(f"{tick:g}") / 2
        fits = place - half >= free
        names.append(f"{tick:g}" if fits else "")
        free = place + half + 0.04 if fits else free
    axes.set_xticks(ticks, names)
