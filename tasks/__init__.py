"""The registry of suites. A suite's module is loaded when it is asked for, as its simulators may be heavy."""

from __future__ import annotations

import csv
import fnmatch
import importlib
import runpy
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

if sys.argv[:1] == ["-m"]:  # a command is starting: before anything of ours is looked for in the working folder
    _shadows = runpy.run_path(str(Path(__file__).parents[1] / "core" / "shadows.py"))
    _shadows["refuse_strangers"]("core", "methods")

from core.errors import Absent, BadInput
from core.text import nearest
from tasks.protocols import Protocol
from tasks.protocols import read as read_protocols

SUITES: dict[str, str] = {
    "toy": "toy", "ogbench": "ogbench", "ogbench-goals": "ogbench_goals", "d4rl": "d4rl", "tldr": "language/tldr",
    "hh": "language/hh", "tldr-synthetic": "language/tldr_synthetic", "hh-synthetic": "language/hh_synthetic",
    "tldr-local": "language/tldr_local",
}  # fmt: skip
"""Suite -> its folder, which holds all that is known of it: `About`, and `suite.py` with `names()` and `get(name)`."""
DEFAULT = next(iter(SUITES))  # where nothing says which
SHIPPED = "shipped:"  # stands before the name of a checkpoint that comes with a suite, "shipped:SUITE/NAME"
Row = Mapping[str, str]


@dataclass(frozen=True)
class About:
    """What a suite's folder says of it, read without loading its tasks."""

    folder: Path

    @cached_property
    def _told(self) -> Mapping[str, Any]:
        return tomllib.loads((self.folder / "suite.toml").read_text(encoding="utf-8"))

    @property
    def family(self) -> str:
        """Which methods it takes: "control" or "language"."""
        return self._told["family"]

    @property
    def unit(self) -> str:
        """What its score is, on an axis: "success [%]"."""
        return self._told["unit"]

    @property
    def share(self) -> bool:
        """Whether its score is a share of a win (win 1, tie 0.5, loss 0), which may be unknown, and is read in
        percent."""
        return bool(self._told.get("share", False))

    @cached_property
    def presets(self) -> Mapping[str, Any]:
        """Sizes of a run by preset; the first is the default."""
        return tomllib.loads((self.folder / "presets.toml").read_text(encoding="utf-8"))

    @cached_property
    def protocols(self) -> Mapping[str, Protocol]:
        """Its protocols by name; the first is the default."""
        return read_protocols(self.folder)

    def settings(self, protocol: Protocol, *, online: bool = False) -> tuple[Row, ...]:
        """Per-task settings of methods: rows with tasks (a glob), method ("*": all that have the key), key, value and
        source, later ones over earlier ones. None where every method has its defaults. `online`: those, too, that are
        for runs with an online phase."""
        return tuple(row for name in protocol.files(online=online) for row in self._rows(name))

    @cached_property
    def expected(self) -> tuple[Row, ...]:
        """What is known of published datasets: rows with dataset (a glob; the first that matches counts), transitions,
        mean_return ("" where it is not known), verified and source."""
        return self._rows("expected.csv")

    def _rows(self, name: str) -> tuple[Row, ...]:
        path = self.folder / name
        if not path.exists():
            return ()
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(csv.DictReader(file))


@cache
def about(name: str) -> About:
    """What is known of a suite beside its tasks.

    Raises:
      BadInput: there is none of that name.
    """
    if name not in SUITES:
        raise BadInput(f"unknown suite {name!r}; {nearest(name, sorted(SUITES), '--list')}")
    return About(Path(__file__).parent / SUITES[name])


def shipped(name: str) -> Path:
    """Where the checkpoint "shipped:SUITE/NAME" lies; nowhere if there is no such suite."""
    owner, _, checkpoint = name.removeprefix(SHIPPED).partition("/")
    return Path(__file__).parent / SUITES.get(owner, owner) / "checkpoints" / checkpoint


def family(suite: str) -> str:
    """Which methods a suite takes: "control" or "language"; "control" of a task that is of none of the suites."""
    return about(suite).family if suite in SUITES else "control"


def suite(name: str) -> Any:
    """The suite's module, with `names()` and `get(name)`.

    Raises:
      BadInput: there is none of that name.
    """
    about(name)
    return importlib.import_module(f"{__name__}.{SUITES[name].replace('/', '.')}.suite")


def home(patterns: Iterable[str]) -> str:
    """The suite with tasks for all of the patterns (globs).

    Raises:
      BadInput: none has, or several.
    """
    homes = {pattern: _homes(pattern) for pattern in patterns}
    common = [name for name in SUITES if all(name in found for found in homes.values())]
    if not common:
        raise BadInput(", ".join(f"{pattern!r} is of {found[0]}" for pattern, found in homes.items())
                       + ": a command takes tasks of one suite")  # fmt: skip
    if len(common) > 1:
        wanted = ",".join(homes)
        raise BadInput(f"{' and '.join(common)} have tasks that match {wanted!r}; choose by --suite")
    return common[0]


def _homes(pattern: str) -> list[str]:
    """The suites with tasks that match."""
    found, known, absent = list[str](), list[str](), list[Absent]()
    for name in SUITES:
        known += suite(name).names()
        try:
            select(name, [pattern])
            found.append(name)
        except Absent as error:
            absent.append(error)
        except BadInput:
            pass
    if absent and not found:
        raise absent[0]
    if not found:
        hint = nearest(pattern, known)
        hint = hint if hint.startswith("did you mean") else "python -m harness.run --list prints all tasks"
        raise BadInput(f"no suite has a task that matches {pattern!r}; {hint}")
    return found


def listed(name: str) -> tuple[tuple[str, ...], str]:
    """The suite's tasks that are worth listing, and a line about the others; all and "" where it does not choose."""
    module = suite(name)
    return module.listed() if hasattr(module, "listed") else (module.names(), "")


def select(name: str, patterns: Iterable[str]) -> tuple[Any, ...]:
    """The suite's tasks that match any of the patterns (globs), in the suite's order.

    No pattern: the paper's tasks, where the suite names them (`PAPER_TASKS`), else all. "default": the suite's
    `DEFAULT_TASKS`.

    Raises:
      BadInput: an unknown suite, or a pattern that matches nothing.
    """
    module, chosen = suite(name), []
    names, patterns = module.names(), tuple(patterns)
    if not patterns:
        return tuple(module.get(task) for task in getattr(module, "PAPER_TASKS", names))
    for pattern in patterns:
        if pattern == "default" and hasattr(module, "DEFAULT_TASKS"):
            found = list(module.DEFAULT_TASKS)
        else:
            found = fnmatch.filter(names, pattern)
        if not found:  # known, perhaps, though its data are not there yet
            try:
                found = [module.get(pattern).name]
            except Absent:
                raise
            except BadInput:
                pass
        if not found:
            raise BadInput(f"no {name} task matches {pattern!r}; {nearest(pattern, list(names)[:2000], '--list')}")
        chosen += [task for task in found if task not in chosen]
    return tuple(module.get(task) for task in chosen)
