"""Fitted Q evaluation: the value of a policy from transitions that another one made.

Source: Le, Voloshin and Yue, Batch Policy Learning under Constraints, arXiv 1903.08738, Algorithm 3; used to choose
among policies by Paine et al., arXiv 2007.09055. Here the regression goes on by gradient steps towards a Polyak target,
as TD does, and policies are fitted side by side on the same batches: k of them, in one program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from methods.core import Array, Key
from methods.learner import create, descend, optimizer
from methods.networks import QNetwork

LONGEST = 10_000.0  # samples, of the horizon 1 / (1 - gamma) that bounds values
_FLAT_STD = 1e-3  # of a std that observations are divided by


@dataclass(frozen=True)
class FQE:
    """How an evaluation critic is fitted."""

    updates: int = 10_000
    batch_size: int = 256
    hidden_dims: tuple[int, ...] = (256, 256)
    learning_rate: float = 1e-3
    tau: float = 0.05  # 20 updates to a backup

    @property
    def network(self) -> QNetwork:
        return QNetwork(self.hidden_dims, "relu", "before", members=1)

    def values(
        self, rows: Mapping[str, Array], next_actions: Array, firsts: Array, first_actions: Array, discount: Any,
        key: Key,
    ) -> Array:  # fmt: skip
        """The mean of Q(s0, a0) over first states, of each of k policies, `[k]`.

        Q goes towards r + gamma m Q_target(s', a'), a' the policy's action, clipped to what rewards allow: between
        min(r, 0) and max(r, 0) times 1 / (1 - gamma). Observations are standardised, and Q is learned in units of
        max |r| / (1 - gamma mean(m)), which is small where episodes are short.

        Args:
          rows: observations and next_observations `[b, o]`, actions `[b, a]`, rewards, masks and weights (of a row in
            the loss) `[b]`.
          next_actions: `[b, k, a]`. firsts: `[f, o]`. first_actions: `[f, k, a]`.
          discount: gamma, of the value that follows a row's rewards. key: consumed.
        """
        mean, std = jnp.mean(rows["observations"], axis=0), jnp.std(rows["observations"], axis=0)
        obs, next_obs, first = (
            (one - mean) / jnp.maximum(std, _FLAT_STD)
            for one in (rows["observations"], rows["next_observations"], firsts)
        )
        horizon = 1.0 / jnp.maximum(1.0 - discount, 1.0 / LONGEST)
        counted = jnp.where(rows["weights"] > 0.0, rows["rewards"], 0.0)
        low, high = horizon * jnp.minimum(jnp.min(counted), 0.0), horizon * jnp.maximum(jnp.max(counted), 0.0)
        usual = 1.0 / jnp.maximum(1.0 - discount * jnp.mean(rows["masks"]), 1.0 / LONGEST)
        unit = jnp.maximum(usual * jnp.max(jnp.abs(counted)), 1e-6)
        tx, network = optimizer(self.learning_rate), self.network
        init_key, draw_key = jax.random.split(key)
        start = network.init(init_key, obs[:1], rows["actions"][:1])  # the same for every policy

        def fit(next_actions: Array, first_actions: Array) -> Array:
            def step(learner: Any, number: Array) -> tuple[Any, None]:
                at = jax.random.randint(jax.random.fold_in(draw_key, number), (self.batch_size,), 0, len(obs))
                ahead = unit * network.apply(learner.target, next_obs[at], next_actions[at])[0]
                target = rows["rewards"][at] + discount * rows["masks"][at] * ahead
                target = jnp.clip(target, low, high) / unit

                def loss(params: Any) -> Array:
                    errors = (network.apply(params, obs[at], rows["actions"][at])[0] - target) ** 2
                    return jnp.mean(rows["weights"][at] * errors)

                return descend(learner, jax.grad(loss)(learner.params), tx, tau=self.tau), None

            learner, _ = jax.lax.scan(step, create(start, tx, target=True), jnp.arange(self.updates))
            return unit * jnp.mean(network.apply(learner.params, first, first_actions)[0])

        return jax.vmap(fit, in_axes=1)(next_actions, first_actions)
