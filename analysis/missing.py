"""What a set of records lacks, and the command that would run it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.published import ONLINE, canonical, ours_of, protocol_of, tasks_of
from analysis.records.load import Records
from analysis.records.mirror import origin, spoken
from analysis.records.runs import PROTOCOLS, Run
from core.remote import is_url

RUNNABLE = ("ogbench", "d4rl", "tldr", "hh")  # suites of print that `harness.run` has
FEW = 5  # seeds, the paper's number
BY_HAND = ("--set", "--sweep")
"""Origins of what was set for one run; of a swept setting each value is a run of its own."""
ONLINE_OPTIONS = {
    "steps": "--online-steps", "warmup": "--online-warmup", "updates": "--updates-per-step",
    "capacity": "--replay-capacity",
}  # fmt: skip
"""What names a setting of an online phase, whose record does not say where it came from."""


class Gap(NamedTuple):
    """Something that is missing."""

    what: str
    why: str
    command: str
    """What would run it, "" where nothing here can."""


def gaps(records: Records, published: pd.DataFrame) -> list[Gap]:
    """Unfinished runs, few seeds, tasks that a method lacks, and what print has and the records do not; results of
    other code bases lack nothing that could be run here."""
    ours = replace(records, runs=tuple(run for run in records.runs if not run.elsewhere))
    return [*_unfinished(ours), *_few(ours), *_holes(ours), *_unmeasured(ours, published)]


def command(root: Path, suite: str, tasks: list[str], methods: list[str], *more: str) -> str:
    """`python -m harness.run ...`, quoted for a shell."""
    parts = [
        "python",
        "-m",
        "harness.run",
        "--suite",
        suite,
        "--tasks",
        ",".join(tasks),
        "--methods",
        ",".join(methods),
    ]
    place = spoken(root)
    packed = origin(root) and not is_url(place)  # a release, into which nothing is run
    where = [] if place == "results" or packed else ["--results", place]
    return shlex.join([*parts, *more, *where])


def again(root: Path, run: Run, seeds: int | None = None) -> str:
    """The command of a run, as far as its record tells: presets and what was set by hand are named by their origin."""
    more = [*_protocol(run.suite, run.protocol), "--seeds", str(seeds) if seeds else _seeds(run)]
    origins = {key: one.get("origin", "") for key, one in run.config.items() if isinstance(one, dict)}
    presets = sorted({str(one).removeprefix("preset ") for one in origins.values() if "preset " in str(one)})
    more += ["--preset", presets[0]] if len(presets) == 1 else []
    for key, by in sorted(origins.items()):
        if by in BY_HAND:
            more += ["--set", f"{run.method}.{key}={_value(run.settings[key])}"]
        elif by == "--steps":
            more += ["--steps", _value(run.settings[key])]
    online = run.meta.get("online") or {}
    for key, option in ONLINE_OPTIONS.items():
        if key in online and (key != "capacity" or online[key]):  # 0: room for all, which no option says
            more += [option, str(online[key])]
    return command(root, run.suite, [run.task], [run.method], *more)


def _unfinished(records: Records) -> Iterator[Gap]:
    for run in sorted(records.runs, key=lambda run: run.name):
        if run.status != "finished":
            error = run.sources[0].error
            why = f"{run.status}{': ' + error if error else ''}" if run.old else run.unfinished
            yield Gap(run.name, why, again(records.root, run))


def _few(records: Records) -> Iterator[Gap]:
    for run in sorted(records.runs, key=lambda run: run.name):
        if len(run.seeds) < FEW and run.status == "finished":
            what = f"{run.suite}/{run.task} {run.label}"
            why = f"{len(run.seeds)} seed{'s' * (len(run.seeds) != 1)}; the paper has {FEW}"
            yield Gap(what, why, again(records.root, run, FEW))


def _holes(records: Records) -> Iterator[Gap]:
    """Of each suite's methods, the tasks that another method has."""
    tasks: dict[tuple[str, str], set[str]] = defaultdict(set)
    have: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in records.runs:
        tasks[run.suite, run.protocol].add(run.task)
        have[run.suite, run.method, run.protocol].append(run)
    for (suite, method, protocol), runs in sorted(have.items()):
        if absent := sorted(tasks[suite, protocol] - {run.task for run in runs}):
            text = f"{len(absent)} task{'s' * (len(absent) != 1)} that others of its suite have"
            words = command(records.root, suite, absent, [method], *_protocol(suite, protocol))
            yield Gap(f"{suite}: {method}{runs[0].mark}", text, words)


def _unmeasured(records: Records, published: pd.DataFrame) -> Iterator[Gap]:
    """Of each suite, methods of print, by the tasks that they lack, under the protocols that there are runs of."""
    have = {(run.suite, canonical(run.task), run.method, run.protocol) for run in records.runs}
    asked = {(run.suite, run.protocol) for run in records.runs}
    suites = {suite for suite, _ in asked}
    lacking: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for row in published.to_dict("records"):
        ours = ours_of(str(row["method"]))
        suite, protocol = row["suite"], protocol_of(row)
        wanted = asked if suite in suites else {(suite, PROTOCOLS.get(suite, ""))}
        if not ours or str(row["method"]).endswith(ONLINE) or (suite, protocol) not in wanted:
            continue  # of a protocol that nobody here goes by
        for task in tasks_of(row):
            if not any((row["suite"], task, name, protocol) in have for name in ours):
                lacking[row["suite"], protocol, ours[0]][task] = None
    groups: dict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (suite, protocol, method), absent in lacking.items():
        groups[suite, protocol, tuple(absent)].append(method)
    for (suite, protocol, absent_tasks), methods in groups.items():
        option = _protocol(suite, protocol)
        what = f"{suite}{''.join(f' [{name}]' for name in option[1:])}: {', '.join(methods)}"
        why = f"printed, not run: {len(absent_tasks)} task{'s' * (len(absent_tasks) != 1)} each"
        if suite in RUNNABLE:
            yield Gap(what, why, command(records.root, suite, list(absent_tasks), methods, *option))
        else:
            yield Gap(what, f"{why}; this suite cannot run them yet", "")


def _protocol(suite: str, protocol: str) -> list[str]:
    """The option that asks for a protocol, unless it is the suite's default."""
    return ["--protocol", protocol] if protocol not in ("", PROTOCOLS.get(suite)) else []


def _seeds(run: Run) -> str:
    """Of `--seeds`: how many, or which where these are not the first so many."""
    count = max(run.meant, default=0) + 1
    return str(count) if run.old or len(run.meant) == count else ",".join(map(str, run.meant))


def _value(value: Any) -> str:
    return ",".join(map(_value, value)) if isinstance(value, list | tuple) else str(value)
