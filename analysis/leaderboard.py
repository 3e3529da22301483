"""Leaderboards, of each suite and protocol, offline or after an online phase: who stands where and how sure that is,
over all tasks and by environment.

A method is ranked among those that are finished on all tasks of a table; the others are named below it. Settings are
those that the query's rule picks, never the best on the scores that are shown.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from analysis.choices import ORACLE
from analysis.missing import again
from analysis.output import environment, short
from analysis.published import canonical
from analysis.records.load import Records
from analysis.records.mirror import origin
from analysis.records.runs import Run
from analysis.scoreboard import Board, Choice
from analysis.select import Rule
from analysis.statistics.estimates import coverage, generator
from analysis.statistics.ranks import standings
from core.remote import is_url

ALL, FINISHED = "all tasks", "finished"


class Line(NamedTuple):
    """A method in a table."""

    method: str
    anchor: str
    place: int
    places: tuple[int, int]
    """Between which its true place is shown to lie, together with those of all others."""
    mean: float
    interval: tuple[float, float]
    rank: float
    """Average rank over tasks."""
    seeds: int
    """Of the task with the fewest."""
    meant: int
    """Seeds of that task that were started."""
    source: str


class Known(NamedTuple):
    """What counts for a method on a task."""

    values: np.ndarray
    """Seed means `[n]`."""
    floor: float
    """What the variance of a seed is at least."""
    choice: Choice


class Part(NamedTuple):
    """The methods on all tasks, or on those of an environment."""

    name: str
    anchor: str
    tasks: int
    lines: Sequence[Line]
    said: str
    unranked: str
    """Methods that lack tasks, or are unfinished on some, and how many they have; "" if none does."""
    over: str
    """The tasks, where not all of the part's are ranked over; else ""."""


class Record(NamedTuple):
    """What a row is made of."""

    task: str
    mean: float
    seeds: int
    status: str
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
    """A page of each suite, protocol and phase among `found` (the boards of `records`), for the folder `out`; none
    under the oracle, whose scores are those that its choice was made on."""
    if rule is not None and rule.name == ORACLE:
        return []
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
    known = {label: dict(_known(of)) for label, of in methods.items()}
    rows = list[Method]()
    for i, (label, of) in enumerate(methods.items()):
        mine = [runs[label, task] for task in of]
        source = _source(mine)
        link = re.search(r"https?://[^\s;,<>\"')]+", source)
        rows.append(Method(
            label.removesuffix(mine[0].mark), f"method-{i + 1}", source, link[0] if link else "",
            [Record(short(task), float(one.values.mean()), len(one.values), one.choice.status,
                    *_record(root, runs[label, task], out), command_of(root, runs[label, task]))
             for task, one in sorted(known[label].items())],
        ))  # fmt: skip
    every = sorted({task for of in known.values() for task in of})
    groups: dict[str, list[str]] = {ALL: every}
    for task in every:
        groups.setdefault(environment(task), []).append(task)
    if len(groups) == 2:  # one environment is all there is
        del groups[environment(every[0])]
    named = dict(zip(methods, rows, strict=True))
    parts = [_part(name, f"part-{i + 1}", tasks, known, named, title) for i, (name, tasks) in enumerate(groups.items())]
    return Leaderboard(file, title, str(rule), parts, rows)


def _known(of: Mapping[str, Choice]) -> Iterator[tuple[str, Known]]:
    for task, one in of.items():
        values = one.means().dropna().to_numpy(float)
        if len(values):
            yield task, Known(values, float(one.sample().floor), one)


def _part(
    name: str, anchor: str, tasks: Sequence[str], known: Mapping[str, Mapping[str, Known]],
    named: Mapping[str, Method], title: str,
) -> Part:  # fmt: skip
    have = {label: {task for task in tasks if task in of and of[task].choice.status == FINISHED}
            for label, of in known.items()}  # fmt: skip
    shared = sorted(_shared(list(have.values())))
    ranked = [label for label, some in have.items() if shared and some >= set(shared)]
    lacking = [f"{named[label].name} ({len(some & set(shared))} of {len(shared)} tasks finished)"
               for label, some in have.items() if label not in ranked]  # fmt: skip
    lines = _lines(ranked, shared, known, named, (title, name)) if shared else []
    over = "" if len(shared) == len(tasks) else ", ".join(map(short, shared))
    said = _said(len(shared), len(lines)) if shared else "No method is finished on a task."
    return Part(name, anchor, len(shared), lines, said, ", ".join(lacking), over)


def _lines(
    ranked: Sequence[str], tasks: Sequence[str], known: Mapping[str, Mapping[str, Known]],
    named: Mapping[str, Method], names: tuple[str, str],
) -> list[Line]:  # fmt: skip
    of = [[known[label][task] for task in tasks] for label in ranked]
    at = standings(
        [[one.values for one in row] for row in of], np.array([[one.floor for one in row] for row in of]),
        generator(*names), [generator(*names, label) for label in ranked],
    )  # fmt: skip
    lines = []
    for i, (label, row) in enumerate(zip(ranked, of, strict=True)):
        interval = float(at.score.low[i]), float(at.score.high[i])
        if len(tasks) == 1:
            summary = row[0].choice.summary(generator(*names, label))
            interval = summary.low, summary.high
        fewest = min(row, key=lambda one: len(one.values))
        lines.append(Line(
            named[label].name, named[label].anchor, int(at.place[i]), (int(at.low[i]), int(at.high[i])),
            float(at.score.value[i]), interval, float(at.rank[i]), len(fewest.values), fewest.choice.meant,
            named[label].source,
        ))  # fmt: skip
    return sorted(lines, key=lambda line: (line.place, line.method))


def _shared(have: Sequence[Set[str]]) -> Set[str]:
    """The tasks to rank over: those of a method, or that two have in common, with the most scores in all of methods
    that have them; at least two methods if any two have a task in common."""
    sets = {frozenset(one) for one in have} | {frozenset(a & b) for a, b in combinations(have, 2)}

    def worth(tasks: frozenset[str]) -> tuple[bool, int, int, list[str]]:
        methods = sum(some >= tasks for some in have)
        return methods > 1, methods * len(tasks), len(tasks), sorted(tasks, reverse=True)

    return max((one for one in sets if one), key=worth, default=frozenset())


def _said(tasks: int, methods: int) -> str:
    """What places and intervals of a table are."""
    if methods < 2:
        return f"{tasks} task{'s' * (tasks > 1)}. One method alone has a place to itself."
    if tasks == 1:
        return (
            "One task. Places hold for all methods at once: they are what Welch's tests of all pairs show, "
            "Holm-corrected at 5%, and speak of new seeds on it. The mean's interval is Student's, over seeds."
        )
    return (
        f"{tasks} tasks. Places hold for all methods at once, at 95%: they are what intervals of all differences show, "
        "by bootstrap over tasks and seeds, and speak of new seeds on new tasks like these. A mean's own interval is "
        f"of the same draws; of {tasks} tasks it holds the truth about {coverage(tasks)} times in a hundred where "
        "tasks differ most."
    )


def _source(runs: Sequence[Run]) -> str:
    """Where a method's numbers are from: the code's commits, or what is said of a file from elsewhere."""
    if about := runs[0].elsewhere:
        return "; ".join(filter(None, (str(about.get("source") or ""), str(about.get("licence") or ""),
                                       str(about.get("endpoint") or "")))) or "nobody says"  # fmt: skip
    states = [source.meta.get("git") or {} for run in runs for source in run.sources]
    known = sorted({str(one["sha"])[:10] for one in states if one.get("sha")})
    changed = " and changes" * any(one.get("dirty") for one in states)
    some = f", commit {known[0]}" if len(known) == 1 else f", {len(known)} commits" if known else ""
    return f"this suite{some}{changed}"


def _record(root: Path, run: Run, out: Path) -> tuple[str, str]:
    """(where a run's record is, the way to it from a page in `out`)."""
    path = Path(run.elsewhere["file"]) if run.elsewhere else run.folder
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    if place := origin(root):
        return (f"{place}/{name}" if is_url(place) else name), ""  # of a release it is packed
    return name, quote(Path(os.path.relpath(path, out)).as_posix())


def command_of(root: Path, run: Run) -> str:
    """The command that makes a run's record, as far as is known."""
    return str(run.elsewhere.get("command") or "") if run.elsewhere else again(root, run)


def counted(pages: Sequence[Leaderboard]) -> Iterator[dict[str, Any]]:
    """What the report says of each page: its file, its title, how many methods and tasks."""
    for page in pages:
        first = page.parts[0]
        may = [line.method for line in first.lines if line.places[0] == 1]
        yield {"file": page.file, "title": page.title, "methods": len(first.lines), "tasks": first.tasks,
               "first": may if len(first.lines) > 1 else []}  # fmt: skip
