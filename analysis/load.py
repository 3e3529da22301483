"""Reads the records that runs wrote (`results/README.md`, schema 1) into one tidy frame of episodes.

Nothing is dropped in silence: whatever is left out, unfinished or ambiguous becomes a line of `Records.notes`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.episodes import AFTER, BEFORE, PHASES, parse

SCHEMA = 1
STATUSES = ("finished", "running", "interrupted", "failed")
KEYS: dict[str, type | tuple[type, ...]] = {
    "suite": str, "task": str, "method": str, "fingerprint": str, "status": str,
    "seeds": list, "knobs": list, "episodes": int, "config": dict,
}  # fmt: skip


class RecordError(ValueError):
    """A record cannot be read; the message is one line that names the file and, where there is one, the line."""


@dataclass(frozen=True)
class Run:
    """One run folder: what ran, without its episodes."""

    folder: Path
    suite: str
    task: str
    method: str
    fingerprint: str
    label: str
    status: str
    seeds: tuple[int, ...]
    knobs: tuple[str, ...]
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    """The whole run.json."""

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.task}/{self.method}/{self.fingerprint[:12]}"

    @property
    def online(self) -> bool:
        """Whether it goes on online from an offline run, whose rows then stand before its own."""
        return bool(self.meta.get("online"))

    def train(self) -> pd.DataFrame:
        """`seed, step, <part>/<quantity>...` of train.csv, read when asked for; empty if there is none.

        Raises: RecordError if the file is no table. A half-written last line is left out.
        """
        path = self.folder / "train.csv"
        if not path.exists():
            return pd.DataFrame(columns=["seed", "step"])
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            return pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1]))
        except ValueError as error:
            raise RecordError(f"{path}: {str(error).strip()}") from error

    def candidates(self) -> dict[str, np.ndarray] | None:
        """The arrays of candidates.npz, None if there is none. Raises: RecordError if it cannot be read."""
        return read_npz(self.folder / "candidates.npz")


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

    def landscape(self, suite: str, task: str) -> dict[str, np.ndarray] | None:
        """The task's own landscape, None if it has none. Raises: RecordError if it cannot be read."""
        return read_npz(self.root / "tasks" / suite / f"{task}.npz")


def load(results: Path) -> Records:
    """Reads every `results/runs/<suite>/<task>/<method>/<fingerprint>/`.

    Raises: RecordError if there is no run folder at all; a run that cannot be read is a note and left out.
    """
    folders = sorted(path for path in (results / "runs").glob("*/*/*/*") if path.is_dir())
    if not folders:
        raise RecordError(f"no runs under {results / 'runs'}")
    notes: list[str] = []
    found: list[tuple[Run, pd.DataFrame]] = []
    for folder in folders:
        try:
            run = read_run(folder)
            rows, remarks = read_episodes(run)
        except (RecordError, OSError) as error:
            notes.append(f"left out: {error}")
            continue
        notes += remarks + ([_status_note(run, rows)] if run.status != "finished" else [])
        found.append((run, rows))
    labelled, remarks = _label(found)
    notes += remarks
    frames = []
    for run, rows in labelled:
        names = ("suite", "task", "method", "label", "fingerprint", "status")
        for position, column in enumerate(names):
            rows.insert(position, column, getattr(run, column))
        frames.append(rows)
    knobs = tuple(dict.fromkeys(knob for run, _ in labelled for knob in run.knobs))
    return Records(results, _concat(frames, knobs), tuple(run for run, _ in labelled), knobs, notes)


def read_run(folder: Path) -> Run:
    """run.json of a folder, checked. Raises: RecordError naming the file and what is wrong with it."""
    path = folder / "run.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{folder} has no run.json") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}:{error.lineno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: {error.reason} at byte {error.start}") from None
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        found = meta.get("schema") if isinstance(meta, dict) else None
        raise RecordError(f"{path}: schema {found!r}, this reads schema {SCHEMA}")
    for key, kind in KEYS.items():
        if not isinstance(meta.get(key), kind):
            raise RecordError(f"{path}: {key} is {meta.get(key)!r}")
    if meta["status"] not in STATUSES:
        raise RecordError(f"{path}: status {meta['status']!r} is none of {', '.join(STATUSES)}")
    identity = ("suite", "task", "method", "fingerprint")
    if tuple(meta[key] for key in identity) != folder.parts[-4:]:  # a copied folder would count its seeds twice
        raise RecordError(f"{path} says it is {'/'.join(meta[key] for key in identity)}, its folder says otherwise")
    values = {key: meta[key] for key in (*identity, "status", "config")}
    label = f"{meta['method']} online" if meta.get("online") else meta["method"]
    return Run(folder=folder, label=label, seeds=tuple(meta["seeds"]), knobs=tuple(meta["knobs"]), meta=meta, **values)


def read_episodes(run: Run) -> tuple[pd.DataFrame, list[str]]:
    """The run's episodes.csv with `setting` and `complete`, and notes on what was left out of it.

    Raises: RecordError if its header is not the schema's.
    """
    path = run.folder / "episodes.csv"
    columns = [*BEFORE, *run.knobs, *AFTER]
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a line without its newline is still being written
    notes = [f"{path}: the last line is half-written, left out"] if len(whole) < len(text) else []
    if not whole.strip():
        return _finish(pd.DataFrame(columns=columns), run), [*notes, f"{run.name} has no evaluation yet"]
    header = whole[: whole.index("\n")].strip().split(",")
    if header != columns:
        raise RecordError(f"{path}:1: the header is {','.join(header)}, expected {','.join(columns)}")
    rows, bad = parse(whole, columns)
    shown = [f"{path}:{line}: {reason}, left out" for line, reason in bad]
    notes += shown if len(shown) <= 5 else [*shown[:4], f"{path}: {len(shown) - 4} more corrupt rows, left out"]
    key = [*BEFORE, *run.knobs, "episode"]
    if (again := rows.duplicated(key, keep="last")).any():
        notes.append(f"{path}: {int(again.sum())} episodes stand twice (a resumed run?), the later rows count")
        rows = rows[~again]
    rows = _finish(rows, run)
    return rows, notes + _completeness(rows, run)


def read_npz(path: Path) -> dict[str, np.ndarray] | None:
    """Arrays of a file by name, None if there is no file. Raises: RecordError if it is no npz of plain arrays."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise RecordError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def setting_name(values: Mapping[str, float]) -> str:
    """`{"w": 0.02, "N": 4}` -> "w=0.02 N=4"; the name of a knob setting everywhere."""
    return " ".join(f"{name}={value:g}" for name, value in values.items())


def _finish(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Compact types, and the name of each row's knob setting; `complete` is decided later."""
    kinds = {"seed": "int32", "step": "int64", "episode": "int32"}
    kinds |= {knob: "float64" for knob in run.knobs}
    kinds |= dict.fromkeys(("return", "length", "success", "score"), "float32")
    rows = rows.astype(kinds).reset_index(drop=True)
    rows["phase"] = pd.Categorical(rows["phase"], categories=PHASES)
    position = rows.columns.get_loc("episode")
    if run.knobs and len(rows):
        settings = rows.groupby(list(run.knobs), sort=True).ngroup()
        firsts = rows.loc[~settings.duplicated(), list(run.knobs)].assign(code=settings).sort_values("code")
        names = [setting_name(dict(zip(run.knobs, values, strict=True))) for values in firsts[[*run.knobs]].to_numpy()]
        rows.insert(position, "setting", [names[code] for code in settings])
    else:
        rows.insert(position, "setting", "")
    rows["complete"] = True
    return rows


def _completeness(rows: pd.DataFrame, run: Run) -> list[str]:
    """Marks (in place) the last evaluation of an unfinished run if rows are missing; notes that and other gaps."""
    if rows.empty:
        return []
    expected = len(run.seeds) * rows["setting"].nunique() * run.meta["episodes"]
    counts = rows.groupby(["step", "phase"], observed=True, sort=True).size()
    notes = []
    for (step, phase), count in counts.items():
        if count == expected:
            continue
        short = f"{run.name}: the {phase} evaluation at step {step} has {count} of {expected} episodes"
        if run.status != "finished" and (step, phase) == counts.index[-1]:
            rows.loc[(rows["step"] == step) & (rows["phase"] == phase), "complete"] = False
            short += ", left out"
        notes.append(short)
    return notes


def _status_note(run: Run, rows: pd.DataFrame) -> str:
    """One line on an unfinished run: what happened, and how far its rows reach."""
    reason = str(run.meta.get("error") or "").strip().splitlines()
    what = {"running": "is still running", "failed": "failed"}.get(run.status, "was interrupted")
    shown = rows.loc[rows["complete"], "step"]
    reach = f"shown as of step {shown.max()}" if len(shown) else "nothing to show"
    return f"{run.name} {what}{': ' + reason[-1] if reason else ''}; {reach}"


def _label(found: Sequence[tuple[Run, pd.DataFrame]]) -> tuple[list[tuple[Run, pd.DataFrame]], list[str]]:
    """Gives the runs of one method on one task labels of their own where several of them have rows."""
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run, rows in found:
        if len(rows):
            groups[run.suite, run.task, run.label].append(run)
    labels: dict[Path, str] = {}
    notes = []
    for (suite, task, label), runs in groups.items():
        if len(runs) == 1:
            continue
        prints = [run.fingerprint for run in runs]
        size = next(n for n in range(6, 1 + max(map(len, prints))) if len({one[:n] for one in prints}) == len(prints))
        labels |= {run.folder: f"{label} ({run.fingerprint[:size]})" for run in runs}
        differ = _differences([{**run.config, **(run.meta.get("online") or {})} for run in runs])
        notes.append(f"{suite}/{task} has {len(runs)} runs of {label}, shown apart: {differ}")
    return [(replace(run, label=labels.get(run.folder, run.label)), rows) for run, rows in found], notes


def _differences(configs: Sequence[Mapping[str, Any]]) -> str:
    """What sets configurations apart, briefly: "step_size 0.1 / 0.2"."""
    flat = [{key: v["value"] if isinstance(v, dict) and "value" in v else v for key, v in c.items()} for c in configs]
    keys = sorted({key for one in flat for key in one if any(one[key] != other.get(key) for other in flat)})
    parts = [f"{key} {' / '.join(str(one.get(key, '-')) for one in flat)}" for key in keys[:3]]
    more = [f"{len(keys) - 3} more"] if len(keys) > 3 else []
    return ", ".join(parts + more) or "equal configurations, so other data, seeds or code"


def _concat(frames: Sequence[pd.DataFrame], knobs: Sequence[str]) -> pd.DataFrame:
    """All runs' rows under one set of columns, names as categories (millions of rows must fit)."""
    names = ["suite", "task", "method", "label", "fingerprint", "status"]
    columns = [*names, *BEFORE, *knobs, "setting", *AFTER, "complete"]
    frames = [frame.reindex(columns=columns) for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=columns)
    for column in (*names, "setting"):
        union = sorted({value for frame in frames for value in frame[column].unique()})
        for frame in frames:
            frame[column] = pd.Categorical(frame[column], categories=union)
    episodes = pd.concat(frames, ignore_index=True)
    return episodes.astype({knob: "float64" for knob in knobs})
