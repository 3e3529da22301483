"""What trained methods told of themselves (`python -m harness.diagnose`): a quantity over one axis, a line for each
value of another, in a panel each of a third, or of the quantities that have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import page as on
from analysis.figures.curves import task_name
from analysis.figures.knobs import few_ticks, scale
from analysis.figures.looks import AMBER, BLUE, GREEN, LINES, MARKERS, PURPLE, VERMILION
from analysis.figures.material import Frames, Material, by_task
from analysis.figures.page import Page
from analysis.records.runs import DIAGNOSIS
from analysis.statistics.estimates import student

HUES = (BLUE, VERMILION, GREEN, PURPLE, AMBER)  # of lines, which are no methods
FROM = "noise"  # what tells lines apart that are ways, each from a noise of its own: of one seed, coloured by number
WAY = colormaps["viridis"]
MANY = 12  # values along an axis, from which on it has round ticks
_PLACE = [name for name in DIAGNOSIS if name not in ("mean", "std", "states")]


@by_task
def told(material: Material) -> pd.DataFrame:
    """One row a (run, quantity, line, panel, x): suite, task, method, label, the columns of `DIAGNOSIS` but `std`,
    first (the least seed), and low, high: Student's t over seeds, each the mean over its states; NaN of one seed, and
    of bundles, which are the first seed's."""
    frames = []
    for run in material.records.runs:
        found = run.diagnosis(material.notes)
        if found.empty:
            continue
        found = _one_seed_of_bundles(found)
        order = found[_PLACE].drop_duplicates()  # as the method has it
        seeds = {key: group["mean"].to_numpy(float) for key, group in found.groupby(_PLACE, dropna=False)}
        rows = [seeds[tuple(place)] for place in order.itertuples(index=False)]
        bounds = [student(one) if len(one) > 1 else (np.nan, np.nan) for one in rows]
        about = {"suite": run.suite, "task": run.task, "method": run.method, "label": run.label}
        frames.append(order.assign(
            **about, first=int(found["seed"].min()), seeds=[len(one) for one in rows],
            states=int(found["states"].min()),
            mean=[float(one.mean()) for one in rows], low=[float(low) for low, _ in bounds],
            high=[float(high) for _, high in bounds],
        ))  # fmt: skip
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"suite": [], "task": []})


def _one_seed_of_bundles(found: pd.DataFrame) -> pd.DataFrame:
    """Ways from one place to another have no mean: between two modes it lies where nobody goes."""
    return found[(found["lines"] != FROM) | (found["seed"] == found["seed"].min())]


def of_task(material: Material, suite: str, task: str) -> Frames:
    """A picture of each quantity with panels, and one of all the others over the same axis; of each run."""
    points = material.here(told, suite, task)
    for number, (_, run) in enumerate(points.groupby("label", sort=False)) if len(points) else ():
        which = f"-{number + 1}" if points["label"].nunique() > 1 else ""
        whole = run["panels"] == ""
        for quantity, mine in run[~whole].groupby("quantity", sort=False):
            yield f"diagnosis-{quantity}{which}", mine
        for axis, mine in run[whole].groupby("xs", sort=False):
            yield f"diagnosis-over-{axis}{which}", mine


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """Means over states and seeds, with 95% intervals over seeds."""
    split = points["panels"].iloc[0] != ""
    groups = list(points.groupby("panel" if split else "quantity", sort=False))
    abreast = min(page.abreast(4, 2), len(groups))
    figure, every = on.panels(page, len(groups), abreast, 1.25, sharey=split)
    names = list(points["line"].drop_duplicates())
    bundle, handles = points["lines"].iloc[0] == FROM, {}
    for axes, (value, mine) in zip(every, groups, strict=True):
        for i, name in enumerate(names):
            line, hue = mine[mine["line"] == name].sort_values("x"), HUES[i % len(HUES)]
            if bundle:
                axes.plot(line["x"], line["mean"], color=WAY(i / max(len(names) - 1, 1)), lw=0.9)
                continue
            axes.fill_between(line["x"], line["low"], line["high"], color=hue, alpha=0.15, lw=0)
            (handles[f"{points['lines'].iloc[0]}={name}"],) = axes.plot(
                line["x"],
                line["mean"],
                ls=LINES[i % len(LINES)],
                color=hue,
                ms=3.2,
                mew=0,
                marker=MARKERS[i % len(MARKERS)] if len(line) < MANY else None,
            )
        above = f"{points['panels'].iloc[0]} = {_shown(value)}" if split else mine["meaning"].iloc[0]
        axes.set_title(on.wrapped(above, page.width / abreast - 0.25), fontsize=on.SMALL)
        _ticks(axes, np.sort(mine["x"].unique()), page.width / abreast - 0.3)
    on.shared(figure, page, str(points["xs"].iloc[0]), points["meaning"].iloc[0] if split else "")
    if handles:
        on.legend(figure, page, list(handles.values()), list(handles))
    of = (
        f"from {len(names)} {points['lines'].iloc[0]}s, seed {points['first'].iloc[0]}"
        if bundle
        else f"n = {points['seeds'].min()}"
    )
    on.title(figure, page, f"{task_name(points)}: {points['label'].iloc[0]} asked at {points['states'].iloc[0]} states "
                           f"of the data, {of}")  # fmt: skip
    return figure


def _shown(value: Any) -> str:
    """A panel's value, which may be a name."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return str(value)


def _ticks(axes: Axes, values: np.ndarray, inches: float) -> None:
    if len(values) >= MANY:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.set_xlim(float(values[0]), float(values[-1]))
    elif len(values) > 1:
        scale(axes, values)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    few_ticks(axes, inches)
