"""How long a plan trains on this device, from a short measured warm-up of each distinct kind of stage."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import track

from harness.measure import measure
from harness.plan import RunNode, StageNode

_STEPS = 4  # a multiple of the period of delayed updates


def seconds_per_stage(runs: Iterable[RunNode], console: Console) -> dict[str, float]:
    """Training seconds of every stage, by fingerprint. Stages of a kind share one measurement, whatever their task:
    time depends on settings that shape a program, and hardly on how wide observations and actions are. Compiling takes
    a while, so `console` shows how far it is."""
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
    """Step sizes, weights and other numbers with a fraction take the same time, whatever they are."""
    stage = node.stage
    shaping = sorted((key, value) for key, value in stage.config.items()
                     if not isinstance(value, float) and not key.endswith("action_dim"))  # fmt: skip
    return repr((stage.name, stage.rule, shaping, run.settings.seeds))
