"""Time and memory that a stage's updates take, on random transitions; needs no simulator and no data.

Beside the harness's program (a scan over steps) it times the plain loop that dispatches one compiled update a step from
Python; the two take turns within one process, so that a busy machine slows both alike, and the smallest time of each
counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

import methods
from harness.config import check_keys, parse_set, resolve
from harness.train import Trainer, Update, initial_state, seed_step, take
from methods.core import Method, Stage, State, TaskSpec

ROWS = 4096  # transitions


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


def random_transitions(spec: TaskSpec, rows: int = ROWS) -> dict[str, np.ndarray]:
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
