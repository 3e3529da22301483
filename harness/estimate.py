"""How long a plan trains on this device, from a short measured warm-up of each distinct kind of stage."""

from __future__ import annotations

from collections.abc import Iterable

from harness.plan import RunNode
from harness.throughput import measure

_STEPS = 3


def seconds_per_stage(runs: Iterable[RunNode]) -> dict[str, float]:
    """Training seconds of every stage, by fingerprint. Stages that differ only in their task's data share one
    measurement: time depends on shapes and settings."""
    measured: dict[str, float] = {}
    found = {}
    for run in runs:
        for node in run.nodes:
            if node.fingerprint in found:
                continue
            stage = node.stage
            kind = repr((run.method.name, stage.name, run.task.spec, sorted(stage.config.items()), run.settings.seeds))
            if kind not in measured:
                timing = measure(run.method, stage, run.settings.seeds, steps=_STEPS, repeats=2, loop=False)
                measured[kind] = timing.ms_scan * len(run.settings.seeds) / 1e3
            found[node.fingerprint] = measured[kind] * stage.steps
    return found
