"""The registry of suites. A suite's module is loaded when it is asked for, as its simulators may be heavy."""

from __future__ import annotations

import fnmatch
import importlib
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if sys.argv[:1] == ["-m"]:  # a command is starting: before anything of ours is looked for in the working folder
    _shadows = runpy.run_path(str(Path(__file__).parents[1] / "core" / "shadows.py"))
    _shadows["refuse_strangers"]("core", "methods")

from methods import nearest
from methods.core import Absent, BadInput

SUITES: dict[str, str] = {
    "toy": "tasks.toy", "ogbench": "tasks.ogbench", "d4rl": "tasks.d4rl",
    "tldr": "tasks.language_data:TLDR_SUITE", "hh": "tasks.language_data:HH_SUITE",
    "tldr-synthetic": "tasks.language_synthetic:TLDR_SUITE", "hh-synthetic": "tasks.language_synthetic:HH_SUITE",
}  # fmt: skip
_LANGUAGE = frozenset({"tldr", "hh", "tldr-synthetic", "hh-synthetic"})


SHIPPED = "shipped:"  # stands before the name of a checkpoint that comes with the tasks


def shipped(name: str) -> Path:
    """Where the checkpoint "shipped:NAME" lies."""
    return Path(__file__).parent / "checkpoints" / name.removeprefix(SHIPPED)


def family(suite: str) -> str:
    """Which methods a suite takes: "control" or "language"."""
    return "language" if suite in _LANGUAGE else "control"


def suite(name: str) -> Any:
    """The suite's module, or an object in one, with `names()` and `get(name)`.

    Raises:
      BadInput: there is none of that name.
    """
    if name not in SUITES:
        raise BadInput(f"unknown suite {name!r}; {nearest(name, sorted(SUITES))}")
    module, _, attribute = SUITES[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


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
            raise BadInput(f"no {name} task matches {pattern!r}; {nearest(pattern, list(names)[:2000])}")
        chosen += [task for task in found if task not in chosen]
    return tuple(module.get(task) for task in chosen)
