"""What a plan needs at least, against what there is: what cannot fit is refused before anything is begun.

The bounds are low on purpose. What passes may still run out of memory, and then fails alone (`harness.ending`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from core.memory import amount, host_memory
from harness.config import LARGEST
from harness.engines import engine_of
from harness.plan import RunNode
from methods.core import BadInput, TaskSpec
from tasks.sizes import CHEAP_SIMULATOR, SIMULATOR

ROW = 30  # bytes of a row of episodes.csv, at least


def check(runs: Sequence[RunNode], seeds: int, results: Path) -> None:
    """Refuses a plan that this machine cannot carry out. `seeds`: how many each run has, which may be more than it was
    planned with.

    Raises:
      BadInput: one line that says what is needed, and what there is.
    """
    host = host_memory()
    device = engine_of(runs[0].task.suite).memory() or host
    place = results.absolute()
    disk = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.is_dir())).free
    for run in runs:
        _check_steps(run)
        _check(run, f"the parts of {seeds} seeds", engine_of(run.task.suite).least_memory(run, seeds), device, "memory")
        _check(run, f"batches for each of {seeds} seeds", seeds * _batch(run), device, "memory")
        _check(run, f"the replay buffers of {seeds} seeds", seeds * _buffer(run), device, "memory")
        rows = seeds * len(run.method.knobs) * run.settings.episodes
        about = f"{rows} episodes side by side ({seeds} seeds x {len(run.method.knobs)} settings x --episodes "
        about += f"{run.settings.episodes})"
        each = CHEAP_SIMULATOR if getattr(run.task, "cheap", True) else SIMULATOR
        _check(run, about, rows * each, host, "memory")
        times = _evaluations(run)
        _check(run, f"the rows of {times} evaluations of {rows} episodes", times * rows * ROW, disk, "disk space")


def check_dataset(task: object, episodes: int) -> None:
    """Refuses to generate more episodes than fit into memory. Raises: BadInput."""
    spec = getattr(task, "spec", None)
    width = getattr(spec, "obs_dim", 1) + getattr(spec, "action_dim", 1)
    least = 4.0 * episodes * width  # of a step each
    if least > host_memory():
        raise BadInput(f"--data-episodes {episodes}: they take at least {amount(least)} of memory, and there is "
                       f"{amount(host_memory())}")  # fmt: skip


def _check(run: RunNode, what: str, least: float, there: float, kind: str) -> None:
    if least > there:
        raise BadInput(f"{run.label}: {what} need at least {amount(least)} of {kind}, and there is {amount(there)}")


def _check_steps(run: RunNode) -> None:
    for node in run.nodes:
        last = max(node.first + node.stage.steps, node.updates)
        if last > LARGEST:
            raise BadInput(f"{run.label}: stage {node.stage.name} ends at step {last}, and steps are counted to "
                           f"{LARGEST}")  # fmt: skip


def _row(spec: object) -> float:
    """Bytes of a transition on the device: float32."""
    return 4.0 * (2 * spec.obs_dim + spec.action_dim + 2) if isinstance(spec, TaskSpec) else 0.0


def _batch(run: RunNode) -> float:
    return max(getattr(node.stage, "batch_size", 0) for node in run.nodes) * _row(run.method.spec)


def _buffer(run: RunNode) -> float:
    online = run.nodes[-1].online
    held = min(online.capacity or math.inf, run.nodes[-1].stage.steps) if online else 0
    return held * _row(run.task.spec)


def _evaluations(run: RunNode) -> int:
    every = (run.continues and run.settings.online_evaluate_every) or run.settings.evaluate_every
    return -(-run.nodes[-1].stage.steps // every) or 1
