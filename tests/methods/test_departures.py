"""Numbers that docs/methods.md states of how other codes differ."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from methods.learner import create, descend

RATE = 1e-3


def moved(gradients: np.ndarray) -> np.ndarray:
    """How far Adam moves a parameter at each of these gradients, in learning rates."""
    tx = optax.adam(RATE)

    def step(carry: tuple[jax.Array, optax.OptState], gradient: jax.Array) -> tuple[tuple, jax.Array]:
        position, opt_state = carry
        update, opt_state = tx.update(gradient, opt_state, position)
        return (position + update, opt_state), -update / RATE

    start = jnp.zeros(())
    return np.asarray(jax.lax.scan(step, (start, tx.init(start)), jnp.asarray(gradients, jnp.float32))[1])


@pytest.mark.parametrize("gradient", [0.01, 3.0])
def test_one_optimiser_for_all_moves_an_actor_that_waits(gradient: float) -> None:
    """FQL's ReBRAC gives its one Adam an actor's gradient of 0 at every second step. A steady gradient then moves the
    actor 1.67 learning rates in the first two steps and, in the long run, the root of 2 in two: the mean of the first
    moment over the two is g / 2, the second moment is g^2 / 2. An Adam of the actor's own moves it 1."""
    pairs = moved(np.tile([gradient, 0.0], 20_000)).reshape(-1, 2).sum(axis=1)
    assert pairs[0] == pytest.approx(1.67, abs=2e-3) and pairs[-1] == pytest.approx(np.sqrt(2.0), abs=1e-3)
    tx, learner = optax.adam(RATE), create(jnp.zeros(()), optax.adam(RATE))
    for _ in range(3):
        before, learner = learner, descend(learner, jnp.float32(gradient), tx)
        assert float(before.params - learner.params) / RATE == pytest.approx(1.0, abs=1e-3)
