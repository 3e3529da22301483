"""Time and memory that a stage's updates take, on random transitions; needs no simulator and no data.

Beside the harness's program (a scan over steps) it times the plain loop that dispatches one compiled update a step from
Python; the two take turns within one process, so that a busy machine slows both alike, and the smallest time of each
counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from harness.config import check_keys, parse_set, resolve
from harness.operations import pass_operations, work
from harness.plan import bound
from harness.train import Algorithm, Trainer, dataset, initial_state, lane_step, lanes_of, needed, take
from methods.core import Method, State, TaskSpec
from methods.precision import PRODUCTS

ROWS = 4096  # transitions
EPISODE = 100  # of them


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
    operations: float  # of matrix products, per update and seed
    matrix_rate: float  # of the device, operations a second, in the method's precision; NaN if not measured
    precision: str = "float32"
    pass_operations: float = math.nan  # of one pass of a network of the method's size on a batch

    @property
    def passes(self) -> float:
        """Of such a network, that an update comes to; a backward pass is about two."""
        return self.operations / self.pass_operations

    @property
    def ratio(self) -> float:
        return self.ms_scan / self.ms_loop

    @property
    def dispatch_ms(self) -> float:
        """What one dispatch a step costs, per update and seed, beside the update itself."""
        return self.ms_loop - self.ms_scan

    @property
    def share(self) -> float:
        """Of the device's matrix rate, that an update reaches."""
        return self.operations / (self.ms_scan * 1e-3) / self.matrix_rate


def random_transitions(spec: TaskSpec, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Columns of the right shapes, what is derived of them among them."""
    rng, ends = np.random.default_rng(0), np.arange(1, rows + 1) % EPISODE == 0
    width = spec.obs_dim if spec.goals is None else spec.obs_dim // 2  # data hold states alone
    return {
        "observations": rng.standard_normal((rows, width), np.float32),
        "actions": rng.uniform(-1, 1, (rows, spec.action_dim)).astype(np.float32),
        "rewards": -np.ones(rows, np.float32),
        "masks": np.ones(rows, np.float32),
        "next_observations": rng.standard_normal((rows, width), np.float32),
        "next_actions": rng.uniform(-1, 1, (rows, spec.action_dim)).astype(np.float32),
        "terminals": ends.astype(np.float32),
        "remaining": (EPISODE - 1 - np.arange(rows) % EPISODE).astype(np.int32),
    }


def batch_shapes(method: Method, number: int) -> Any:
    """The shapes of a batch of the method's stage `number`, extra columns among them."""
    stage, columns = method.stages()[number], take(_single(method), needed(method))
    state = jax.eval_shape(method.init, jax.random.key(0))
    data = jax.tree.map(lambda column: jax.ShapeDtypeStruct(column.shape, column.dtype), columns)
    if stage.prepare:
        data |= jax.eval_shape(stage.prepare, state, data, jax.random.key(0))
    if stage.complete:
        data |= jax.eval_shape(stage.complete, state, data)[1]

    def drawn(data: Any, key: Any) -> Any:
        pick, held = dataset(data, {})
        return stage.sample.draw(pick, held, key, stage.batch_size)

    return jax.eval_shape(drawn, data, jax.random.key(0))


def _single(method: Method) -> dict[str, np.ndarray]:
    """Random transitions of the environment that a method acts in, single actions where it chooses chunks."""
    width = method.spec.action_dim // method.config.chunk
    return random_transitions(replace(method.spec, action_dim=width))


MATRIX = (1024, 512, 512)  # rows and widths of the product that the device's rate is measured by: a wide batch of
# the papers' layers
_PRODUCTS = 16  # in a row, in one program


def matrix_seconds(precision: str) -> Callable[[], float]:
    """What measures the seconds of one such product."""
    rows, width, _ = MATRIX
    multiply = PRODUCTS[precision] or jax.lax.dot_general

    @jax.jit
    def chain(x: Any, kernel: Any) -> Any:
        for _ in range(_PRODUCTS):
            x = multiply(x, kernel, (((1,), (0,)), ((), ())))
        return x

    x, kernel = np.ones((rows, width), np.float32), np.eye(width, dtype=np.float32)
    jax.block_until_ready(chain(x, kernel))

    def seconds() -> float:
        started = time.perf_counter()
        jax.block_until_ready(chain(x, kernel))
        return (time.perf_counter() - started) / _PRODUCTS

    return seconds


def measure(
    method: Method, number: int, seeds: Sequence[int], *, steps: int, repeats: int, loop: bool = True
) -> Measurement:
    """Times `repeats` spans of `steps` steps of a method's stage, alternating with as many of the plain loop and with
    matrix products alone."""
    columns = take(_single(method), needed(method))
    algorithm, lanes = Algorithm(method, number), lanes_of(seeds, [method] * len(seeds))
    state = initial_state(method, lanes)
    trainer = Trainer(algorithm, lanes, columns, state)
    state = trainer.complete(state)
    advance = _one_dispatch(trainer) if loop else None

    def fresh() -> State:  # the programs donate their state, so each gets its own
        return jax.tree.map(lambda leaf: leaf.copy(), state)

    scanned, looped = fresh(), fresh()
    scanned, _ = trainer.run(scanned, 0, steps)  # compiles
    scan_times, loop_times, matrix_times = [], [], []
    precision = method.config.precision
    multiply = matrix_seconds(precision) if loop else None
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
        if multiply:
            matrix_times += [multiply() for _ in range(3)]
    scale = 1e3 / steps / len(seeds)
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", float("nan")) / 2**20
    return Measurement(method.name, trainer.stage.name, len(seeds), min(scan_times) * scale,
                       min(loop_times, default=float("nan")) * scale, trainer.seconds["compile"], peak,
                       work(method, number, batch_shapes(method, number)).operations if loop else float("nan"),
                       2.0 * math.prod(MATRIX) / min(matrix_times, default=float("nan")), precision,
                       pass_operations(method, number))  # fmt: skip


def _one_dispatch(trainer: Trainer) -> Callable[[State, int], State]:
    """The plain loop's step: all seeds in one compiled update, called from Python."""

    def compiled(between: bool) -> Callable[..., State]:
        def step(state: State, prepared: Any, lanes: Any, columns: Any, number: Any) -> State:
            update = lane_step(trainer.algorithm, columns, between=between)

            def one(lane: Any, state: State, prepared: Any) -> State:
                return update(lane, state, prepared, number)[0]

            if len(lanes.keys) > 1:
                return jax.vmap(one)(lanes, state, prepared)
            # as the harness's program: see `harness.train.span`
            alone = one(*jax.tree.map(lambda leaf: leaf[0], (lanes, state, prepared)))
            return jax.tree.map(lambda leaf: leaf[None], alone)

        return jax.jit(step, donate_argnums=0)

    full, period = compiled(False), trainer.stage.period
    between = compiled(True) if trainer.stage.between else full

    def advance(state: State, number: int) -> State:
        step = between if number % period else full
        return step(state, trainer.prepared, trainer.lanes, trainer.columns, number)

    return advance


def distinct_stages(names: Sequence[str], sets: Sequence[str], spec: TaskSpec) -> list[tuple[str, Method, int]]:
    """Every stage of every method, by its number, with the names of the methods it is of: a shared one is here once."""
    overrides = parse_set(sets)
    check_keys(names, overrides)
    users: dict[str, list[str]] = {}
    stages: dict[str, tuple[Method, int]] = {}
    for name in names:
        config = resolve(name, suite="", task="", layers=overrides).config
        method = bound(name, config, spec)
        for number, stage in enumerate(method.stages()):
            kind = repr(
                (stage.rule, sorted(stage.trains), sorted(stage.config.items()), stage.sample, stage.prepare is None)
            )
            stages.setdefault(kind, (method, number))
            users.setdefault(kind, []).append(name)
    return [(" ".join(users[kind]), *stages[kind]) for kind in stages]
