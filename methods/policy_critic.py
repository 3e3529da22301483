"""A critic learned by TD on a policy's own actions: FQL, FBRAC, ReBRAC, TD3+BC, Diffusion-QL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from methods.core import Array, Batch, Key, MethodConfig, Metrics, TaskSpec
from methods.critics import aggregate, td_loss, td_target
from methods.learner import Learner, Params, create, descend, global_norm, optimizer
from methods.networks import Critic, forward, per_action


@dataclass(frozen=True)
class PolicyCritic:
    """An ensemble of Q with Polyak targets; who acts at the next state is the caller's business."""

    obs_dim: int
    action_dim: int
    hidden_dims: tuple[int, ...]
    discount: float
    learning_rate: float
    tau: float
    activation: str = "gelu"
    norm: str = "after"
    q_aggregation: str = "min"  # of the target critics
    clip_norm: float | None = None
    summed: bool = False  # whether the loss is the ensemble's sum, which matters where gradients are clipped

    @classmethod
    def of(cls, spec: TaskSpec, config: MethodConfig, **rest: Any) -> PolicyCritic:
        """With the settings that every method has, and `rest`, which wins."""
        shared = {"hidden_dims": config.hidden_dims, "discount": config.discount,
                  "learning_rate": config.learning_rate, "tau": config.tau}  # fmt: skip
        return cls(spec.obs_dim, spec.action_dim, **{**shared, **rest})

    @property
    def network(self) -> Critic:
        return Critic(self.hidden_dims, self.activation, self.norm)

    def init(self, key: Key) -> Learner:
        params = self.network.init(key, jnp.zeros((1, self.obs_dim)), jnp.zeros((1, self.action_dim)))
        return create(params, optimizer(self.learning_rate, self.clip_norm), target=True)

    def values(self, params: Params, obs: Array, actions: Array) -> Array:
        """Q `[members, ...]` at observations `[..., o]` and actions `[..., a]`."""
        return forward(self.network, params, obs, actions)

    def next_value(self, learner: Learner, batch: Batch, next_actions: Array) -> Array:
        """V(s') `[b]`: the target critics at the policy's actions `[b, a]`; the largest of `[b, n, a]`."""
        obs = batch["next_observations"]
        if next_actions.ndim == obs.ndim:
            return aggregate(self.values(learner.target, obs, next_actions), self.q_aggregation)
        wide = per_action(obs, next_actions)
        # each critic's own best of n, then the aggregation, as Diffusion-QL's code has it
        return aggregate(jnp.max(self.values(learner.target, wide, next_actions), axis=-1), self.q_aggregation)

    def loss(self, params: Params, batch: Batch, next_value: Array) -> tuple[Array, Array]:
        """(Q - r - gamma mask V(s'))^2, its mean over rows and mean (FQL, arXiv 2502.02538, Eq. 5) or sum over the
        ensemble, and mean Q."""
        target = td_target(batch["rewards"], batch["masks"], next_value, self.discount)
        values = self.values(params, batch["observations"], batch["actions"])
        target = jax.lax.stop_gradient(target)
        if self.summed:
            return td_loss(values, target), jnp.mean(values)
        return jnp.mean((values - target) ** 2), jnp.mean(values)

    def update(
        self, learner: Learner, batch: Batch, next_value: Array, *, follow: bool = True, after: bool = False
    ) -> tuple[Learner, Metrics]:
        """One gradient step towards V(s') `[b]`; the target follows if asked, the parameters before the step or those
        `after` it."""
        (loss, value), grads = jax.value_and_grad(self.loss, has_aux=True)(learner.params, batch, next_value)
        tx = optimizer(self.learning_rate, self.clip_norm)
        metrics = {"critic/loss": loss, "critic/value": value, "critic/grad_norm": global_norm(grads)}
        return descend(learner, grads, tx, tau=self.tau if follow else 0.0, after=after), metrics
