"""How long programs train on this device, from a short measured warm-up of each distinct kind of stage."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from harness.measure import measure
from harness.programs import Program

_STEPS = 4  # a multiple of the period of delayed updates


def seconds_of(programs: Sequence[Program], console: Console) -> dict[str, float]:
    """Training seconds of every program from where it goes on, by its first lane's fingerprint. Those of a kind share
    one measurement, whatever their task: time depends on settings that shape a program, and hardly on how wide
    observations and actions are. Compiling takes a while, so `console` shows how far it is."""
    todo = [program for program in programs if program.training]
    kinds = {program.first.fingerprint: _kind(program) for program in todo}
    first = {kinds[program.first.fingerprint]: program for program in reversed(todo)}
    measured: dict[str, float] = {}
    for kind, program in track(
        first.items(), "measuring each kind of stage", console=console, transient=True, disable=not console.is_terminal
    ):
        lane, count = program.first, len(program.slots)
        timing = measure(lane.method, lane.node.number, range(count), steps=_STEPS, repeats=2, loop=False)
        measured[kind] = timing.ms_scan * count / 1e3
    return {program.first.fingerprint: measured[kinds[program.first.fingerprint]] * _updates(program)
            for program in todo}  # fmt: skip


def _updates(program: Program) -> float:
    """Gradient steps that are still to do."""
    node = program.first.node
    return node.updates * (1.0 - program.step / node.stage.steps)


def _kind(program: Program) -> str:
    """Step sizes, weights and other numbers with a fraction take the same time, whatever they are."""
    stage = program.first.node.stage
    shaping = sorted((key, value) for key, value in stage.config.items()
                     if not isinstance(value, float) and not key.endswith("action_dim"))  # fmt: skip
    return repr((stage.name, stage.rule, shaping, stage.sample.length, len(program.slots)))
