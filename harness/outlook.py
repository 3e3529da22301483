"""What of a plan is on disk, and what is to do."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness import record
from harness.engine import Engine
from harness.plan import Lane, RunNode, Trial
from harness.programs import Program, Stored, programs
from harness.store import Artifact
from methods.core import BadInput


class Outlook(NamedTuple):
    """Of some trials."""

    finished: dict[RunNode, list[int]]  # seeds that are on record as finished
    programs: list[Program]  # for the others


def outlook(
    trials: Sequence[Trial], results: Path, engine: Engine, most: int | None = None, *, nothing: bool = False
) -> Outlook:
    """Looks at the records and lanes of trials. With `nothing` it is as if there were none.

    Args:
      most: lanes that train in one program; None: as many as the engine allows.
    """
    finished: dict[RunNode, list[int]] = {}
    todo = []
    for trial in trials:
        if not nothing and status(trial, results) == "finished":
            finished.setdefault(trial.run, []).append(trial.seed)
        else:
            todo.append(trial)
    made = programs(
        todo, lambda lane: Stored() if nothing else _stored(lane, results), lambda lane: most or engine.most_lanes(lane)
    )
    return Outlook(finished, made)


def status(trial: Trial, results: Path) -> str | None:
    """What a trial's record says of it, if it can be read."""
    with contextlib.suppress(OSError):
        return record.status_of(trial.folder(results))
    return None


def _stored(lane: Lane, results: Path) -> Stored:
    """What is on disk of a lane; what cannot be read is found when its turn comes."""
    there = Artifact(results / "artifacts" / lane.fingerprint, lane.identity)
    with contextlib.suppress(BadInput, OSError):
        here = there.steps and not there.adopted  # those beside an adopted lane are somewhere else
        return Stored(there.finished, tuple(there.batch or ()) if here else ())
    return Stored()
