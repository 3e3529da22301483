"""How long a plan trains on this device, from a short measured warm-up of each distinct kind of stage."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import track

from harness.plan import RunNode, StageNode
from harness.throughput import measure

_STEPS = 4  # a multiple of the period of delayed updates


def seconds_per_stage(runs: Iterable[RunNode], console: Console) -> dict[str, float]:
    """Training seconds of every stage, by fingerprint. Stages that differ only in their task's data share one
    measurement: time depends on shapes and settings. Compiling takes a while, so `console` shows how far it is."""
    nodes = {node.fingerprint: (run, node) for run in runs for node in run.nodes}
    kinds = {fingerprint: _kind(run, node) for fingerprint, (run, node) in nodes.items()}
    first = {kind: fingerprint for fingerprint, kind in reversed(kinds.items())}
    measured: dict[str, float] = {}
    for kind, fingerprint in track(
        first.items(), "measuring each kind of stage", console=console, transient=True, disable=not console.is_terminal
    ):
        run, node = nodes[fingerprint]
        timing = measure(run.method, node.stage, run.settings.seeds, steps=_STEPS, repeats=2, loop=False)
        measured[kind] = timing.ms_scan * len(run.settings.seeds) / 1e3
    return {fingerprint: measured[kinds[fingerprint]] * node.updates for fingerprint, (_, node) in nodes.items()}


def _kind(run: RunNode, node: StageNode) -> str:
    stage = node.stage
    return repr((stage.name, stage.rule, run.task.spec, sorted(stage.config.items()), run.settings.seeds))
