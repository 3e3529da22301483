"""The theme of all figures, and how a figure is saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from analysis.figures.fonts import families
from analysis.figures.page import LARGE, PLAIN, SMALL, settle
from analysis.figures.pyplot import plt, reset
from analysis.output import write_csv
from core.files import draft, sweep

FORMATS = ("png", "svg", "pdf")
DPI = 200
MORE: dict[str, Any] = {"png": {"pil_kwargs": {"compress_level": 3}}}  # a little larger, and faster written
PAD = 0.02  # inches around all
TERRAIN = LinearSegmentedColormap.from_list("terrain", ["#fdfcfa", "#e6dfd0", "#c3b596", "#9a8a67"])
"""Muted, so that every method's colour stands out on it."""


def theme() -> None:
    """Sets the theme of all figures: nothing of what a user has set up."""
    reset()
    plt.rcParams.update(
        {
            "axes.axisbelow": True, "axes.edgecolor": "0.15", "axes.grid": True, "axes.labelcolor": "0.1",
            "axes.labelsize": PLAIN, "axes.linewidth": 0.7, "axes.spines.right": False, "axes.spines.top": False,
            "axes.titlesize": PLAIN, "axes.titlepad": 3.0, "axes.titley": 1.0, "axes.labelpad": 2.5,
            "font.family": families(), "font.size": PLAIN, "figure.titlesize": LARGE, "grid.color": "0.85",
            "grid.linewidth": 0.5,
            "legend.fontsize": SMALL, "legend.frameon": False, "legend.handlelength": 2.2,
            "lines.linewidth": 1.3, "lines.markersize": 3.4, "patch.linewidth": 0.5, "pdf.fonttype": 42,
            "svg.hashsalt": "analysis", "text.color": "0.1", "xtick.labelsize": SMALL, "ytick.labelsize": SMALL,
            "xtick.color": "0.15", "ytick.color": "0.15", "xtick.major.size": 2.5, "ytick.major.size": 2.5,
            "xtick.minor.size": 1.5, "ytick.minor.size": 1.5, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
            "xtick.major.pad": 2.5, "ytick.major.pad": 2.0, "figure.constrained_layout.w_pad": PAD,
            "figure.constrained_layout.h_pad": PAD,
        }
    )  # fmt: skip


def at_least_a_point(axes: Axes, which: str = "y") -> None:
    """Widens an axis of scores that are all (nearly) equal, which would otherwise show hundredths of a point."""
    low, high = getattr(axes, f"get_{which}lim")()
    if high - low < 1.0:
        getattr(axes, f"set_{which}lim")((low + high) / 2 - 1.0, (low + high) / 2 + 1.0)


def save(figure: Figure, frame: pd.DataFrame, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes stem.<format> for each, and the numbers it shows as stem.csv; closes the figure. Returns the paths.

    It is laid out once for all formats. No dates inside, so equal records give equal files.
    """
    sweep(stem.parent)
    settle(figure)
    paths = []
    for kind in formats:
        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        with draft(paths[-1]) as file:
            figure.savefig(file, dpi=DPI, format=kind, metadata=metadata, **MORE.get(kind, {}))
    plt.close(figure)
    paths.append(stem.with_name(f"{stem.name}.csv"))
    write_csv(paths[-1], frame)
    return paths
