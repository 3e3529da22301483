"""How the figures of language runs are drawn; their numbers come from `language.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.figures import page as on
from analysis.figures.curves import SETTINGS, task_name
from analysis.figures.knobs import few_ticks, scale
from analysis.figures.looks import Look, looks, shade
from analysis.figures.page import Page

TEST, STEP, N = "L_test", "eps", "N"
TALL, ROW = 1.9, 0.15  # inches: of panels; of a row of a dot plot
MOST_ROWS = 24  # of settings, before some are left out
PANELS = 4  # runs of a figure with a panel each
GOLD, PROXY = "gold reward [-]", "proxy reward [sd of its scores]"


def draw_levels(of: pd.DataFrame, page: Page) -> Figure:
    """Gold and proxy over L_test, the proxy beside that of particles before they are decoded; methods without that knob
    are horizontal lines, best-of-n one an n. Only the proxy where the true reward is not known."""
    measures = [name for name in ("gold", "proxy") if of[name].notna().any()]
    figure, every = on.panels(page, len(measures), page.abreast(2, 1), TALL, sharex=True)
    styles, handles = _looks(of), dict[str, Any]()
    for line, one in lines(of[of[TEST].notna()]):
        one = one.sort_values(TEST)
        for axes, measure in zip(every, measures, strict=True):
            handles[line] = _curve(axes, one, TEST, measure, styles[line])
        if "proxy" in measures and one["soft"].notna().any():
            dots = styles[line]._replace(line=":", marker="")
            name = f"{line}, particle before decoding (may mix tokens, also at L_test=0)"
            handles[name] = _curve(every[measures.index("proxy")], one, TEST, "soft", dots)
    for label, one in of[of[TEST].isna()].groupby("label", observed=True, sort=False):
        shown = _few(one.sort_values(N) if one[N].notna().any() else one)
        for i, row in enumerate(shown.to_dict("records")):
            color = shade(styles[row["line"]].color, i, len(shown))
            dashes = (4 * (len(handles) % 2), (4, 4))  # so that of two lines on one level both are seen
            name = f"{label} {row['setting']}".strip()
            for axes, measure in zip(every, measures, strict=True):
                handles[name] = axes.axhline(row[measure], color=color, ls=dashes, lw=1.0, zorder=1)
    scale(every[0], np.sort(of[TEST].dropna().unique()))
    for axes, measure in zip(every, measures, strict=True):
        on.label(axes, page, y={"gold": GOLD, "proxy": PROXY}[measure])
    on.shared(figure, page, page.axes.get(TEST, TEST))
    on.legend(figure, page, list(handles.values()), list(handles))
    on.title(figure, page, f"{task_name(of)}: reward over L_test (bands: 95% over seeds)")
    return figure


def draw_distances(far: pd.DataFrame, page: Page) -> Figure:
    """Gold over sqrt(KL) on the left; of VGF over transport on the right: two measures that cannot share an axis."""
    kinds = [far[far["kind"] != "transport"], far[far["kind"] == "transport"]]
    shown = [one for one in kinds if len(one)]
    figure, every = on.panels(page, len(shown), page.abreast(2, 1), TALL + 0.25, sharey=True)
    styles, handles = _looks(far), dict[str, Any]()
    for axes, one in zip(every, shown, strict=True):
        for line, mine in lines(one):
            kind = mine["kind"].iloc[0]
            name = line if kind == "transport" else f"{line} ({kind})"
            handles[name] = _curve(axes, mine.sort_values("distance"), "distance", "gold", styles[line])
        transport = one["kind"].iloc[0] == "transport"
        text = (
            "transport of the particles [MMD², not a KL]"
            if transport
            else "√KL to the SFT model at the same temperature [√nats]"
        )
        on.label(axes, page, text, share=1 / min(len(shown), page.abreast(2, 1)))
    every[0].set_ylabel(GOLD)
    on.legend(figure, page, list(handles.values()), list(handles))
    on.title(figure, page, f"{task_name(far)}: reward over distance from SFT")
    return figure


def draw_compute(of: pd.DataFrame, page: Page) -> Figure:
    """Gold over passes of one sequence through a network behind one answer, log scale."""
    figure, axes = on.panel(page)
    styles, handles = _looks(of), dict[str, Any]()
    for line, one in lines(of):
        handles[line] = _curve(axes, one.sort_values("compute"), "compute", "gold", styles[line])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    on.label(axes, page, "compute [sequence passes an answer, test time: sample, score 1, gradient 3]", GOLD)
    on.legend(figure, page, list(handles.values()), list(handles))
    on.title(figure, page, f"{task_name(of)}: reward over compute")
    return figure


def draw_maps(of: pd.DataFrame, page: Page) -> Figure:
    """Gold over step size and L_test, a panel a run; the best cell framed."""
    labels = list(of["label"].astype(str).drop_duplicates())
    abreast = page.abreast(2, 1)
    rows = of[STEP].nunique()
    figure, every = on.panels(page, len(labels), abreast, 0.55 + max(0.24 * rows, 0.9))
    low, high = of["gold"].min(), of["gold"].max()
    for axes, label in zip(every, labels, strict=True):
        table = of[of["label"] == label].pivot_table(index=STEP, columns=TEST, values="gold", sort=True)
        image = axes.imshow(table, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high)
        room = (page.width - 0.9) / min(len(labels), abreast) - 0.5
        digits = 2 if room / table.shape[1] > on.length("-0.00") else 1
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            dark = (value - low) / max(high - low, 1e-12) < 0.6
            text = f"{value:.{digits}f}" if room / table.shape[1] > on.length(f"{value:.{digits}f}") else ""
            axes.text(j, i, text, ha="center", va="center", fontsize=on.SMALL, color="w" if dark else "k")
        i, j = np.unravel_index(np.nanargmax(table.to_numpy()), table.shape)
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="k", lw=1.4))
        axes.set_xticks(range(table.shape[1]), [f"{value:g}" for value in table.columns])
        axes.set_yticks(range(table.shape[0]), [f"{value:g}" for value in table.index])
        axes.grid(False)
        axes.set_title(on.wrapped(named(of[of["label"] == label]), page.width / abreast - 0.6), fontsize=on.SMALL)
    on.shared(figure, page, page.axes.get(TEST, TEST), page.axes.get(STEP, STEP))
    figure.colorbar(image, ax=every, aspect=30).set_label(GOLD, fontsize=on.SMALL)
    on.title(figure, page, f"{task_name(of)}: gold reward by step size and L_test")
    return figure


def draw_lengths(of: pd.DataFrame, page: Page) -> Figure:
    """Length of responses and how many of them end, a row a setting."""
    every = [one.sort_values([TEST, N]) for _, one in lines(of)]
    shown = pd.concat(every if len(of) <= MOST_ROWS else map(_few, every), ignore_index=True)
    rows = [
        on.wrapped(f"{row['label']} {row['setting']}".strip(), page.width * 0.42) for row in shown.to_dict("records")
    ]
    at, lines_of_text = on.stacked(rows)
    figure, both = on.panels(page, 2, 2, 0.4 + ROW * lines_of_text, sharey=True)
    styles = _looks(of)
    names = {"length": "length [tokens]", "eos": "responses that end [share]"}
    for axes, (measure, name) in zip(both, names.items(), strict=True):
        for i, row in enumerate(shown.to_dict("records")):
            look = styles[row["line"]]
            axes.plot([row[f"{measure}_low"], row[f"{measure}_high"]], [at[i]] * 2, color=look.color, lw=1.0)
            axes.plot([row[measure]], [at[i]], ls="none", marker=look.marker, color=look.color, ms=3.6, mew=0)
        axes.set_xlabel(on.wrapped(name, page.width / 3))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y", visible=False)
    both[0].set_yticks(at, rows)
    both[0].set_ylim(lines_of_text - 0.4, -0.6)
    both[1].set_xlim(right=1.005)  # a share
    on.title(figure, page, f"{task_name(of)}: length and end of responses")
    return figure


def draw_gains(of: pd.DataFrame, page: Page) -> Figure:
    """Gold (solid) beside proxy (dashed) over L_test, or N, a panel a run, the better reward model first."""
    knob = TEST if of[TEST].notna().any() else N
    labels = list(of.drop_duplicates("label").sort_values(["accuracy", "label"], ascending=[False, True])["label"])
    abreast = page.abreast(2, 1)
    figure, every = on.panels(page, len(labels), abreast, TALL, sharey=True)
    handles: dict[str, Any] = {}
    for axes, label in zip(every, labels, strict=True):
        mine = of[of["label"] == label]
        base, method = looks({label: mine["method"].iloc[0]})[label], mine["method"].iloc[0]
        for i, (name, one) in enumerate(lines(mine)):
            one, color = one.sort_values(knob), shade(base.color, i, mine["line"].nunique())
            rest = name.removeprefix(str(label)).strip()
            for measure, style, face in (("gold", "-", color), ("proxy", "--", "none")):
                line = axes.plot(one[knob], one[f"{measure}_gain"], style, color=color, marker=base.marker, ms=3.2,
                                 markerfacecolor=face, mew=0.7, lw=1.0)  # fmt: skip
                handles.setdefault(f"{f'{method} {rest}'.strip()}, {measure}", line[0])
                band = (one[f"{measure}_gain{end}"] for end in ("_low", "_high"))
                axes.fill_between(one[knob], *band, color=color, alpha=0.15, lw=0)
        axes.axhline(0, color="0.5", lw=0.7)
        scale(axes, np.sort(mine[knob].unique()))
        few_ticks(axes, page.width / abreast - 0.4)
        axes.set_title(on.wrapped(named(mine), page.width / abreast - 0.4), fontsize=on.SMALL)
    start = {TEST: "L_test=0", N: "N=1"}[knob]
    on.shared(figure, page, page.axes.get(knob, knob), f"gain over {start} [sd over prompts]")
    on.legend(figure, page, list(handles.values()), list(handles))
    on.title(figure, page, f"{task_name(of)}: over-optimisation (bands: 95% over prompts)")
    return figure


def named(of: pd.DataFrame) -> str:
    """A run in a panel's title: its label, and how good its reward model is where that is known."""
    known = of["accuracy"].iloc[0]
    return str(of["label"].iloc[0]) + ("" if math.isnan(known) else f", reward model {100 * known:.0f}% right")


def lines(of: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for line, one in of.groupby("line", observed=True, sort=False):
        yield str(line), one


def _looks(of: pd.DataFrame) -> dict[str, Look]:
    """Line -> Look: a run's own, shaded where it has several lines."""
    of_labels = looks(dict(zip(of["label"], of["method"], strict=True)))
    found = {}
    for label, one in of.groupby("label", observed=True, sort=False):
        lines = sorted(one["line"].unique())
        for i, line in enumerate(lines):
            look = of_labels[str(label)]
            found[str(line)] = look._replace(color=shade(look.color, i, len(lines)))
    return found


def _curve(axes: Axes, one: pd.DataFrame, x: str, y: str, look: Look) -> Any:
    """A line with its interval as a band, or a point with a bar."""
    if len(one) > 1:
        axes.fill_between(one[x], one[f"{y}_low"], one[f"{y}_high"], color=look.color, alpha=0.15, lw=0)
        return axes.plot(one[x], one[y], ls=look.line, color=look.color, marker=look.marker, ms=3.6, mew=0)[0]
    error = [one[y] - one[f"{y}_low"], one[f"{y}_high"] - one[y]]
    return axes.errorbar(one[x], one[y], error, color=look.color, fmt=look.marker, ms=4, mew=0, elinewidth=0.8)


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    """At most SETTINGS of the rows, the first and the last among them."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SETTINGS)).round().astype(int))]
