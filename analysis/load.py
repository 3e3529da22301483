"""Reads the records that runs wrote (`results/README.md`, schema 1) into one tidy frame of episodes.

Nothing is dropped in silence: whatever is left out, unfinished or ambiguous becomes a line of `Records.notes`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.episodes import AFTER, BEFORE, PHASES, Rows, read_episodes
from analysis.runs import KILLED, RecordError, Run, last_written, read_npz, read_run
from core.errors import BadInput, reason

NAMES = ("suite", "task", "method", "label", "fingerprint", "status")
"""Columns that are one value a run, in front of its rows' own."""


@dataclass(frozen=True)
class Records:
    """What `load` found.

    `episodes` has a row an episode: suite, task, method, label, fingerprint, status, seed, phase, step, one column a
    knob (NaN where the method has no such knob), setting ("L_test=1", "" without knobs), episode, return, length,
    success, score, and complete (False in an evaluation that was still being written). `label` tells the runs of a
    task apart: the method's name, with "online" for a run that goes on from an offline one, and with a piece of the
    fingerprint where the task has several of those.
    """

    root: Path
    episodes: pd.DataFrame
    runs: tuple[Run, ...]
    knobs: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    extras: Mapping[Path, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """Folder of a run -> its columns after those that every suite has, NaN where empty; of those that have any."""

    def each(self, scored: bool = True) -> Iterator[tuple[Run, pd.DataFrame]]:
        """(run, its complete evaluations) of every run that has some, by suite, task and label; views, not copies.

        `scored`: without the episodes that nobody has judged.
        """
        for run in sorted(self.runs, key=lambda run: (run.suite, run.task, run.label)):
            rows = self.episodes.iloc[run.rows]
            kept = rows["complete"].to_numpy()
            if scored:
                kept = kept & ~np.isnan(rows["score"].to_numpy())
            if kept.any():
                yield run, rows if kept.all() else rows[kept]

    def measured(self, run: Run) -> pd.DataFrame:
        """The run's rows of `episodes`, with the columns that only its suite has."""
        return self.episodes.iloc[run.rows].assign(**self.extras.get(run.folder, {}))

    def landscape(self, suite: str, task: str) -> dict[str, np.ndarray] | None:
        """The task's own landscape, None if it has none. Raises: RecordError if it cannot be read."""
        return read_npz(self.root / "tasks" / suite / f"{task}.npz")


def load(results: Path, empty: bool = False) -> Records:
    """Reads every `results/runs/<suite>/<task>/<method>/<fingerprint>/`; `tests/analysis/load_speed.py` times it.

    Raises: RecordError if there is no folder `results`, or no run folder in it, unless `empty` allows that; a run that
    cannot be read is a note and left out.
    """
    if not results.is_dir():
        raise RecordError(f"no folder {results}")
    folders, notes = _folders(results / "runs")
    if not folders:
        notes = [f"no runs under {results / 'runs'}", *notes]
        if not empty:
            raise RecordError("; ".join(notes[:3]))
    found: list[tuple[Run, Rows]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for run, rows, remarks in pool.map(_read, folders):
            notes += remarks
            if run is not None and rows is not None:
                found.append((run, rows))
    labels, remarks = _labels([run for run, rows in found if len(rows)])
    ends = np.cumsum([len(rows) for _, rows in found]).tolist()
    runs = [
        replace(run, label=labels.get(run.folder, run.label), rows=slice(end - len(rows), end))
        for (run, rows), end in zip(found, ends, strict=True)
    ]
    knobs = tuple(dict.fromkeys(knob for run in runs for knob in run.knobs))
    extras = {run.folder: rows.extras for run, rows in found if rows.extras}
    episodes = _concat(runs, [rows for _, rows in found], knobs)
    return Records(results, episodes, tuple(runs), knobs, notes + remarks, extras)


def _folders(runs: Path) -> tuple[list[Path], list[str]]:
    """(every <suite>/<task>/<method>/<fingerprint>/ in order, notes on folders that cannot be listed)."""
    found, notes = [runs] if runs.is_dir() else [], []
    for _ in range(4):
        level, found = found, []
        for folder in level:
            try:
                found += sorted(path for path in folder.iterdir() if path.is_dir())
            except OSError as error:
                notes.append(f"left out: {reason(error)}")
    return found, notes


def _read(folder: Path) -> tuple[Run | None, Rows | None, list[str]]:
    """(run, its rows, notes); None for both where the run cannot be read."""
    try:
        run = read_run(folder)
        rows, notes = read_episodes(run)
    except (BadInput, OSError) as error:
        return None, None, [f"left out: {reason(error)}"]
    return run, rows, notes + ([_status_note(run, rows)] if run.status != "finished" else [])


def _status_note(run: Run, rows: Rows) -> str:
    """One line on an unfinished run: what happened, and how far its rows reach."""
    why = str(run.meta.get("error") or "").strip().splitlines()
    what = run.ending + (f": {why[-1]}" if why else "")
    if run.status in ("running", KILLED):
        what += f", last written {last_written(run.folder)}"
    steps = rows.columns["step"][rows.columns["complete"]]
    return f"{run.name} {what}; {f'shown as of step {steps.max()}' if len(steps) else 'nothing to show'}"


def _labels(runs: Sequence[Run]) -> tuple[dict[Path, str], list[str]]:
    """Folder -> label of the runs that share their task and method with others, and a note on each such group."""
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.suite, run.task, run.label].append(run)
    labels: dict[Path, str] = {}
    notes = []
    for (suite, task, label), group in groups.items():
        if len(group) == 1:
            continue
        prints = [run.fingerprint for run in group]
        size = next(n for n in range(6, 1 + max(map(len, prints))) if len({one[:n] for one in prints}) == len(prints))
        labels |= {run.folder: f"{label} ({run.fingerprint[:size]})" for run in group}
        differ = _differences([run.settings for run in group])
        notes.append(f"{suite}/{task} has {len(group)} runs of {label}, shown apart: {differ}")
    return labels, notes


def _differences(flat: Sequence[Mapping[str, Any]]) -> str:
    """What sets configurations apart, briefly: "step_size 0.1 / 0.2"."""
    keys = sorted({key for one in flat for key in one if any(one[key] != other.get(key) for other in flat)})
    parts = [f"{key} {' / '.join(str(one.get(key, '-')) for one in flat)}" for key in keys[:3]]
    more = [f"{len(keys) - 3} more"] if len(keys) > 3 else []
    return ", ".join(parts + more) or "equal configurations, so other data, seeds or code"


def _concat(runs: Sequence[Run], found: Sequence[Rows], knobs: Sequence[str]) -> pd.DataFrame:
    """All runs' rows under one set of columns. Column by column, so that little stands in memory twice."""
    sizes = [len(rows) for rows in found]
    columns: dict[str, Any] = {}
    for name in NAMES:
        values, index = np.unique(np.array([getattr(run, name) for run in runs], dtype=object), return_inverse=True)
        columns[name] = pd.Categorical.from_codes(np.repeat(index.astype("int16"), sizes), values)
    settings = sorted({name for rows in found for name in rows.settings})
    for rows in found:
        rename = np.array([settings.index(name) for name in rows.settings], dtype="int16")
        rows.columns["setting"] = rename[rows.columns["setting"]]
    categories = {"phase": list(PHASES), "setting": settings}
    for name in (*BEFORE, *knobs, "setting", *AFTER, "complete"):
        missing = [np.broadcast_to(np.nan, size) for size in sizes]  # a knob that the method does not have
        parts = [rows.columns.pop(name, none) for rows, none in zip(found, missing, strict=True)]
        values = np.concatenate(parts) if parts else np.empty(0, int)
        columns[name] = pd.Categorical.from_codes(values, categories[name]) if name in categories else values
    return pd.DataFrame(columns, copy=False)
