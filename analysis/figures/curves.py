"""Curves of scores over training: of one task with every test-time setting, and of all tasks side by side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from analysis.choices import numbers, settings
from analysis.figures import page as on
from analysis.figures.looks import Look, looks, shade
from analysis.figures.material import REFERENCES, Frames, Material, by_task, curve
from analysis.figures.page import Page
from analysis.figures.style import at_least_a_point
from analysis.output import short
from analysis.records.load import Records
from analysis.statistics.estimates import generator, summarise

SETTINGS = 5  # of a method, in a learning curve
CROWD = 8  # methods that one panel of learning curves can show
BANDS = 6  # of methods in one panel; more hide each other
ROOM = 45  # panels on a page


def learning(records: Records) -> pd.DataFrame:
    """One row a (run, knob setting, evaluation): suite, task, method, label, setting, online (whether the run goes on
    online), phase, step, and the Summary."""
    points: list[dict[str, object]] = []
    for run, rows in records.each():
        name = {"suite": run.suite, "task": run.task, "method": run.method, "label": run.label, "online": run.online}
        scores, seeds, phases, steps = (rows[column].to_numpy() for column in ("score", "seed", "phase", "step"))
        order = settings(rows, run.knobs)
        setting = numbers(rows["setting"], order)
        for at in evaluations(setting, steps):
            first = at[0]
            summary = summarise(scores[at], seeds[at], generator(run.suite, run.task))
            what = {"setting": order[setting[first]], "phase": phases[first], "step": steps[first]}
            points.append(name | what | summary._asdict())
    return pd.DataFrame(points)


def evaluations(*keys: np.ndarray) -> list[np.ndarray]:
    """The rows `[e]` of each combination of keys `[n]` that there is, in ascending order, the first key before the
    next."""
    order = np.lexsort(keys[::-1])
    changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    return np.split(order, np.flatnonzero(changes) + 1)


@by_task
def _points(material: Material) -> pd.DataFrame:
    return learning(material.records)


def of_task(material: Material, suite: str, task: str) -> Frames:
    """Offline runs over training."""
    points = material.here(_points, suite, task)
    path = points[~points["online"]] if len(points) else points
    if len(path) and path.groupby("label", observed=True)["step"].nunique().max() > 1:
        path, hidden = legible(path)
        material.notes.extend(hidden)
        yield "learning", path
    else:
        material.notes.append(f"{suite}/{task}: no run has two evaluations, so no learning curve")


def of_task_online(material: Material, suite: str, task: str) -> Frames:
    """Runs that go on online, from their offline start."""
    points = material.here(_points, suite, task)
    path = points[points["online"]] if len(points) else points
    if path.empty:
        return
    if handover(path) is None:
        material.notes.append(f"{suite}/{task}: no evaluation in the online phase yet, so no curve of it")
        return
    path, hidden = legible(path)
    material.notes.extend(hidden)
    yield "online", path


def of_suite(material: Material, suite: str, task: str = "") -> Frames:
    """Offline runs of all tasks, each by its choice of test-time settings, ROOM tasks a picture."""
    points = material.here(curve, suite)
    points = points[~points["online"]] if len(points) else points
    tasks = sorted(set(points["task"])) if len(points) else []
    if len(tasks) > 1 and points.groupby(["task", "label"], observed=True)["step"].nunique().max() > 1:
        for number, start in enumerate(range(0, len(tasks), ROOM)):
            shown = points[points["task"].isin(tasks[start : start + ROOM])]
            yield "learning" + (f"-{number + 1}" if number else ""), shown.drop(columns="online")


def legible(points: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The points of one task without those of a method's settings beyond SETTINGS, and a note on each such method."""
    kept, notes = [], []
    for label, run in points.groupby("label", observed=True, sort=False):
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


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """Score over steps of one task; a method's knob settings are shades of its colour, its interval a band. More than
    CROWD methods have a panel each, on one scale of scores, with the method that only imitates as a grey line."""
    return _draw(points, page, None)


def draw_online(points: pd.DataFrame, page: Page) -> Figure:
    """The same of runs that went on online: what came before stands on grey (the VGF paper's Figure 3)."""
    return _draw(points, page, handover(points))


def _draw(points: pd.DataFrame, page: Page, online_from: int | None) -> Figure:
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    title = f"{task_name(points)}: {'learning curves' if online_from is None else 'offline to online'}"
    xlabel = f"training [gradient steps{'' if online_from is None else ' offline, then environment steps online'}]"
    score = page.score(points["suite"].iloc[0])
    runs = list(points.groupby("label", observed=True, sort=False))
    if len(runs) > CROWD:
        abreast = page.abreast(4 if len(runs) <= 24 else 5, 2)  # a page holds as many rows as that makes
        figure, every = on.panels(page, len(runs), abreast, 1.15, sharey=True, sharex=True)
        level = reference(points)
        for axes, (label, run) in zip(every, runs, strict=True):
            _panel(axes, run, styles[str(label)], online_from)
            if level is not None:
                axes.axhline(level[1], color="0.45", lw=0.8, ls=":")
            axes.set_title(on.wrapped(str(label), page.width / abreast - 0.2))
        ticks(every)
        at_least_a_point(every[0])
        on.shared(figure, page, xlabel, score)
        dotted = f"; dotted: {level[0]} at its end" if level else ""
        on.title(figure, page, title + _bands(points) + dotted + _settings(points))
        return figure
    figure, axes = on.panel(page)
    handles: dict[str, Any] = {}
    for label, run in runs:
        name, order = str(label), list(run["setting"].drop_duplicates())
        if len(order) > 1:
            name += f", {order[0]} (light) to {order[-1].rpartition('=')[2] if '=' in order[-1] else order[-1]} (dark)"
        handles[name] = _panel(axes, run, styles[str(label)], None)
    offline_on_grey(axes, online_from)
    on.label(axes, page, xlabel, score)
    at_least_a_point(axes)
    on.named(figure, page, axes, handles)
    on.title(figure, page, title + _bands(points))
    return figure


def _bands(points: pd.DataFrame) -> str:
    return "; bands: 95% over seeds" if points["low"].notna().any() else ""


def _settings(points: pd.DataFrame) -> str:
    return "; shades: test-time settings, light to dark" if (points["setting"] != "").any() else ""


def draw_sheet(points: pd.DataFrame, page: Page) -> Figure:
    """Score over training of every task of a suite, a panel each on shared axes; the method that only imitates, at its
    last evaluation, is a dotted line, so that gains over it can be compared."""
    tasks = list(points.groupby("task", observed=True, sort=True))
    abreast = page.abreast(5 if len(tasks) > 8 else 4, 2)
    figure, every = on.panels(page, len(tasks), abreast, 0.98, sharey=True, sharex=True)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    handles: dict[str, Any] = {label: None for label in points["label"].drop_duplicates()}
    name = ""
    for axes, (task, mine) in zip(every, tasks, strict=True):
        labels = list(mine.groupby("label", observed=True, sort=False))
        for label, line in labels:
            handles[str(label)] = trace(axes, line, styles[str(label)], band=len(labels) <= BANDS)
        if (level := reference(mine)) is not None:
            name = level[0]
            axes.axhline(level[1], color="0.3", lw=0.8, ls=(0, (1, 1)), zorder=1)
        axes.set_title(on.wrapped(short(str(task)), page.width / min(abreast, len(tasks)) - 0.2), fontsize=on.SMALL)
    ticks(every)
    at_least_a_point(every[0])
    on.shared(figure, page, "training [gradient steps]", page.score(points["suite"].iloc[0]))
    on.legend(figure, page, list(handles.values()), list(handles))
    text = f"{points['suite'].iloc[0]}: learning curves of {len(tasks)} tasks"
    text += _bands(points) if len(handles) <= BANDS else ""
    on.title(figure, page, text + (f"; dotted: {name} at its end" if name else ""))
    return figure


def trace(axes: Axes, line: pd.DataFrame, look: Look, band: bool, value: str = "mean", x: str = "step") -> Any:
    """Draws one line with its interval; returns its handle."""
    if band:
        axes.fill_between(line[x], line["low"].astype(float), line["high"].astype(float), color=look.color, alpha=0.15,
                          lw=0)  # fmt: skip
    return axes.plot(
        line[x], line[value], ls=look.line, color=look.color, marker=look.marker, lw=1.1, ms=3, mew=0,
        markevery=max(1, len(line) // 6),
    )[0]  # fmt: skip


def reference(points: pd.DataFrame) -> tuple[str, float] | None:
    """(label, mean at its last evaluation) of the method that only imitates; None if there is none."""
    for method in REFERENCES:
        mine = points[points["method"] == method]
        if len(mine):
            return str(mine["label"].iloc[0]), float(mine.loc[mine["step"] == mine["step"].max(), "mean"].iloc[0])
    return None


def _panel(axes: Axes, run: pd.DataFrame, look: Look, online_from: int | None) -> Any:
    """Draws one method; returns the handle of its last setting's line."""
    order = list(run["setting"].drop_duplicates())
    handle = None
    for i, setting in enumerate(order):
        line = run[run["setting"] == setting]
        color, many = shade(look.color, i, len(order)), len(order) > 1
        axes.fill_between(line["step"], line["low"], line["high"], color=color, alpha=0.1 if many else 0.18, lw=0)
        (handle,) = axes.plot(
            line["step"], line["mean"], ls=look.line, color=color, marker=look.marker, lw=1.0 if many else 1.3,
            ms=2.6 if many else 3.2, mew=0,
        )  # fmt: skip
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    offline_on_grey(axes, online_from)
    return handle


def ticks(every: list[Axes]) -> None:
    """Few ticks, for small panels over training steps."""
    for axes in every:
        axes.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def offline_on_grey(axes: Axes, online_from: int | None) -> None:
    """Grey up to the step at which an online phase begins."""
    if online_from is None:
        return
    left, right = axes.get_xlim()
    axes.axvspan(left, online_from, color="0.9", lw=0, zorder=0)
    axes.set_xlim(left, right)
    top = axes.get_xaxis_transform()
    for phase, align in (("offline ", "right"), (" online", "left")):
        axes.text(online_from, 1.01, phase, ha=align, va="bottom", fontsize=on.SMALL, color="0.35", transform=top)


def task_name(points: pd.DataFrame) -> str:
    """The task of a figure, on its title: "ogbench: cube-single-play-task2"."""
    suite, task = points[["suite", "task"]].iloc[0]
    return str(task) if suite == task else f"{suite}: {short(str(task))}"
