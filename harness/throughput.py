"""Updates a second, compile time and memory of every method; needs no simulator and no data.

    python -m harness.throughput --methods vgf,fql --seeds 1,8

Each method trains on random transitions of cube-single's size (or --obs-dim, --action-dim). Beside the harness's
program (a scan over steps) it times the plain loop that dispatches one compiled update a step from Python; the two
take turns within one process, so that a busy machine slows both alike, and the smallest time of each counts.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import methods
from harness.config import check_keys, parse_set, resolve
from harness.numerics import pin
from harness.record import write_atomically
from harness.train import Trainer, Update, device_summary, initial_state, seed_step, take
from methods.core import BadInput, Method, Stage, State, TaskSpec


@dataclass(frozen=True)
class Measurement:
    """One stage at one number of seeds."""

    method: str
    stage: str
    seeds: int
    ms_scan: float  # per update and seed, in the harness's program
    ms_loop: float  # per update and seed, one dispatch a step from Python; NaN if not measured
    compile_s: float
    memory_mb: float  # peak on the device, where it says; else NaN

    @property
    def ratio(self) -> float:
        return self.ms_scan / self.ms_loop


def random_transitions(spec: TaskSpec, rows: int = 4096) -> dict[str, np.ndarray]:
    """Columns of the right shapes."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.standard_normal((rows, spec.obs_dim), np.float32),
        "actions": rng.uniform(-1, 1, (rows, spec.action_dim)).astype(np.float32),
        "rewards": -np.ones(rows, np.float32),
        "masks": np.ones(rows, np.float32),
        "next_observations": rng.standard_normal((rows, spec.obs_dim), np.float32),
        "next_actions": rng.uniform(-1, 1, (rows, spec.action_dim)).astype(np.float32),
        "terminals": (np.arange(1, rows + 1) % 100 == 0).astype(np.float32),
    }


def measure(
    method: Method, stage: Stage, seeds: Sequence[int], *, steps: int, repeats: int, loop: bool = True
) -> Measurement:
    """Times `repeats` spans of `steps` steps of a stage, alternating with as many of the plain loop."""
    columns = take(random_transitions(method.spec), method.fields)
    state = initial_state(method.init, seeds)
    trainer = Trainer(stage, seeds, columns, state)
    state = trainer.complete(state)
    advance = _one_dispatch(stage, trainer) if loop else None

    def fresh() -> State:  # the programs donate their state, so each gets its own
        return jax.tree.map(lambda leaf: leaf.copy(), state)

    scanned, looped = fresh(), fresh()
    scanned, _ = trainer.run(scanned, 0, steps)  # compiles
    scan_times, loop_times = [], []
    if advance:
        for number in range(stage.period):
            looped = jax.block_until_ready(advance(looped, number))
    for _ in range(repeats):
        started = time.perf_counter()
        scanned, _ = trainer.run(scanned, 0, steps)
        scan_times.append(time.perf_counter() - started)
        if advance:
            started = time.perf_counter()
            for number in range(steps):
                looped = advance(looped, number)
            jax.block_until_ready(looped)
            loop_times.append(time.perf_counter() - started)
    scale = 1e3 / steps / len(seeds)
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", float("nan")) / 2**20
    return Measurement(method.name, stage.name, len(seeds), min(scan_times) * scale,
                       min(loop_times, default=float("nan")) * scale, trainer.seconds["compile"], peak)  # fmt: skip


def _one_dispatch(stage: Stage, trainer: Trainer) -> Callable[[State, int], State]:
    """The plain loop's step: all seeds in one compiled update, called from Python."""

    def compiled(update: Update) -> Callable[..., State]:
        def step(state: State, prepared: Any, keys: Any, columns: Any, number: Any) -> State:
            one = seed_step(stage, columns, update)
            return jax.vmap(lambda s, p, k: one(s, p, k, number)[0])(state, prepared, keys)

        return jax.jit(step, donate_argnums=0)

    full = compiled(stage.update)
    between = compiled(stage.between) if stage.between else full

    def advance(state: State, number: int) -> State:
        step = between if number % stage.period else full
        return step(state, trainer.prepared, trainer.keys, trainer.columns, number)

    return advance


def distinct_stages(
    names: Sequence[str], sets: Sequence[str], spec: TaskSpec, steps: int
) -> list[tuple[str, Method, Stage]]:
    """Every stage of every method with the names of the methods it is of: one that several share is here once."""
    overrides = parse_set(sets)
    check_keys(names, overrides)
    users: dict[str, list[str]] = {}
    stages: dict[str, tuple[Method, Stage]] = {}
    for name in names:
        config = replace(resolve(name, suite="", task="", layers=overrides).config, steps=steps)
        method: Method = methods.get(name)(config, spec)
        for stage in method.stages():
            kind = repr((stage.rule, sorted(stage.trains), sorted(stage.config.items()), stage.prepare is None))
            stages.setdefault(kind, (method, stage))
            users.setdefault(kind, []).append(name)
    return [(" ".join(users[kind]), *stages[kind]) for kind in stages]


def _write(path: Path, found: Sequence[Measurement]) -> None:
    """A CSV with the command and device in every row."""
    device, command = device_summary(), "python -m harness.throughput " + " ".join(sys.argv[1:])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "stage", "seeds", "ms_per_update_and_seed", "ms_one_dispatch_a_step", "ratio",
                     "compile_s", "peak_memory_mb", "device", "jax", "date", "command"])  # fmt: skip
    for m in found:
        numbers = [f"{value:.4g}" for value in (m.ms_scan, m.ms_loop, m.ratio, m.compile_s, m.memory_mb)]
        writer.writerow([m.method, m.stage, m.seeds, *numbers, device["kind"], jax.__version__,
                         time.strftime("%Y-%m-%d", time.gmtime()), command])  # fmt: skip
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def main(
    names: Annotated[str, typer.Option("--methods", help="comma-separated; default: all")] = "",
    seeds: Annotated[str, typer.Option(help="numbers of seeds, comma-separated")] = "1,8",
    sets: Annotated[list[str] | None, typer.Option("--set", help="[METHOD.]KEY=VALUE; may be repeated")] = None,
    steps: Annotated[int, typer.Option(min=1, help="updates in one timed span")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="timed spans of each kind; the shortest counts")] = 5,
    obs_dim: Annotated[int, typer.Option(min=1)] = 28,
    action_dim: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path | None, typer.Option(help="also write the table to this CSV file")] = None,
) -> None:
    """Time per update and seed of each stage of the methods, and the ratio to one dispatch a step."""
    for line in pin():
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    console = Console()
    console.width = max(console.width, 100)  # as wide as the table, where the output is no terminal
    try:
        chosen = [name.strip() for name in names.split(",") if name.strip()] or list(methods.REGISTRY)
        if not all(count.strip().isdecimal() and int(count) for count in seeds.split(",")):
            raise BadInput(f"--seeds {seeds}: expected positive whole numbers, comma-separated")
        counts = [int(count) for count in seeds.split(",")]
        if out and not out.parent.is_dir():
            raise BadInput(f"--out {out}: no folder {out.parent}")
        stages = distinct_stages(chosen, sets or [], TaskSpec(obs_dim, action_dim, 1), steps)
    except BadInput as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    found: list[Measurement] = []
    todo = list(product(stages, counts))
    for (users, method, stage), count in track(todo, "measuring", console=Console(stderr=True)):
        found.append(replace(measure(method, stage, range(count), steps=steps, repeats=repeats), method=users))
        if out:
            _write(out, found)  # after each: all methods take long on a CPU
    table = Table("method", "stage", "seeds", "ms/update/seed", "one dispatch a step", "ratio", "compile s", "peak MB")
    for m in found:
        table.add_row(m.method, m.stage, str(m.seeds), f"{m.ms_scan:.3g}", f"{m.ms_loop:.3g}", f"{m.ratio:.2f}",
                      f"{m.compile_s:.1f}", f"{m.memory_mb:.0f}")  # fmt: skip
    console.print(table)
    console.print(f"device: {device_summary()['kind']}, jax {jax.__version__}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
