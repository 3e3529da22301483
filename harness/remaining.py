"""What of a plan is on disk, and what is to do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import record
from harness.engine import Engine
from harness.plan import Lane, RunNode, Trial
from harness.programs import Program, Stored, programs
from harness.store import Artifact
from methods.core import BadInput


class Remaining(NamedTuple):
    """Of some trials."""

    finished: dict[RunNode, list[int]]  # seeds that are on record as finished
    programs: list[Program]  # for the others


def remaining(
    trials: Sequence[Trial], results: Path, engine: Engine, most: int | None = None, *, nothing: bool = False,
    gone: Collection[Trial | str] = (),
) -> Remaining:  # fmt: skip
    """Looks at the records and lanes of trials. With `nothing` it is as if there were none.

    Args:
      most: lanes that train in one program; None: as many as the engine allows.
      gone: trials, and fingerprints of lanes, that are looked at as if there were none.
    """
    finished: dict[RunNode, list[int]] = {}
    todo = []
    for trial in trials:
        if not (nothing or trial in gone) and status(trial, results) == "finished":
            finished.setdefault(trial.run, []).append(trial.seed)
        else:
            todo.append(trial)

    def stored(lane: Lane) -> Stored:
        return Stored() if nothing or lane.fingerprint in gone else on_disk(lane, results)

    return Remaining(finished, programs(todo, stored, most_lanes(engine, most), trials))


def folders(trials: Sequence[Trial], results: Path) -> list[Path]:
    """Of trials, and of all lanes that they are made of."""
    lanes = dict.fromkeys(lane.fingerprint for trial in trials for lane in trial.lanes())
    return [*(results / "artifacts" / one for one in lanes), *(trial.folder(results) for trial in trials)]


def most_lanes(engine: Engine, most: int | None) -> Callable[[Lane], int]:
    """How many lanes like one may train side by side; `most`: what the user said, None: by memory."""
    known: dict[Any, int] = {}  # to count the bytes of a lane takes a while, and those of equal structure have as many

    def by_memory(lane: Lane) -> int:
        if lane.structure not in known:
            known[lane.structure] = engine.most_lanes(lane)
        return known[lane.structure]

    return lambda lane: (most or by_memory(lane)) if engine.side_by_side else 1


def status(trial: Trial, results: Path) -> str | None:
    """What a trial's record says of it, if it can be read."""
    with contextlib.suppress(OSError):
        return record.status_of(trial.folder(results))
    return None


def on_disk(lane: Lane, results: Path) -> Stored:
    """What is on disk of a lane; what cannot be read is found when its turn comes."""
    there = Artifact(results / "artifacts" / lane.fingerprint, lane.identity)
    with contextlib.suppress(BadInput, OSError):
        return Stored(there.finished, tuple(there.batch or ()), tuple(there.steps))
    return Stored()
