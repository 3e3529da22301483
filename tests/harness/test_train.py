"""Training: the same steps whatever the spans, the resumes and the seeds beside; trouble named exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness.train
import methods
from harness import measure
from harness.train import Algorithm, Lanes, Trainer, failure, initial_state, lanes_of, prepare, spans, take
from methods.core import Method, MethodConfig, Stage, TaskSpec, part_key
from tasks.toy.suite import ToyTask

ROWS = {"x": jnp.arange(50.0)}


def leaves(state: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def assert_equal(one: Any, other: Any) -> None:
    for left, right in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)


def fresh(state: Any) -> Any:
    """A copy that may be donated."""
    return jax.tree.map(lambda leaf: leaf.copy(), state)


# ---- spans ----


@given(start=st.integers(0, 300), more=st.integers(0, 300), length=st.integers(1, 80))
def test_spans_tile_and_end_at_multiples(start: int, more: int, length: int) -> None:
    stop, pieces = start + more, spans(start, start + more, length)
    assert [step for first, count in pieces for step in range(first, first + count)] == list(range(start, stop))
    assert all((first + count) % length == 0 for first, count in pieces[:-1])
    assert all(0 < count <= length for _, count in pieces)
    for k, (first, _) in enumerate(pieces):  # whoever resumes at an edge meets the same edges
        assert spans(first, stop, length) == pieces[k:]


# ---- a stage small enough to follow by hand ----


def walk_init(key: Any) -> dict[str, Any]:
    return {"walk": jax.random.normal(part_key(key, "walk"), (3,)), "pull": jnp.float32(0.1)}


def walk_update(state: Any, batch: Any, key: Any) -> Any:
    step = state["pull"] * (jnp.mean(batch["x"]) - state["walk"]) + jax.random.normal(key, (3,))
    return {**state, "walk": state["walk"] + step}, {"walk/step": jnp.sum(step), "walk/x": jnp.mean(batch["x"])}


def walk(update: Any = walk_update, **changes: Any) -> Stage:
    names = {"trains": frozenset({"walk"}), "reads": frozenset({"pull"})}
    return Stage("walk", steps=20, update=update, rule="", config={}, batch_size=4, **names | changes)


@dataclass(frozen=True)
class Walker(Method):
    """A method of one stage, which its settings may shape."""

    config: Any = MethodConfig()  # noqa: RUF009 (frozen)
    spec: Any = TaskSpec(1, 1, 1)  # noqa: RUF009 (frozen)
    made: Callable[[MethodConfig], Stage] = lambda config: walk()

    def init(self, key: Any) -> dict[str, Any]:
        return walk_init(key)

    def stages(self) -> tuple[Stage, ...]:
        return (self.made(self.config),)

    def online(self) -> None:
        return None


def walker(stage: Stage) -> Walker:
    return Walker(made=lambda config: stage)


def lanes_for(stage: Stage, seeds: Sequence[int]) -> Lanes:
    return lanes_of(seeds, [walker(stage)] * len(seeds))


def trainer_of(stage: Stage, seeds: Sequence[int], state: Any, columns: Mapping[str, Any] = ROWS) -> Trainer:
    return Trainer(Algorithm(walker(stage), 0), lanes_for(stage, seeds), columns, state)


def started(*seeds: int) -> Any:
    return initial_state(walker(walk()), lanes_for(walk(), seeds))


def metrics_of(trainer: Trainer, state: Any, first: int, count: int) -> Any:
    """The state after a span, and its metrics."""
    state, result = trainer.run(state, first, count)
    return state, result.metrics


def prepared(stage: Stage, state: Any, columns: Any, *seeds: int) -> Any:
    return prepare(Algorithm(walker(stage), 0), lanes_for(stage, seeds), state, columns)


def test_spans_and_resumes_make_no_difference() -> None:
    start = started(3, 4)
    once, _ = trainer_of(walk(), (3, 4), fresh(start)).run(fresh(start), 0, 20)
    trainer = trainer_of(walk(), (3, 4), start)
    pieces = start
    for first, count in spans(0, 12, 5):
        pieces, _ = trainer.run(pieces, first, count)
    pieces, _ = trainer_of(walk(), (3, 4), pieces).run(pieces, 12, 8)
    assert_equal(once, pieces)


def test_steps_and_seeds_draw_differently() -> None:
    start = started(3, 4)
    trainer, state, seen = trainer_of(walk(), (3, 4), start), start, []
    for first in range(6):
        state, metrics = metrics_of(trainer, state, first, 1)
        seen += [*metrics["walk/step"], *metrics["walk/x"]]
    assert len(set(map(float, seen))) > 6 * 2 + 6  # noise all different; means of four rows may coincide


def test_metrics_are_means_over_the_span() -> None:
    start = started(0, 1)
    _, together = metrics_of(trainer_of(walk(), (0, 1), start), fresh(start), 0, 8)
    trainer, state, singles = trainer_of(walk(), (0, 1), start), start, []
    for first in range(8):
        state, metrics = metrics_of(trainer, state, first, 1)
        singles.append(metrics["walk/step"])
    np.testing.assert_allclose(together["walk/step"], np.mean(singles, axis=0), rtol=1e-5)  # float32 sums


def test_equal_spans_compile_once_and_donate_what_is_trained() -> None:
    traces = []

    def update(state: Any, batch: Any, key: Any) -> Any:
        traces.append(1)
        return walk_update(state, batch, key)

    start = started(0)
    trainer = trainer_of(walk(update), (0,), start)
    state, _ = trainer.run(start, 0, 5)
    assert start["walk"].is_deleted() and not start["pull"].is_deleted()
    traced = len(traces)
    for first in (5, 10):
        state, _ = trainer.run(state, first, 5)
    assert len(traces) == traced > 0
    trainer.run(state, 15, 4)
    assert len(traces) > traced


# ---- trouble ----


def test_not_finite_names_step_and_seed() -> None:
    def update(state: Any, batch: Any, key: Any) -> Any:
        step, bad = state["walk"]["step"] + 1, state["walk"]["bad"]
        metrics = {"fine": jnp.mean(batch["x"]), "loss": jnp.where(step == bad, jnp.nan, 1.0)}
        metrics["size"] = jnp.where(step == bad + 1, jnp.inf, 1.0)
        return {**state, "walk": {"step": step, "bad": bad}}, metrics

    def run(bad: list[int]) -> tuple[Any, list[Any]]:
        """Steps 11 to 20, and what went wrong in each lane."""
        state = {"walk": {"step": jnp.full(3, 10), "bad": jnp.array(bad)}}
        state, result = trainer_of(walk(update, reads=frozenset()), (5, 7, 9), state).run(state, 10, 10)
        return state, [failure("walk", result, lane, seed, 100) for lane, seed in enumerate((5, 7, 9))]

    for step in (11, 14, 20):  # first, inner and last step of the span
        _, (before, found, after) = run([0, step, 0])
        assert before is after is None
        also = ", size" if step < 20 else ""  # a step after the one that is named
        assert str(found) == f"stage walk: loss{also} not finite at step {100 + step}, seed 7"
        assert (found.step, found.seed) == (100 + step, 7)
    assert str(run([0, 0, 10])[1][2]) == "stage walk: size not finite at step 111, seed 9"  # infinite, too
    state, errors = run([9, 21, 0])  # just outside
    assert errors == [None] * 3 and state["walk"]["step"].tolist() == [20] * 3


def test_a_lane_that_is_not_finite_goes_on_beside_the_others_and_touches_none() -> None:
    def update(state: Any, batch: Any, key: Any) -> Any:
        new, metrics = walk_update(state, batch, key)
        return {**new, "walk": jnp.where(state["pull"] > 1, jnp.nan, new["walk"])}, metrics

    start, found = started(3, 4, 5), []
    for pull in (0.1, 2.0):
        state = {**fresh(start), "pull": jnp.array([0.1, pull, 0.1])}
        state, result = trainer_of(walk(update), (3, 4, 5), state).run(state, 0, 20)
        found.append((state["walk"], result))
    (sound, before), (struck, after) = found
    assert before.first_bad.tolist() == [-1] * 3 and after.first_bad.tolist() == [-1, 2, -1]
    assert np.isnan(struck[1]).all() and np.isfinite(sound).all()
    np.testing.assert_array_equal(np.delete(sound, 1, 0), np.delete(struck, 1, 0))
    for name, values in before.metrics.items():
        np.testing.assert_array_equal(np.delete(values, 1), np.delete(after.metrics[name], 1))


# ---- prepare ----


@pytest.mark.parametrize("rows", [3, 8, 9, 16, 21])
def test_prepared_columns_belong_to_their_rows(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.train, "PREPARE_ROWS", 8)
    shapes = []

    def fill(state: Any, columns: Any, key: Any) -> Any:
        shapes.append(columns["x"].shape)
        noise = jax.random.normal(key, (*columns["x"].shape, 2))
        return {"double": 2 * columns["x"] + state["pull"], "noise": noise}

    columns = {"x": jnp.arange(float(rows)), "y": jnp.zeros((rows, 2))}
    state = {"pull": jnp.array([100.0, 200.0])}
    found = prepared(walk(prepare=fill), state, columns, 4, 5)
    assert shapes == [(min(rows, 8),)]  # one program serves all chunks
    expected = 2 * np.arange(rows) + np.array([[100.0], [200.0]])
    np.testing.assert_array_equal(found["double"], expected)
    assert found["noise"].shape == (2, rows, 2)
    assert len(np.unique(found["noise"])) == 2 * rows * 2  # no chunk or seed repeats another's draws
    assert_equal(found, prepared(walk(prepare=fill), state, columns, 4, 5))
    alone = prepared(walk(prepare=fill), {"pull": jnp.array([200.0])}, columns, 5)
    np.testing.assert_array_equal(alone["noise"][0], found["noise"][1])


def test_nothing_to_prepare() -> None:
    assert prepared(walk(), {}, ROWS, 0) == {}


def test_updates_see_the_prepared_values_of_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.train, "PREPARE_ROWS", 16)

    def update(state: Any, batch: Any, key: Any) -> Any:
        return state, {"off": jnp.max(jnp.abs(batch["double"] - 2 * batch["x"] - state["pull"]))}

    stage = walk(update, prepare=lambda state, columns, key: {"double": 2 * columns["x"] + state["pull"]})
    state = {"walk": jnp.zeros(2), "pull": jnp.array([1.0, 3.0])}
    _, metrics = metrics_of(trainer_of(stage, (0, 1), state), state, 0, 5)
    np.testing.assert_array_equal(metrics["off"], 0.0)


# ---- period and between ----


def delayed(**changes: Any) -> Stage:
    """`update` at steps 3, 6, ... adds 1 and reports as of then; `between` adds 100 and leaves "walk/full" out."""

    def add(amount: float, state: Any, batch: Any, key: Any) -> Any:
        walk = state["walk"] + amount * (1.0 + jnp.mean(batch["x"])) + jax.random.normal(key)
        return {**state, "walk": walk}, {"walk/value": jnp.sum(walk), "walk/full": jnp.sum(amount * walk)}

    def between(state: Any, batch: Any, key: Any) -> Any:
        state, metrics = add(100.0, state, batch, key)
        return state, {"walk/value": metrics["walk/value"]}

    return walk(partial(add, 1.0), period=3, between=between)._replace(**changes)


def walked(stage: Stage, pieces: list[tuple[int, int]]) -> tuple[Any, list[Any]]:
    """Two seeds' state after the pieces, each by a trainer of its own, and the metrics of each."""
    state, seen = started(3, 4), []
    for first, count in pieces:
        state, metrics = metrics_of(trainer_of(stage, (3, 4), state), state, first, count)
        seen.append(metrics)
    return state, seen


def test_updates_come_at_every_period_and_between_at_the_others() -> None:
    """Each step is what a stage of `update` or of `between` alone would do, by number, with the same draws."""
    stage = delayed()
    alone = [delayed(between=None, period=1), delayed(update=stage.between, between=None, period=1)]
    state, seen = walked(stage, [])[0], []
    full, between = (trainer_of(one, (3, 4), state) for one in alone)
    for number in range(1, 8):
        state, metrics = metrics_of(between if number % 3 else full, state, number - 1, 1)
        seen.append(metrics)
    together, (means,) = walked(stage, [(0, 7)])
    assert_equal(together, state)
    assert [("walk/full" in metrics) for metrics in seen] == [False, False, True, False, False, True, False]
    for name in ("walk/value", "walk/full"):  # means over the steps that report them
        reported = [metrics[name] for metrics in seen if name in metrics]
        np.testing.assert_allclose(means[name], np.mean(reported, axis=0), rtol=1e-5)  # float32 sums


@pytest.mark.slow
def test_resuming_within_a_period_makes_no_difference() -> None:
    once, _ = walked(delayed(), [(0, 8)])
    assert_equal(once, walked(delayed(), [(0, 4), (4, 4)])[0])


def test_the_plain_loop_does_the_same_steps() -> None:
    stage = delayed()
    state = started(3, 4)
    advance = measure._one_dispatch(trainer_of(stage, (3, 4), state))
    for number in range(1, 8):
        state = advance(state, number)
    assert_equal(walked(stage, [(0, 7)])[0], state)


@pytest.mark.parametrize("step", [13, 15])
def test_not_finite_is_named_between_and_at_the_period(step: int) -> None:
    """A metric that some steps leave out is not missed where it is bad."""

    def update(state: Any, batch: Any, key: Any) -> Any:
        count = state["walk"] + 1
        loss = jnp.where(count == step, jnp.nan, 1.0)
        return {**state, "walk": count}, {"walk/loss": loss, "walk/full": jnp.mean(batch["x"])}

    def between(state: Any, batch: Any, key: Any) -> Any:
        state, metrics = update(state, batch, key)
        return state, {"walk/loss": metrics["walk/loss"]}

    state = {"walk": jnp.full(2, 10.0)}
    stage = walk(update, reads=frozenset(), period=3, between=between)
    _, result = trainer_of(stage, (3, 4), state).run(state, 10, 9)
    assert str(failure("walk", result, 0, 3)) == f"stage walk: walk/loss not finite at step {step}, seed 3"


# ---- complete ----


def test_closed_form_parts_and_columns() -> None:
    """`complete` sees the whole dataset in order and what was prepared, changes what the stage trains alone, and does
    the same again when resuming, from a state that has moved on."""

    def complete(state: Any, columns: Any) -> Any:
        total = jnp.cumsum(columns["x"]) + columns["noise"][:, 0] * state["pull"]
        return {**state, "centre": jnp.mean(columns["x"]) + state["pull"], "pull": state["pull"] + 1.0}, {"sum": total}

    def fill(state: Any, columns: Any, key: Any) -> Any:
        return {"noise": jax.random.normal(key, (len(columns["x"]), 1))}

    def update(state: Any, batch: Any, key: Any) -> Any:
        right = jnp.abs(batch["sum"] - batch["noise"][:, 0] * state["pull"] - batch["x"] * (batch["x"] + 1) / 2)
        return {**state, "walk": state["walk"] + state["centre"]}, {"off": jnp.max(right)}

    stage = walk(update, trains=frozenset({"walk", "centre"}), prepare=fill, complete=complete)
    start = {"walk": jnp.zeros(2), "centre": jnp.zeros(2), "pull": jnp.array([0.1, 0.2])}
    found, columns = [], []
    for state in (start, {**start, "walk": jnp.ones(2), "centre": jnp.array([7.0, 8.0])}):
        trainer = trainer_of(stage, (3, 4), state)
        found.append(trainer.complete(state))
        columns.append(trainer.prepared)
        _, metrics = metrics_of(trainer, fresh(found[-1]), 0, 3)
        np.testing.assert_allclose(metrics["off"], 0.0, atol=1e-3)  # float32: sums of up to 1225
    assert_equal(*columns)
    np.testing.assert_allclose(found[0]["centre"], 24.5 + np.array([0.1, 0.2]), rtol=1e-6)
    np.testing.assert_array_equal(found[0]["centre"], found[1]["centre"])
    np.testing.assert_array_equal(found[0]["pull"], start["pull"])  # read, not trained
    assert columns[0]["sum"].shape == (2, 50) and columns[0].keys() == {"noise", "sum"}


def test_nothing_to_complete() -> None:
    state = {"walk": jnp.zeros(1), "pull": jnp.zeros(1)}
    trainer = trainer_of(walk(), (0,), state)
    assert trainer.complete(state) is state and trainer.prepared == {}


# ---- settings that travel with their lanes ----


def test_each_lane_has_its_own_settings_and_all_one_program() -> None:
    """In updates, and in what is prepared and completed."""
    traces = []

    def made(config: MethodConfig) -> Stage:
        def update(state: Any, batch: Any, key: Any) -> Any:
            traces.append(1)
            return {**state, "walk": state["walk"] + config.discount}, {"more": jnp.max(batch["scaled"] / batch["x"])}

        def complete(state: Any, columns: Any) -> Any:
            return {**state, "centre": config.discount * jnp.mean(columns["x"])}, {}

        return walk(update, trains=frozenset({"walk", "centre"}), complete=complete,
                    prepare=lambda state, columns, key: {"scaled": config.discount * columns["x"]})  # fmt: skip

    methods = [Walker(MethodConfig(discount=value), made=made) for value in (0.5, 0.25)]
    state = {"walk": jnp.zeros(2), "centre": jnp.zeros(2), "pull": jnp.zeros(2)}
    columns = {"x": 1.0 + ROWS["x"]}
    trainer = Trainer(Algorithm(methods[0], 0), lanes_of((3, 3), methods), columns, state)
    state, result = trainer.run(trainer.complete(state), 0, 4)
    traced = len(traces)
    np.testing.assert_array_equal(state["walk"], [2.0, 1.0])
    np.testing.assert_array_equal(state["centre"], [0.5 * 25.5, 0.25 * 25.5])
    np.testing.assert_array_equal(result.metrics["more"], [0.5, 0.25])
    trainer.run(state, 4, 4)
    assert len(traces) == traced


# ---- a real method ----


def vgf(seeds: Sequence[int]) -> tuple[Callable[[Any], Trainer], Any]:
    """A trainer of the critic's stage of a small VGF that looks its proposals up in a bank, and a fresh state."""
    sizes = {"hidden_dims": (8,), "batch_size": 8, "flow_steps": 2, "bank": 3}
    config = methods.get("vgf").Config(behavior="pretrained", train_flow_steps=0, **sizes)  # compiles faster
    method = methods.get("vgf")(config, ToyTask.spec)
    columns, lanes = take(ToyTask().load("auto").transitions, method.fields), lanes_of(seeds, [method] * len(seeds))
    algorithm = Algorithm(method, len(method.stages()) - 1)
    return partial(Trainer, algorithm, lanes, columns), initial_state(method, lanes)


@pytest.mark.slow
def test_vgf_in_pieces_is_bit_identical_and_alone_the_same_to_rounding() -> None:
    trainer, start = vgf((2, 3))
    once, result = trainer(start).run(fresh(start), 0, 4)
    assert np.isfinite(result.metrics["critic/loss"]).all()
    first, _ = trainer(start).run(fresh(start), 0, 2)
    assert_equal(once, trainer(first).run(first, 2, 2)[0])
    assert any((a != b).any() for a, b in zip(leaves(once["critic"]), leaves(start["critic"]), strict=True))
    trainer, start = vgf((3,))
    alone, _ = trainer(start).run(start, 0, 4)
    for one, beside in zip(*(leaves(state["critic"].params) for state in (alone, once)), strict=True):
        # Not bitwise: XLA may multiply a batch of matrices in another order than one alone. Four Adam steps of 3e-4
        # move a parameter by up to 1.2e-3, with other draws by about as much; rounding stays far below.
        np.testing.assert_allclose(one[0], beside[1], atol=1e-5)


def test_take_keeps_what_is_read() -> None:
    columns = {"a": np.zeros(3), "b": np.ones(3)}
    assert list(take(columns, frozenset({"b", "c"}))) == ["b"]


def test_parts_start_alike_alone_and_with_all() -> None:
    method = methods.get("td3bc")(
        methods.get("td3bc").Config(hidden_dims=(8,)), TaskSpec(obs_dim=3, action_dim=2, horizon=1)
    )
    lanes = lanes_of([0, 4], [method] * 2)
    every, some = initial_state(method, lanes), initial_state(method, lanes, ["actor"])
    assert some.keys() == {"actor"} < every.keys()
    assert_equal(some["actor"], every["actor"])
