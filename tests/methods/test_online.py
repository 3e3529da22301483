"""What methods promise for an online phase: one rule for all parts, and a way to explore."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from methods.core import Stage
from tests.methods.common import QUICK, SPEC, make, make_batch, per_row, random_state

ROWS = 16
WITHOUT = {"bc", "bc_gaussian", "sfbc"}
VARIANTS = [(name, {}) for name in methods.REGISTRY if name not in WITHOUT]
VARIANTS += [
    ("vgf", {"behavior": "pretrained", "bank": 4}),
    ("vgf", {"critic": "iql"}),
    ("best_of_n", {"critic": "iql"}),
    ("fql", {"critic": "floq"}),
]
RULES = [pytest.param(*case, marks=() if case[0] in QUICK else pytest.mark.slow) for case in VARIANTS]
SMALL = {"hidden_dims": (8,)}
OWN: dict[str, dict[str, Any]] = {"idql": {"sampler_dims": (8,), "sampler_batch_size": 12, "test_n": (1, 4)}}


def build(name: str, settings: dict[str, Any]) -> Any:
    return make(name, **{**SMALL, **OWN.get(name, {}), **settings})


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_who_has_no_rule() -> None:
    assert {name for name in methods.REGISTRY if make(name).online() is None} == WITHOUT


@pytest.mark.parametrize(("name", "settings"), RULES, ids=str)
def test_one_rule_trains_every_part_from_plain_transitions(name: str, settings: dict[str, Any]) -> None:
    """It keeps shapes, and asks for no column that a stage had prepared."""
    method = build(name, settings)
    stage: Stage = method.online()
    state = jax.eval_shape(method.init, jax.random.key(0))
    assert set(state) == stage.trains and stage.prepare is None and stage.complete is None
    assert stage.batch_size == (12 if name == "idql" else 8)
    batch = {column: values for column, values in make_batch(stage.batch_size).items() if column in method.fields}
    with jax.debug_key_reuse(True):
        new, metrics = jax.eval_shape(stage.update, state, batch, jax.random.key(1))
        actions = jax.eval_shape(method.explore, state, jnp.zeros((ROWS, SPEC.obs_dim)), jax.random.key(2))
    assert shapes(new) == shapes(state) and actions.shape == (ROWS, SPEC.action_dim)
    learned = {part for part in state if part != "normalizer"}
    assert {metric.split("/")[0] for metric in metrics} == learned
    assert all(value.shape == () for value in metrics.values())
    period = {stage.period for stage in method.stages()}
    assert stage.period == max(period) and (stage.between is None) == (stage.period == 1)


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=str)
def test_what_it_hangs_on_is_in_its_settings(name: str, settings: dict[str, Any]) -> None:
    """How it explores is; which knob values are evaluated is not, nor how long it trained offline."""
    method = build(name, settings)
    config = method.online().config
    assert config["explores_by"] == method.explorer.knobs[0]
    for setting in method.exploring:
        assert method.having(**{setting: 7}).online().config != config, setting
    assert method.having(steps=7).online().config == config
    assert not {"test_flow_steps", "test_n", "test_weights"} & config.keys()
    changed = method.having(**dict.fromkeys(method.exploring, 7))
    for stage, other in zip(method.stages(), changed.stages(), strict=True):
        assert stage.config == other.config and stage.rule == other.rule


@pytest.mark.parametrize("name", ["fql", "fbrac", "vgf"])
def test_joint_methods_go_on_by_their_own_rule(name: str) -> None:
    """Operation by operation."""
    method = make(name, **SMALL)
    state, batch = jax.eval_shape(method.init, jax.random.key(0)), make_batch(8)
    (joint,), online = method.stages(), method.online()
    ours, theirs = (jax.make_jaxpr(stage.update)(state, batch, jax.random.key(3)) for stage in (online, joint))
    assert str(ours) == str(theirs) and online.rule == joint.rule


@pytest.mark.slow
def test_iql_trains_critic_and_policy_each_from_the_other_as_it_was() -> None:
    method = make("iql", **SMALL)
    state, batch, key = random_state(method), make_batch(8), jax.random.key(3)
    new, _ = jax.jit(method.online().update)(state, batch, key)
    for stage in method.stages():
        alone, _ = jax.jit(stage.update)(state, batch, key)
        for part in stage.trains:
            for ours, theirs in zip(leaves(new[part]), leaves(alone[part]), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_each_of_two_learners_has_batches_of_its_own_size() -> None:
    """IDQL's critic sees the first 8 of the 12 rows that its sampler imitates."""
    method = build("idql", {})
    state, batch, key = random_state(method), make_batch(12), jax.random.key(3)
    update = jax.jit(method.online().update)
    new, _ = update(state, batch, key)
    other, _ = update(
        state, {name: np.concatenate([column[:8], 2 * column[8:]]) for name, column in batch.items()}, key
    )
    same = {part: all(map(np.array_equal, leaves(new[part]), leaves(other[part]))) for part in new}
    assert same == {"behavior": False, "critic": True, "value": True}


# ---- exploring ----


@pytest.mark.parametrize(
    ("name", "settings", "knobs"),
    [("vgf", {"test_flow_steps": (1, 3)}, {"L_test": 0}), ("best_of_n", {"test_n": (2, 5)}, {"N": 5}),
     pytest.param("vgf", {"explore_flow_steps": 2}, {"L_test": 2}, marks=pytest.mark.slow),
     pytest.param("avgf", {}, {"L_test": 0}, marks=pytest.mark.slow),
     pytest.param("ifql", {"test_n": (3,)}, {"N": 3}, marks=pytest.mark.slow)],
)  # fmt: skip
def test_exploring_is_acting_with_a_declared_knob(name: str, settings: Any, knobs: dict[str, float]) -> None:
    """L = 0 and the largest N, unless the settings say otherwise; from the same draws as acting."""
    method = make(name, **SMALL, flow_steps=2, **settings)
    state, obs = random_state(method), make_batch(ROWS)["observations"]
    wide = method.having(test_flow_steps=(0, 2)) if "L_test" in knobs else method
    acted = jax.jit(wide.act)(state, obs, jax.random.key(4), per_row(knobs, ROWS))
    np.testing.assert_allclose(jax.jit(method.explore)(state, obs, jax.random.key(4)), acted, rtol=1e-5, atol=1e-6)


def test_qgf_explores_by_the_weight_it_is_given() -> None:
    method = make("qgf", **SMALL, test_weights=(0.0, 7.0), test_n=(1, 4), explore_weight=0.5, explore_n=2)
    assert method.explorer.knobs == ({"w": 0.5, "N": 2},)


@pytest.mark.parametrize("name", ["rebrac", "td3bc", "iql", "ivr"])
def test_greedy_methods_explore_by_noise(name: str) -> None:
    """Around the action they would take, within the box, of the stated deviation."""
    method = make(name, **SMALL)
    state, obs = random_state(method, scale=0.05), np.zeros((2000, SPEC.obs_dim), np.float32)
    greedy = method.act(state, obs[:1], jax.random.key(0), {})
    explore = jax.jit(method.explore)
    noise = np.asarray(explore(state, obs, jax.random.key(5)) - greedy)
    assert not np.array_equal(noise, explore(state, obs, jax.random.key(6)) - greedy)
    config, deviation = method.config, np.ones(2)
    if name == "ivr":
        deviation = np.exp(np.asarray(method.policy(state["actor"].params, obs[:1])[1][0]))
    scale = config.explore_noise if hasattr(config, "explore_noise") else config.explore_scale
    if scale * deviation.max() < 0.3:  # else the box cuts much of it off
        # 2000 draws: the deviation's own error is 1.6%, and 0.2 is cut off at 2.5 deviations, which takes 2.8%
        np.testing.assert_allclose(noise.std(axis=0), scale * deviation, rtol=0.1)
    assert np.abs(noise + np.asarray(greedy)).max() <= 1.0
    quiet = replace(method, config=replace(config, **dict.fromkeys(method.exploring, 0.0)))
    np.testing.assert_allclose(quiet.explore(state, obs[:3], jax.random.key(7)), np.repeat(greedy, 3, 0), atol=1e-6)
