"""What choosing a test-time knob reaches for the episodes it is charged (`tuning/budget.py`)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullLocator

from analysis.figures import page as on
from analysis.figures.curves import BANDS, task_name
from analysis.figures.looks import looks
from analysis.figures.material import Frames, Material, by_task
from analysis.figures.page import Page
from analysis.figures.style import at_least_a_point
from analysis.tuning.budget import curves

LINES = {"uniform": "-", "halving": "--", "none": ":"}
TICKS = (3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
NAMES = {"uniform": "all equally", "halving": "sequential halving", "none": "nothing to choose"}


@by_task
def _curves(material: Material) -> pd.DataFrame:
    return curves(material.records, material.query.endpoint)


def of_task(material: Material, suite: str, task: str) -> Frames:
    points = material.here(_curves, suite, task)
    if len(points) and points["arms"].max() > 1:
        yield "budget", points


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """The mean score that a choice reaches over episodes charged; bands hold 95% of experimenters (trying all equally).
    Methods without knobs are charged nothing: dotted lines."""
    figure, axes = on.panel(page)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    handles: dict[str, Any] = {}
    crowd = points.loc[points["arms"] > 1, "label"].nunique() > BANDS
    for label, mine in points.groupby("label", observed=True, sort=False):
        look = styles[str(label)]
        for policy, line in mine.groupby("policy", sort=False):
            common: dict[str, Any] = {"color": look.color, "ls": LINES[str(policy)], "lw": 1.1}
            if policy == "none":
                across = axes.get_yaxis_transform()  # x from 0 to 1
                (drawn,) = axes.plot([0, 0.02, 0.98, 1], [line["mean"].iloc[0]] * 4, transform=across,
                                     marker=look.marker, markevery=[1, 2], ms=3, mew=0, **common)  # fmt: skip
            else:
                if policy == "uniform" and not crowd:
                    axes.fill_between(line["episodes"], line["low"], line["high"], color=look.color, alpha=0.13, lw=0)
                (drawn,) = axes.plot(line["episodes"], line["mean"], marker=look.marker, ms=3, mew=0, **common)
            handles.setdefault(str(label), drawn)
    paid = points.loc[points["episodes"] > 0, "episodes"]
    axes.set_xscale("symlog", linthresh=float(paid.min()), linscale=0.4)
    axes.set_xlim(left=-0.15 * float(paid.min()))
    axes.set_xticks([0, *(t for t in TICKS if paid.min() <= t <= paid.max())])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    for policy in [one for one in ("uniform", "halving") if (points["policy"] == one).any()]:
        handles[NAMES[policy]] = Line2D([], [], color="0.3", ls=LINES[policy], lw=1.1)
    on.label(axes, page, "episodes charged for the choice [episodes]", page.score(points["suite"].iloc[0]))
    at_least_a_point(axes)
    on.legend(figure, page, list(handles.values()), list(handles))
    on.title(figure, page, f"{task_name(points)}: what choosing test-time settings costs and reaches")
    return figure
