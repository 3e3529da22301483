"""FQL: a one-step policy that maximises Q while staying near the behaviour flow.

Source: Flow Q-Learning, arXiv 2502.02538, Algorithm 1 and its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.behavior import BehaviorConfig, BehaviorMethod
from methods.core import Array, Batch, Key, Knobs, MethodConfig, Metrics, State, Weight
from methods.inference import Cost
from methods.learner import Learner, Params, create, descend, optimizer
from methods.networks import ActionField, forward
from methods.policy_critic import PolicyCritic


@dataclass(frozen=True)
class FQLConfig(BehaviorConfig):
    """FQL's settings; `alpha` per task stands in the task tables."""

    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    activation: Literal["relu", "gelu"] = "gelu"  # of critic and one-step policy
    alpha: Weight = 10.0  # weight of distillation: the regulariser
    q_aggregation: Literal["mean", "min"] = "mean"  # of the critics in the TD target
    normalize_q: bool = False  # divide the Q loss by the batch's mean |Q|


class FQLDraws(NamedTuple):
    """Noise of the policy at the next states and of the distilled actions, both `[b, a]`."""

    next_noise: Array
    noise: Array


@dataclass(frozen=True)
class FQL(BehaviorMethod):
    """Flow Q-Learning."""

    config: FQLConfig
    Config: ClassVar[type[MethodConfig]] = FQLConfig
    name: ClassVar[str] = "fql"
    parts: ClassVar[tuple[str, ...]] = ("critic", "actor")
    rule: ClassVar[str] = "TD on the one-step policy; distillation of the flow and Q ascent"

    @property
    def critic(self) -> PolicyCritic:
        c = self.config
        return PolicyCritic.of(self.spec, c, activation=c.activation, q_aggregation=c.q_aggregation)

    @property
    def actor(self) -> ActionField:
        return ActionField(self.config.hidden_dims, self.spec.action_dim, self.config.activation)

    def init_part(self, name: str, key: Key) -> Learner:
        if name == "critic":
            return self.critic.init(key)
        params = self.actor.init(key, jnp.zeros((1, self.spec.obs_dim)), jnp.zeros((1, self.spec.action_dim)))
        return create(params, optimizer(self.config.learning_rate))

    def draw(self, key: Key, batch: Batch) -> FQLDraws:
        keys = jax.random.split(key)
        shape = batch["actions"].shape
        return FQLDraws(jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape))

    def policy(self, params: Params, obs: Array, noise: Array) -> Array:
        """mu(s, z) `[b, a]` in [-1, 1]."""
        return jnp.clip(forward(self.actor, params, obs, noise), -1.0, 1.0)

    def next_value(self, state: State, batch: Batch, next_noise: Array) -> Array:
        """V(s') `[b]`: the target critics at mu(s', z) (Eq. 5)."""
        next_actions = self.policy(state["actor"].params, batch["next_observations"], next_noise)
        return self.critic.next_value(state["critic"], batch, next_actions)

    def critic_loss(self, params: Params, state: State, batch: Batch, next_noise: Array) -> tuple[Array, Array]:
        """Mean squared TD error over ensemble and rows, and mean Q; the target acts by mu (Eq. 5)."""
        return self.critic.loss(params, batch, self.next_value(state, batch, next_noise))

    def actor_loss(self, params: Params, state: State, batch: Batch, noise: Array) -> tuple[Array, Metrics]:
        """alpha |mu(s, z) - flow(s, z)|^2 - Q(s, mu(s, z)), means over rows and dimensions (Eq. 8)."""
        obs = batch["observations"]
        imitated = self.sampler.sample(state["behavior"].params, obs, noise)
        raw = forward(self.actor, params, obs, noise)
        distill = jnp.mean((raw - jax.lax.stop_gradient(imitated)) ** 2)
        values = jnp.mean(self.critic.values(state["critic"].params, obs, jnp.clip(raw, -1.0, 1.0)), axis=0)
        q_loss = -jnp.mean(values)
        if self.config.normalize_q:
            q_loss = q_loss / jax.lax.stop_gradient(jnp.mean(jnp.abs(values)))
        return self.config.alpha * distill + q_loss, {"actor/distill": distill, "actor/q_loss": q_loss}

    def update_parts(self, state: State, batch: Batch, draws: FQLDraws) -> tuple[State, Metrics]:
        critic, metrics = self.critic.update(state["critic"], batch, self.next_value(state, batch, draws.next_noise))
        (loss, actor_metrics), grads = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, batch, draws.noise
        )
        actor = descend(state["actor"], grads, optimizer(self.config.learning_rate))
        return {**state, "critic": critic, "actor": actor}, {**metrics, "actor/loss": loss, **actor_metrics}

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        noise = jax.random.normal(key, (obs.shape[0], self.spec.action_dim))
        actions = self.policy(state["actor"].params, obs, noise)[:, None]
        return actions, jnp.ones(actions.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(1)
