"""Settings in layers, each value remembering where it came from.

method defaults < the protocol's per-task tables < its `set` (the suite's `protocols.toml`) < preset (`presets.toml`)
< `--set`

Sizes of a run: the suite's default preset < the protocol < a preset that was named < options.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Literal, get_args, get_origin

import methods
import tasks
from methods import nearest
from methods.core import BadInput, MethodConfig
from methods.settings import marks
from tasks.protocols import Protocol

LARGEST = 2**31 - 1  # what programs count and measure arrays with
TASK = "task"  # stands where a method's name does: "task.success_timing"


@dataclass(frozen=True)
class RunSettings:
    """The sizes of a run that are not a method's own."""

    seeds: Sequence[int]
    episodes: int  # per seed, knob setting and evaluation
    evaluate_every: int  # gradient steps between evaluations
    log_every: int  # gradient steps in one dispatched program; metrics are averaged over it
    data_episodes: int = 1000  # of a dataset that is generated
    jobs: int = 1  # runs, and seeds of a language stage, at a time; makes no difference to any of them
    online_steps: int = 0  # environment steps of a seed after the offline end; 0: no online phase
    online_warmup: int = 5000  # environment steps before the first update among them (VGF's and FQL's codes)
    updates_per_step: int = 1  # gradient steps to an environment step
    online_evaluate_every: int = 0  # environment steps between evaluations; 0: as `evaluate_every`
    replay_capacity: int = 0  # transitions in the replay buffer, the dataset's among them; 0: room for all


@dataclass(frozen=True)
class Override:
    """One `key=value`, for one method, for the task (`TASK`) or (None) for every method that has the key."""

    method: str | None
    key: str
    value: Any
    origin: str


@dataclass(frozen=True)
class Resolved:
    """A method's settings for one task."""

    config: MethodConfig
    origins: Mapping[str, str]


def presets(suite: str) -> dict[str, Any]:
    """The presets of a suite, by name; the first is its default."""
    return dict(tasks.about(suite).presets)


def preset(suite: str, name: str | None) -> tuple[dict[str, Any], tuple[Override, ...]]:
    """Run sizes and method overrides of a preset; None: the suite's default.

    Raises:
      BadInput: the suite has none of that name.
    """
    known = presets(suite)
    name = next(iter(known), "") if name is None else name
    if name not in known:
        raise BadInput(f"unknown preset {name!r} for suite {suite}; {nearest(name, sorted(known))}")
    sizes = dict(known[name])
    overrides = sizes.pop("set", {})
    family = tasks.family(suite)
    return sizes, tuple(_override(key, value, f"preset {name}", family) for key, value in overrides.items())


def protocol(suite: str, name: str = "") -> Protocol:
    """A suite's protocol; "": its default one, which of a task that is of none of the suites has no name.

    Raises:
      BadInput: the suite has none of that name.
    """
    known = tasks.about(suite).protocols if suite in tasks.SUITES else {"": Protocol()}
    if not name:
        return next(iter(known.values()))
    if name not in known:
        hint = nearest(name, sorted(known)) if any(known) else "it has one alone, which has no name"
        hint += f" (--preset {name} is one of its sizes)" if suite in tasks.SUITES and name in presets(suite) else ""
        raise BadInput(f"unknown protocol {name!r} for suite {suite}; {hint}")
    return known[name]


def layered(suite: str, preset_name: str | None, protocol_name: str) -> tuple[dict[str, Any], tuple[Override, ...]]:
    """Run sizes and method overrides of a preset and a protocol together: a preset that was named goes over the
    protocol, the suite's default one (None) does not.

    Raises:
      BadInput: the suite has none of that name.
    """
    bundle, chosen, family = protocol(suite, protocol_name), preset(suite, preset_name), tasks.family(suite)
    origin = f"protocol {bundle.name}"
    own = dict(bundle.sizes), tuple(_override(key, value, origin, family) for key, value in bundle.set.items())
    (sizes, overrides), (above, later) = (chosen, own) if preset_name is None else (own, chosen)
    return sizes | above, (*overrides, *later)


def parse_set(assignments: Iterable[str], family: str = "control") -> tuple[Override, ...]:
    """`--set` arguments, for methods of a family: "vgf.step_size=0.1", "batch_size=128" or "task.success_timing=pre".

    Raises:
      BadInput: no "=", or an unknown method.
    """
    parsed = []
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name or not value:
            raise BadInput(f"--set {assignment!r}: expected [METHOD.]KEY=VALUE")
        parsed.append(_override(name.strip(), value.strip(), "--set", family))
    return tuple(parsed)


def _override(name: str, value: Any, origin: str, family: str) -> Override:
    method, dot, key = name.rpartition(".")
    known = methods.registry(family)
    if dot and method != TASK and method not in known:
        raise BadInput(f"{origin} {name}: unknown method {method!r}; {nearest(method, sorted(known), '--list')}")
    return Override(method if dot else None, key, value, origin)


@cache
def _table(suite: str, name: str, online: bool) -> tuple[tuple[str, Override], ...]:
    """Rows of a protocol's per-task settings: task pattern and override; none of a task that is of none of the
    suites."""
    if suite not in tasks.SUITES:
        return ()
    return tuple(
        (row["tasks"], Override(row["method"].replace("*", "") or None, row["key"], row["value"], row["source"]))
        for row in tasks.about(suite).settings(protocol(suite, name), online=online)
    )


def resolve(
    method: str, suite: str, task: str, layers: Iterable[Override], *, online: bool = False, protocol: str = ""
) -> Resolved:
    """The method's settings for a task: defaults, then the tables of the protocol ("": the suite's default one), then
    `layers` in order. Where an `online` phase follows, the settings that are published for both phases then
    (`settings_online.csv`) come after the tables'.

    Raises:
      BadInput: a value that does not fit its key, or a key (named for this method) that it does not have.
    """
    cls = methods.get(method, tasks.family(suite)).Config
    hints = marks(cls)
    values: dict[str, Any] = {}
    origins = {field.name: "default" for field in fields(cls)}
    table = tuple(override for pattern, override in _table(suite, protocol, online) if fnmatchcase(task, pattern))
    for override in (*table, *layers):
        if override.method not in (None, method):
            continue
        if not _may_take(hints, override):
            continue
        if override.key not in hints:
            valid = nearest(override.key, [field.name for field in fields(cls)], "--show-config")
            raise BadInput(f"{override.origin}: {method} has no setting {override.key!r}; {valid}")
        values[override.key] = _coerce(override, hints[override.key])
        origins[override.key] = override.origin
    return Resolved(cls(**values), origins)


def departures(name: str, suite: str, method: str, resolved: Resolved) -> list[str]:
    """What a protocol sets for all tasks and something else overruled: "critics=2 (--set)". Values of the tasks' tables
    are not among it: they are of the protocol."""
    own = {key.rpartition(".")[2]: value for key, value in protocol(suite, name).set.items()
           if key.rpartition(".")[0] in ("", method)}  # fmt: skip
    kind: Any = type(resolved.config)  # which mypy takes for unhashable
    hints, found = marks(kind), []
    for key, said in own.items():
        if key in hints and resolved.origins[key] != f"protocol {name}":
            value = getattr(resolved.config, key)
            if value != _coerce(Override(None, key, said, f"protocol {name}"), hints[key]):
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                found.append(f"{key}={text} ({resolved.origins[key]})")
    return found


def task_options(overrides: Iterable[Override]) -> dict[str, str]:
    """The choices that overrides make of the task, later ones over earlier ones."""
    return {override.key: str(override.value) for override in overrides if override.method == TASK}


def check_keys(names: Iterable[str], overrides: Iterable[Override], family: str = "control") -> None:
    """Refuses overrides that reach none of the chosen methods: a typo must not be silent.

    Raises:
      BadInput: such an override.
    """
    names = tuple(names)
    known = {name: marks(methods.get(name, family).Config) for name in names}
    for override in (override for override in overrides if override.method != TASK):
        if override.method is not None and override.method not in names:
            method, chosen = override.method, ", ".join(names)
            raise BadInput(f"{override.origin} {method}.{override.key}: {method} is not among --methods {chosen}")
        reached = known if override.method is None else {override.method: known[override.method]}
        if not any(override.key in hints and _may_take(hints, override) for hints in reached.values()):
            where = override.method or "any of " + ", ".join(names)
            valid = nearest(override.key, sorted(set().union(*reached.values())), "--show-config")
            raise BadInput(f"{override.origin} {override.key}: no such setting in {where}; {valid}")


def _may_take(hints: Mapping[str, tuple[Any, ...]], override: Override) -> bool:
    """Whether an override is for a method with these settings. One that names no method is for those that have the key;
    where a method leaves one value of a choice, for that value alone."""
    if override.method is not None:
        return True
    base = hints.get(override.key, (None,))[0]
    choices = get_args(base) if get_origin(base) is Literal else ()
    return override.key in hints and (len(choices) != 1 or override.value in choices)


def _coerce(override: Override, hint: tuple[Any, ...]) -> Any:
    """The override's value as the type its setting declares, a bare type and its marks."""

    def refuse(expected: str) -> BadInput:
        value = str(override.value)
        value = value if len(value) <= 60 else f"{value[:57]}..."
        return BadInput(f"{override.origin}: {override.key}={value} is not {expected}")

    def scalar(text: str, hint: tuple[Any, ...]) -> Any:
        base, *rest = hint
        limits = [mark for mark in rest if isinstance(mark, str)]
        if get_origin(base) is Literal:
            if text not in get_args(base):
                raise refuse("one of " + ", ".join(get_args(base)))
            return text
        if base is str:
            return text
        if base is bool:
            switch = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
            if text.lower() not in switch:
                raise refuse("on or off")
            return switch[text.lower()]
        try:
            number = base(text)
        except ValueError:  # more digits than Python reads, too
            raise refuse("a whole number" if base is int else "a number") from None
        if not -math.inf < number < math.inf:
            raise refuse("finite")
        if base is int and abs(number) > LARGEST:
            raise refuse(f"at most {LARGEST}")
        fits = {"positive": number > 0, "0 or more": number >= 0, "within [0, 1]": 0 <= number <= 1,
                "from 1 to 100,000": 1 <= number <= 100_000, "from 0 to 100,000": 0 <= number <= 100_000}  # fmt: skip
        if limits and not fits[limits[0]]:
            raise refuse(limits[0])
        return number

    text = str(override.value)
    if get_origin(hint[0]) is tuple:
        inner = get_args(hint[0])[0]
        each = get_args(inner) if hasattr(inner, "__metadata__") else (inner,)
        parts = tuple(scalar(part.strip(), each) for part in text.split(",") if part.strip())
        if not parts:
            raise refuse("a list of values")
        if override.key.startswith("test_") and len(set(parts)) < len(parts):
            raise refuse("a list of different values")
        return parts
    return scalar(text, hint)
