"""Single files of records: read as what they should be, or an error that names them."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.errors import BadInput, reason
from core.files import open_plain, read_plain
from core.text import printable

LONGEST = 60  # characters of something wrong that a line repeats


class RecordError(BadInput):
    """A record cannot be read; the message is one line that names the file and, where there is one, the line."""


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
