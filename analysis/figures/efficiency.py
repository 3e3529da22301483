"""Sample efficiency: a score over all tasks of a suite, and over those of each environment, against training steps."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from analysis.figures import page as on
from analysis.figures.aggregate import banded, complete, count
from analysis.figures.curves import BANDS, handover, offline_on_grey, ticks, trace
from analysis.figures.looks import looks
from analysis.figures.material import Frames, Material, Step, progress
from analysis.figures.page import Page
from analysis.figures.style import at_least_a_point
from analysis.output import environment
from analysis.statistics.estimates import AGGREGATES, estimates, generator

STATISTICS = ("IQM", "mean")
"""Both stand in the CSV; the first is drawn."""


def of_suite(material: Material, suite: str, task: str = "") -> Frames:
    """Offline runs over all tasks; those that go on online, from their offline start."""
    for suffix, points in _both(material, suite):
        over = points[points["environment"] == ""]
        if len(over):
            yield f"sample-efficiency{suffix}", over


def of_environments(material: Material, suite: str, task: str = "") -> Frames:
    """The same for each environment, where there are several."""
    for suffix, points in _both(material, suite):
        each = points[points["environment"] != ""]
        if len(each) and each["environment"].nunique() > 1:
            yield f"sample-efficiency-environments{suffix}", each


def _both(material: Material, suite: str) -> Frames:
    """Those with two evaluations of some method or more."""
    points = material.here(curves, suite)
    for suffix, online in (("", False), ("-online", True)) if len(points) else ():
        mine = points[points["online"] == online].drop(columns="online")
        if len(mine) and mine.groupby("label")["step"].nunique().max() > 1:
            yield suffix, mine


def curves(material: Material) -> pd.DataFrame:
    """One row a (suite, environment ("" over all tasks), run, step that all its tasks have, statistic): suite,
    environment, online, method, label, phase, step, tasks, seeds (the fewest), statistic, value, low, high.

    Of a suite and of an environment the methods that have all of its tasks. A score is what counts for a run at that
    step; intervals resample seeds within tasks.
    """
    runs: dict[tuple[str, bool], dict[str, dict[str, list[Step]]]] = defaultdict(lambda: defaultdict(dict))
    for one in material.once(progress):
        runs[one.run.suite, one.run.online][one.run.label].setdefault(one.run.task, []).append(one)
    rows: list[dict[str, Any]] = []
    for (suite, online), labels in runs.items():
        tasks = sorted({task for of in labels.values() for task in of})
        groups = {"": tasks} | {
            place: [t for t in tasks if environment(t) == place] for place in map(environment, tasks)
        }
        for place, inside in groups.items():
            mine = {label: {t: of[t] for t in inside if t in of} for label, of in labels.items()}
            mine = {label: mine[label] for label in material.ordered(mine) if mine[label]}
            for label in whole(mine):
                about = {"suite": suite, "environment": place, "online": online, "label": label}
                rows += [about | row for row in _over(mine[label], suite, label)]
    return pd.DataFrame(rows)


def whole(of: dict[str, dict[str, list[Step]]]) -> list[str]:
    """Labels that have all tasks of the label with the most."""
    every, _, _ = complete({label: ("", dict.fromkeys(tasks, np.empty(0))) for label, tasks in of.items()}, "")
    return list(every)


def _over(tasks: dict[str, list[Step]], suite: str, label: str) -> list[dict[str, Any]]:
    """The statistics of one run at every step that all of its tasks have."""
    at = [{one.step: one for one in steps} for steps in tasks.values()]
    rows = []
    for step in sorted(set.intersection(*map(set, at))):
        here = [one[step] for one in at]
        strata = [one.choice.means().dropna().to_numpy(float) for one in here]
        about = {"method": here[0].run.method, "phase": here[0].phase, "step": step, "tasks": len(here)}
        about |= {"seeds": min(map(len, strata))}
        found = estimates(strata, generator(suite, label), [AGGREGATES[name] for name in STATISTICS])
        for name, one in zip(STATISTICS, found, strict=True):
            rows.append(about | {"statistic": name, "value": float(one.value), "low": float(one.low),
                                 "high": float(one.high)})  # fmt: skip
    return rows


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """The IQM over tasks against steps, bands where they are few; online, what came before stands on grey."""
    figure, axes = on.panel(page)
    went_on, xlabel = _phases(points)
    lines = _lines(axes, points)
    offline_on_grey(axes, went_on)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    on.label(axes, page, xlabel, f"IQM over tasks: {page.score(points['suite'].iloc[0])}")
    at_least_a_point(axes)
    on.named(figure, page, axes, lines)
    on.title(figure, page, f"{points['suite'].iloc[0]}: sample efficiency, {count(points['tasks'])}\n{banded(points)}")
    return figure


def draw_environments(points: pd.DataFrame, page: Page) -> Figure:
    """The same, a panel an environment, on shared axes."""
    places = list(points.groupby("environment", sort=True))
    abreast = page.abreast(4, 2)
    figure, every = on.panels(page, len(places), abreast, 1.1, sharex=True, sharey=True)
    went_on, xlabel = _phases(points)
    lines: dict[str, Any] = dict.fromkeys(points["label"].drop_duplicates())
    for axes, (place, mine) in zip(every, places, strict=True):
        lines |= _lines(axes, mine)
        if went_on is not None:
            axes.axvspan(axes.get_xlim()[0], went_on, color="0.9", lw=0, zorder=0)
        name = f"{place} ({int(mine['tasks'].max())})"
        axes.set_title(on.wrapped(name, page.width / min(abreast, len(places)) - 0.3), fontsize=on.SMALL)
    ticks(every)
    at_least_a_point(every[0])
    on.shared(figure, page, xlabel, f"IQM: {page.score(points['suite'].iloc[0])}")
    on.legend(figure, page, list(lines.values()), list(lines))
    text = f"{points['suite'].iloc[0]}: sample efficiency by environment (of so many tasks)"
    on.title(figure, page, text + ("; grey: offline" if went_on is not None else "") + f"\n{banded(points)}")
    return figure


def _phases(points: pd.DataFrame) -> tuple[int | None, str]:
    """(where the online phase began, None if there is none; what the steps are)."""
    if (points["phase"] == "offline").all() or not (points["phase"] == "online").any():
        return None, "training [gradient steps]"
    return handover(points), "training [gradient steps offline, then environment steps online]"


def _lines(axes: Axes, points: pd.DataFrame) -> dict[str, Any]:
    shown = points[points["statistic"] == STATISTICS[0]]
    styles = looks(dict(zip(shown["label"], shown["method"], strict=True)))
    labels = list(shown.groupby("label", sort=False))
    return {str(label): trace(axes, line, styles[str(label)], len(labels) <= BANDS, "value") for label, line in labels}
