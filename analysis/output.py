"""What the commands of this folder share: folders that are named, what they print, files that are whole or absent."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console

from analysis.records.files import RecordError
from analysis.records.mirror import mirrored
from analysis.records.packed import is_packed, unpacked
from core import options
from core.errors import BadInput
from core.files import sweep, write_text
from core.records import file_name
from core.remote import is_url
from core.text import printable

_FORMULA = re.compile(r"\s*[=+\-@]")
"""How text begins that a spreadsheet would carry out."""


def folder(name: str | Path) -> Path:
    """The folder that an option names; see `core.options.path`."""
    return options.path(name)


def of_records(name: str | Path) -> Path:
    """The folder of records that an argument names; of a URL or a release, the folder that was made of it.

    Raises:
      typer.BadParameter: as `folder`, or the URL or the release cannot be read.
    """
    try:
        if is_url(str(name)):
            return mirrored(str(name))
        found = folder(name)
        return unpacked(found) if is_packed(found) else found
    except BadInput as error:
        raise typer.BadParameter(str(error)) from None


def prepare(out: Path) -> Path:
    """`out`, where files can be written; nothing is made yet. Drafts that a killed command left there are removed.

    Raises: RecordError: it is no folder or lies in none, or may not be written.
    """
    there = out
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise RecordError(f"--out {out}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RecordError(f"--out {out}: {there} cannot be written")
    sweep(out)
    return out


def below(place: Path, *names: str) -> Path:
    """The path of those names under a folder. Raises: RecordError: a name would lead elsewhere."""
    for name in names:
        try:
            file_name(name)
        except ValueError as error:
            raise RecordError(f"{name!r} {error}") from None
    return place.joinpath(*names)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Writes `csv_text` whole or not at all."""
    write_text(path, csv_text(frame))


def csv_text(frame: pd.DataFrame) -> str:
    """The frame without its index; `%.7g` holds a float32. Text that a spreadsheet would take for a formula begins with
    an apostrophe."""
    words = frame.select_dtypes(exclude=["number", "bool"]).columns
    safe = frame.assign(**{name: [_inert(value) for value in frame[name]] for name in words})
    return safe.to_csv(index=False, float_format="%.7g", lineterminator="\n")


def _inert(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = printable(value)
    return f"'{value}" if _FORMULA.match(value) and not _number(value) else value


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def markdown(text: str) -> str:
    """Text as one line of Markdown that shows it as it is."""
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", printable(text))


def short(task: str) -> str:
    """A task's name where space is short: `cube-single-play-singletask-task2-v0` -> `cube-single-play-task2`."""
    return re.sub(r"-singletask|-v\d+$", "", task)


def environment(task: str) -> str:
    """The environment a task belongs to: `cube-single-play-singletask-task2-v0` -> `cube-single-play`."""
    return re.sub(r"(-singletask)?(-task\d+)?(-v\d+)?$", "", task)


def screen(width: int, fixed: bool = False) -> Console:
    """A console of at most that width, or of just that, which prints every text as it is."""
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    if not fixed and (console := Console(**plain)).is_terminal:
        width = min(width, console.width)
    return Console(width=width, **plain)


def say(*lines: object) -> None:
    """Prints lines; what they name cannot steer the terminal."""
    for line in lines:
        print(printable(str(line)), flush=True)
