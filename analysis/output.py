"""How the commands of this folder speak and write: one-line errors, exit code 2, files that are whole or absent."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import typer

from analysis.runs import RecordError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix; moved onto `path` at the end, removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes the file whole or not at all."""
    with atomic(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Writes the frame without its index, whole or not at all; `%.7g` holds a float32."""
    write_text(path, frame.to_csv(index=False, float_format="%.7g", lineterminator="\n"))


def short(task: str) -> str:
    """A task's name where space is short: `cube-single-play-singletask-task2-v0` -> `cube-single-play-task2`."""
    return re.sub(r"-singletask|-v\d+$", "", task)


def environment(task: str) -> str:
    """The environment a task belongs to: `cube-single-play-singletask-task2-v0` -> `cube-single-play`."""
    return re.sub(r"(-singletask)?(-task\d+)?(-v\d+)?$", "", task)


def print_notes(notes: Sequence[str]) -> None:
    """What was left out or needs care, one line each, last on the screen."""
    print(f"\n{len(notes)} notes:" if len(notes) > 1 else "\n1 note:" if notes else "\nNothing was left out.")
    for note in notes:
        print(f"- {note}")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns a record or file that is wrong into one line on stderr and exit code 2."""
    try:
        yield
    except (RecordError, OSError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
        print(f"error: {reason}", file=sys.stderr)
        raise typer.Exit(2) from None


def run(app: typer.Typer) -> None:
    """Runs a command line; a wrong option is one line on stderr and exit code 2, as every other error."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        describe = getattr(error, "format_message", error.__str__)
        print(f"error: {' '.join(describe().split())}", file=sys.stderr)
        sys.exit(2)
