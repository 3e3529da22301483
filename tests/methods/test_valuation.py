"""Estimates of settings without an environment: hand-computed numbers on a tiny critic, and which methods have one."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from methods.core import TaskSpec
from methods.critic import Critic
from methods.valuation import Asked, asked, certified, critic_of, discount_of, estimates, in_blocks, q_values

SPEC = TaskSpec(3, 2, 10)
SMALL = {"hidden_dims": (4,), "steps": 2}


def method(name: str, **settings: object) -> methods.core.Method:
    kind = methods.get(name)
    return kind(replace(kind.Config(), **{**SMALL, **settings}), SPEC)


def test_estimates_by_hand() -> None:
    """Two critics, two settings, three transitions, the last of which crosses an episode's end and does not count."""
    found = Asked(
        actions=jnp.array([[[0.0, 0.0], [0.3, 0.4]], [[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [9.0, 9.0]]]),
        next_actions=jnp.zeros((3, 2, 2)),
        values=jnp.array([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]], [[1.0, 4.0], [5.0, 10.0], [99.0, 99.0]]]),
        data_values=jnp.array([[1.0, 2.0, 99.0], [3.0, 2.0, 99.0]]),
        next_values=jnp.array([[[2.0, 0.0], [4.0, 4.0], [99.0, 99.0]], [[4.0, 0.0], [8.0, 4.0], [99.0, 99.0]]]),
    )
    batch = {"rewards": jnp.array([1.0, 1.0, 5.0]), "masks": jnp.array([1.0, 0.0, 1.0]),
             "valid": jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])}  # fmt: skip
    made = estimates(found, batch, 0.5, 0)
    assert made["value"].tolist() == pytest.approx([(1 + 4) / 2, (3 + 7) / 2])
    assert made["disagreement"].tolist() == pytest.approx([(0 + 1) / 2, (1 + 3) / 2])  # std of two is half their gap
    assert made["data_value"].tolist() == pytest.approx([2.0, 2.0])
    assert made["data_disagreement"].tolist() == pytest.approx([(1 + 0) / 2] * 2)
    # targets: 1 + .5 x 3 = 2.5 and 1 at the first setting, 1 and 1 at the second
    first = ((1.5**2 + 0.5**2) / 2 + (1 + 1) / 2) / 2
    second = ((0 + 2**2) / 2 + (1 + 1) / 2) / 2
    assert made["td_error"].tolist() == pytest.approx([first, second])
    assert made["transport"].tolist() == pytest.approx([0.0, (0.5 + 1.0) / 2])


def test_one_critic_says_nothing_of_disagreement_and_none_nothing_at_all() -> None:
    def of(members: int) -> dict[str, jax.Array]:
        shape = (members, 4, 3)
        found = Asked(jnp.zeros((4, 3, 2)), jnp.zeros((4, 3, 2)), jnp.ones(shape), jnp.ones(shape[:2]), jnp.ones(shape))
        return estimates(found, {"rewards": jnp.zeros(4), "masks": jnp.ones(4)}, 0.9, 0)

    assert np.isnan(of(1)["disagreement"]).all() and np.isfinite(of(1)["td_error"]).all()
    assert all(np.isnan(value).all() for name, value in of(0).items() if name != "transport")
    assert of(2)["disagreement"].tolist() == [0.0] * 3


def test_which_methods_have_a_critic_of_finished_actions() -> None:
    """The contract: whoever declares one can be asked for Q of what it does, whatever its knobs are."""
    without = {name for name in methods.registry("control") if critic_of(method(name)) is None}
    # BC has none; SfBC's is of returns and has its own class; FAN's sees noise, RQL's a time, behind the action
    assert without == {"bc", "bc_gaussian", "sfbc", "fan", "rql"}


@pytest.mark.parametrize("name", ["vgf", "td3bc"])
def test_values_are_those_of_the_critic_at_what_the_method_does(name: str) -> None:
    one = method(name, **({"test_flow_steps": (0, 2), "flow_steps": 1} if name == "vgf" else {}))
    state = one.init(jax.random.key(0))
    if name == "td3bc":  # it sees normalised observations
        state |= {"normalizer": {"mean": jnp.array([1.0, 2.0, 3.0]), "std": jnp.array([2.0, 4.0, 5.0])}}
    batch = {"observations": jnp.arange(15.0).reshape(5, 3) / 7, "next_observations": jnp.ones((5, 3)),
             "actions": jnp.zeros((5, 2))}  # fmt: skip
    knobs = {key: jnp.array([float(one[key]) for one in one.knobs]) for key in one.knobs[0]}
    found = jax.jit(asked, static_argnums=0)(one, state, batch, jax.random.key(1), knobs)
    critic = critic_of(one)
    assert isinstance(critic, Critic) and found.actions.shape == (5, len(one.knobs), 2)
    assert found.values.shape == (critic.members, 5, len(one.knobs)) and found.data_values.shape == (2, 5)
    seen = batch["observations"]
    seen = (seen - state["normalizer"]["mean"]) / state["normalizer"]["std"] if name == "td3bc" else seen
    for place in range(len(one.knobs)):
        direct = critic.q_values(state["critic"].params, seen, found.actions[:, place])
        np.testing.assert_allclose(found.values[:, :, place], direct, rtol=1e-5)
    if name == "vgf":  # from the same noise, so that a setting's transport is its own, and within what is certified
        moved = jnp.linalg.norm(found.actions[:, 1] - found.actions[:, 0], axis=-1)
        assert float(moved.max()) > 0 and certified(one, {"L_test": 0}) == 0.0
        assert certified(one, {"L_test": 1}) == pytest.approx(one.config.step_size * math.sqrt(2))
    np.testing.assert_allclose(
        q_values(one, critic, state, batch["observations"], batch["actions"]), found.data_values, rtol=1e-5
    )


def test_blocks_give_what_the_whole_would() -> None:
    column = jnp.arange(7.0)
    found = in_blocks(lambda part, number: part["x"] * 2 + 0 * number, {"x": column}, block=3)
    assert found.tolist() == (column * 2).tolist()


def test_the_discount_is_that_of_what_follows_the_window() -> None:
    assert discount_of(method("fql", discount=0.5)) == 0.5
    assert discount_of(method("fql", discount=0.5, n_step=3)) == 0.125
