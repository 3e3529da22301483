"""What a run leaves behind; the schema is described in `results/README.md`."""

from __future__ import annotations

import contextlib
import csv
import datetime
import errno
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from core.files import write_atomically, write_json, write_lines
from methods.core import BadInput

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnasium", "ogbench", "mujoco",
             "torch", "transformers", "tokenizers", "safetensors", "peft", "trl")  # fmt: skip


class Busy(RuntimeError):
    """Another process holds the lock, or another thread of this one (`ours`)."""

    def __init__(self, message: str, ours: bool) -> None:
        super().__init__(message)
        self.ours = ours


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Atomically, as an NPZ file."""
    write_atomically(path, lambda file: np.savez_compressed(file, **dict(arrays)))  # type: ignore[arg-type]


@contextlib.contextmanager
def locked(folder: Path, *, wait: Callable[[Busy], None] | None = None) -> Iterator[None]:
    """Holds the folder's lock. The system drops it with its owner, however that ends, so it never grows stale.

    Args:
      wait: called a few times a second while another process holds it; may raise to give up.

    Raises:
      Busy: another process holds it (only without `wait`); names the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    owner, lock = folder / "owner", FileLock(folder / "lock")
    while True:
        try:
            lock.acquire(timeout=0.2)  # analysis may be looking whether somebody holds it
            break
        except Timeout:
            try:
                number = owner.read_text().partition(" ")[0].strip()
            except OSError:
                number = ""
            by = f"process {number}" if number else "another process"
            busy = Busy(f"{folder} is being written by {by}", number == str(os.getpid()))
            if wait is None:
                raise busy from None
            wait(busy)
    try:
        owner.write_text(f"{os.getpid()} {platform.node()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


class Table:
    """An append-only CSV whose rows have a `step`, kept whole across crashes.

    Rows become durable with each `append`. On reopening, a half-written last row and rows past the step that is
    resumed from are dropped, so that nothing stands twice; so are steps with other than `rows_per_step` rows, where
    that is given.
    """

    def __init__(self, path: Path, resume_step: int, *, rows_per_step: int | None = None) -> None:
        self.path = path
        self.steps: set[int] = set()
        self._header: list[str] | None = None
        if path.exists():
            self._keep_through(resume_step, rows_per_step)

    def _keep_through(self, step: int, rows_per_step: int | None) -> None:
        text = self.path.read_text()
        rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
        if not rows:
            self.path.unlink()
            return
        header, *body = rows
        column = header.index("step")
        counts = Counter(row[column] for row in body if len(row) == len(header))
        whole = {value for value, count in counts.items() if rows_per_step in (None, count) and int(value) <= step}
        kept = [row for row in body if len(row) == len(header) and row[column] in whole]
        if not kept:
            self.path.unlink()
            return
        self._header, self.steps = header, {int(value) for value in whole}
        lines = "".join(",".join(row) + "\n" for row in [header, *kept])
        if lines != text:
            write_atomically(self.path, lambda file: file.write(lines.encode()))

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows in one write and waits until they are on disk."""
        header = list(rows[0])
        if self._header and set(header) <= set(self._header):  # a table that was taken on has columns of its source
            header, rows = self._header, [{name: row.get(name, math.nan) for name in self._header} for row in rows]
        if self._header not in (None, header):
            raise BadInput(f"{self.path}: columns {header} do not match {self._header}; use --fresh")
        lines = [] if self._header else [",".join(header)]
        lines += [",".join(_cell(value) for value in row.values()) for row in rows]
        if self._header and not self.path.exists():  # what would be begun here has lost its beginning
            raise FileNotFoundError(errno.ENOENT, "removed while the run wrote in it", str(self.path))
        with self.path.open("a") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._header = header
        self.steps |= {int(row["step"]) for row in rows}


def take_on(source: Path, target: Path, columns: Sequence[str] = ()) -> None:
    """Starts the table `target` with the rows of `source`, of a run that it goes on from and whose last evaluation is
    therefore not final; not if it has been started. With `columns` its own come to those of `source`, empty there."""
    if target.exists() or not source.exists():
        return
    with source.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), list(reader.fieldnames or ())
    names += sorted(set(columns) - set(names))
    lines = [",".join(names)]
    for row in rows:
        row |= {"phase": "offline"} if "phase" in row else {}
        lines.append(",".join(row.get(name, "nan") for name in names))
    write_lines(target, lines)


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return format(float(value), ".7g")
    return str(value)


@cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@cache
def git_state() -> dict[str, Any]:
    """Commit of this code and whether it was changed since; nulls outside a checkout."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        return {"sha": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError):
        return {"sha": None, "dirty": None}


class RunRecord:
    """`run.json` of one run, rewritten whole at every change."""

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = folder
        before = read_run(folder)
        self.content = {
            "schema": 1, **content, "status": "running", "error": None, "versions": versions(), "git": git_state(),
            "wall_clock_s": before.get("wall_clock_s", {}), "created": before.get("created", now()),
        }  # fmt: skip
        self.save()

    def save(self, **changes: Any) -> None:
        """Applies changes and writes. Raises: FileNotFoundError where the run's folder was removed meanwhile."""
        if not self.folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "removed while the run wrote in it", str(self.folder))
        self.content.update(changes, updated=now())
        write_json(self.folder / "run.json", self.content)

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Adds wall-clock by phase, over all sessions of the run."""
        clock = self.content["wall_clock_s"]
        for phase, value in seconds.items():
            clock[phase] = round(clock.get(phase, 0.0) + value, 3)


def read_run(folder: Path) -> dict[str, Any]:
    """A run's `run.json`; empty where there is no readable one."""
    return _read_json(folder / "run.json")


def read_stage(folder: Path) -> dict[str, Any]:
    """An artefact's `stage.json`; empty where there is no readable one."""
    return _read_json(folder / "stage.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def status_of(folder: Path) -> str | None:
    """The status of a run's folder, or None where there is no readable record."""
    return read_run(folder).get("status")
