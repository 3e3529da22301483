"""Small print below figures: of which runs not every seed is in them, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.figures.page import wrapped
from analysis.output import short
from analysis.records.load import Records
from analysis.records.protocols import heading
from analysis.select import headline

MOST = 6  # lines


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


def small_print(lines: Sequence[str], width: float) -> str:
    """Those lines as they stand below a figure of so many inches; of what does not fit into MOST the notes tell."""
    rows = [row for line in lines for row in wrapped(line.replace("\n", " "), width - 0.1).split("\n")]
    return "\n".join([*rows[: MOST - 1], "... and more: see the notes"] if len(rows) > MOST else rows)
