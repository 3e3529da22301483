"""What runs cost, by their records: gradient steps, and seconds of training and of evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from analysis.records.runs import Run, Source
from analysis.tuning.sweeps import as_json
from core import records
from core.errors import BadInput

Stage = dict[str, Any]
"""Of a run.json, with the steps that it came to."""


class Spent(NamedTuple):
    """What a sweep cost. A stage that several settings share was trained once, and counts once."""

    settings: int
    seeds: int
    """Over all settings."""
    steps: int
    """Gradient steps (online: environment steps) of all stages."""
    each: int | None
    """Those of one seed of one setting, where each setting has as many seeds and each seed as many steps."""
    training: float
    """Seconds, of the stages that say so."""
    evaluation: float
    untimed: int
    """Stages that do not say how long they took."""


def spent(runs: Iterable[Run]) -> Spent:
    """What runs cost; of a seed that did not finish, what it is known to have trained."""
    runs = list(runs)
    each = [(source, _trained(source, run.folder.parents[4])) for run in runs for source in run.sources]
    lanes: dict[str, Stage] = {}
    for stage in (stage for _, stages in each for stage in stages):  # a stopped run's record may be behind another's
        name = stage["fingerprint"]
        lanes[name] = max(lanes.get(name, stage), stage, key=lambda one: (one["steps"], one.get("seconds") or 0.0))
    steps, evaluation, seconds = list[int](), 0.0, list[float | None]()
    for source, stages in each:
        evaluation += float((source.meta.get("wall_clock_s") or {}).get("evaluate", 0.0))
        own = [lanes.pop(stage["fingerprint"]) for stage in stages if stage["fingerprint"] in lanes]
        seconds += [stage.get("seconds") for stage in own]
        steps += [sum(stage["steps"] for stage in own)] * len(source.seeds)
    seeds = [len(run.meant) for run in runs]
    settings = len({as_json(run.settings) for run in runs})
    alike = settings == len(runs) and len(set(seeds)) == len(set(steps)) == 1 and sum(seeds) == len(steps)
    times = [one for one in seconds if one is not None]
    return Spent(settings, sum(seeds), sum(steps), steps[0] if alike else None, sum(times), evaluation,
                 len(seconds) - len(times))  # fmt: skip


def _trained(source: Source, root: Path) -> list[Stage]:
    """The stages of a run.json that were begun, each as far as it is known to have come.

    A stage has come as far as its saved state, and the last one at least to the last evaluation, before which all
    others end. Where `root` keeps no state, an earlier stage that took time is charged in full.
    """
    stages = [dict(stage) for stage in source.meta.get("stages") or []]
    if source.status == "finished":
        return stages
    first = (source.meta.get("online") or {}).get("from_step", 0)  # evaluations count on from the offline run's steps
    evaluated = [step - first for step in source.meta.get("evaluation_steps") or [] if step >= first]
    for number, stage in enumerate(stages, 1):
        note = _note(root / "artifacts" / stage["fingerprint"] / "stage.json")
        saved = note["step"] if note else 0
        if note and "seconds" in note:
            stage["seconds"] = note["seconds"]
        if number == len(stages):
            reached = max([saved, *evaluated])
        else:
            reached = stage["steps"] if evaluated or (note is None and stage.get("seconds")) else saved
        stage["steps"] = min(stage["steps"], reached)
    return [stage for stage in stages if stage["steps"] or stage.get("seconds") is not None]


def _note(path: Path) -> records.StageRecord | None:
    """A stage.json; None where it is not there to read."""
    try:
        return records.read(path, records.StageRecord)
    except (BadInput, OSError):
        return None
