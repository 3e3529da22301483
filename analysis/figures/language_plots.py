"""How the figures of language runs are drawn; their numbers come from `language.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.figures.curves import SETTINGS, scale, task_name
from analysis.figures.pyplot import plt
from analysis.figures.style import Look, finish, looks, shade

TEST, STEP, N = "L_test", "eps", "N"
WIDE, TALL = (7.4, 3.6), 0.19  # inches: two panels; a row of a dot plot
MOST_ROWS = 24  # of settings, before some are left out
PANELS = 4  # runs of a figure with a panel each
NAMES_ALONE: Mapping[str, str] = {TEST: TEST, STEP: STEP}
"""What stands on the axes of knobs of which nothing but the name is known; see `inference.axes_of`."""
GOLD, PROXY = "gold reward [-]", "proxy reward [sd of its scores]"


def draw_levels(of: pd.DataFrame, names_of: Mapping[str, str] = NAMES_ALONE) -> Figure:
    """Gold and proxy over L_test; methods without that knob are horizontal lines, best-of-n one an n. Only the proxy
    where the true reward is not known."""
    measures = [name for name in ("gold", "proxy") if of[name].notna().any()]
    figure, grid = plt.subplots(1, len(measures), figsize=(WIDE[0] * len(measures) / 2, WIDE[1]), layout="constrained",
                                sharex=True, squeeze=False)  # fmt: skip
    panels = list(zip(grid[0], measures, strict=True))
    styles, handles, names = _looks(of), [], []
    for line, one in lines(of[of[TEST].notna()]):
        drawn = [_curve(axes, one.sort_values(TEST), TEST, measure, styles[line]) for axes, measure in panels]
        handles.append(drawn[0])
        names.append(line)
    for label, one in of[of[TEST].isna()].groupby("label", observed=True, sort=True):
        shown = _few(one.sort_values(N) if one[N].notna().any() else one)
        for i, row in enumerate(shown.to_dict("records")):
            color = shade(styles[row["line"]].color, i, len(shown))
            dashes = (4 * (len(handles) % 2), (4, 4))  # so that of two lines on one level both are seen
            drawn = [axes.axhline(row[measure], color=color, ls=dashes, lw=1.2, zorder=1) for axes, measure in panels]
            handles.append(drawn[0])
            names.append(f"{label} {row['setting']}".strip())
    scale(grid[0][0], np.sort(of[TEST].dropna().unique()))
    for axes, measure in panels:
        axes.set(xlabel=names_of[TEST], ylabel={"gold": GOLD, "proxy": PROXY}[measure])
    return finish(figure, f"{task_name(of)}: reward over L_test (bands: 95% over seeds)", handles, names)


def draw_distances(far: pd.DataFrame) -> Figure:
    """Gold over sqrt(KL) on the left; of VGF over transport on the right: two measures that cannot share an axis."""
    kinds = [far[far["kind"] != "transport"], far[far["kind"] == "transport"]]
    shown = [one for one in kinds if len(one)]
    figure, grid = plt.subplots(1, len(shown), figsize=WIDE if len(shown) > 1 else (4.4, WIDE[1]), sharey=True,
                                layout="constrained", squeeze=False)  # fmt: skip
    styles, handles, names = _looks(far), [], []
    for axes, one in zip(grid[0], shown, strict=True):
        for line, mine in lines(one):
            handles.append(_curve(axes, mine.sort_values("distance"), "distance", "gold", styles[line]))
            kind = mine["kind"].iloc[0]
            names.append(line if kind == "transport" else f"{line} ({kind})")
        transport = one["kind"].iloc[0] == "transport"
        axes.set_xlabel("transport of the particles [MMD², not a KL]" if transport else "√KL to the SFT model [√nats]")
    grid[0][0].set_ylabel(GOLD)
    return finish(figure, f"{task_name(far)}: reward over distance from SFT", handles, names)


def draw_compute(of: pd.DataFrame) -> Figure:
    """Gold over passes of one sequence through a network behind one answer, log scale."""
    figure, axes = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    styles, handles, names = _looks(of), [], []
    for line, one in lines(of):
        handles.append(_curve(axes, one.sort_values("compute"), "compute", "gold", styles[line]))
        names.append(line)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="compute [sequence passes an answer, test time: sample, score 1, gradient 3]", ylabel=GOLD)
    return finish(figure, f"{task_name(of)}: reward over compute", handles, names)


def draw_maps(of: pd.DataFrame, names_of: Mapping[str, str] = NAMES_ALONE) -> Figure:
    """Gold over step size and L_test, a panel a run; the best cell framed."""
    labels = sorted(of["label"].astype(str).unique())
    figure, grid = plt.subplots(1, len(labels), figsize=(1.2 + 3.4 * len(labels), 3.2), layout="constrained",
                                squeeze=False)  # fmt: skip
    low, high = of["gold"].min(), of["gold"].max()
    for axes, label in zip(grid[0], labels, strict=True):
        table = of[of["label"] == label].pivot_table(index=STEP, columns=TEST, values="gold", sort=True)
        image = axes.imshow(table, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high)
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            dark = (value - low) / max(high - low, 1e-12) < 0.6
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
        i, j = np.unravel_index(np.nanargmax(table.to_numpy()), table.shape)
        axes.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="k", lw=1.6))
        axes.set_xticks(range(table.shape[1]), [f"{value:g}" for value in table.columns])
        axes.set_yticks(range(table.shape[0]), [f"{value:g}" for value in table.index])
        axes.grid(False)
        axes.set(xlabel=names_of[TEST], title=named(of[of["label"] == label]))
        axes.title.set_size(8)
    grid[0][0].set_ylabel(names_of[STEP])
    figure.colorbar(image, ax=list(grid[0]), label=GOLD)
    figure.suptitle(f"{task_name(of)}: gold reward by step size and L_test", x=0.01, ha="left", fontsize=10)
    return figure


def draw_lengths(of: pd.DataFrame) -> Figure:
    """Length of responses and how many of them end, a row a setting."""
    every = [one.sort_values([TEST, N]) for _, one in lines(of)]
    shown = pd.concat(every if len(of) <= MOST_ROWS else map(_few, every), ignore_index=True)
    height = 1.0 + TALL * len(shown)
    figure, panels = plt.subplots(1, 2, figsize=(7.4, height), layout="constrained", sharey=True)
    styles = _looks(of)
    for axes, measure, unit in zip(
        panels, ("length", "eos"), ("length [tokens]", "responses that end [share]"), strict=True
    ):
        for i, row in enumerate(shown.to_dict("records")):
            look = styles[row["line"]]
            axes.plot([row[f"{measure}_low"], row[f"{measure}_high"]], [i, i], color=look.color, lw=1.2)
            axes.plot([row[measure]], [i], ls="none", marker=look.marker, color=look.color, ms=4.5, mew=0)
        axes.set_xlabel(unit)
        axes.grid(axis="y", visible=False)
    rows = [f"{row['label']} {row['setting']}".strip() for row in shown.to_dict("records")]
    panels[0].set_yticks(np.arange(len(rows)), rows, fontsize=7)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    panels[1].set_xlim(right=1.005)  # a share
    figure.suptitle(f"{task_name(of)}: length and end of responses", x=0.01, ha="left", fontsize=10)
    return figure


def draw_gains(of: pd.DataFrame, names_of: Mapping[str, str] = NAMES_ALONE) -> Figure:
    """Gold (solid) beside proxy (dashed) over L_test, a panel a run, the better reward model first."""
    labels = list(of.drop_duplicates("label").sort_values(["accuracy", "label"], ascending=[False, True])["label"])
    size = (0.8 + 3.2 * len(labels), 3.6)
    figure, grid = plt.subplots(1, len(labels), figsize=size, layout="constrained", sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, label in zip(grid[0], labels, strict=True):
        mine = of[of["label"] == label]
        sizes = sorted(mine[STEP].dropna().unique())
        base = looks({label: mine["method"].iloc[0]})[label]
        for i, (_, one) in enumerate(lines(mine)):
            one, color = one.sort_values(TEST), shade(base.color, i, max(len(sizes), 1))
            for measure, style, face in (("gold", "-", color), ("proxy", "--", "none")):
                line = axes.plot(one[TEST], one[f"{measure}_gain"], style, color=color, marker=base.marker, ms=4,
                                 markerfacecolor=face, mew=0.8)  # fmt: skip
                step = f" eps={one[STEP].iloc[0]:g}" if sizes else ""
                handles.setdefault(f"{mine['method'].iloc[0]}{step}, {measure}", line[0])
                band = (one[f"{measure}_gain{end}"] for end in ("_low", "_high"))
                axes.fill_between(one[TEST], *band, color=color, alpha=0.15, lw=0)
        axes.axhline(0, color="0.5", lw=0.8)
        scale(axes, np.sort(mine[TEST].unique()))
        axes.set_xlabel(names_of[TEST])
        axes.set_title(named(mine), fontsize=8)
    grid[0][0].set_ylabel("gain over L_test=0 [sd over prompts]")
    title = f"{task_name(of)}: over-optimisation (bands: 95% over prompts)"
    return finish(figure, title, list(handles.values()), list(handles))


def named(of: pd.DataFrame) -> str:
    """A run in a panel's title: its label, and how good its reward model is where that is known."""
    known = of["accuracy"].iloc[0]
    return str(of["label"].iloc[0]) + ("" if math.isnan(known) else f", reward model {100 * known:.0f}% right")


def lines(of: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for line, one in of.groupby("line", observed=True, sort=True):
        yield str(line), one


def _looks(of: pd.DataFrame) -> dict[str, Look]:
    """Line -> Look: a run's own, shaded where it has several lines."""
    of_labels = looks(dict(zip(of["label"], of["method"], strict=True)))
    found = {}
    for label, one in of.groupby("label", observed=True, sort=True):
        lines = sorted(one["line"].unique())
        for i, line in enumerate(lines):
            look = of_labels[str(label)]
            found[str(line)] = look._replace(color=shade(look.color, i, len(lines)))
    return found


def _curve(axes: Axes, one: pd.DataFrame, x: str, y: str, look: Look) -> Any:
    """A line with its interval as a band, or a point with a bar."""
    if len(one) > 1:
        axes.fill_between(one[x], one[f"{y}_low"], one[f"{y}_high"], color=look.color, alpha=0.15, lw=0)
        return axes.plot(one[x], one[y], look.line, color=look.color, marker=look.marker, ms=4.5, mew=0)[0]
    error = [one[y] - one[f"{y}_low"], one[f"{y}_high"] - one[y]]
    return axes.errorbar(one[x], one[y], error, color=look.color, fmt=look.marker, ms=5, mew=0, elinewidth=1)


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    """At most SETTINGS of the rows, the first and the last among them."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SETTINGS)).round().astype(int))]
