"""What runs are called: by their method and, where a method has several runs on some task, by the settings that differ.

A setting has one label on all tasks of its suite, so that figures and tests over tasks find it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.records.files import shown
from analysis.records.runs import Run

MOST = 3  # settings that a label names
LONGEST = 24  # characters of a value
FINGERPRINT, DIGEST = 6, 4  # characters at least
VALUES = 6  # of a setting, that a note names
OLD = "old layout"
ABSENT = "-"
Key = tuple[Path, bool]


def labelled(runs: Iterable[Run]) -> tuple[dict[Key, str], list[str]]:
    """(key of a run -> its label, of those that are not called by their `series` alone; a note on each such series).

    Within a series (suite, method, online or not, protocol) the settings count that differ between runs of any one
    task. Runs of one task with equal settings are told apart by the beginnings of their fingerprints.
    """
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.suite, run.series].append(run)
    labels, notes = dict[Key, str](), list[str]()
    for (suite, series), group in groups.items():
        tasks: dict[str, list[Run]] = defaultdict(list)
        for run in group:
            tasks[run.task].append(run)
        several = {task: some for task, some in tasks.items() if len(some) > 1}
        if not several:
            continue
        keys = sorted({key for some in several.values() for key in differing([run.settings for run in some])})
        texts = _texts(group, keys)
        twins = list[Run]()
        for some in tasks.values():
            pieces = _pieces(some, texts)
            twins += [run for run in some if pieces[run.key]]
            for run in some:
                said = " ".join(filter(None, (run.stem, texts[run.key], pieces[run.key])))
                labels[run.key] = said + run.mark
        notes += _notes(f"{suite}: runs of {series}", several, keys, twins, labels)
    return labels, notes


def differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys in whose values configurations differ; one that some lack is among them."""
    every = {key for one in settings for key in one}
    return {key for key in every if len({_exact(one, key) for one in settings}) > 1}


def text_of(value: Any) -> str:
    """A setting's value in a label: "3", "0.1", "on", "512/512"; without commas, which part labels in options."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "/".join(map(text_of, value))
    return str(value).replace(",", "/")


def natural(text: str) -> list[tuple[int, float, str]]:
    """A key to sort texts by, with the numbers in them by size: "k=2" before "k=10"."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def _exact(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], sort_keys=True, default=str) if key in settings else ABSENT


def _texts(group: Sequence[Run], keys: Sequence[str]) -> dict[Key, str]:
    """Of each run the settings that its label names; equal ones where all of `keys` are equal, and only there."""
    told = keys if len(keys) <= MOST else _telling(group, keys)
    exact = {run.key: tuple(_exact(run.settings, key) for key in keys) for run in group}
    brief = {key: _values(group, key) for key in told}
    texts = {run.key: " ".join(f"{key}={brief[key][_exact(run.settings, key)]}" for key in told) for run in group}
    meant: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for run in group:
        meant[texts[run.key]].add(exact[run.key])
    for text, combinations in meant.items():
        if len(combinations) > 1:  # told apart by settings that the label has no room for
            digests = {one: hashlib.sha256(json.dumps(one).encode()).hexdigest() for one in combinations}
            size = _size(digests.values(), DIGEST)
            for key, one in exact.items():
                if texts[key] == text:
                    texts[key] = f"{text} #{digests[one][:size]}".strip()
    return texts


def _telling(group: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """At most MOST of the keys: those that tell most settings apart, one after the other."""
    chosen = list[str]()

    def apart(key: str) -> int:
        return len({tuple(_exact(run.settings, one) for one in (*chosen, key)) for run in group})

    while len(chosen) < MOST:
        best = max(sorted(set(keys).difference(chosen)), key=apart)
        if chosen and apart(best) == apart(chosen[-1]):
            break
        chosen.append(best)
    return sorted(chosen)


def _values(group: Sequence[Run], key: str) -> dict[str, str]:
    """The values that runs have of a setting, exactly -> as a label shows them: briefly, or where two would then be
    alike in full."""
    values = {_exact(run.settings, key): run.settings[key] for run in group if key in run.settings}
    texts = {exact: shown(text_of(value), quote=False, longest=LONGEST) for exact, value in values.items()}
    if len(set(texts.values())) < len(texts):
        texts = {exact: shown(exact.replace(",", "/"), quote=False) for exact in values}
    return texts | {ABSENT: ABSENT}


def _pieces(some: Sequence[Run], texts: Mapping[Key, str]) -> dict[Key, str]:
    """ "(3f9a12)" of the runs of one task whose settings others of them have, too; "" of the rest."""
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in some:
        alike[texts[run.key]].append(run)
    pieces = dict.fromkeys(texts, "")
    for runs in alike.values():
        if len(runs) > 1:
            size = _size({run.fingerprint for run in runs}, FINGERPRINT)
            twice = {run.fingerprint for run in runs if not run.old}  # a folder may hold a run of either layout
            for run in runs:
                also = f", {OLD}" if run.old and run.fingerprint in twice else ""
                pieces[run.key] = f"({run.fingerprint[:size]}{also})"
    return pieces


def _size(names: Iterable[str], least: int) -> int:
    """How many characters tell names apart that differ."""
    names = list(names)
    return next(
        n for n in range(least, 1 + max(least, *map(len, names))) if len({one[:n] for one in names}) == len(names)
    )


def _notes(
    name: str, several: Mapping[str, Sequence[Run]], keys: Sequence[str], twins: Sequence[Run],
    labels: Mapping[Key, str],
) -> list[str]:  # fmt: skip
    """What sets the runs of a series apart, and which have nothing that does."""
    runs = [run for some in several.values() for run in some]
    notes = []
    if keys:
        said = [f"{key} {_listed(runs, key)}" for key in keys[:MOST]]
        said += [f"{len(keys) - MOST} more"] if len(keys) > MOST else []
        notes.append(f"{name} on {_of(several)} are told apart by {', '.join(said)}")
    if twins:
        on = {run.task for run in twins}
        line = f"{name} on {_of(on)} have equal settings, so other data, seeds or code"
        old = [labels[run.key] for run in twins if run.old]
        if 0 < len(old) < len(twins):
            line += f"; {', '.join(old[:MOST])} of the {OLD} of records, never pooled with seeds of the new one"
        notes.append(line)
    return notes


def _listed(runs: Sequence[Run], key: str) -> str:
    values = sorted({text_of(run.settings[key]) if key in run.settings else ABSENT for run in runs}, key=natural)
    return " / ".join(shown(one, quote=False, longest=LONGEST) for one in values[:VALUES]) + " / ..." * (
        len(values) > VALUES
    )


def _of(tasks: Iterable[str]) -> str:
    """ "toy", or of several "45 tasks"."""
    names = sorted(tasks)
    return names[0] if len(names) == 1 else f"{len(names)} tasks"
