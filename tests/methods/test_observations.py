"""Observations as a pytree, such as a state with a goal: networks, critic and behaviour take one like a flat array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.train import Algorithm, Trainer, initial_state, lanes_of, needed, take
from methods.behavior import Behavior, BehaviorConfig, joined
from methods.core import BadInput, TaskSpec
from methods.critic import Critic, CriticConfig, InSample
from methods.networks import (
    ActionField,
    DenoisingNetwork,
    GaussianHead,
    PolicyHead,
    QNetwork,
    ValueNetwork,
    features,
    per_action,
)
from tests.methods.common import SMALL, each, make, make_batch, per_row

B, N, A = 4, 3, 2
RNG = np.random.default_rng(0)
STATE, GOAL = (jnp.asarray(RNG.normal(size=(B, width)), jnp.float32) for width in (3, 2))
OBS = {"state": STATE, "goal": GOAL}
FLAT = jnp.concatenate([GOAL, STATE], axis=1)  # a pytree's leaves come in the order of their names
ACTIONS = jnp.asarray(RNG.uniform(-1, 1, (B, A)), jnp.float32)
MANY = jnp.asarray(RNG.uniform(-1, 1, (B, N, A)), jnp.float32)
SPEC = TaskSpec(5, A, 10)


def equal(one: Any, other: Any) -> None:
    """Bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def near(one: Any, other: Any) -> None:
    """To rounding: a compiler may split the products of what was joined."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


def check_slopes(function: Any) -> None:
    """The derivative by a pytree is that by the flat array, cut."""
    slope = jax.jit(jax.grad(lambda obs: jnp.sum(function(obs))))
    found, flat = slope(OBS), slope(FLAT)
    assert found["state"].shape == (B, 3) and found["goal"].shape == (B, 2)
    near(found, {"state": flat[:, 2:], "goal": flat[:, :2]})
    assert np.abs(flat).max() > 0


def test_a_flat_array_is_what_networks_see_and_a_pytree_its_leaves_side_by_side() -> None:
    assert features(FLAT) is FLAT and features({"state": STATE}) is STATE
    equal(features(OBS), FLAT)
    equal(features((GOAL, {"state": STATE})), FLAT)


def test_each_action_has_its_observation_beside_it() -> None:
    wide: Mapping[str, Any] = per_action(OBS, MANY)
    equal(wide, {"state": jnp.repeat(STATE[:, None], N, axis=1), "goal": jnp.repeat(GOAL[:, None], N, axis=1)})
    equal(per_action(OBS, ACTIONS), OBS)


@pytest.mark.parametrize(
    ("network", "inputs"),
    [(QNetwork((8,)), (ACTIONS,)), (ValueNetwork((8,)), ()), (ActionField((8,), A), (ACTIONS,)),
     (PolicyHead((8, 8), A), ()), (GaussianHead((8, 8), A), ()),
     (DenoisingNetwork((8,), A), (ACTIONS, ACTIONS[:, :1]))],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_every_network_takes_a_pytree(network: Any, inputs: tuple[Any, ...]) -> None:
    """Parameters start as those of the flat width, values and derivatives are the same."""
    key = jax.random.key(0)
    params = network.init(key, OBS, *inputs)
    equal(params, network.init(key, FLAT, *inputs))
    equal(network.apply(params, OBS, *inputs), network.apply(params, FLAT, *inputs))
    check_slopes(lambda obs: jax.tree.leaves(network.apply(params, obs, *inputs))[0])


def batch(obs: Any) -> dict[str, Any]:
    return {"observations": obs, "actions": ACTIONS, "rewards": jnp.arange(4.0), "masks": jnp.ones(B),
            "next_observations": jax.tree.map(lambda leaf: leaf + 1.0, obs)}  # fmt: skip


def drawn(part: Any) -> Any:
    """A part with random parameters, without compiling its `init`; Adam's averages are not negative."""
    rng, shapes = np.random.default_rng(1), jax.eval_shape(part.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) ** 2, leaf.dtype), shapes)


def both(function: Any) -> Any:
    """What a function makes of the pytree, which is what it makes of the flat array."""
    compiled = jax.jit(function)
    found = compiled(OBS)
    near(found, compiled(FLAT))
    return found


def test_the_critic_takes_a_pytree() -> None:
    critic = Critic.of(SPEC, CriticConfig(hidden_dims=(8,)))
    learner = drawn(critic)

    def use(obs: Any) -> Any:
        one, many = (critic.q_values(learner.params, obs, actions) for actions in (ACTIONS, MANY))
        return one, many, critic.action_grad(learner.params, obs, MANY), critic.update(learner, batch(obs), jnp.ones(B))

    one, many, slope, _ = both(use)
    assert one.shape == (2, B) and many.shape == (2, B, N) and slope.shape == MANY.shape
    check_slopes(lambda obs: critic.q(learner.params, obs, MANY))


def test_an_in_sample_critic_takes_a_pytree() -> None:
    parts = InSample.of(SPEC, CriticConfig(hidden_dims=(8,)), expectile=0.9, activation="relu", norm="none")
    state = {name: drawn(part) for name, part in parts.parts.items()}
    both(lambda obs: parts.update(state, batch(obs), jax.random.key(2)))


@pytest.mark.parametrize("sampler", each(("flow", "gaussian", "diffusion"), ("gaussian",)))
def test_the_behaviour_takes_a_pytree(sampler: Any) -> None:
    behavior = Behavior.of(SPEC, BehaviorConfig(hidden_dims=(8,), sampler=sampler, flow_steps=2))
    learner, key = drawn(behavior), jax.random.key(1)

    def use(obs: Any) -> Any:
        own = batch(obs)
        there = behavior.propose_next(learner, own, behavior.draw_next(key, own, N))
        update = behavior.update(learner, own, behavior.sampler.draw(key, B))
        return behavior.propose(learner, obs, key, N), there, update

    proposed, there, _ = both(use)
    whole = behavior.stage(1)
    stage = joined(whole._replace(trains=frozenset(), update=lambda state, batch, key: (state, {})), whole)
    both(lambda obs: stage.update({"behavior": learner}, batch(obs), key))
    assert proposed.shape == there.shape == (B, N, A)


# the whole way

PARTS = TaskSpec(5, A, 10, (("goal", 2), ("state", 3)))


def test_a_spec_splits_what_tasks_give() -> None:
    equal(PARTS.split(FLAT), OBS)
    assert SPEC.split(FLAT) is FLAT and PARTS.chunked(3).observation == PARTS.observation
    seen = PARTS.seen({"observations": FLAT, "next_observations": FLAT, "actions": ACTIONS})
    equal(seen, {"observations": OBS, "next_observations": OBS, "actions": ACTIONS})
    for parts in ((("state", 3), ("goal", 2)), (("goal", 2), ("state", 4)), (("goal", 2), ("goal", 3))):
        with pytest.raises(BadInput, match="names must be sorted and different, and widths add up to 5"):
            TaskSpec(5, A, 10, parts)


@pytest.mark.parametrize("name", each(quick=()))
def test_every_method_learns_and_acts_alike_from_a_pytree(name: str) -> None:
    """From one state, by the harness's own program: a few steps, then actions."""
    small = {"hidden_dims": (12,), "batch_size": 8, **SMALL.get(name, {})}
    found = []
    for spec in (SPEC, PARTS):
        method = make(name, spec, **small)
        lanes, data = lanes_of((0,), [method]), make_batch(40, spec)
        state = initial_state(method, lanes)
        for number in range(len(method.stages())):
            trainer = Trainer(Algorithm(method, number), lanes, take(data, needed(method)), state)
            state, result = trainer.run(trainer.complete(state), 0, 4)
            assert (result.first_bad < 0).all()
        own, obs = jax.tree.map(lambda leaf: leaf[0], state), spec.split(FLAT)
        knobs = per_row(method.knobs[-1], B)
        acted = [jax.jit(method.act)(own, obs, jax.random.key(1), knobs)]
        if method.online():
            acted.append(jax.jit(method.explore)(own, obs, jax.random.key(2)))
        found.append((own, acted))
    near(*found)
