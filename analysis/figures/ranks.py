"""The average rank of each method over the tasks of a suite."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import page as on
from analysis.figures.aggregate import SeedMeans, count, covers, fewest, whole
from analysis.figures.looks import looks
from analysis.figures.material import Frames, Material
from analysis.figures.page import Page
from analysis.statistics.estimates import generator
from analysis.statistics.ranks import critical_difference, ranked


def of_suite(material: Material, suite: str, task: str = "") -> Frames:
    every, tasks = material.once(whole).get(suite, ({}, []))
    if len(every) > 1:
        yield "ranks", ranks(every, tasks, suite)


def ranks(of: SeedMeans, tasks: list[str], suite: str) -> pd.DataFrame:
    """suite, label, method, tasks, seeds (the fewest), rank (mean over tasks, 1 the best), low, high (over seeds), and
    critical: Nemenyi's difference for tasks that are independent, NaN of one task. The best is first."""
    strata = [[values[task] for task in tasks] for _, values in of.values()]
    found = ranked(strata, generator(suite))
    frame = pd.DataFrame(
        {
            "suite": suite, "label": list(of), "method": [method for method, _ in of.values()], "tasks": len(tasks),
            "seeds": fewest(of, tasks), "rank": found.value, "low": found.low, "high": found.high,
            "critical": critical_difference(len(of), len(tasks)) if len(tasks) > 1 else float("nan"),
        }
    )  # fmt: skip
    return frame.sort_values("rank", kind="stable", ignore_index=True)


def draw(shown: pd.DataFrame, page: Page) -> Figure:
    """A row a method, the best on top, with its interval over seeds; a bar as long as Nemenyi's critical difference."""
    labels = shown["label"].tolist()
    names = [on.wrapped(label, 0.4 * page.width) for label in labels]
    centres, lines = on.stacked(names)
    figure, axes = on.panel(page, 0.6 + 0.14 * lines)
    styles = looks(dict(zip(shown["label"], shown["method"], strict=True)))
    for at, row in zip(centres, shown.to_dict("records"), strict=True):
        look = styles[row["label"]]
        axes.plot([row["low"], row["high"]], [at, at], color=look.color, lw=3.5, alpha=0.35, solid_capstyle="butt")
        axes.plot(row["rank"], at, marker=look.marker, color=look.color, ms=4, mew=0)
    axes.set_yticks(centres, names)
    axes.set_xlim(0.8, len(labels) + 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", visible=False)
    top, critical = -0.6, float(shown["critical"].iloc[0])
    if critical < len(labels) - 1:
        top = -1.9
        axes.plot([1, 1 + critical], [-1.2, -1.2], color="0.2", lw=1.2, marker="|", ms=5)
        style = {"textcoords": "offset points", "fontsize": on.SMALL, "va": "center"}
        axes.annotate("critical difference", (1 + critical, -1.2), (4, 0), **style)  # type: ignore[arg-type]
    axes.set_ylim(lines - 0.4, top)
    on.label(axes, page, "average rank over tasks [1 = best]")
    suite = shown["suite"].iloc[0]
    on.title(figure, page, f"{suite}: average rank, {count(shown['tasks'])}\n{covers(shown)}")
    return figure
