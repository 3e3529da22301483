"""What every method promises the harness: pure, vmappable updates of named parts, and a way to act.

One test a promise, for every registered method and for the ways its behaviour can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

import methods
from methods.core import Stage, State
from methods.learner import Learner
from tests.methods.common import LATER, QUICK, ROWS, SMALL, make, make_batch, per_row, random_state

BANK = 6
LEARNING_RATE = 3e-3
SETTINGS = {"hidden_dims": (12,), "learning_rate": LEARNING_RATE, "tau": 0.1}
VARIANTS: list[Any] = [(name, "joint") for name in methods.REGISTRY]
VARIANTS += [("vgf", "bank"), ("bc", "gaussian"), ("bc", "diffusion")]
OTHERS = [("vgf", "iql"), ("fql", "pretrained"), ("ivr", "eql")]
OTHERS += [("best_of_n", "bank"), ("best_of_n", "iql"), ("avgf", "pretrained"), ("diffusion_ql", "backup")]
OTHERS += [("bc", "by return"), ("bc", "by advantage"), ("vgf", "by return"), ("fql", "by advantage")]
OTHERS += [("qgf", "full"), ("qgf", "jacobian"), ("qgf", "noisy"), ("qgf", "after")]
OTHERS += [("fql", "floq"), ("vgf", "floq"), ("rebrac", "floq"), ("qam", "floq"), ("best_of_n", "floq")]
EXTRA: dict[str, dict[str, Any]] = {
    "joint": {},
    "pretrained": {"behavior": "pretrained"},
    "bank": {"behavior": "pretrained", "bank": BANK},
    "gaussian": {"sampler": "gaussian"},
    "diffusion": {"sampler": "diffusion"},
    "by return": {"behavior_weighting": "return"},
    "by advantage": {"behavior_weighting": "advantage", "behavior": "pretrained"},
    "iql": {"critic": "iql"},
    "floq": {"critic": "floq", "floq_steps": 2, "floq_draws": 3},
    "eql": {"regularizer": "eql", "value_dropout": 0.5},
    "backup": {"max_q_backup": True, "backup_n": 3},
    **{gradient: {"gradient": gradient} for gradient in ("full", "jacobian", "noisy", "after")},
}
# the rest of ReBRAC's loss is normalised, so near +-1 before and after
SIZES = {**SMALL, "rebrac": {"alpha_actor": 3.0}}
RESCALED = {("ivr", "eql"): {"value"}}
"""Parts whose loss is divided by something that moves with them, so that its values at two steps are no comparison."""


class Case:
    """A method, batches and compiled functions, each made once."""

    def __init__(self, name: str, variant: str) -> None:
        self.method = make(name, **SETTINGS, **EXTRA[variant], **SIZES.get(name, {}))
        self.stages: tuple[Stage, ...] = self.method.stages()
        self.rescaled = RESCALED.get((name, variant), set())
        self.batches: dict[int, dict[str, Any]] = {}

    def batch(self, seed: int = 0) -> dict[str, Any]:
        """Random transitions as a dataset of their own, with what the stages prepare from it."""
        if seed not in self.batches:
            batch: dict[str, Any] = make_batch(ROWS, seed=seed)
            for stage in self.stages:
                if stage.prepare:
                    batch |= stage.prepare(self.state, batch, jax.random.key(seed))
                if stage.complete:
                    batch |= stage.complete(self.state, batch)[1]
            self.batches[seed] = {name: np.asarray(column) for name, column in batch.items()}
        return dict(self.batches[seed])

    def given(self, stage: Stage, columns: Set[str]) -> tuple[State, dict[str, Any]]:
        """The parts that a stage trains and reads, and a batch of those columns and what it prepares from them."""
        state = {name: self.state[name] for name in stage.trains | stage.reads}
        batch: dict[str, Any] = {name: self.batch()[name] for name in columns | stage.columns}
        if stage.prepare:
            batch |= jax.eval_shape(stage.prepare, state, batch, jax.random.key(0))
        if stage.complete:
            batch |= jax.eval_shape(stage.complete, state, batch)[1]
        return state, batch

    @cached_property
    def state(self) -> State:
        return random_state(self.method)

    @cached_property
    def updates(self) -> list[Callable[..., Any]]:
        return [jax.jit(stage.update) for stage in self.stages]

    def learned(self, stage: Stage) -> set[str]:
        """Parts that gradient steps change: not those that the stage fits in closed form."""
        is_learner = lambda node: isinstance(node, Learner)  # noqa: E731
        return {name for name in stage.trains
                if any(map(is_learner, jax.tree.leaves(self.state[name], is_leaf=is_learner)))}  # fmt: skip

    @cached_property
    def act(self) -> Callable[..., Any]:
        return jax.jit(self.method.act)


def quick(*names: str) -> Callable[[Any], Any]:
    """A test that is quick for these methods, and slow for the others."""

    def told(test: Any) -> Any:
        test.quick = names
        return test

    return told


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What says nothing compiles: it is quick for methods that are not made of others' parts."""
    if "case" in metafunc.fixturenames:
        names = getattr(metafunc.function, "quick", methods.REGISTRY.keys() - LATER)
        cases = [pytest.param(one, marks=[] if one[0] in names and one not in OTHERS else pytest.mark.slow)
                 for one in (*VARIANTS, *OTHERS)]  # fmt: skip
        metafunc.parametrize("case", cases, indirect=True, ids="-".join, scope="module")


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield Case(*request.param)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf), leaf.weak_type), tree)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def draws(update: Callable[..., Any], *arguments: Any) -> bool:
    """Whether anything that comes out hangs on the key, the last argument: not of a likelihood or a regression."""
    program = jax.make_jaxpr(update)(*arguments).jaxpr
    _, needed = dce_jaxpr(program, [True] * len(program.outvars))
    return needed[-1]


@quick(*methods.REGISTRY)
def test_init_is_what_stages_train(case: Case) -> None:
    state = jax.eval_shape(case.method.init, jax.random.key(0))
    assert set(state) == set[str]().union(*(stage.trains for stage in case.stages))
    seen: set[str] = set()
    for stage in case.stages:
        assert not stage.trains & seen and stage.reads <= seen  # each part once, and after those it reads
        seen |= stage.trains


@quick(*QUICK, "ivr", "bc_gaussian", "td3bc")
def test_updates_keep_shapes_and_touch_only_what_they_train(case: Case) -> None:
    for stage, update in zip(case.stages, case.updates, strict=True):
        new, metrics = update(case.state, case.batch(), jax.random.key(1))
        assert shapes(new) == shapes(case.state)
        for name, part in new.items():
            assert same(part, case.state[name]) == (name not in case.learned(stage)), name
        for name, value in metrics.items():
            assert "/" in name and value.shape == () and value.dtype == jnp.float32 and np.isfinite(value), name
        assert {name.split("/")[0] for name in metrics} == case.learned(stage)


@quick(*methods.REGISTRY)
def test_updates_need_only_their_own_parts_and_columns(case: Case) -> None:
    """A stage runs on the parts it trains and reads, on `fields` and on the columns that it prepared from these."""
    for stage in case.stages:
        state, batch = case.given(stage, case.method.fields)
        new, _ = jax.eval_shape(stage.update, state, batch, jax.random.key(1))
        assert new.keys() == state.keys()


@quick(*methods.REGISTRY)
def test_stages_that_are_not_rewarded_read_no_rewards(case: Case) -> None:
    """Nor parts that were made of rewards: so what is made of them need not be part of their identity."""
    made_of_rewards: set[str] = set()
    for stage in case.stages:
        if stage.rewarded:
            made_of_rewards |= stage.trains
        else:
            state, batch = case.given(stage, case.method.fields - {"rewards"})
            jax.eval_shape(stage.update, state, batch, jax.random.key(1))
            assert not stage.reads & made_of_rewards
    weighted = getattr(case.method.config, "behavior_weighting", "none") != "none"
    imitates = "rewards" not in case.method.fields and not weighted
    assert imitates == (not made_of_rewards)


def test_steps_between_are_of_the_same_kind(case: Case) -> None:
    """They keep shapes, train some of the same parts, from the same losses, and report some of the same metrics."""
    for stage, update in zip(case.stages, case.updates, strict=True):
        if stage.between is None:
            assert stage.period == 1
            continue
        _, metrics = update(case.state, case.batch(), jax.random.key(1))
        new, fewer = jax.jit(stage.between)(case.state, case.batch(), jax.random.key(1))
        assert shapes(new) == shapes(case.state) and stage.period > 1
        changed = {name for name in new if not same(new[name], case.state[name])}
        assert changed == {name.split("/")[0] for name in fewer} < case.learned(stage)
        assert fewer.keys() < metrics.keys() and all(fewer[name] == metrics[name] for name in fewer)


@quick(*QUICK)
def test_a_second_call_does_not_recompile(case: Case) -> None:
    """New values of the same shapes, the update's own output among them; every knob is one program."""
    for update in case.updates:
        state, _ = update(case.state, case.batch(), jax.random.key(1))
        update(state, case.batch(1), jax.random.key(2))
        assert update._cache_size() == 1
    for seed, knobs in enumerate(case.method.knobs):
        case.act(case.state, case.batch(seed)["observations"], jax.random.key(seed), per_row(knobs, ROWS))
    assert case.act._cache_size() == 1


@quick(*QUICK)
def test_randomness_is_the_key_s(case: Case) -> None:
    batch, knobs = case.batch(), per_row(case.method.knobs[-1], ROWS)
    for stage, update in zip(case.stages, case.updates, strict=True):
        first, again, other = (update(case.state, batch, jax.random.key(seed)) for seed in (1, 1, 2))
        assert same(first, again)
        assert same(first, other) != draws(stage.update, case.state, batch, jax.random.key(1))
    first, again, other = (case.act(case.state, batch["observations"], jax.random.key(s), knobs) for s in (1, 1, 2))
    assert same(first, again) and same(first, other) == case.method.greedy


@pytest.mark.slow
def test_vmap_over_seeds_is_one_seed_at_a_time(case: Case) -> None:
    """float32 sums in another order: some roundings of 6e-8. Adam's step divides by the gradient's size, which makes as
    much of 3e-3, more where a gradient is itself nearly lost in rounding."""
    states = [random_state(case.method, seed) for seed in range(2)]
    batches, keys = [case.batch(seed) for seed in range(2)], jax.random.split(jax.random.key(3), 2)
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    stacked_batch = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    stage, update = case.stages[-1], case.updates[-1]  # a pretrained behaviour's stage is BC's
    together = jax.jit(jax.vmap(stage.update))(stack, stacked_batch, keys)
    for seed in range(2):
        alone = update(states[seed], batches[seed], keys[seed])
        ours = leaves(jax.tree.map(lambda leaf, seed=seed: leaf[seed], together))
        for a, b in zip(ours, leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@quick(*QUICK)
def test_the_loss_falls(case: Case) -> None:
    """150 steps of each part alone, as some losses follow other parts as these move, on one draw and one batch whose
    transitions all end, so that there is nothing else to learn. A loss may start near a bound, so 2% are enough."""
    batch = {**case.batch(), "masks": np.zeros(ROWS, np.float32)}
    for stage, update in zip(case.stages, case.updates, strict=True):
        for part in sorted(case.learned(stage) - case.rescaled):
            losses, state = [], case.state
            for _ in range(150):
                new, metrics = update(state, batch, jax.random.key(1))
                state = {**state, part: new[part]}
                losses.append(float(metrics[f"{part}/loss"]))
            assert losses[-1] < losses[0] - 0.02 * abs(losses[0]), (part, losses)


@quick(*QUICK)
@pytest.mark.parametrize("other", [0, 5])
def test_actions_stay_in_the_box_and_rows_apart(case: Case, other: int) -> None:
    """Each row's action depends on its own observation and knobs, whatever the other rows are."""
    obs = 3.0 * case.batch()["observations"]
    knobs = per_row(case.method.knobs[-1], ROWS)
    actions = case.act(case.state, obs, jax.random.key(7), knobs)
    assert actions.shape == (ROWS, 2) and actions.dtype == jnp.float32
    assert np.abs(actions).max() <= 1.0
    changed = np.where(np.arange(ROWS)[:, None] == other, obs, -2.0 * obs + 1.0)
    first = {
        name: column.at[:].set(case.method.knobs[0][name]).at[other].set(column[other])
        for name, column in knobs.items()
    }
    moved = case.act(case.state, changed, jax.random.key(7), first)
    np.testing.assert_array_equal(moved[other], actions[other])
    assert not np.array_equal(moved, actions)


# keys


@quick(*QUICK)
def test_no_key_is_used_twice(case: Case) -> None:
    """JAX's own checker, over everything that takes a key; particles are chosen at random, where they can be."""
    method, obs, knobs = case.method, case.batch()["observations"], per_row(case.method.knobs[-1], ROWS)
    if hasattr(method.config, "particle_select"):
        method = replace(method, config=replace(method.config, particle_select="softmax"))
    with jax.debug_key_reuse(True):
        jax.jit(method.init).lower(jax.random.key(0))
        jax.jit(method.act).lower(case.state, obs, jax.random.key(2), knobs)
        for stage in case.stages:
            jax.jit(stage.update).lower(case.state, case.batch(), jax.random.key(3))
            if stage.prepare:
                jax.jit(stage.prepare).lower(case.state, case.batch(), jax.random.key(4))


def test_the_checker_would_notice() -> None:
    """Acting, and noise from the key that acting has consumed."""
    method = make("vgf", particle_select="uniform")

    def careless(state: Any, obs: Any, key: Any, knobs: Any) -> Any:
        return method.act(state, obs, key, knobs) + jax.random.normal(key, (ROWS, 2))

    arguments = (random_state(method), make_batch(ROWS)["observations"], jax.random.key(0))
    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        jax.jit(careless).lower(*arguments, per_row(method.knobs[0], ROWS))
