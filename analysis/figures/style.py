"""One look for every figure: theme, a fixed colour for each method, and how a figure is saved."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from analysis.figures.pyplot import plt, reset
from analysis.output import write_csv
from core.files import draft, sweep

Color = tuple[float, float, float]

FORMATS = ("png", "svg", "pdf")
DPI = 150
TERRAIN = LinearSegmentedColormap.from_list("terrain", ["#fdfcfa", "#e6dfd0", "#c3b596", "#9a8a67"])
"""Muted, so that every method's colour stands out on it."""

# Seaborn's colour-blind palette without its yellow and light pink, which paper swallows.
BLUE, ORANGE, GREEN, RED, PINK, TAN, GREY, SKY = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#9c6a3c", "#6b6b6b", "#56b4e9",
)  # fmt: skip
KNOWN = {
    "vgf": (BLUE, "o"), "avgf": (PINK, "s"), "fql": (RED, "D"), "best_of_n": (GREEN, "^"), "bc": (GREY, "v"),
    "iql": (ORANGE, "P"), "ifql": (SKY, "X"), "qgf": (TAN, "p"), "rebrac": (ORANGE, "h"), "fbrac": (RED, "h"),
    "idql": (SKY, "d"), "diffusion_ql": (TAN, "d"), "sfbc": (GREEN, "d"), "td3bc": (ORANGE, "<"), "sql": (PINK, "<"),
    "eql": (PINK, ">"), "vgf_qgf": (BLUE, "d"), "ivr": (GREEN, "<"), "bc_gaussian": (GREY, "d"),
    "sft": (GREY, "s"), "dpo": (ORANGE, "D"), "ppo": (RED, "P"),
}  # fmt: skip
COLORS = (ORANGE, TAN, SKY, PINK, RED, GREEN, GREY, BLUE)
MARKERS = (">", "<", "d", "h", "p", "8", "X", "P")


class Look(NamedTuple):
    """How a method is drawn. The marker says it again in print."""

    color: Color
    marker: str
    line: str


def theme() -> None:
    """Sets the theme of all figures."""
    import seaborn as sns  # imports pyplot

    reset()
    sns.set_theme(context="paper", style="ticks")
    plt.rcParams.update(
        {
            "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False, "figure.dpi": DPI,
            "font.size": 9, "grid.alpha": 0.6, "grid.linewidth": 0.5, "legend.frameon": False, "lines.linewidth": 1.6,
            "lines.markersize": 4, "pdf.fonttype": 42, "svg.hashsalt": "analysis",
        }
    )  # fmt: skip


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """Row label -> Look, given row label -> method.

    A method's look never depends on the others; an unknown one has its own by hash, moved on only if taken in this
    figure. Several runs of one method share its colour and marker and differ in the line.
    """
    base: dict[str, tuple[str, str]] = {}
    for method in sorted(set(methods.values()), key=lambda name: (name not in KNOWN, name)):
        slot = zlib.crc32(method.encode())
        pairs = [(c, m) for m in MARKERS for c in COLORS]
        free = (pairs[(slot + i) % len(pairs)] for i in range(len(pairs)))
        base[method] = KNOWN.get(method) or next((pair for pair in free if pair not in base.values()), pairs[0])
    result: dict[str, Look] = {}
    for label, method in sorted(methods.items()):
        twins = sum(methods[other] == method for other in result)
        result[label] = Look(to_rgb(base[method][0]), base[method][1], ("-", "--", ":", "-.")[twins % 4])
    return result


def at_least_a_point(axes: Axes, which: str = "y") -> None:
    """Widens an axis of scores that are all (nearly) equal, which would otherwise show hundredths of a point."""
    low, high = getattr(axes, f"get_{which}lim")()
    if high - low < 1.0:
        getattr(axes, f"set_{which}lim")((low + high) / 2 - 1.0, (low + high) / 2 + 1.0)


def shade(color: Color, index: int, count: int) -> Color:
    """The index-th of `count` shades of a colour, from light to dark; the colour itself if count is 1."""
    if count == 1:
        return color
    t = index / (count - 1)
    light, dark = max(0.0, 0.55 - 0.8 * t), max(0.0, 1.3 * t - 0.85)
    red, green, blue = ((c * (1 - light) + light) * (1 - dark) for c in color)
    return red, green, blue


def save(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
    """Writes stem.png, .svg, .pdf and the numbers it shows as stem.csv; closes the figure. Returns the paths.

    No dates inside, so equal records give equal files.
    """
    sweep(stem.parent)
    paths = []
    for kind in FORMATS:
        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        with draft(paths[-1]) as file:
            figure.savefig(file, dpi=DPI, metadata=metadata)
    plt.close(figure)
    paths.append(stem.with_name(f"{stem.name}.csv"))
    write_csv(paths[-1], frame)
    return paths


def finish(figure: Figure, title: str, handles: Sequence[Any], labels: Sequence[str]) -> Figure:
    """Adds the title and a legend right of the axes, and widens the figure by what the legend takes."""
    width, height = figure.get_size_inches()
    columns = -(-len(labels) // int((height - 0.4) / 0.17))
    figure.set_size_inches(width + columns * (0.62 + 0.062 * max(map(len, labels))), height)
    figure.legend(handles, labels, loc="outside right center", ncols=columns, fontsize=7.5, handlelength=3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure
