"""What a user asks for, as plain data: checked once, written to and read from a file (`plan.toml`), and planned from.

A plan that travels is a request with the contents of the files that it named. Whoever carries it out plans again; where
that gives other runs than were saved, it is refused.
"""

from __future__ import annotations

import csv
import itertools
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import methods
import tasks
from core.errors import BadInput, reason
from core.files import expanded, open_plain, write_text
from core.text import nearest
from harness.config import (
    LARGEST,
    Override,
    RunSettings,
    check_keys,
    departures,
    layered,
    parse_set,
    protocol,
    task_options,
)
from harness.options import ONLINE, check_sizes, parts
from harness.plan import RunNode, fingerprint, plan_all
from tasks.core import choose

Setting = tuple[Override, ...]
"""One of a sweep's."""

_SIZES = tuple(one.name for one in fields(RunSettings) if one.name not in ("seeds", "log_every"))
_MOST_SEEDS = 100_000
_SOURCES = ("auto", "download", "generate")  # of data; anything else is a path
_TABLES = "tables of a method and its rows"


@dataclass(frozen=True)
class Axis:
    """One of a sweep's, with its values: settings of a method, as rows of key -> value, each of which is run."""

    method: str
    rows: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Request:
    """The words of a command line. Empty texts and lists, and None, leave it to defaults."""

    suite: str = ""
    tasks: tuple[str, ...] = ()  # globs
    methods: tuple[str, ...] = ()
    preset: str | None = None
    seeds: str = ""  # "5" (0..4), "3-7", "0,4,9"
    steps: int | None = None  # gradient steps of each method's own stage
    set: tuple[str, ...] = ()  # "METHOD.KEY=VALUE"
    sweep: tuple[str, ...] = ()  # "METHOD.KEY=V1,V2"
    data: str = "auto"
    sizes: Mapping[str, int] = field(default_factory=dict)  # of `RunSettings`, by name
    swept: tuple[Axis, ...] = ()  # sweeps whose values were in files; they come before those of `sweep`
    fingerprint: str = ""  # of what it meant when it was saved; empty: nobody has said
    protocol: str = ""

    def plan(self) -> Plan:
        """What is meant, with everything looked at that can be before data are there.

        Raises:
          BadInput: names what is wrong.
        """
        home = self.suite or (tasks.home(list(self.tasks)) if self.tasks else tasks.DEFAULT)
        chosen_tasks = tasks.select(home, list(self.tasks))
        family = tasks.family(home)
        chosen = self.methods or tuple(methods.registry(family))
        for name in chosen:
            methods.get(name, family)
        values, overrides = layered(home, self.preset, self.protocol)
        values |= self.sizes
        values["seeds"] = parse_seeds(self.seeds) if self.seeds else tuple(range(values["seeds"]))
        given = parse_set(self.set, family)
        check_keys(chosen, given, family)
        if self.steps is not None:
            given = (*given, Override(None, "steps", self.steps, "--steps"))
        settings = RunSettings(**values)
        made = task_options((*overrides, *given))
        chosen_tasks = tuple(choose(task.sized(settings.data_episodes), made) for task in chosen_tasks)
        swept = sweeps(self.sweep, chosen, family, self.swept)
        _check_reached(given, swept, chosen, family)
        bundle = protocol(home, self.protocol).name
        return Plan(chosen_tasks, chosen, settings, (*overrides, *given), swept, bool(self.methods), self.data, bundle)

    def save(self, path: Path) -> None:
        """Writes it to a file that means the same wherever and whenever it is read. Raises: BadInput."""
        whole = self.settled()
        replace(whole, fingerprint=whole.plan().fingerprint()).write(path)

    def settled(self) -> Request:
        """The request without any file that a sweep names, and with data at an absolute path.

        Raises:
          BadInput: a sweep is none, or its file cannot be read.
        """
        data = self.data if self.data in _SOURCES else str(expanded(Path(self.data)).absolute())
        if not any(word.partition("=")[2].lstrip().startswith("@") for word in self.sweep):
            return replace(self, data=data)
        return replace(self, data=data, sweep=(), swept=(*self.swept, *map(_axis, self.sweep)))

    def check_unchanged(self, path: Path, drafts: Sequence[RunNode] | None = None) -> None:
        """Refuses a plan that means other runs than when it was saved to `path`. `drafts`: its runs with unknown data,
        where they were planned already.

        Raises:
          BadInput: it does.
        """
        if self.fingerprint and self.fingerprint != self.plan().fingerprint(drafts):
            raise BadInput(f"--plan {path}: means other runs in this version than when it was saved, or was edited; "
                           f"to accept them, save it anew: --plan {path} --save-plan {path}")  # fmt: skip

    def write(self, path: Path) -> None:
        """Writes it as it is, as a file that `load` reads. Raises: BadInput."""
        import tomli_w

        values = {name: value for name, value in asdict(self).items() if value not in ("", None, (), {})}
        text = tomli_w.dumps({name: list(v) if isinstance(v, tuple) else v for name, v in values.items()})
        try:
            write_text(path, text)
        except OSError as error:
            raise BadInput(f"--save-plan {path}: {reason(error)}") from None

    def with_words(self, **words: Any) -> Request:
        """The request with what a command line says on top of it: settings and sweeps come after those that are there,
        anything else takes its place. A sweep takes that of a setting, too, and 0 online steps that of all sizes of an
        online phase.

        Raises:
          BadInput: a sweep is none, or its file cannot be read.
        """
        said = {name: value for name, value in words.items() if value not in ("", None, ())}
        sizes = words.get("sizes", {})
        offline = sizes.get("online_steps") == 0
        said["sizes"] = {name: n for name, n in self.sizes.items() if not (offline and name in ONLINE)} | sizes
        above = words.get("sweep", ()) if self.set else ()
        anew = {f"{one.method}.{key}" for one in map(_axis, above) for key in one.rows[0]}
        kept = tuple(word for word in self.set if word.partition("=")[0].strip() not in anew)
        said["set"] = kept + tuple(words.get("set", ()))
        said["sweep"] = self.sweep + tuple(words.get("sweep", ()))
        return replace(self, **said)


def load(path: Path) -> Request:
    """A request from a file.

    Raises:
      BadInput: it cannot be read, or says something else than a request does; names the key.
    """
    path = expanded(path)
    try:
        with open_plain(path) as file:
            values = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"--plan {path}: {reason(error)}") from None
    expected = {one.name: one.type for one in fields(Request)}
    for key, value in values.items():
        if key not in expected:
            raise BadInput(f"--plan {path}: unknown key {key!r}; {nearest(key, sorted(expected))}")
        _check(path, key, value, str(expected[key]))
    words: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    words["swept"] = tuple(Axis(one["method"], tuple(one["rows"])) for one in values.get("swept", ()))
    return Request(**words)


def _check(path: Path, key: str, value: Any, kind: str) -> None:
    """Raises `BadInput`: a value of a plan's file is of another kind than its key's."""
    if key == "sizes":
        fits = isinstance(value, dict) and all(type(one) is int for one in value.values())
        for name in value if fits else ():
            if name not in _SIZES:
                raise BadInput(f"--plan {path}: sizes: unknown key {name!r}; {nearest(name, sorted(_SIZES))}")
        expected = "a table of whole numbers"
    elif key == "swept":
        fits, expected = isinstance(value, list) and all(isinstance(one, dict) for one in value), _TABLES
        for table in value if fits else ():
            _check_swept(path, table)
    elif kind.startswith("tuple"):
        fits, expected = isinstance(value, list) and all(isinstance(one, str) for one in value), "a list of texts"
    elif "int" in kind:
        fits, expected = type(value) is int and 0 < value <= LARGEST, "a whole number above 0"
    else:
        fits, expected = isinstance(value, str), "a text"
    if not fits:
        raise BadInput(f"--plan {path}: {key} is {repr(value)[:60]}, expected {expected}")


def _check_swept(path: Path, table: Mapping[str, Any]) -> None:
    """Raises `BadInput`: a table of a plan's file is not of a method and rows of the same keys."""
    for key in table:
        if key not in ("method", "rows"):
            raise BadInput(f"--plan {path}: swept: unknown key {key!r}; {nearest(key, ['method', 'rows'])}")
    method, rows = table.get("method"), table.get("rows")
    if not isinstance(method, str):
        raise BadInput(f"--plan {path}: swept: method is {repr(method)[:60]}, expected a text")
    tables = isinstance(rows, list) and all(isinstance(row, dict) and row for row in rows)
    if not (rows and tables and all(row.keys() == rows[0].keys() for row in rows)):
        raise BadInput(f"--plan {path}: swept: rows is {repr(rows)[:60]}, expected a list of tables with the same keys")
    for key, value in itertools.chain.from_iterable(row.items() for row in rows):
        if not isinstance(value, str):
            raise BadInput(f"--plan {path}: swept: rows: {key} is {repr(value)[:60]}, expected a text")


@dataclass(frozen=True)
class Plan:
    """A request that was understood."""

    tasks: tuple[Any, ...]
    methods: tuple[str, ...]
    settings: RunSettings
    overrides: tuple[Override, ...]
    sweeps: Mapping[str, Sequence[Setting]]  # of methods that are swept
    named: bool  # whether the user named the methods
    data: str  # as in the request
    protocol: str  # its name; "" where the suite has no names for protocols

    @property
    def family(self) -> str:
        return tasks.family(self.tasks[0].suite)

    def runs(self, task: Any, data_id: str = "?", seeds: Sequence[int] | None = None) -> list[RunNode]:
        """A task's runs with these data; with `seeds` in place of the plan's own."""
        settings = self.settings if seeds is None else replace(self.settings, seeds=seeds)
        return plan_all(task, data_id, self.methods, self.overrides, settings, self.sweeps, named=self.named,
                        bundle=self.protocol)  # fmt: skip

    def departures(self, runs: Iterable[RunNode]) -> list[str]:
        """A line, if any of the runs has other settings than the protocol says."""
        each = [departures(run.protocol, run.task.suite, run.method.name, run.resolved) for run in runs]
        found = list(dict.fromkeys(itertools.chain(*each)))
        return [f"not protocol {self.protocol} as it is published: {', '.join(found)}"] if found else []

    @property
    def generated(self) -> bool:
        """Whether there are data that may be made, in a size of the user's choice."""
        return self.data in ("auto", "generate") and any(task.sized(1) != task.sized(2) for task in self.tasks)

    def fingerprint(self, drafts: Iterable[RunNode] | None = None) -> str:
        """Of all that the results depend on but the data's contents. `drafts`: the runs with unknown data, where they
        were planned already."""
        runs = [run for task in self.tasks for run in self.runs(task)] if drafts is None else drafts
        return fingerprint({
            "runs": sorted(run.fingerprint for run in runs), "seeds": list(self.settings.seeds),
            "data_episodes": self.settings.data_episodes if self.generated else 0,
        })  # fmt: skip


def of_command_line(said: Mapping[str, Any], given: Collection[str], **words: Any) -> tuple[Request, Request]:
    """What a command line asks for, on top of the plan's file that it names, and what that file says.

    Args:
      said: its parameters by name, of those that mean a request (`names`, `patterns`, `sets`, ... as in `harness.run`).
      given: those that stand on the command line.
      words: of the request, in their place.

    Raises:
      BadInput: a value is none, or the file cannot be read.
    """
    saved = load(Path(said["plan"])) if said.get("plan") else Request()
    meant = {
        "suite": said.get("suite") or "", "tasks": tuple(parts("patterns", said.get("patterns") or "", "task")),
        "methods": tuple(parts("names", said.get("names") or "", "method")), "preset": said.get("preset"),
        "protocol": said.get("protocol") or "", "seeds": said.get("seeds") or "", "steps": said.get("steps"),
        "set": tuple(said.get("sets") or ()), "sweep": tuple(said.get("swept") or ()),
        "data": said["data"] if "data" in given else "",
        "sizes": {name: said[name] for name in _SIZES if said.get(name) is not None},
    }  # fmt: skip
    asked = saved.with_words(**{**meant, **words})
    check_sizes(asked.sizes)
    return asked, saved


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that "5" (0 to 4), "3-7" or "0,4,9-11" stand for.

    Raises:
      BadInput: it is none of these.
    """
    words, found = text, list[int]()
    if re.fullmatch(r"\s*\d{1,10}\s*", text, re.ASCII):
        words = f"0-{int(text) - 1}" if int(text) else ""
    for piece in words.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10}))?\s*", piece, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= LARGEST:
            raise BadInput(f"--seeds {text}: expected how many (5), a range (3-7) or a list (0,4,9)")
        if last - first >= _MOST_SEEDS:
            raise BadInput(f"--seeds {text}: {last - first + 1} seeds are more than anybody has trained")
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise BadInput(f"--seeds {text}: a seed stands twice")
    return tuple(sorted(found))


def sweeps(
    words: Sequence[str], chosen: Sequence[str], family: str, swept: Sequence[Axis] = ()
) -> dict[str, list[Setting]]:
    """The settings of each swept method: the grid of `swept` and of all that `--sweep` says of it.

    "fql.alpha=3,10,30" is a list of values, or of ";" where values hold commas; "fql.alpha=@FILE" has one in each line;
    "fql=@FILE.csv" is a list of settings, a row each, whose first line names the keys.

    Raises:
      BadInput: it is none of these, or its method or key is not there.
    """
    axes: dict[str, list[list[Setting]]] = {}
    read = [(f"swept {one.method}", one) for one in swept] + [(f"--sweep {word}", _axis(word)) for word in words]
    for said, one in read:
        if one.method not in chosen:
            raise BadInput(f"{said}: {one.method} is not among --methods {', '.join(chosen)}")
        if len({tuple(row.items()) for row in one.rows}) < len(one.rows):
            raise BadInput(f"{said}: a value stands twice")
        settings = [
            tuple(Override(one.method, key, value, "--sweep") for key, value in row.items()) for row in one.rows
        ]
        for setting in settings:
            check_keys(chosen, setting, family)
        axes.setdefault(one.method, []).append(settings)
    for method, found in axes.items():
        keys = [{one.key for one in axis[0]} for axis in found]
        if len(set().union(*keys)) < sum(map(len, keys)):
            raise BadInput(f"--sweep: a key of {method} is swept twice")
    return {
        method: [tuple(itertools.chain(*one)) for one in itertools.product(*found)] for method, found in axes.items()
    }


def _check_reached(
    given: Iterable[Override], swept: Mapping[str, Sequence[Setting]], chosen: Sequence[str], family: str
) -> None:
    """Refuses a setting that a sweep replaces wherever it would be of use. Raises: BadInput."""
    replaced = {(method, one.key) for method, settings in swept.items() for one in settings[0]}
    for one in given:
        reached = [name for name in chosen if one.method in (None, name)
                   and one.key in (known.name for known in fields(methods.get(name, family).Config))]  # fmt: skip
        if reached and all((name, one.key) in replaced for name in reached):
            name = f"{one.method}.{one.key}" if one.method else one.key
            places = " and ".join(f"{method}.{one.key}" for method in reached)
            raise BadInput(f"{one.origin}: {name}={one.value} has no effect, as --sweep sets {places}")


def _axis(word: str) -> Axis:
    """What "--sweep METHOD.KEY=..." or "--sweep METHOD=@FILE.csv" says. Raises: BadInput."""
    name, equals, text = word.partition("=")
    method, _, key = name.strip().partition(".")
    if not equals or not method or not text.strip() or (not key and not text.lstrip().startswith("@")):
        raise BadInput(f"--sweep {word!r}: expected METHOD.KEY=V1,V2,... or METHOD=@FILE.csv")
    rows = _values(word, key, text.strip())
    if not rows:
        raise BadInput(f"--sweep {word}: names no value")
    return Axis(method, tuple(rows))


def _values(word: str, key: str, text: str) -> list[dict[str, str]]:
    """Rows of key -> value."""
    if not text.startswith("@"):
        pieces = text.split(";" if ";" in text else ",")
        values = [piece.strip() for piece in pieces if piece.strip()]
        return [{key: value} for value in values]
    path = expanded(Path(text[1:]))
    try:
        with open_plain(path) as file:
            lines = [line for line in file.read().decode("utf-8-sig").splitlines() if line.strip()]
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"--sweep {word}: {reason(error)}") from None
    if key:
        return [{key: line.strip()} for line in lines]
    names, *rows = cells or [[]]
    if not rows or len(set(names)) < len(names) or any(len(row) != len(names) for row in rows):
        raise BadInput(f"--sweep {word}: expected a line of different keys, then rows of a value for each")
    return [dict(zip(names, row, strict=True)) for row in rows]
