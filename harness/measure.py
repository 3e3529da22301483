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

from harness.config import check_keys, parse_set, resolve
from harness.plan import bound
from harness.train import Algorithm, Trainer, initial_state, lane_step, lanes_of, needed, take
from methods.core import Method, State, TaskSpec

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
    method: Method, number: int, seeds: Sequence[int], *, steps: int, repeats: int, loop: bool = True
) -> Measurement:
    """Times `repeats` spans of `steps` steps of a method's stage, alternating with as many of the plain loop."""
    # a chunk's transitions are those of single actions
    single = replace(method.spec, action_dim=method.spec.action_dim // method.config.chunk)
    columns = take(random_transitions(single), needed(method))
    algorithm, lanes = Algorithm(method, number), lanes_of(seeds, [method] * len(seeds))
    state = initial_state(method, lanes)
    trainer = Trainer(algorithm, lanes, columns, state)
    state = trainer.complete(state)
    advance = _one_dispatch(trainer) if loop else None

    def fresh() -> State:  # the programs donate their state, so each gets its own
        return jax.tree.map(lambda leaf: leaf.copy(), state)

    scanned, looped = fresh(), fresh()
    scanned, _ = trainer.run(scanned, 0, steps)  # compiles
    scan_times, loop_times = [], []
    if advance:
        for step in range(trainer.stage.period):
            looped = jax.block_until_ready(advance(looped, step))
    for _ in range(repeats):
        started = time.perf_counter()
        scanned, _ = trainer.run(scanned, 0, steps)
        scan_times.append(time.perf_counter() - started)
        if advance:
            started = time.perf_counter()
            for step in range(steps):
                looped = advance(looped, step)
            jax.block_until_ready(looped)
            loop_times.append(time.perf_counter() - started)
    scale = 1e3 / steps / len(seeds)
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", float("nan")) / 2**20
    return Measurement(method.name, trainer.stage.name, len(seeds), min(scan_times) * scale,
                       min(loop_times, default=float("nan")) * scale, trainer.seconds["compile"], peak)  # fmt: skip


def _one_dispatch(trainer: Trainer) -> Callable[[State, int], State]:
    """The plain loop's step: all seeds in one compiled update, called from Python."""

    def compiled(between: bool) -> Callable[..., State]:
        def step(state: State, prepared: Any, lanes: Any, columns: Any, number: Any) -> State:
            one = lane_step(trainer.algorithm, columns, between=between)
            return jax.vmap(lambda lane, s, p: one(lane, s, p, number)[0])(lanes, state, prepared)

        return jax.jit(step, donate_argnums=0)

    full, period = compiled(False), trainer.stage.period
    between = compiled(True) if trainer.stage.between else full

    def advance(state: State, number: int) -> State:
        step = between if number % period else full
        return step(state, trainer.prepared, trainer.lanes, trainer.columns, number)

    return advance


def distinct_stages(
    names: Sequence[str], sets: Sequence[str], spec: TaskSpec, steps: int
) -> list[tuple[str, Method, int]]:
    """Every stage of every method, by its number, with the names of the methods it is of: a shared one is here once."""
    overrides = parse_set(sets)
    check_keys(names, overrides)
    users: dict[str, list[str]] = {}
    stages: dict[str, tuple[Method, int]] = {}
    for name in names:
        config = replace(resolve(name, suite="", task="", layers=overrides).config, steps=steps)
        method = bound(name, config, spec)
        for number, stage in enumerate(method.stages()):
            kind = repr((stage.rule, sorted(stage.trains), sorted(stage.config.items()), stage.prepare is None))
            stages.setdefault(kind, (method, number))
            users.setdefault(kind, []).append(name)
    return [(" ".join(users[kind]), *stages[kind]) for kind in stages]
