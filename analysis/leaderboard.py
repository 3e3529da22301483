"""Leaderboards, of each suite and protocol, offline or after an online phase: who stands where and how sure that is,
over all tasks and by environment.

A method is ranked among those that have all tasks of a table; the others are named below it. Settings are those that
the query's rule picks, never the best on the scores that are shown.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from analysis.missing import again
from analysis.output import environment, short
from analysis.published import canonical
from analysis.records.load import Records
from analysis.records.mirror import origin
from analysis.records.runs import Run
from analysis.scoreboard import Board, Choice
from analysis.select import Rule
from analysis.statistics.estimates import Estimate, coverage, generator
from analysis.statistics.ranks import standings

ALL = "all tasks"


class Line(NamedTuple):
    """A method in a table."""

    method: str
    anchor: str
    place: int
    places: tuple[int, int]
    """Between which it stands in 95% of draws."""
    score: Estimate
    rank: Estimate
    """Average rank over tasks."""
    seeds: int
    """Of the task with the fewest."""
    source: str


class Part(NamedTuple):
    """The methods on all tasks, or on those of an environment."""

    name: str
    anchor: str
    tasks: int
    lines: Sequence[Line]
    said: str
    unranked: str
    """Methods that lack tasks, and how many they have; "" if none does."""


class Record(NamedTuple):
    """What a row is made of."""

    task: str
    mean: float
    seeds: int
    record: str
    href: str
    """From the page to the record; "" where there is no way."""
    command: str


class Method(NamedTuple):
    """All there is of a method."""

    name: str
    anchor: str
    source: str
    link: str
    """The address in its source; "" if none."""
    records: Sequence[Record]


class Leaderboard(NamedTuple):
    """A page."""

    file: str
    title: str
    rule: str
    parts: Sequence[Part]
    methods: Sequence[Method]


def leaderboards(records: Records, found: Sequence[Board], out: Path, rule: Rule | None = None) -> list[Leaderboard]:
    """A page of each suite, protocol and phase among `found` (the boards of `records`), for the folder `out`."""
    pages, taken = list[Leaderboard](), set[str]()
    runs = {(run.suite, run.label, canonical(run.task)): run for run in records.runs}
    for board in found:
        of: dict[tuple[str, bool], dict[str, Mapping[str, Choice]]] = defaultdict(dict)
        for label in board.methods:
            choices = board.choices[label]
            run = runs[board.suite, label, next(iter(choices))]
            of[run.protocol, run.online][label] = choices
        for (protocol, online), methods in sorted(of.items()):
            words = ("leaderboard", board.suite, protocol, "online" * online)
            stem = re.sub(r"[^\w.-]", "-", "-".join(filter(None, words)))
            file = next(name for n in range(len(taken) + 1)
                        if (name := f"{stem}{f'-{n + 1}' if n else ''}.html") not in taken)  # fmt: skip
            taken.add(file)
            mine = {(label, task): runs[board.suite, label, task] for label in methods for task in methods[label]}
            title = board.suite + (f", protocol {protocol}" if protocol else "") + ", after an online phase" * online
            pages.append(_page(records.root, title, file, methods, mine, out, rule or Rule()))
    return pages


def _page(
    root: Path, title: str, file: str, methods: Mapping[str, Mapping[str, Choice]],
    runs: Mapping[tuple[str, str], Run], out: Path, rule: Rule,
) -> Leaderboard:  # fmt: skip
    means = {label: {task: values for task, one in of.items() if len(values := one.means().dropna().to_numpy(float))}
             for label, of in methods.items()}  # fmt: skip
    rows = list[Method]()
    for i, (label, of) in enumerate(methods.items()):
        mine = [runs[label, task] for task in of]
        source = _source(mine)
        link = re.search(r"https?://[^\s;,<>\"')]+", source)
        rows.append(Method(
            label.removesuffix(mine[0].mark), f"method-{i + 1}", source, link[0] if link else "",
            [Record(short(task), float(means[label][task].mean()), len(means[label][task]),
                    *_record(root, runs[label, task], out), command_of(root, runs[label, task]))
             for task in sorted(means[label])],
        ))  # fmt: skip
    every = sorted({task for of in means.values() for task in of})
    groups: dict[str, list[str]] = {ALL: every}
    for task in every:
        groups.setdefault(environment(task), []).append(task)
    if len(groups) == 2:  # one environment is all there is
        del groups[environment(every[0])]
    named = dict(zip(methods, rows, strict=True))
    parts = [_part(name, f"part-{i + 1}", tasks, means, named, title) for i, (name, tasks) in enumerate(groups.items())]
    return Leaderboard(file, title, str(rule), parts, rows)


def _part(
    name: str, anchor: str, tasks: Sequence[str], means: Mapping[str, Mapping[str, np.ndarray]],
    named: Mapping[str, Method], title: str,
) -> Part:  # fmt: skip
    have = {label: [task for task in tasks if task in of] for label, of in means.items()}
    most = max(map(len, have.values()))
    shared = next(some for some in have.values() if len(some) == most)  # that of the first method with most of them
    ranked = [label for label, some in have.items() if set(some) >= set(shared)]
    lacking = [f"{named[label].name} ({len(set(some) & set(shared))} of {len(shared)} tasks)"
               for label, some in have.items() if label not in ranked]  # fmt: skip
    strata = [[means[label][task] for task in shared] for label in ranked]
    at = standings(strata, generator(title, name))
    lines = [
        Line(named[label].name, named[label].anchor, int(at.place.value[i]),
             (int(at.place.low[i]), int(at.place.high[i])), _one(at.score, i), _one(at.rank, i),
             min(map(len, strata[i])), named[label].source)
        for i, label in enumerate(ranked)
    ]  # fmt: skip
    fewest = min(line.seeds for line in lines)
    lines.sort(key=lambda line: (line.place, line.method))
    return Part(name, anchor, len(shared), lines, _said(len(shared), fewest), ", ".join(lacking))


def _one(of: Estimate, i: int) -> Estimate:
    return Estimate(of.value[i], of.low[i], of.high[i])


def _said(tasks: int, seeds: int) -> str:
    """What the intervals of a table are, and how far they can be believed (`calibrate`)."""
    if tasks == 1 and seeds == 1:
        return "One task; some method has one seed there, of which nothing can be drawn: its interval is too narrow."
    if tasks == 1:
        return (
            "One task. 95% intervals by bootstrap over seeds: they speak of new seeds on it. "
            f"Of {seeds} seeds they hold the truth {coverage(seeds)} times in a hundred."
        )
    few = " Some method has one seed on some task: what seeds add is not in its interval." if seeds == 1 else ""
    return (
        f"{tasks} tasks. 95% intervals by bootstrap over tasks and seeds: they speak of new seeds on new tasks like "
        f"these. Of {tasks} tasks they hold the truth about {coverage(tasks)} times in a hundred where tasks differ "
        f"most, more often where seeds do.{few}"
    )


def _source(runs: Sequence[Run]) -> str:
    """Where a method's numbers are from: the code's commits, or what is said of a file from elsewhere."""
    if about := runs[0].elsewhere:
        return "; ".join(filter(None, (str(about.get("source") or ""), str(about.get("licence") or ""),
                                       str(about.get("endpoint") or "")))) or "nobody says"  # fmt: skip
    shas = {str((run.meta.get("git") or {}).get("sha") or "") for run in runs}
    known = sorted(sha[:10] for sha in shas if sha)
    return "this suite" + (f", commit {known[0]}" if len(known) == 1 else f", {len(known)} commits" if known else "")


def _record(root: Path, run: Run, out: Path) -> tuple[str, str]:
    """(where a run's record is, the way to it from a page in `out`)."""
    path = Path(run.elsewhere["file"]) if run.elsewhere else run.folder
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    if place := origin(root):
        return f"{place}/{name}", ""
    return name, quote(Path(os.path.relpath(path, out)).as_posix())


def command_of(root: Path, run: Run) -> str:
    """The command that makes a run's record, as far as is known."""
    return str(run.elsewhere.get("command") or "") if run.elsewhere else again(root, run)


def counted(pages: Sequence[Leaderboard]) -> Iterator[dict[str, Any]]:
    """What the report says of each page: its file, its title, how many methods and tasks."""
    for page in pages:
        first = page.parts[0]
        yield {"file": page.file, "title": page.title, "methods": len(first.lines), "tasks": first.tasks,
               "first": [line.method for line in first.lines if line.places[0] == 1]}  # fmt: skip
