"""Over the size of networks: scores, and what training took, of runs that differ in `hidden_dims` alone (Test-Time
Gradient Guidance, arXiv 2606.11087, the scaling with model size)."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from analysis.figures import page as on
from analysis.figures.costs import device
from analysis.figures.curves import task_name
from analysis.figures.knobs import how, scale
from analysis.figures.looks import looks
from analysis.figures.material import Frames, Material, by_task, picked
from analysis.figures.page import Page
from analysis.figures.style import at_least_a_point
from analysis.records.runs import Run

SIZE = "hidden_dims"


@by_task
def sizes(material: Material) -> pd.DataFrame:
    """Rows of `select.scores` of what counts for runs that differ in `hidden_dims` and in nothing else, two widths or
    more, with the columns line, width (units of the widest layer), seconds (of training a seed, all its stages) and
    device."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in material.records.runs:
        if not run.online and width(run):
            rest = json.dumps({k: v for k, v in run.settings.items() if k != SIZE}, sort_keys=True, default=str)
            data = json.dumps([run.meta.get("dataset"), run.seeds if run.old else None], sort_keys=True, default=str)
            groups[run.suite, run.task, run.method + run.mark, rest, data].append(run)
    rows, found = material.once(picked), []
    for runs in groups.values():
        of = {run.fingerprint: run for run in runs}
        if len({width(run) for run in runs}) < 2 or rows.empty:
            continue
        mine = rows[rows["fingerprint"].isin(of) & (rows["suite"] == runs[0].suite) & (rows["task"] == runs[0].task)]
        found.append(mine.assign(
            line=runs[0].method + runs[0].mark, width=[width(of[one]) for one in mine["fingerprint"]],
            seconds=[seconds(of[one]) for one in mine["fingerprint"]],
            device=[device(of[one].meta) for one in mine["fingerprint"]],
        ))  # fmt: skip
    return pd.concat(found).sort_values(["line", "width"], ignore_index=True) if found else rows.iloc[:0]


def width(run: Run) -> int:
    """Units of a run's widest layer; 0 where it says none."""
    layers = run.settings.get(SIZE)
    numbers = [one for one in layers if isinstance(one, int) and not isinstance(one, bool)] if isinstance(
        layers, list | tuple) else []  # fmt: skip
    return max(numbers, default=0)


def seconds(run: Run) -> float:
    """Of training one seed: its stages', whoever trained them; NaN where one does not say."""
    stages = [stage.get("seconds") for stage in run.meta.get("stages") or []]
    known = [float(one) for one in stages if isinstance(one, int | float)]
    return sum(known) / max(len(run.seeds), 1) if known and len(known) == len(stages) else np.nan


def of_task(material: Material, suite: str, task: str) -> Frames:
    if len(points := material.here(sizes, suite, task)):
        yield "model-size", points


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """Score beside seconds of training, both over the widest layer."""
    figure, (left, right) = on.panels(page, 2, page.abreast(2, 1), 1.6)
    styles = looks({line: method for line, method in zip(points["line"], points["method"], strict=True)})
    handles: dict[str, Any] = {}
    for name, line in points.groupby("line", sort=False):
        look = styles[str(name)]
        left.fill_between(line["width"], line["low"], line["high"], color=look.color, alpha=0.15, lw=0)
        for axes, column in ((left, "mean"), (right, "seconds")):
            (handles[str(name)],) = axes.plot(
                line["width"], line[column], color=look.color, marker=look.marker, ls=look.line, ms=3.6, mew=0
            )
    for axes in (left, right):
        scale(axes, np.sort(points["width"].unique()))
    at_least_a_point(left)
    if (points["seconds"] > 0).any():
        right.set_yscale("log")
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        right.yaxis.set_major_formatter(EngFormatter(sep=""))
        right.yaxis.set_minor_locator(NullLocator())
    share = 1 / page.abreast(2, 1)
    on.label(left, page, "", page.score(points["suite"].iloc[0]))
    on.label(right, page, "", f"training of a seed [s on {points['device'].iloc[0]}]", share)
    on.shared(figure, page, "widest layer [units]")
    on.legend(figure, page, list(handles.values()), list(handles))
    rules = how(points).replace("others' settings", "settings")
    on.title(figure, page, f"{task_name(points)}: score over the size of networks{rules}")
    return figure
