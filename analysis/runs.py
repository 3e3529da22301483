"""One run folder of `results/README.md`, schema 1: what ran, checked, and its other files, read on demand."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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


def read_npz(path: Path) -> dict[str, np.ndarray] | None:
    """Arrays of a file by name, None if there is no file. Raises: RecordError if it is no npz of plain arrays."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise RecordError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
