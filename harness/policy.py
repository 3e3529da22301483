"""A trained policy as its record has it, without planning the run anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

import methods
import tasks
from core.errors import BadInput, reason
from core.records import RunRecord, SeedRecord, read_run
from core.text import nearest
from harness.arrays import ArrayFormat, fitted
from harness.plan import bound
from harness.store import LaneStore
from harness.table import Rows, read_rows
from methods.core import Method, State
from tasks.core import Task, choose

RUNS, PARTS = "runs", "artifacts"
MOST_NAMED = 5


@dataclass(frozen=True)
class Policy:
    """One seed of a run, ready to act."""

    folder: Path
    """That of the seed."""
    label: str
    task: Task
    method: Method
    state: State
    """Its parts, of one lane."""
    seed: int
    settings: Sequence[Mapping[str, float]]
    """Of its knobs, as evaluated; `({},)` without any."""
    best: Mapping[str, float]
    """The setting with the highest mean score in its own last evaluation; the first where there is none."""


def found(place: Path, task: str, method: str, seed: int | None) -> Path:
    """The one seed's folder at or below `place` that is meant. Raises: BadInput: there is none, or several."""
    if not place.is_dir():
        raise BadInput(f"{place}: no such folder")
    below = place / RUNS if (place / RUNS).is_dir() else place
    of, damaged = dict[Path, RunRecord | SeedRecord](), list[BadInput]()
    for folder in sorted(path.parent for path in below.rglob("run.json")):
        try:
            of[folder] = _about(folder)
        except BadInput as error:  # of another run, perhaps
            damaged.append(error)
    if not of:
        raise damaged[0] if damaged else BadInput(f"{place}: there is no run.json in it or below")
    for name, wanted in (("task", task), ("method", method), ("seed", seed)):
        if wanted in ("", None):
            continue
        there = sorted({str(about.get(name, "")) for about in of.values()})
        if str(wanted) not in there:
            raise BadInput(f"--{name} {wanted}: no run of it below {place}; {nearest(str(wanted), there, '')}")
        of = {folder: about for folder, about in of.items() if str(about.get(name, "")) == str(wanted)}
        if not of:
            raise BadInput(f"--{name} {wanted}: no such run below {place}")
    runs = sorted({folder.parent for folder in of})
    if len(runs) > 1:
        named = ", ".join(str(run.relative_to(place)) for run in runs[:MOST_NAMED])
        more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
        raise BadInput(f"{place}: {len(runs)} runs ({named}{more}); name one by its folder, --task or --method")
    return next((folder for folder, about in of.items() if about["status"] == "finished"), next(iter(of)))


def _about(folder: Path) -> RunRecord | SeedRecord:
    return read_run(folder / "run.json")


def load(folder: Path) -> Policy:
    """The policy of a seed's folder, `RESULTS/runs/<suite>/<task>/<method>/<fingerprint>/seed-<k>`.

    Raises:
      BadInput: the record is damaged, of a method that does not act in an environment, or its parts are not there.
    """
    about: Mapping[str, Any] = _about(folder)
    if len(folder.resolve().parents) < 6 or folder.resolve().parents[4].name != RUNS:
        raise BadInput(f"{folder}: lies in no folder of results (RESULTS/{RUNS}/SUITE/TASK/METHOD/FINGERPRINT/SEED), "
                       f"beside whose {RUNS}/ the parts are")  # fmt: skip
    if "seed" not in about:
        raise BadInput(f"{folder}: is of the old layout, of which parts are not kept")
    suite, name = str(about["suite"]), str(about["method"])
    if tasks.family(suite) != "control":
        raise BadInput(f"{folder}: {name} writes text; there is no environment to see it in")
    (task,) = tasks.select(suite, [str(about["task"])])
    task = choose(task, about.get("task_options") or {})
    method = bound(name, _config(name, about["config"], folder), task.spec)
    if unfinished := [stage["name"] for stage in about["stages"] if not _store(folder, stage).finished]:
        raise BadInput(f"{folder}: stage {unfinished[0]} is not finished, or its parts are not kept under "
                       f"{_results(folder) / PARTS}")  # fmt: skip
    like = jax.eval_shape(method.init, jax.eval_shape(lambda: jax.random.key(0)))
    state: State = {}
    for stage in about["stages"]:  # of a part that a later stage goes on with, the later one's
        parts = _store(folder, stage).load()
        state |= fitted(parts, {part: like[part] for part in parts if part in like}, str(folder))
    if lacking := sorted(set(like) - set(state)):
        raise BadInput(f"{folder}: no stage of it trained {lacking[0]}")
    settings = method.knobs
    label = f"{name} on {task.name}, seed {about['seed']}"
    return Policy(folder, label, task, method, state, int(about["seed"]), settings, _best(folder, settings))


def _results(folder: Path) -> Path:
    """The folder of results that a seed's folder lies in."""
    return folder.resolve().parents[5]


def _store(folder: Path, stage: Mapping[str, Any]) -> LaneStore:
    place = _results(folder) / PARTS / str(stage["fingerprint"])
    store = LaneStore(place, {}, ArrayFormat())
    note = store.note
    return LaneStore(place, note["identity"] if note else {}, ArrayFormat())


def _config(name: str, recorded: Mapping[str, Any], folder: Path) -> Any:
    values = {key: _frozen(one["value"]) for key, one in recorded.items()}
    kind = methods.get(name, "control").Config
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInput(f"{folder}: its settings are not those of {name} now ({error})") from None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _best(folder: Path, settings: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Raises: BadInput: episodes.csv is not what runs write."""
    path, scores = folder / "episodes.csv", dict[tuple[float, ...], list[float]]()
    try:
        rows = read_rows(path) or Rows([], [], [])
        last = max(rows.steps, default=0)
        for row, step in zip(rows.rows, rows.steps, strict=True):
            values = dict(zip(rows.header, row, strict=True))
            if step == last and values["score"] not in ("", "nan"):
                key = tuple(float(values[name]) for name in settings[0])
                scores.setdefault(key, []).append(float(values["score"]))
    except (KeyError, ValueError, OSError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: is not what the run wrote ({reason(error)})") from None
    means = {key: sum(values) / len(values) for key, values in scores.items()}
    return max(settings, key=lambda one: means.get(tuple(map(float, one.values())), float("-inf")))
