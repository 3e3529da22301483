"""Fitted Q evaluation against the closed form of a chain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods.fqe import FQE

CHAIN = 4  # states; the last pays 1 and ends the episode if one goes on there
GAMMA = 0.8


def test_values_of_two_policies_on_a_chain() -> None:
    """Action +1 goes on, -1 stays and costs 0.1. Always going on from state 0 is worth gamma^3, always staying
    -0.1 / (1 - gamma). Both are told from the same transitions."""
    states, actions = (one.ravel() for one in np.meshgrid(np.arange(CHAIN), [1.0, -1.0]))
    goes = actions > 0
    rewards = np.where(goes, np.where(states == CHAIN - 1, 1.0, 0.0), -0.1)
    masks = np.where(goes & (states == CHAIN - 1), 0.0, 1.0)
    after = np.where(goes, np.minimum(states + 1, CHAIN - 1), states)
    rows = {"observations": jnp.eye(CHAIN)[states], "next_observations": jnp.eye(CHAIN)[after],
            "actions": jnp.asarray(actions)[:, None], "rewards": jnp.asarray(rewards, jnp.float32),
            "masks": jnp.asarray(masks, jnp.float32), "weights": jnp.ones(len(states))}  # fmt: skip
    policies = jnp.array([1.0, -1.0])
    next_actions = jnp.broadcast_to(policies[None, :, None], (len(states), 2, 1))
    fqe = FQE(updates=1500, batch_size=32, hidden_dims=(32,), learning_rate=3e-3, tau=0.1)
    first = jnp.eye(CHAIN)[:1]
    found = jax.jit(fqe.values)(rows, next_actions, first, next_actions[:1], GAMMA, jax.random.key(0))
    # sampled batches and a network that fits eight numbers: within a few hundredths of the exact values
    assert found.tolist() == pytest.approx([GAMMA ** (CHAIN - 1), -0.1 / (1 - GAMMA)], abs=0.05)


def test_values_stay_within_what_rewards_allow() -> None:
    """Rows without weight say nothing, not even of the bounds; where all rewards are 0, so is every value."""
    rows = {"observations": jnp.ones((6, 2)), "next_observations": jnp.ones((6, 2)), "actions": jnp.ones((6, 1)),
            "rewards": jnp.array([0.0, 0.0, 0.0, 0.0, 0.0, 1e6]), "masks": jnp.ones(6),
            "weights": jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])}  # fmt: skip
    fqe = FQE(updates=20, batch_size=4, hidden_dims=(4,))
    found = fqe.values(rows, jnp.ones((6, 1, 1)), jnp.ones((1, 2)), jnp.ones((1, 1, 1)), 1.0, jax.random.key(0))
    assert abs(float(found[0])) < 1e-3
