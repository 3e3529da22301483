"""How many seeds a side would show a difference as large as the one that was seen, of each method from one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.figures import page as on
from analysis.figures.forest import matchups
from analysis.figures.looks import looks
from analysis.figures.material import Frames, Material
from analysis.figures.page import Page
from analysis.pairs import Matchup
from analysis.statistics.seeds import MOST, seeds_needed
from analysis.statistics.significance import sample

TICKS = (2, 3, 5, 10, 20, 50, 100, 300, 1000)


def of_suite(material: Material, suite: str, task: str = "") -> Frames:
    if len(points := material.here(needed, suite)):
        yield "seeds-needed", points


def needed(material: Material) -> pd.DataFrame:
    """One row a (method, task), and one a method over all tasks (task ""): suite, baseline, label, method, task, tasks,
    difference, std and baseline_std (over seeds; NaN over all tasks), seeds (the fewest there are), needed (a side and
    task, for power 0.8 at 5%; inf beyond MOST, NaN with one seed)."""
    rows: list[dict[str, Any]] = []
    for suite, (base, of) in material.once(matchups).items():
        for label, (method, mine) in of.items():
            about = {"suite": suite, "baseline": base, "label": label, "method": method}
            rows += [about | _row([one], one.task) for one in mine]
            rows += [about | _row(mine, "")] if len(mine) > 1 else []
    return pd.DataFrame(rows)


def _row(of: Sequence[Matchup], task: str) -> dict[str, Any]:
    sides = [[sample(side) for side in one.means] for one in of]
    difference = float(np.mean([a.mean - b.mean for a, b in sides]))
    variances = [float(side.std) ** 2 / len(of) ** 2 for both in sides for side in both]
    stds = [float(side.std) for side in sides[0]] if task else [math.nan, math.nan]
    return {
        "task": task, "tasks": len(of), "difference": difference, "std": stds[0], "baseline_std": stds[1],
        "seeds": min(side.n for both in sides for side in both), "needed": seeds_needed(difference, variances),
    }  # fmt: skip


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """A row a method: a dash a task, a diamond over all of them; beyond MOST seeds at the right edge. The dotted line
    is at the seeds there are."""
    labels = list(points["label"].drop_duplicates())
    names = [on.wrapped(label, 0.4 * page.width) for label in labels]
    centres, lines = on.stacked(names)
    figure, axes = on.panel(page, 0.6 + 0.16 * lines)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    known = points[points["needed"].notna()]
    for row in known.to_dict("records"):
        at, all_ = centres[labels.index(row["label"])], not row["task"]
        beyond = math.isinf(row["needed"])
        axes.plot(
            1.6 * MOST if beyond else row["needed"], at + (0 if all_ else 0.18), ls="none", mew=0.6,
            marker="D" if all_ else "|", ms=4 if all_ else 6, color=styles[row["label"]].color, zorder=3 if all_ else 2,
            mfc="white" if all_ else None,
        )  # fmt: skip
    axes.axvline(float(points["seeds"].min()), color="0.3", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set_xlim(1.7, 2.2 * MOST)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([*TICKS[:-1], 1.6 * MOST], [*map(str, TICKS[:-1]), f">{MOST}"])
    axes.set_yticks(centres, names)
    axes.set_ylim(lines - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    on.label(axes, page, "seeds a side for power 0.8 at 5% (Welch)")
    suite, base = points[["suite", "baseline"]].iloc[0]
    text = f"{suite}: seeds that would show the difference from {base}"
    on.title(figure, page, f"{text}\ndash: a task; diamond: over all tasks; dotted line: seeds there are")
    return figure
