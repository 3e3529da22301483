"""What a run leaves behind; the schema is described in `results/README.md`."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from core import records
from core.files import keep_copy, read_plain, sweep, write_atomically, write_json
from core.records import SCHEMA
from harness.provenance import git_state, versions
from methods.core import BadInput

FORMAT = 2  # a folder a seed; 1 had one a run


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
                number = read_plain(owner).decode("ascii").partition(" ")[0].strip()
            except (OSError, UnicodeDecodeError):
                number = ""
            number = number if number.isdecimal() else ""
            by = f"process {number}" if number else "another process"
            busy = Busy(f"{folder} is being written by {by}", number == str(os.getpid()))
            if wait is None:
                raise busy from None
            wait(busy)
    try:
        _sign(owner)
        yield
    finally:
        try:
            owner.unlink(missing_ok=True)
        finally:
            lock.release()


def _sign(owner: Path) -> None:
    """Says which process holds the lock, in a file of its own: a link that lies in its place is not followed."""
    owner.unlink(missing_ok=True)  # of a process that was killed
    handle = os.open(owner, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "w") as file:
        file.write(f"{os.getpid()} {platform.node()}\n")


class TrialRecord:
    """`run.json` of one seed of a run, rewritten whole at every change.

    What earlier sessions put on record stays: its time, its evaluations, its stages, the seeds evaluated beside it.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        """`content`: the part that is known before anything runs; its fingerprint is the folder's."""
        self.folder = folder
        self.damage: str | None = None
        """What was wrong with the record of earlier sessions, and where that is kept now."""
        before = self._before()
        kept = {key: before[key] for key in ("evaluation_steps", "stages", "evaluated_with") if key in before}
        if before.get("evaluation_steps"):  # whose rows the code of then made
            kept["code"] = before.get("code", {})
            later = {
                **before.get("code_later", {}),
                **(content.get("code", {}) if content.get("code", {}) != kept["code"] else {}),
            }
            kept |= {"code_later": later} if later else {}
        self.content = {
            "schema": SCHEMA, "format": FORMAT, **content, **kept, "status": "running", "error": None,
            "versions": versions(), "git": git_state(), "wall_clock_s": before.get("wall_clock_s", {}),
            "created": before.get("created", now()),
        }  # fmt: skip
        sweep(folder, alone=True)
        self.save()

    def _before(self) -> Mapping[str, Any]:
        try:
            return read_run(self.folder) or {}
        except BadInput as error:
            kept = keep_copy(self.folder / "run.json")
            self.damage = f"{error}; made anew, the old one is kept as {kept.name}"
            return {}

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


def read_run(folder: Path) -> records.SeedRecord | None:
    """The `run.json` of a seed; None where there is none.

    Raises:
      BadInput: it is damaged; one line that names it.
      OSError: it cannot be read.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return records.read(folder / "run.json", records.SeedRecord)
    return None


def status_of(folder: Path) -> str | None:
    """The status of a run's folder; None where there is no record, or a damaged one."""
    with contextlib.suppress(BadInput):
        return (found := read_run(folder)) and found["status"]
    return None
