"""Notes for people: many of one kind are one line, and all of them stand in a file.

A note is a line of text that names its place: a run, a task or a file. Notes are of one kind where they differ by their
places, labels and numbers alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis.output import say, short, write_csv
from analysis.records.load import Records

FEW = 2  # notes of a kind that are shown as they are
BRIEF = 3  # kinds that an error line names
PLACE = "@"
_PATH = re.compile(r"(?<!\S)\(?[^\s:;,()]*\w/[^\s:;,()]+(?::\d+)?|(?<!\S)/[^\s:;,()]+(?::\d+)?")
_LABEL = re.compile(rf"{PLACE} [^:;,()]{{1,90}}(?:\([^()]*\))?: ")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def grouped(notes: Iterable[str], records: Records | None = None) -> list[str]:
    """The notes, each once; more than FEW of a kind as one line that counts them and gives the first in full.

    `records`: whose tasks' names are places, too.
    """
    tasks = {name for run in records.runs for name in (run.task, short(run.task))} if records else set()
    names = re.compile(
        "|".join(rf"(?<![\w/-]){re.escape(one)}(?![\w-])" for one in sorted(tasks, key=len, reverse=True))
    )
    kinds: dict[str, list[str]] = defaultdict(list)
    for note in dict.fromkeys(notes):
        kinds[kind(note, names if tasks else None)].append(note)
    found = []
    for alike in kinds.values():
        found += alike if len(alike) <= FEW else [_counted(alike, names if tasks else None)]
    return found


def kind(note: str, names: re.Pattern[str] | None = None) -> str:
    """The note with its places, its label and its numbers left open."""
    text = _PATH.sub(PLACE, note)
    text = names.sub(PLACE, text) if names else text
    return _NUMBER.sub("#", _LABEL.sub(f"{PLACE}: ", text))


def tell(notes: Sequence[str], records: Records | None = None, path: Path | None = None) -> list[str]:
    """Prints what was left out or needs care, a line a kind, last on the screen; all of it goes to `path`, a CSV, where
    a line stands for several. Returns the lines."""
    every, lines = list(dict.fromkeys(notes)), grouped(notes, records)
    if path is not None and (len(lines) < len(every) or path.exists()):
        write_csv(path, pd.DataFrame({"note": every}, dtype=object))
    where = f" (all {len(every)}: {path})" if path is not None and len(lines) < len(every) else ""
    head = f"{len(lines)} notes" if len(lines) > 1 else "1 note"
    say("", f"{head}{where}:" if lines else "Nothing was left out.", *(f"- {line}" for line in lines))
    return lines


def brief(notes: Iterable[str], records: Records | None = None) -> str:
    """The first kinds of notes, for a line that says why there is nothing."""
    lines = grouped(notes, records)
    more = [f"and {len(lines) - BRIEF} more notes"] if len(lines) > BRIEF else []
    return "; ".join([*lines[:BRIEF], *more])


def _counted(alike: Sequence[str], names: re.Pattern[str] | None) -> str:
    """ "45 times, on 45 tasks, for example: ..."."""
    tasks = {task for note in alike if (task := _task(note, names))}
    where = f", on {len(tasks)} tasks" if len(tasks) > 1 else ""
    return f"{len(alike)} times{where}, for example: {alike[0]}"


def _task(note: str, names: re.Pattern[str] | None) -> str:
    """The task that a note names: of "suite/task/method/..." the first two, or by its own name; "" of a file."""
    if (found := _PATH.search(note)) and not found[0].startswith("/"):
        return "/".join(found[0].split("/")[:2])
    return found[0] if names and (found := names.search(note)) else ""
