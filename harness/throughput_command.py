"""Updates a second, compile time and memory of every method; needs no simulator and no data (`harness/measure.py`).

Each method trains on random transitions of cube-single's size (or --obs-dim, --action-dim). With --on-paper nothing
runs: it prints what an update must do, and the least time that takes on an accelerator.
"""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import methods
from core.command import guarded
from core.files import write_text
from core.memory import amount, host_memory
from harness import options
from harness.config import LARGEST
from harness.measure import ROWS, Measurement, batch_shapes, distinct_stages, measure
from harness.numerics import pin
from harness.operations import DEVICES, pass_operations, work
from harness.train import device_memory, device_summary, least_bytes
from methods.core import BadInput, Method, TaskSpec

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _write(path: Path, found: Sequence[Measurement]) -> None:
    """A CSV with the command and device in every row."""
    device, command = device_summary(), "python -m harness.throughput " + " ".join(sys.argv[1:])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["method", "stage", "seeds", "precision", "ms_per_update_and_seed", "ms_one_dispatch_a_step", "ratio"]
    head += ["ms_dispatch", "gflop", "passes", f"times_{methods.REFERENCE}", "matrix_gflops", "share_of_matrix_rate"]
    writer.writerow([*head, "compile_s", "peak_memory_mb", "device", "jax", "date", "command"])
    for m in found:
        values = (m.ms_scan, m.ms_loop, m.ratio, m.dispatch_ms, m.operations / 1e9, m.passes, beside(m, found),
                  m.matrix_rate / 1e9, m.share, m.compile_s, m.memory_mb)  # fmt: skip
        numbers = [f"{value:.4g}" for value in values]
        writer.writerow([m.method, m.stage, m.seeds, m.precision, *numbers, device["kind"], jax.__version__,
                         time.strftime("%Y-%m-%d", time.gmtime()), command])  # fmt: skip
    write_text(path, text.getvalue())


@app.command()
def throughput(
    context: typer.Context,
    names: Annotated[str, typer.Option("--methods", help="comma-separated; default: all")] = "",
    seeds: Annotated[str, typer.Option(help="numbers of seeds, comma-separated")] = "1,8",
    sets: Annotated[list[str] | None, typer.Option("--set", help="[METHOD.]KEY=VALUE; may be repeated")] = None,
    steps: Annotated[int, typer.Option(min=1, max=LARGEST, help="updates in one timed span")] = 20,
    repeats: Annotated[int, typer.Option(min=1, max=LARGEST, help="timed spans of each kind; the shortest counts")] = 5,
    obs_dim: Annotated[int, typer.Option(min=1, max=LARGEST)] = 28,
    action_dim: Annotated[int, typer.Option(min=1, max=LARGEST)] = 5,
    on_paper: Annotated[
        str, typer.Option(help=f"run nothing: least work, and least time on one of {', '.join(DEVICES)}")
    ] = "",
    out: Annotated[str | None, typer.Option(help="also write the table to this CSV file")] = None,
) -> None:
    """Time per update and seed of each stage of the methods, and the ratio to one dispatch a step."""
    given = {name: context.params[name] for name in options.on_command_line(context, context.params)}

    def go() -> None:
        options.check(given)
        if on_paper and on_paper not in DEVICES:
            raise BadInput(f"--on-paper {on_paper}: unknown device; {methods.nearest(on_paper, sorted(DEVICES))}")
        if on_paper and out:
            raise BadInput("--on-paper measures nothing, so there is nothing for --out")
        chosen = options.parts("names", names, "method") or list(methods.REGISTRY)
        counts, path = _counts(seeds), Path(out) if out else None
        if path:
            options.check_out(path)
        for line in pin():
            Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
        device_summary()
        spec = TaskSpec(obs_dim, action_dim, 1)
        _check_memory(4.0 * ROWS * (2 * obs_dim + 2 * action_dim), "the transitions")
        stages = distinct_stages(chosen, sets or [], spec)
        if on_paper:
            _show_on_paper(stages, on_paper)
            return
        for (_, method, number), count in product(stages, counts):
            _check_memory(least_bytes(method, count), f"{method.name}: {count} seeds")
            _check_memory(
                4.0 * count * method.stages()[number].batch_size * (2 * obs_dim + method.spec.action_dim),
                f"{method.name}: batches",
            )
        _show(_measured(stages, counts, steps, repeats, path))

    raise typer.Exit(guarded(go))


def _counts(seeds: str) -> list[int]:
    pieces = [piece.strip() for piece in seeds.split(",")]
    if not all(piece.isdecimal() and len(piece) < 11 and 0 < int(piece) <= LARGEST for piece in pieces):
        raise BadInput(f"--seeds {seeds}: expected positive whole numbers, comma-separated, of at most {LARGEST}")
    return list(dict.fromkeys(map(int, pieces)))


def _check_memory(least: float, what: str) -> None:
    there = device_memory() or host_memory()
    if least > there:
        raise BadInput(f"{what} need at least {amount(least)} of memory, and there is {amount(there)}")


def _measured(
    stages: Sequence[tuple[str, Method, int]], counts: Sequence[int], steps: int, repeats: int, out: Path | None
) -> list[Measurement]:
    found: list[Measurement] = []
    todo = list(product(stages, counts))
    for (users, method, number), count in track(todo, "measuring", console=Console(stderr=True)):
        found.append(replace(measure(method, number, range(count), steps=steps, repeats=repeats), method=users))
        if out:
            _write(out, found)  # after each: all methods take long on a CPU
    return found


def beside(m: Measurement, found: Sequence[Measurement]) -> float:
    """How many times an update of `methods.REFERENCE` one takes, of as many seeds in the same precision; NaN where that
    was not measured."""
    alike = (one for one in found if (one.seeds, one.precision) == (m.seeds, m.precision))
    return next((m.ms_scan / one.ms_scan for one in alike if methods.REFERENCE in one.method.split()), math.nan)


def _show(found: Sequence[Measurement]) -> None:
    console = Console()
    console.width = max(console.width, 120)  # as wide as the table, where the output is no terminal
    head = ["method", "stage", "seeds", "ms/update/seed", f"x {methods.REFERENCE}", "one dispatch a step", "ratio"]
    table = Table(*head, "dispatch ms", "GFLOP", "passes", "of matrix rate", "compile s", "peak MB")
    for m in found:
        table.add_row(m.method, m.stage, str(m.seeds), f"{m.ms_scan:.3g}", f"{beside(m, found):.2f}",
                      f"{m.ms_loop:.3g}", f"{m.ratio:.2f}", f"{m.dispatch_ms:.2g}", f"{m.operations / 1e9:.3g}",
                      f"{m.passes:.0f}", f"{m.share:.0%}", f"{m.compile_s:.1f}", f"{m.memory_mb:.0f}")  # fmt: skip
    console.print(table)
    rates = {m.precision: max(one.matrix_rate for one in found if one.precision == m.precision) for m in found}
    measured = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in rates.items())
    console.print(f"device: {device_summary()['kind']}, jax {jax.__version__}; matrix products alone: {measured}",
                  highlight=False)  # fmt: skip


def _show_on_paper(stages: Sequence[tuple[str, Method, int]], name: str) -> None:
    console, device = Console(), DEVICES[name]
    console.width = max(console.width, 100)
    table = Table("method", "stage", "precision", "GFLOP/update", "passes", "MB/update", "least ms/update", "set by")
    for users, method, number in stages:
        precision, least = method.config.precision, work(method, number, batch_shapes(method, number))
        floor = least.floor(device, precision)
        bound = "operations" if floor > least.bytes / device.bytes_per_s else "memory"
        table.add_row(users, method.stages()[number].name, precision, f"{least.operations / 1e9:.3g}",
                      f"{least.operations / pass_operations(method, number):.0f}", f"{least.bytes / 1e6:.3g}",
                      f"{1e3 * floor:.3g}", bound)  # fmt: skip
    console.print(table)
    rates = ", ".join(f"{rate / 1e12:.0f} TFLOP/s in {precision}" for precision, rate in device.flops.items())
    console.print(f"one seed on one {name}, from its data sheet: {rates}, {device.bytes_per_s / 1e12:.2f} TB/s",
                  highlight=False, soft_wrap=True)  # fmt: skip
