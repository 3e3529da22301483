"""How fast simulators step as evaluations step them, and what memory each takes; needs no data.

    python -m tasks.throughput --tasks cube-single-play-singletask-v0,hopper-medium-v2

Each task is stepped with random actions, past any end, in the pool that evaluations use (`tasks.simulation.pools`)
and in a plain loop over one simulator. The two take turns, and over all turns the loop plays each of the pool's
episodes once: what a step costs depends on where the simulator is.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take a while
    from core.command import main as run

    run("tasks.throughput:app")

import csv
import io
import multiprocessing as mp
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import tasks
from core.errors import BadInput
from core.options import parts
from core.options import path as place
from tasks import sizes
from tasks.check import told
from tasks.data.download import atomic_write
from tasks.progress import bar
from tasks.screen import say
from tasks.simulation.pools import simulators
from tasks.simulation.simulators import Simulators, cores, lean_children

FAMILIES = (  # one task of each
    "cube-single-play-singletask-v0", "scene-play-singletask-v0", "puzzle-3x3-play-singletask-v0",
    "antmaze-large-navigate-singletask-v0", "humanoidmaze-medium-navigate-singletask-v0",
    "antsoccer-arena-navigate-singletask-v0", "hopper-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-v2",
    "antmaze-large-play-v2",
)  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """Resident megabytes; NaN where the system does not tell."""

    first: float  # of a process's first simulator, with the code that it needs
    further: float  # of each beside it


@dataclass(frozen=True)
class Measurement:
    """One task's simulators."""

    task: str
    rows: int  # simulators in the pool
    loop: float  # environment steps a second, one simulator in a plain loop
    pool: float  # all simulators together, in the pool
    memory: Memory

    @property
    def ratio(self) -> float:
        return self.pool / self.loop


def measure(
    task: Any, rows: int, steps: int, turns: int, advance: Callable[[int], None] = lambda turns: None
) -> Measurement:
    """Of one task: the first `steps` steps of `rows` episodes, each `turns` times in the pool, and once, one episode
    after another, in the loop. `advance` is told of each turn."""
    rng, width = np.random.default_rng(0), task.spec.action_dim
    actions = rng.uniform(-1.0, 1.0, (rows, width)).astype(np.float32)
    env, everyone = task.make_env(), np.ones(rows, bool)
    loop = pooled = 0.0  # seconds
    with simulators(task, rows) as pool:
        for turn in range(turns):
            for row in range(turn, rows, turns):
                env.reset(seed=row)
                started = time.perf_counter()
                for step in range(steps):
                    env.step(actions[(row - step) % rows])
                loop += time.perf_counter() - started
            pool.reset(np.arange(rows))
            started = time.perf_counter()
            for step in range(steps):
                pool.step(np.roll(actions, step, axis=0), everyone)
            pooled += time.perf_counter() - started
            advance(1)
    env.close()
    return Measurement(task.name, rows, steps * rows / loop, steps * rows * turns / pooled, memory(task, min(rows, 20)))


def memory(task: Any, rows: int) -> Memory:
    """Of one simulator, and of each of `rows` more: what processes with so many of them take."""
    with lean_children(), ProcessPoolExecutor(1, mp.get_context("spawn"), max_tasks_per_child=1) as processes:
        first, all_of_them = processes.map(_memory, [task] * 2, [1, 1 + rows])
    return Memory(first, (all_of_them - first) / rows)


def _memory(task: Any, rows: int) -> float:
    before = _resident_mb()
    with Simulators(task.make_env, rows, task.clone) as pool:
        pool.reset(np.arange(rows))
        return _resident_mb() - before


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def find(name: str) -> Any:
    """The task of that name, of whichever suite.

    Raises:
      BadInput: no suite with simulators has it.
    """
    for suite in tasks.SUITES:
        if tasks.family(suite) == "control" and name in tasks.suite(suite).names():
            return tasks.suite(suite).get(name)
    raise BadInput(f"no suite with simulators has a task called {name!r}; python -m harness.run --list")


def _write(path: Path, found: list[Measurement]) -> None:
    command = "python -m tasks.throughput " + " ".join(sys.argv[1:])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "rows", "steps_per_s_loop", "steps_per_s_pool", "ratio", "mb_first", "mb_further", "cores",
                     "machine", "mujoco", "date", "command"])  # fmt: skip
    for m in found:
        numbers = [f"{value:.4g}" for value in (m.loop, m.pool, m.ratio, m.memory.first, m.memory.further)]
        writer.writerow([m.task, m.rows, *numbers, cores(), platform.machine(), version("mujoco"),
                         time.strftime("%Y-%m-%d", time.gmtime()), command])  # fmt: skip
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


app = typer.Typer(add_completion=False)


@app.command()
def main(
    names: Annotated[str | None, typer.Option("--tasks", help="comma-separated; default: one of each family")] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="simulators in the pool; VGF's evaluation of preset cpu has 160")
    ] = 160,
    steps: Annotated[int, typer.Option(min=1, help="of each simulator in one turn")] = 50,
    turns: Annotated[int, typer.Option(min=1, help="of pool and loop")] = 4,
    out: Annotated[Path | None, typer.Option(parser=place, help="also write the table to this CSV file")] = None,
) -> None:
    """Environment steps a second in evaluation's pool and in a plain loop, and memory a simulator. A task whose
    simulators fail, fails alone."""
    chosen = [find(name) for name in (FAMILIES if names is None else parts("--tasks", names, "task"))]
    for option, value in (("--rows", rows), ("--steps", steps), ("--turns", turns)):
        sizes.check_number(option, value, 1)
    least = min(sizes.CHEAP_SIMULATOR if getattr(task, "cheap", False) else sizes.SIMULATOR for task in chosen)
    sizes.check_memory(f"--rows {rows}: so many simulators", rows * least)
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise BadInput(f"--out {out}: " + ("is a folder" if out.is_dir() else f"no folder {out.parent}"))
    table = Table("task", "rows", "steps/s, one in a loop", "steps/s, pool", "ratio", "MB, first", "MB, further")
    found: list[Measurement] = []
    with bar("simulators", len(chosen) * turns, 0, "turns") as advance:
        for task in chosen:
            try:
                found.append(measure(task, rows, steps, turns, advance))
            except Exception as error:  # of any kind: it concerns this task's simulators
                say(f"error: {task.name}: {told(error, f'stepping {rows} simulators')}")
                continue
            if out:  # after each, as a later one may be stopped
                _write(out, found)
    for m in found:
        memories = (f"{mb:.1f}" if mb == mb else "" for mb in (m.memory.first, m.memory.further))
        table.add_row(m.task, str(m.rows), f"{m.loop:.0f}", f"{m.pool:.0f}", f"{m.ratio:.2f}", *memories)
    console = Console()
    console.width = max(console.width, 100)  # as wide as the table, where the output is no terminal
    console.print(table)
    console.print(f"{cores()} cores, mujoco {version('mujoco')}", highlight=False)
    raise typer.Exit(2 if len(found) < len(chosen) else 0)
