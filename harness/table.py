"""Append-only CSVs whose rows have a `step`: episodes.csv and train.csv."""

from __future__ import annotations

import errno
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.files import keep_copy, read_plain, write_atomically, write_lines
from methods.core import BadInput


class Rows(NamedTuple):
    """What a file holds."""

    header: list[str]
    rows: list[list[str]]
    steps: list[int]  # of each row


def read_rows(path: Path) -> Rows | None:
    """The rows of a table; a half-written last one is left out. None where there are none.

    Raises:
      BadInput: the file is not as `Table` writes it; names the line.
      OSError: it cannot be read.
    """
    try:
        data = read_plain(path)
    except FileNotFoundError:
        return None
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    if not lines:
        return None
    header, *rows = [_cells(path, number, line) for number, line in enumerate(lines, 1)]
    if "step" not in header:
        raise BadInput(f"{path}:1: no column 'step'")
    if len(set(header)) < len(header):
        raise BadInput(f"{path}:1: two columns of one name")
    column, steps = header.index("step"), list[int]()
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise BadInput(f"{path}:{number}: {len(row)} fields where the first line names {len(header)} columns")
        if not (row[column].isascii() and row[column].isdecimal() and len(row[column]) < 19):
            raise BadInput(f"{path}:{number}: step {row[column][:40]!r} is no whole number")
        steps.append(int(row[column]))
    return Rows(header, rows, steps)


def _cells(path: Path, number: int, line: bytes) -> list[str]:
    try:
        return line.decode().split(",")
    except UnicodeDecodeError:
        raise BadInput(f"{path}:{number}: is not UTF-8") from None


class Table:
    """An append-only CSV whose rows have a `step`, kept whole across crashes.

    Rows become durable with each `append`. On reopening, a half-written last row and rows past the step that is
    resumed from are dropped, so that nothing stands twice; so are steps with other than `rows_per_step` rows, where
    that is given.
    """

    def __init__(self, path: Path, resume_step: int, *, rows_per_step: int | None = None) -> None:
        """Raises `BadInput`: see `read_rows`."""
        self.path = path
        self.steps: set[int] = set()
        self.dropped: set[int] = set()
        """Steps below the resumed one whose rows were not all there: no crash explains that."""
        self.kept: Path | None = None
        """A copy of the file as it was, where there are such."""
        self._header: list[str] | None = None
        if found := read_rows(path):
            self._keep_through(found, resume_step, rows_per_step)
        else:
            path.unlink(missing_ok=True)

    def _keep_through(self, found: Rows, step: int, rows_per_step: int | None) -> None:
        counts = Counter(found.steps)
        whole = {value for value, count in counts.items() if rows_per_step in (None, count) and value <= step}
        kept = [row for row, value in zip(found.rows, found.steps, strict=True) if value in whole]
        self.dropped = {value for value in counts.keys() - whole if value < step}
        if self.dropped:
            self.kept = keep_copy(self.path)
        if not kept:
            self.path.unlink()
            return
        self._header, self.steps = found.header, whole
        data = "".join(",".join(row) + "\n" for row in [found.header, *kept]).encode()
        if data != read_plain(self.path):
            write_atomically(self.path, lambda file: file.write(data))

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows in one write and waits until they are on disk."""
        header = list(rows[0])
        if self._header and set(header) <= set(self._header):  # a table that began with another has its columns
            header, rows = self._header, [{name: row.get(name, math.nan) for name in self._header} for row in rows]
        if self._header not in (None, header):
            raise BadInput(f"{self.path}: columns {header} do not match {self._header}; use --fresh")
        lines = [] if self._header else [",".join(header)]
        lines += [",".join(_cell(value) for value in row.values()) for row in rows]
        lost = self._header and not self.path.exists()  # what would be begun here has lost its beginning
        if lost or not self.path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "removed while the run wrote in it", str(self.path))
        with self.path.open("a") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._header = header
        self.steps |= {int(row["step"]) for row in rows}


def begin_with(source: Path, target: Path, columns: Sequence[str] = ()) -> None:
    """Starts the table `target` with the rows of `source`, of a run that it goes on from and whose last evaluation is
    therefore not final; not if it has been started. With `columns` its own come to those of `source`, empty there.

    Raises:
      BadInput: see `read_rows`.
    """
    if target.exists() or not (found := read_rows(source)):
        return
    names = [*found.header, *sorted(set(columns) - set(found.header))]
    more = ["nan"] * (len(names) - len(found.header))
    phase = found.header.index("phase") if "phase" in found.header else None
    rows = [[*("offline" if i == phase else cell for i, cell in enumerate(row)), *more] for row in found.rows]
    write_lines(target, (",".join(row) for row in [names, *rows]))


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return format(float(value), ".7g")
    return str(value)
