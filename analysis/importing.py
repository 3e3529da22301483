"""Reads scores that other code bases left: pickles of QAM, DQC and CORL, folders of runs of the FQL family, tables.

A pickle can carry out anything while it is read, so only numbers, texts, lists, mappings and NumPy's arrays are let
through; any other class is refused by name before it is looked up.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.records.external import COLUMNS
from analysis.records.files import RecordError, content, shown, table
from core.errors import BadInput

LARGEST = 2**30  # bytes of a pickle
_ARRAYS = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    *((f"{core}.multiarray", name) for core in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")),
    *((f"{core}.numeric", "_frombuffer") for core in ("numpy.core", "numpy._core")),
}  # fmt: skip
_EVERY = {30: 50_000, 10: 50_000, 4: 250_000}  # evaluations of a seed -> steps between them: QAM, its RLPD, DQC
_OFFLINE = 1_000_000  # steps, after which QAM goes on online
_SCORES = ("evaluation/success", "evaluation/episode.normalized_return")  # columns of eval.csv, in percent or points
_METHODS = ("agent_name", "agent", "algorithm")  # keys of flags.json
NEEDED = ("method", "task", "seed", "score")


@dataclass(frozen=True)
class How:
    """What the user says of a file, as it does not itself."""

    suite: str = ""  # "": by the tasks' names
    protocol: str = ""
    scale: str = ""  # percent | share
    every: int = 0  # steps between evaluations; 0: as the formats have it


def read(path: Path, how: How) -> tuple[pd.DataFrame, list[str]]:
    """(rows of `external.COLUMNS`, as text; notes). The rows are yet to be checked.

    Raises: BadInput: it is of none of the formats, or does not say what is needed; one line.
    """
    notes: list[str] = []
    if path.is_dir():
        rows, share = _folder(path, notes), None
    elif path.suffix.lower() in (".pkl", ".pickle"):
        rows, share = _pickle(path, how, notes)
    else:
        rows, share = _table(path), None
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    if frame.empty:
        raise RecordError(f"{path}: holds no score of a single seed" + "".join(f"; {note}" for note in notes[:2]))
    return _completed(frame, how, share, str(path)), notes


def _completed(rows: pd.DataFrame, how: How, share: bool | None, where: str) -> pd.DataFrame:
    """With suites, protocols, phases, steps, and scores in points. `share`: whether they are of one, where the format
    says so."""
    found = rows.reset_index(drop=True).copy()
    for name, value in (("protocol", how.protocol), ("phase", "offline"), ("step", "0")):
        if name not in found or (how.protocol and name == "protocol"):
            found[name] = value
    if "suite" not in found or how.suite:
        found["suite"] = how.suite or [_suite_of(str(task)) for task in found["task"]]
    if (unknown := found["suite"] == "").any():
        task = found.loc[unknown, "task"].iloc[0]
        raise RecordError(f"{where}: task {shown(str(task))} tells no suite; --suite says which it is")
    scores = pd.to_numeric(found["score"], errors="coerce")
    asked = {"percent": False, "share": True}.get(how.scale, share)
    if asked is None:
        if len(scores.dropna()) and scores.min() >= 0 and 0 < scores.max() <= 1:
            raise RecordError(f"{where}: all scores lie between 0 and 1; --scale share (1 is 100 percent) or --scale "
                              "percent says what they are")  # fmt: skip
        asked = False
    if asked and len(out := scores[(scores < 0) | (scores > 1)]):
        raise RecordError(f"{where}:{int(out.index[0]) + 2}: score is {out.iloc[0]:g}, which is no share of one")
    if asked:
        found["score"] = [value if np.isnan(number) else f"{100 * number:.7g}"
                          for value, number in zip(found["score"], scores, strict=True)]  # fmt: skip
    return found[list(COLUMNS)].astype(str)


def _suite_of(task: str) -> str:
    """By its name; "" where that does not tell."""
    if "-singletask-" in task:
        return "ogbench"
    kind = task.split("-")[0]
    return "d4rl" if kind in ("halfcheetah", "hopper", "walker2d", "antmaze") and task.endswith("-v2") else ""


# tables


def _table(path: Path) -> pd.DataFrame:
    if (text := content(path)) is None:
        raise RecordError(f"{path}: there is no such file")
    rows = table(path, text, dtype=str, keep_default_na=False)
    if lacking := [name for name in NEEDED if name not in rows]:
        raise RecordError(f"{path}:1: no column {lacking[0]}; expected method,task,seed,score[,step][,phase]")
    if more := [str(name) for name in rows if name not in COLUMNS]:
        raise RecordError(f"{path}:1: unknown column {shown(more[0])}; expected method,task,seed,score[,step][,phase]")
    return rows


# folders of runs


def _folder(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Runs as the codes of FQL, QC, QAM and their kin log them: flags.json beside eval.csv, each of one seed."""
    found: list[dict[str, Any]] = []
    for flags in sorted(folder.rglob("flags.json")):
        try:
            found += _logged(flags)
        except BadInput as error:
            notes.append(f"left out: {error}")
    if not found and not notes:
        notes.append("no folder below has flags.json and eval.csv")
    return found


def _logged(flags: Path) -> Iterator[dict[str, Any]]:
    try:
        about = json.loads(content(flags) or b"")
        task, seed = str(about["env_name"]), int(about["seed"])
        agent = about["agent"]
        method = str(next(agent[key] for key in _METHODS if key in agent) if isinstance(agent, dict) else agent)
    except (ValueError, KeyError, TypeError, StopIteration):
        raise RecordError(f"{flags}: does not say env_name, seed and agent") from None
    path = flags.with_name("eval.csv")
    if (text := content(path)) is None:
        raise RecordError(f"{path}: there is no such file")
    rows = table(path, text)
    name = next((name for name in _SCORES if name in rows), None)
    if name is None or "step" not in rows:
        raise RecordError(f"{path}:1: no column {_SCORES[0]}, or none called step")
    offline = int(about.get("offline_steps") or 0)
    points = rows[name] * (100 if name == _SCORES[0] else 1)
    for step, score in zip(rows["step"], points, strict=True):
        online = offline and int(step) > offline
        yield {"method": method, "task": task, "seed": str(seed), "step": str(int(step)),
               "phase": "online" if online else "offline", "score": f"{score:.7g}"}  # fmt: skip


# pickles


class _Numbers(pickle.Unpickler):
    """Lets through what numbers are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise RecordError(f"it holds {shown(f'{module}.{name}', quote=False)}, and only numbers are read")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise RecordError("it refers to something outside, and only numbers are read")


def unpickled(data: bytes) -> Any:
    """Numbers, texts, lists, mappings and arrays of numbers. Raises: RecordError: it holds anything else."""
    try:
        return _Numbers(io.BytesIO(data)).load()
    except RecordError:
        raise
    except Exception as error:  # what damaged bytes raise depends on them
        raise RecordError(f"is no pickle of numbers ({type(error).__name__})") from None


def _pickle(path: Path, how: How, notes: list[str]) -> tuple[list[dict[str, Any]], bool | None]:
    """(rows, whether scores are shares)."""
    data = content(path)
    if data is None:
        raise RecordError(f"{path}: there is no such file")
    if len(data) > LARGEST:
        raise RecordError(f"{path}: has {len(data)} bytes, more than {LARGEST}")
    try:
        found = unpickled(data)
        if not isinstance(found, dict) or not found:
            raise RecordError("holds no mapping")
        first = next(iter(found))
        if isinstance(first, tuple) and len(first) == 2:
            return list(_by_pairs(found, how, notes)), True
        return list(_by_method(found, how)), None
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None


def _by_pairs(found: Mapping[Any, Any], how: How, notes: list[str]) -> Iterator[dict[str, Any]]:
    """(task, method) -> array [evaluation, seed], as QAM and DQC have them."""
    whole = {str(task) for task, _ in found if "-singletask-" in str(task)}
    left = sorted({str(task) for task, _ in found} - whole) if whole else []
    if left:
        notes.append(f"left out: {', '.join(left[:3])}{' and others' * (len(left) > 3)}, which are means over tasks")
    means = 0
    for (task, method), values in found.items():
        if str(task) in left:
            continue
        if isinstance(values, dict):
            means += 1
            continue
        scores = np.asarray(values)
        if scores.ndim != 2 or scores.dtype.kind not in "fiu":
            raise RecordError(f"{shown(str(task))}, {shown(str(method))} is no array [evaluation, seed] of numbers")
        every = how.every or _EVERY.get(len(scores), 0)
        if not every:
            raise RecordError(f"{shown(str(task))} has {len(scores)} evaluations; --every says how many steps apart")
        alone = len(scores) == 10 and not how.every
        for k, row in enumerate(scores, start=1):
            step = every * k
            phase = "online_only" if alone else "offline" if step <= _OFFLINE else "online"
            for seed, score in enumerate(row):
                yield {"method": str(method), "task": str(task), "seed": str(seed), "step": str(step), "phase": phase,
                       "score": repr(float(score))}  # fmt: skip
    if means:
        notes.append(f"left out: {means} entries that are means with intervals, of no single seed")


def _by_method(found: Mapping[Any, Any], how: How) -> Iterator[dict[str, Any]]:
    """method -> task -> a list of scores for each seed, as CORL has them; the steps are not told."""
    if not how.every:
        raise RecordError("does not tell its steps; --every says how many are between two scores")
    for method, tasks in found.items():
        if not isinstance(tasks, dict):
            raise RecordError(f"{shown(str(method))} is no mapping of tasks")
        for task, seeds in tasks.items():
            if not isinstance(seeds, Sequence | np.ndarray) or isinstance(seeds, str):
                raise RecordError(f"{shown(str(method))}, {shown(str(task))} is no list of seeds")
            for seed, scores in enumerate(seeds):
                for k, score in enumerate(np.asarray(scores, float).ravel(), start=1):
                    yield {"method": str(method), "task": str(task), "seed": str(seed), "step": str(how.every * k),
                           "score": repr(float(score))}  # fmt: skip
