"""One stage of many lanes as one compiled program: jit(scan(vmap(update))), the dataset on the device.

A lane is a seed with its float settings, which travel with it as arrays: lanes of other seeds and other settings share
the program. In shapes, `l` counts lanes.

Imports with jax, flax and optax alone, so that training can be measured where no simulator is installed.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.memory import amount, host_memory
from harness import compiling
from harness.ending import NotFinite
from harness.numerics import flags, processor
from methods.core import Array, BadInput, Columns, Key, Method, Stage, State, leaves, part_key
from methods.sampling import Pick
from tasks.core import RewardTransform

LONG = 100_000  # steps of a stage that make up for compiling twice as much
PREPARE_ROWS = 2048  # transitions a chunk of `Stage.prepare`


class ChunkResult(NamedTuple):
    """What one dispatched span of steps did, per lane."""

    metrics: dict[str, Any]  # mean over the span, `[l]`
    first_bad: Any  # `[l]`: the first step whose metrics were not finite, or -1


class Lanes(NamedTuple):
    """What tells the lanes of a program apart."""

    keys: Key  # `[l]`: a seed's key does not depend on which others run beside it
    settings: dict[str, Array]  # float settings, `[l]` each


def seed_keys(seeds: Sequence[int]) -> Key:
    """One key a seed, `[s]`."""
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def lanes_of(seeds: Sequence[int], methods: Sequence[Method]) -> Lanes:
    """A lane for each seed, with the settings of the method beside it."""
    settings = [leaves(method.config) for method in methods]
    columns = {name: jnp.asarray([one[name] for one in settings], jnp.float32) for name in settings[0]}
    return Lanes(seed_keys(seeds), columns)


@dataclass(frozen=True)
class Algorithm:
    """A method's code and shapes; float settings come with each lane."""

    method: Method
    number: int  # of the stage among the method's; the one after the last is its online stage

    def bound(self, settings: Mapping[str, Array]) -> Method:
        """The method with these float settings, which may be traced."""
        return self.method.having(**settings)

    def stage(self, settings: Mapping[str, Array]) -> Stage:
        stages = (method := self.bound(settings)).stages()
        stage = stages[self.number] if self.number < len(stages) else method.online()
        assert stage is not None
        return stage


def needed(method: Method) -> frozenset[str]:
    """The columns that a method's updates, its samplings and what its stages prepare read."""
    return method.fields.union(*(stage.sample.reads | stage.columns for stage in method.stages()))


def take(columns: Mapping[str, np.ndarray], fields: frozenset[str]) -> dict[str, Array]:
    """The dataset's columns that a method reads, on the device."""
    return {name: jnp.asarray(column) for name, column in columns.items() if name in fields}


def prepare(
    algorithm: Algorithm, lanes: Lanes, state: State, columns: Columns, watch: Callable[[int], None] = lambda rows: None
) -> dict[str, Array]:
    """The stage's extra columns for every lane, `[l, t, ...]`, computed in chunks on the device; `watch` hears how many
    rows more are done."""
    stage = algorithm.stage({})
    if stage.prepare is None:
        return {}
    rows = len(next(iter(columns.values())))

    @partial(jax.jit, compiler_options=compiling.light(rows <= PREPARE_ROWS))
    def chunk(lanes: Lanes, state: State, columns: Columns, start: Array) -> Columns:
        # a chunk that would overrun the end starts earlier, so that one program serves all
        start = jnp.minimum(start, max(rows - PREPARE_ROWS, 0))
        part = {
            name: jax.lax.dynamic_slice_in_dim(column, start, min(PREPARE_ROWS, rows))
            for name, column in columns.items()
        }

        def one(lane: Lanes, state: State) -> Columns:
            function = algorithm.stage(lane.settings).prepare
            assert function is not None
            return function(
                state,
                algorithm.method.spec.seen(part),
                jax.random.fold_in(part_key(lane.keys, f"{stage.name}/prepare"), start),
            )

        return jax.vmap(one)(lanes, state)

    parts: list[Columns] = []
    for start in range(0, rows, PREPARE_ROWS):
        parts.append(chunk(lanes, state, columns, jnp.asarray(start)))
        if len(parts) > 1:  # one is computed while the next is sent
            jax.block_until_ready(parts[-2])
            watch(PREPARE_ROWS)
    overlap = len(parts) * PREPARE_ROWS - rows if rows > PREPARE_ROWS else 0
    parts[-1] = {name: column[:, overlap:] for name, column in parts[-1].items()}
    return {name: jnp.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


Source = Callable[[Columns, Columns], tuple[Pick, "Array | int"]]
"""(columns of all lanes, this lane's own) -> what gives transitions by place, and how many there are."""


def dataset(columns: Columns, own: Columns) -> tuple[Pick, int]:
    """The transitions of the dataset; `own` are further columns of it."""
    whole = {**columns, **own}
    return lambda places: {name: column[places] for name, column in whole.items()}, len(next(iter(columns.values())))


def lane_step(
    algorithm: Algorithm, columns: Columns, source: Source = dataset, *, between: bool = False
) -> Callable[[Lanes, State, Columns, Array], tuple[State, dict[str, Array]]]:
    """One lane's gradient step, as a function of the lane, its parts, its own columns and the step's number: draws its
    own batch, then does the stage's update, or the one `between`."""

    def step(lane: Lanes, state: State, own: Columns, count: Array) -> tuple[State, dict[str, Array]]:
        stage = algorithm.stage(lane.settings)
        update = stage.between if between else stage.update
        assert update is not None
        # keyed by the step's number: where a run stops and resumes makes no difference
        key = jax.random.fold_in(part_key(lane.keys, f"{stage.name}/train"), count)
        batch_key, update_key = jax.random.split(key)
        pick, held = source(columns, own)
        batch = stage.sample.draw(pick, held, batch_key, stage.batch_size)
        return update(state, algorithm.method.spec.seen(batch), update_key)

    return step


def span(algorithm: Algorithm, count: int, source: Source = dataset) -> Callable[..., tuple[State, ChunkResult]]:
    """`count` gradient steps of all lanes, as a function to compile: of the lanes `[l]`, their trained and frozen parts
    `[l, ...]`, the columns of all `[t, ...]`, those of each `[l, ...]`, and the steps done before."""
    stage = algorithm.stage({})

    def run(
        lanes: Lanes, trained: State, frozen: State, columns: Columns, own: Columns, first: Array
    ) -> tuple[State, ChunkResult]:
        if len(lanes.keys) > 1:
            return spanned(jax.vmap, lanes, trained, frozen, columns, own, first)
        # a batch of one makes batched products of all, for which XLA copies and transposes the weights
        lane, trained, frozen, own = jax.tree.map(lambda leaf: leaf[0], (lanes, trained, frozen, own))
        alone = spanned(lambda one: one, lane, trained, frozen, columns, own, first)
        return jax.tree.map(lambda leaf: leaf[None], alone)

    def spanned(
        over: Callable[..., Any], lanes: Lanes, trained: State, frozen: State, columns: Columns, own: Columns,
        first: Array,
    ) -> tuple[State, ChunkResult]:  # fmt: skip
        def all_lanes(between: bool, trained: State, number: Array) -> tuple[State, dict[str, Array], Array]:
            step = lane_step(algorithm, columns, source, between=between)

            def one(lane: Lanes, trained: State, frozen: State, own: Columns) -> tuple[State, dict[str, Array]]:
                state, metrics = step(lane, {**frozen, **trained}, own, number)
                return {name: state[name] for name in trained}, metrics

            trained, metrics = over(one)(lanes, trained, frozen, own)
            finite = jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all(axis=0)
            if stage.between is not None:  # NaN is kept for what a step does not report
                metrics = {name: jnp.where(jnp.isnan(value), jnp.inf, value) for name, value in metrics.items()}
            return trained, metrics, jnp.where(finite, -1, number)

        def body(trained: State, number: Array) -> tuple[State, tuple[dict[str, Array], Array]]:
            full = partial(all_lanes, False)
            if stage.between is None:
                trained, metrics, bad = full(trained, number)
                return trained, (metrics, bad)
            names = jax.eval_shape(full, trained, number)[1]

            def partly(trained: State, number: Array) -> tuple[State, dict[str, Array], Array]:
                trained, metrics, bad = all_lanes(True, trained, number)
                missing = {name: jnp.full(bad.shape, jnp.nan) for name in names}  # passed over by the mean
                return trained, {**missing, **metrics}, bad

            # outside the vmap over lanes, so that only one of the two is computed
            trained, metrics, bad = jax.lax.cond(number % stage.period == 0, full, partly, trained, number)
            return trained, (metrics, bad)

        # two steps a turn write each other's buffers; one has to copy parameters that others still read
        turns = 2 if count % 2 == 0 and stage.steps >= LONG else 1
        trained, (metrics, bad) = jax.lax.scan(body, trained, first + 1 + jnp.arange(count), unroll=turns)
        never = jnp.iinfo(bad.dtype).max
        first_bad = jnp.min(jnp.where(bad < 0, never, bad), axis=0)
        average = jnp.mean if stage.between is None else jnp.nanmean
        means = {name: average(value, axis=0) for name, value in metrics.items()}
        return trained, ChunkResult(means, jnp.where(first_bad == never, -1, first_bad))

    return run


class Trainer:
    """Trains one stage of all its lanes, a fixed number of steps at a call.

    The state is donated: the caller's copy is gone after `run`.
    """

    def __init__(
        self, algorithm: Algorithm, lanes: Lanes, columns: Columns, state: State,
        compiled: dict[tuple[int, int], Any] | None = None, watch: Callable[[int], None] = lambda rows: None,
    ) -> None:  # fmt: skip
        """`columns`: `[t, ...]` on the device; `state`: parts `[l, ...]` that the stage trains or reads; `compiled`:
        what trainers of as many lanes of equal structure have compiled, by steps and rows of the data; `watch`: see
        `prepare`."""
        self.algorithm, self.lanes, self.columns = algorithm, lanes, columns
        self.stage = algorithm.stage({})
        started = time.perf_counter()
        self.prepared = jax.block_until_ready(prepare(algorithm, lanes, self._frozen(state), columns, watch))
        self.seconds = {"prepare": time.perf_counter() - started, "compile": 0.0, "train": 0.0}
        self._compiled: dict[tuple[int, int], Any] = {} if compiled is None else compiled

    def complete(self, state: State) -> State:
        """The state with the parts that the stage fits in closed form; adds its columns to `prepared`."""
        if self.stage.complete is None:
            return state
        trained = {name: part for name, part in state.items() if name in self.stage.trains}

        @jax.jit
        def run(
            lanes: Lanes, trained: State, frozen: State, columns: Columns, prepared: Columns
        ) -> tuple[State, Columns]:
            def one(lane: Lanes, trained: State, frozen: State, prepared: Columns) -> tuple[State, Columns]:
                function = self.algorithm.stage(lane.settings).complete
                assert function is not None
                seen = self.algorithm.method.spec.seen({**columns, **prepared})
                new, extra = function({**frozen, **trained}, seen)
                return {name: new[name] for name in trained}, extra

            return jax.vmap(one)(lanes, trained, frozen, prepared)

        started = time.perf_counter()
        arguments = (self.lanes, trained, self._frozen(state), self.columns, self.prepared)
        new, extra = jax.block_until_ready(run(*arguments))
        self.prepared = {**self.prepared, **extra}
        self.seconds["prepare"] += time.perf_counter() - started
        return {**state, **new}

    def _frozen(self, state: State) -> State:
        return {name: part for name, part in state.items() if name in self.stage.reads}

    def run(self, state: State, first: int, count: int) -> tuple[State, ChunkResult]:
        """Steps `first` + 1 .. `first` + `count`.

        Returns:
          The new state, and on the host what the steps did. A lane whose metrics are not finite goes on: its numbers
          mean nothing, and touch no other lane's.

        Raises:
          BadInput: the program needs more memory than there is.
        """
        trained = {name: part for name, part in state.items() if name in self.stage.trains}
        arguments = (self.lanes, trained, self._frozen(state), self.columns, self.prepared, jnp.asarray(first))
        kind = count, len(next(iter(self.columns.values())))
        if kind not in self._compiled:
            started = time.perf_counter()
            options = compiling.light(self.stage.steps < compiling.SHORT)
            program = jax.jit(span(self.algorithm, count), donate_argnums=1).lower(*arguments).compile(options)
            _check_fits(program, self.stage.name)
            self._compiled[kind] = program
            self.seconds["compile"] += time.perf_counter() - started
        started = time.perf_counter()
        trained, result = self._compiled[kind](*arguments)
        result = jax.device_get(result)  # NumPy's arrays
        self.seconds["train"] += time.perf_counter() - started
        return {**state, **trained}, result


def failure(stage: str, result: ChunkResult, lane: int, seed: int, before: int = 0) -> NotFinite | None:
    """What went wrong in a lane, if something did; `before`: steps of the record before the stage's own."""
    step = int(result.first_bad[lane])
    if step < 0:
        return None
    bad = [name for name, value in result.metrics.items() if not np.isfinite(value[lane])]
    return NotFinite(stage, before + step, seed, bad)


def initial_state(method: Method, lanes: Lanes, names: Collection[str] | None = None) -> State:
    """Fresh parts for every lane, `[l, ...]`: all, or those of `names`, which compile faster than all."""

    def one(lane: Lanes) -> State:
        fresh = method.having(**lane.settings).init(lane.keys)
        return fresh if names is None else {name: fresh[name] for name in names}

    return jax.jit(jax.vmap(one), compiler_options=compiling.quick())(lanes)


def spans(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    """(first, count) pieces that lead from step `start` to `stop`, each ending at a multiple of `length` or `stop`."""
    edges = [start, *range(start - start % length + length, stop, length), stop]
    return [(first, after - first) for first, after in itertools.pairwise(edges) if after > first]


def device_summary() -> Mapping[str, Any]:
    """Which device trains, and in which precision, for the record.

    Raises:
      BadInput: JAX finds none of the kind that is asked for.
    """
    device = _device()
    return {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count(),
            **(processor() if device.platform == "cpu" else {}), "precision": str(jnp.zeros(()).dtype),
            "matmul_precision": jax.config.values["jax_default_matmul_precision"] or "default", **flags()}  # fmt: skip


def _check_fits(program: Any, stage: str) -> None:
    """Before a program runs: a system that lends more memory than it has kills who uses it, without a word."""
    needs = program.memory_analysis()
    there = device_memory() or host_memory()
    if needs and (least := float(needs.temp_size_in_bytes + needs.argument_size_in_bytes)) > there:
        raise BadInput(f"stage {stage}: out of memory: its program takes {amount(least)}, and there is {amount(there)}"
                       f"; --lanes N trains fewer seeds and settings side by side")  # fmt: skip


def device_memory() -> float | None:
    """Bytes on the device that trains, where it has its own and says how many."""
    return (_device().memory_stats() or {}).get("bytes_limit")


def _device() -> jax.Device:
    try:
        return jax.devices()[0]
    except (AssertionError, RuntimeError) as error:
        why = " ".join(str(error).split()) or "there is no such device here, or JAX was installed without it"
        raise BadInput(f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {why}") from None


def learned(method: Method, own: RewardTransform) -> RewardTransform:
    """What a method learns from of an environment's reward; `own`: the task's own transform."""
    rewards = method.rewards
    base = {"task": own, "raw": RewardTransform(), "sparse": RewardTransform(sparse=True)}[rewards.base]
    return base.followed_by(rewards.scale, rewards.shift)


def lane_bytes(method: Method) -> float:
    """Bytes of a lane's parts: parameters, targets and the optimisers' averages."""
    parts = jax.eval_shape(method.init, jax.eval_shape(lambda: jax.random.key(0)))
    return float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(parts)))


def least_bytes(method: Method, seeds: int) -> float:
    """Bytes that the parts of so many seeds take at least. They are counted, which takes a while, only where they might
    be too many; else one network stands for all."""
    widths = [value for value in vars(method.config).values() if isinstance(value, tuple)]
    whole = [[one for one in value if isinstance(one, int)] for value in widths]
    network = 4.0 * max(
        (sum(one * other for one, other in itertools.pairwise([1, *value])) for value in whole), default=1
    )
    if seeds * network * _COPIES < (device_memory() or host_memory()):
        return seeds * network
    return seeds * lane_bytes(method)


_COPIES = 100  # more than any method has of a network: ensembles, targets, Adam's averages
