"""Every method against one: differences and P(better) of each task, each environment and over all, with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.choices import Choice
from analysis.figures import page as on
from analysis.figures.looks import Look, looks
from analysis.figures.material import Frames, Material, chosen
from analysis.figures.page import Page
from analysis.output import environment, short
from analysis.pairs import Matchup, over_tasks, tests
from analysis.statistics.significance import averaged

TASK, ENVIRONMENT, ALL = "task", "environment", "all"
ROWS = 12  # tasks that a panel has rows for; of more it shows environments


def matchups(material: Material) -> dict[str, tuple[str, dict[str, tuple[str, list[Matchup]]]]]:
    """Suite -> (the label that others are compared with, label -> (method, its matchups with it, by task)); suites that
    lack such a label are left out, with a note."""
    choices: dict[str, dict[str, tuple[str, dict[str, Choice]]]] = {}
    for run, choice in material.once(chosen):
        tasks = choices.setdefault(run.suite, {}).setdefault(run.label, (run.method, {}))[1]
        tasks[run.task] = choice
    found = {}
    for suite, of in choices.items():
        base = material.against({label: method for label, (method, _) in of.items()})
        if base is None:
            if len(of) > 1:
                material.notes.append(f"{suite}: nothing to compare with, so no forest; --baseline names a method")
            continue
        theirs = of[base][1]
        found[suite] = base, {
            label: (of[label][0], [Matchup(suite, task, label, base, of[label][1][task], theirs[task])
                                   for task in sorted(of[label][1].keys() & theirs.keys())])
            for label in material.ordered(of) if label != base and of[label][1].keys() & theirs.keys()
        }  # fmt: skip
    return found


def of_differences(material: Material, suite: str, task: str = "") -> Frames:
    if len(points := material.here(versus, suite)):
        yield "forest", points


def of_probabilities(material: Material, suite: str, task: str = "") -> Frames:
    if len(points := material.here(versus, suite)):
        yield "forest-probability", points


def versus(material: Material) -> pd.DataFrame:
    """One row a (method, task | environment | all tasks): suite, baseline, label, method, over (TASK, ENVIRONMENT or
    ALL), place, tasks, seeds (the fewest), difference (label minus baseline) with low and high (Welch; of several tasks
    their mean), paired_difference with its own (over shared start states too), and improvement, P(a seed of the label
    beats one of the baseline), with its own."""
    rows: list[dict[str, Any]] = []
    for suite, (base, of) in material.once(matchups).items():
        for label, (method, mine) in of.items():
            about = {"suite": suite, "baseline": base, "label": label, "method": method}
            rows += [about | row for row in _rows(mine)]
    return pd.DataFrame(rows)


def _rows(mine: Sequence[Matchup]) -> Iterator[dict[str, Any]]:
    table = tests(mine)
    places: dict[str, list[Matchup]] = {}
    for matchup, row in zip(mine, table.to_dict("records"), strict=True):
        places.setdefault(environment(matchup.task), []).append(matchup)
        kept = {name: row[name] for name in table if str(name).startswith(("difference", "low", "high", "improvement"))
                or name in ("paired_difference", "paired_low", "paired_high")}  # fmt: skip
        yield {"over": TASK, "place": matchup.task, "tasks": 1, "seeds": _fewest([matchup])} | kept
    for over, place, some in [(ENVIRONMENT, place, some) for place, some in places.items()] + [(ALL, "", list(mine))]:
        for _, one in over_tasks(some):  # none of a single task, which stands there already
            seeds, starts = averaged([m.welch for m in some]), one.starts
            yield {
                "over": over, "place": place, "tasks": len(some), "seeds": _fewest(some),
                "difference": seeds.difference, "low": seeds.low, "high": seeds.high,
                "improvement": float(one.improvement.value), "improvement_low": float(one.improvement.low),
                "improvement_high": float(one.improvement.high), "paired_difference": starts.difference,
                "paired_low": starts.low, "paired_high": starts.high,
            }  # fmt: skip


def _fewest(of: Sequence[Matchup]) -> int:
    return min(len(side) for matchup in of for side in matchup.means)


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """Differences from the baseline, a panel a method, with 95% intervals: over all tasks on top."""
    score = page.score(points["suite"].iloc[0])
    return _draw(points, page, ("difference", "low", "high"), 0.0, f"difference in {score}", "difference (95%, Welch)")


def draw_probabilities(points: pd.DataFrame, page: Page) -> Figure:
    """P(better than the baseline), a panel a method, with Newcombe's 95% intervals."""
    columns = ("improvement", "improvement_low", "improvement_high")
    return _draw(points, page, columns, 0.5, "P(a seed beats one of the baseline) [0-1]", "P(better) (95%, Newcombe)")


def rows_of(points: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """(places from top to bottom, "" for all tasks; the points at them): tasks, or environments where they are many."""
    tasks = points[points["over"] == TASK]
    kept = tasks
    if tasks["place"].nunique() > ROWS:
        single = tasks.assign(place=tasks["place"].map(environment))
        kept = pd.concat([points[points["over"] == ENVIRONMENT], single])
        kept = kept.drop_duplicates(["label", "place"])  # of an environment with one task, that
    every = points[points["over"] == ALL]
    return [""] * (len(every) > 0) + sorted(set(kept["place"])), pd.concat([every, kept])


def _point(axes: Axes, row: dict[Hashable, Any], at: float, values: Sequence[float], look: Look, zero: float) -> None:
    """A value with its interval, filled where that excludes zero."""
    (value, low, high), every = values, row["over"] == ALL
    if not np.isnan(low):
        axes.plot([low, high], [at, at], color=look.color, lw=1.6 if every else 1.0, solid_capstyle="butt")
    axes.plot(
        value, at, marker="D" if every else look.marker, color=look.color, ms=4 if every else 3.2,
        mfc=look.color if low > zero or high < zero else "white", mew=0.8,
    )  # fmt: skip


def _draw(points: pd.DataFrame, page: Page, columns: Sequence[str], zero: float, xlabel: str, what: str) -> Figure:
    """A panel a method, a row a task; of one task one panel, a row a method, the best on top."""
    places, shown = rows_of(points)
    labels = list(points["label"].drop_duplicates())
    single = len(places) == 1
    if single:
        labels = [str(label) for label in shown.sort_values(columns[0], ascending=False, kind="stable")["label"]]
    names = [on.wrapped(short(row) if row else "all tasks", 1.35) for row in (labels if single else places)]
    centres, lines = on.stacked(names)
    height = 0.38 + 0.125 * lines
    if single:
        figure, axes = on.panel(page, height)
        every = [axes] * len(labels)
    else:
        figure, every = on.panels(page, len(labels), page.abreast(4, 2), height, sharex=True, sharey=True)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    for number, (axes, label) in enumerate(zip(every, labels, strict=True)):
        for row in shown[shown["label"] == label].to_dict("records"):
            at = centres[number if single else places.index(row["place"])]
            _point(axes, row, at, [float(row[column]) for column in columns], styles[label], zero)
        if not single:
            share = page.width / min(page.abreast(4, 2), len(labels))
            axes.set_title(on.wrapped(label, share - 0.5), fontsize=on.SMALL)
            axes.axvline(zero, color="0.4", lw=0.7, zorder=1)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(8 if single else 3, steps=[1, 2, 5, 10]))
    if single:
        every[0].axvline(zero, color="0.4", lw=0.7, zorder=1)
    every[0].set_yticks(centres, names)
    every[0].set_ylim(lines - 0.4, -0.6)
    on.shared(figure, page, xlabel)
    text = f"{points['suite'].iloc[0]}: each method against {points['baseline'].iloc[0]}, {what}"
    on.title(figure, page, f"{text}; filled: the interval excludes {zero:g}")
    return figure
