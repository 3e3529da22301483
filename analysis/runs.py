"""One run folder of `results/README.md`, schema 1: what ran, checked, and its other files, read on demand."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core import records, strict_json
from core.errors import BadInput, reason
from core.files import open_plain, read_plain
from core.text import printable

KILLED = "killed"
"""Status of a run whose record says that it runs, while no process holds its lock."""
ENDINGS = {
    "finished": "is finished", "interrupted": "was interrupted", "failed": "failed", "running": "is still running",
    KILLED: "was killed (or stopped) before its end",
}  # fmt: skip
DEEPEST = 32  # levels of lists and mappings in a record
LONGEST = 60  # characters of something wrong that a line repeats
LONGEST_KNOB = 50
MOST = 1e15  # of a setting that a figure counts with

FRAME = ("suite", "task", "method", "label", "fingerprint", "status", "seed", "phase", "step", "setting", "episode",
         "return", "length", "success", "score", "complete")  # fmt: skip
"""Columns of `Records.episodes` beside the knobs'."""
TAKEN = frozenset(FRAME) | {
    "row", "rule", "picks", "mean", "std", "low", "high", "over", "seeds", "episodes", "bias", "line", "gradients",
    "passes", "knob",
    "L_train", "accuracy", "verdict", "swap_consistent", "consistent", "cost", "longer", "prompt", "response",
    "reference", "observations", "candidates", "valid", "actions",
}  # fmt: skip
"""What else stands in a table or file that has a column a knob."""


class RecordError(BadInput):
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
    """That of run.json, or KILLED."""
    seeds: tuple[int, ...]
    knobs: tuple[str, ...]
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    """The whole run.json, without control characters."""
    ending: str = ENDINGS["finished"]
    """What became of it, as the rest of a sentence."""
    rows: slice = field(default_factory=lambda: slice(0, 0))
    """Where its episodes stand in `Records.episodes`."""

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.task}/{self.method}/{self.fingerprint[:12]}"

    @property
    def online(self) -> bool:
        """Whether it goes on online from an offline run, whose rows then stand before its own."""
        return bool(self.meta.get("online"))

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration's values, without their origins, and those of an online phase."""
        config = {k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in self.config.items()}
        return config | {f"online.{key}": value for key, value in (self.meta.get("online") or {}).items()}

    @property
    def inference(self) -> Mapping[str, Any]:
        """What the method declares of its knobs and of the cost of acting (`analysis/inference.py`); empty in older
        records."""
        return self.meta.get("inference") or {}

    def number(self, setting: str) -> float | None:
        """A setting's value, if that is a finite number."""
        value = self.settings.get(setting)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
            return None
        return float(value)

    def train(self) -> pd.DataFrame:
        """`seed, step, <part>/<quantity>...` of train.csv, read when asked for; empty if there is none.

        Raises: RecordError if the file is no table. A half-written last line is left out.
        """
        path = self.folder / "train.csv"
        text = (content(path) or b"").decode("utf-8-sig", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        return table(path, whole.encode()) if whole.strip() else pd.DataFrame(columns=["seed", "step"])

    def candidates(self) -> dict[str, np.ndarray] | None:
        """The arrays of candidates.npz, None if there is none. Raises: RecordError if it cannot be read."""
        return read_npz(self.folder / "candidates.npz")


def read_run(folder: Path) -> Run:
    """run.json of a folder, checked. Raises: BadInput naming the file and what is wrong with it."""
    meta = _meta(folder)
    alive = alive_in(folder) if meta["status"] == "running" else None
    if alive is False:
        meta = _meta(folder)  # it may have ended between the two looks
    status = KILLED if alive is False and meta["status"] == "running" else meta["status"]
    ending = "was running when it last wrote" if status == "running" and alive is None else ENDINGS[status]
    identity = ("suite", "task", "method", "fingerprint")
    if tuple(meta[key] for key in identity) != folder.parts[-4:]:  # a copied folder would count its seeds twice
        said = "/".join(meta[key] for key in identity)
        raise RecordError(f"{folder / 'run.json'} says it is {said}, its folder says otherwise")
    values = {key: meta[key] for key in (*identity, "config")}
    label = f"{meta['method']} online" if meta.get("online") else meta["method"]
    return Run(folder=folder, label=label, seeds=tuple(meta["seeds"]), knobs=tuple(meta["knobs"]), meta=meta,
               status=status, ending=ending, **values)  # fmt: skip


def _meta(folder: Path) -> Mapping[str, Any]:
    path = folder / "run.json"
    if (found := content(path)) is None:
        raise RecordError(f"{folder} has no run.json")
    record = records.check(strict_json.parse(found, str(path)), records.RunRecord, str(path))
    for knob in record["knobs"]:
        if not (knob.isascii() and knob.isidentifier() and len(knob) <= LONGEST_KNOB) or knob in TAKEN:
            raise RecordError(f"{path}: knobs: no knob can be called {shown(knob)}")
    return _clean(record, str(path))


def alive_in(folder: Path) -> bool | None:
    """Whether a process writes a run's folder; None where that cannot be found out, as where `owner` ("PID HOST") names
    another host: a lock that is held there is free in a copy, and on a file system that keeps locks to each host."""
    found = held(folder / "lock")
    if found is False:
        with contextlib.suppress(OSError):
            _, _, host = read_plain(folder / "owner").decode(errors="replace").partition(" ")
            if host.strip() not in ("", platform.node()):
                return None
    return found


def held(lock: Path) -> bool | None:
    """Whether a process holds a run's lock, None where that cannot be found out. The system drops it with its owner."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who look do not see each other
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(handle)


def last_written(folder: Path) -> str:
    """When a run's files were last written, "2026-01-31 12:00 UTC"."""
    times = [
        path.stat().st_mtime for name in ("run.json", "episodes.csv", "train.csv") if (path := folder / name).exists()
    ]
    return f"{datetime.fromtimestamp(max(times, default=0.0), UTC):%Y-%m-%d %H:%M} UTC"


def content(path: Path) -> bytes | None:
    """A file's bytes, None if there is no file. Raises: RecordError: it cannot be read, or is no plain file."""
    try:
        return read_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(reason(error)) from error


def table(path: Path, text: bytes, **options: Any) -> pd.DataFrame:
    """The CSV that `text`, a file's content, spells out. Raises: RecordError if it is none."""
    try:
        return pd.read_csv(io.BytesIO(text), **options)
    except Exception as error:  # what pandas raises depends on the bytes
        raise RecordError(f"{path}: {shown(reason(error), quote=False)}") from error


def read_npz(path: Path) -> dict[str, np.ndarray] | None:
    """Arrays of numbers by name, None if there is no file. Raises: RecordError if it is no npz of plain arrays."""
    try:
        with open_plain(path) as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # what NumPy raises depends on the bytes: of a header that lies, MemoryError
        raise RecordError(f"{path}: cannot be read ({shown(reason(error), quote=False)})") from error
    for name, values in found.items():
        if values.dtype.kind not in "biuf":
            raise RecordError(f"{path}: {shown(name)} holds no numbers")
    return found


def shown(text: str, quote: bool = True, longest: int = LONGEST) -> str:
    """The beginning of something that a line repeats."""
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return repr(text) if quote else printable(text)


def _clean(value: Any, where: str, left: int = DEEPEST) -> Any:
    """The same without control characters but line ends. Raises: RecordError if it is nested too deeply."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(map(printable, value.split("\n")))
    if not isinstance(value, dict | list):
        return value
    if not left:
        raise RecordError(f"{where}: nested too deeply")
    if isinstance(value, list):
        return [_clean(one, where, left - 1) for one in value]
    return {_clean(key, where): _clean(one, where, left - 1) for key, one in value.items()}
