"""Small print below figures: of which runs not every seed is in them, and why."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.output import short
from analysis.records.load import Records
from analysis.records.protocols import heading
from analysis.select import headline

MOST = 6  # lines

Save = Callable[[Figure, pd.DataFrame, Path], list[Path]]
"""(figure, the numbers it shows, path without suffix) -> what was written; closes the figure."""


def told(records: Records) -> Mapping[Path, Sequence[str]]:
    """<suite>/<task>, or <suite> -> "vgf: n = 4 of 5 (seed 3 failed: ...)" of its runs that lack seeds at the end;
    before that the protocols, unless all runs are of the suite's default one."""
    found: dict[Path, list[str]] = defaultdict(list)
    for suite in {run.suite for run in records.runs}:
        here = [run for run in records.runs if run.suite == suite]
        if (line := heading(suite, [run.protocol for run in here])) != suite:
            for place in {Path(suite), *(Path(suite, run.task) for run in here)}:
                found[place].append(line)
    for run, rows in records.each(scored=False):
        if said := run.told(headline(rows)["seed"].unique().tolist()):
            found[Path(run.suite, run.task)].append(f"{run.label}: {said}")
            found[Path(run.suite)].append(f"{short(run.task)}, {run.label}: {said}")
    return found


def captioned(save: Save, lines: Mapping[Path, Sequence[str]], out: Path) -> Save:
    """`save`, with those of `lines` below a figure that are about its folder in `out`."""

    def keep(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
        if said := lines.get(stem.relative_to(out).parent):
            caption(figure, said)
        return save(figure, frame, stem)

    return keep


def caption(figure: Figure, lines: Sequence[str]) -> None:
    """Puts small print below a figure, which grows by that; of what does not fit into MOST lines the notes tell."""
    width, height = figure.get_size_inches()
    columns = int(19 * width)  # characters of 7 points abreast
    rows = [row for line in lines for row in textwrap.wrap(line, columns, subsequent_indent="  ")]
    if len(rows) > MOST:
        rows = [*rows[: MOST - 1], "... and more: see the notes"]
    space = 0.13 * len(rows) + 0.06
    figure.set_size_inches(width, height + space)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, space / (height + space), 1, height / (height + space)))  # type: ignore[call-arg]
    figure.text(0.01, 0.04 / (height + space), "\n".join(rows), fontsize=7, color="0.3", ha="left", va="bottom",
                linespacing=1.3, parse_math=False, gid="caption")  # fmt: skip
