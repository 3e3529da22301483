"""FAN: a one-step policy anchored to a behaviour flow, with a critic that sees the policy's noise.

Source: the public code and post of Flow-Anchored Noise-conditioned Q-learning (ICML 2026). No ODE is integrated in
training: the policy's straight path from noise to action is compared with the flow's velocity on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actors import FieldActor
from methods.behavior import Behavior, BehaviorConfig
from methods.core import (
    Added,
    Array,
    Batch,
    Explore,
    Fraction,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Metrics,
    Part,
    Stage,
    State,
    Weight,
)
from methods.critic import Critic, CriticConfig
from methods.inference import Cost
from methods.learner import Params, descend
from methods.losses import aggregate, counted, expectile_loss
from methods.networks import rows
from methods.samplers import FlowSampler
from methods.select import one_action


@dataclass(frozen=True)
class FANConfig(BehaviorConfig, CriticConfig):
    """FAN's settings; its two weights per task stand in the task tables."""

    sampler: Literal["flow"] = "flow"
    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    activation: Literal["relu", "gelu"] = "gelu"
    alpha_actor: Weight = 10.0  # alpha_1: of the anchor, in the actor's loss
    alpha_critic: Weight = 0.0  # alpha_2: of the anchor, taken off the TD target
    expectile: Fraction = 0.9  # of Q over its noise, in the loss of Z
    z_aggregation: Literal["mean", "min"] = "mean"  # of Z's two heads, in the TD target
    normalize_value_loss: Annotated[bool, Added] = False  # -Q and -Z in the actor's loss, each over its mean size
    online_weights: Annotated[Literal["offline", "own"], Explore] = "offline"  # alpha_1 and alpha_2 online: as before,
    online_alpha_actor: Annotated[Weight, Explore] = 10.0  # or these two from the first online step on
    online_alpha_critic: Annotated[Weight, Explore] = 0.0


class FANDraws(NamedTuple):
    """Noise `[b, a]` and times `[b, 1]` of the anchors at next and at current observations; noise `[b, a]` at which Z
    and the actor ask Q."""

    next_noise: Array
    next_time: Array
    noise: Array
    time: Array
    value_noise: Array
    actor_noise: Array


@dataclass(frozen=True)
class FAN(Method):
    """Flow anchoring and noise-conditioned values."""

    config: FANConfig
    Config: ClassVar[type[MethodConfig]] = FANConfig
    name: ClassVar[str] = "fan"
    rule: ClassVar[str] = "noise-conditioned TD with an anchor; expectile over noise; anchored Q ascent"

    # parts

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config)

    @property
    def critic(self) -> Critic:
        """Q(s, a, n): the noise stands behind the action."""
        return Critic.of(self.spec, self.config, activation=self.config.activation, action_dim=2 * self.spec.action_dim)

    @property
    def value(self) -> Critic:
        """Z(s, a), an upper expectile of Q over noise."""
        return Critic.plain(self.spec, self.config, activation=self.config.activation, averaged=False)

    @property
    def actor(self) -> FieldActor:
        """mu(s, n), of one step from noise n."""
        return FieldActor.of(self.spec, self.config, self.config.activation)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"behavior": self.behavior, "critic": self.critic, "value": self.value, "actor": self.actor}

    # training

    def stages(self) -> tuple[Stage, ...]:
        return self.behavior.beside(self.name, self.stage("joint"), next_samples=False)

    def online(self) -> Stage | None:
        """The same losses, by weights of their own where it has such."""
        c, there = self.config, self
        if c.online_weights == "own":
            there = self.having(alpha_actor=c.online_alpha_actor, alpha_critic=c.online_alpha_critic)
        return self.behavior.online(there.online_stage())

    def draw(self, key: Key, batch: Batch) -> FANDraws:
        keys, shape = jax.random.split(key, 6), batch["actions"].shape
        noises = [jax.random.normal(one, shape) for one in keys[:4]]
        times = [jax.random.uniform(one, (shape[0], 1)) for one in keys[4:]]
        return FANDraws(noises[0], times[0], noises[1], times[1], noises[2], noises[3])

    def anchor(self, state: State, obs: Array, noise: Array, actions: Array, time: Array) -> Array:
        """(mu - n) - v(s, (1 - t) n + t mu, t) `[b, a]`, of actions mu `[b, a]` that came from noise n `[b, a]`."""
        sampler = self.behavior.sampler
        assert isinstance(sampler, FlowSampler)
        between = (1.0 - time) * noise + time * actions
        return (actions - noise) - sampler.velocity(state["behavior"].params, obs, between, time)

    def q_of(self, params: Params, obs: Array, actions: Array, noise: Array) -> Array:
        """Q `[K, b]` of actions `[b, a]` under noise `[b, a]`."""
        return self.critic.q_values(params, obs, jnp.concatenate([actions, noise], axis=-1))

    def critic_loss(self, params: Params, state: State, batch: Batch, draws: FANDraws) -> tuple[Array, Array]:
        """(Q(s, a, n) - r - gamma m (Z(s', a') - alpha_2 |anchor|^2))^2, mean over the ensemble and rows, and mean Q;
        a' = clip mu(s', n), of the same noise."""
        obs, noise = batch["next_observations"], draws.next_noise
        actions = jnp.clip(self.actor(state["actor"].params, obs, noise), -1.0, 1.0)
        away = jnp.sum(self.anchor(state, obs, noise, actions, draws.next_time) ** 2, axis=-1)
        values = aggregate(self.value.q_values(state["value"].params, obs, actions), self.config.z_aggregation)
        target = self.critic.target(batch, values - self.config.alpha_critic * away)
        q = self.q_of(params, batch["observations"], batch["actions"], noise)
        errors = (q - target) ** 2
        return jnp.mean(counted(batch) * errors), jnp.mean(q)

    def value_loss(self, params: Params, state: State, batch: Batch, noise: Array) -> Array:
        """The expectile loss of mean Q_target(s, a, n) - Z(s, a), mean over heads and rows."""
        obs, actions = batch["observations"], batch["actions"]
        q = jnp.mean(self.q_of(state["critic"].target, obs, actions, noise), axis=0)
        return expectile_loss(q - self.value.q_values(params, obs, actions), self.config.expectile, counted(batch))

    def actor_loss(self, params: Params, state: State, obs: Array, draws: FANDraws) -> tuple[Array, Metrics]:
        """alpha_1 |anchor|^2 - Q(s, mu, n'') - Z(s, mu), means over rows and dimensions; the anchor at mu as it is, the
        values at mu clipped, by the online networks' means of heads. With `normalize_value_loss` each value is divided
        by the mean of its absolute values over rows, as a constant."""
        raw = self.actor(params, obs, draws.noise)
        away = jnp.mean(self.anchor(state, obs, draws.noise, raw, draws.time) ** 2)
        actions = jnp.clip(raw, -1.0, 1.0)
        q = jnp.mean(self.q_of(state["critic"].params, obs, actions, draws.actor_noise), axis=0)
        z = jnp.mean(self.value.q_values(state["value"].params, obs, actions), axis=0)
        if self.config.normalize_value_loss:
            q, z = (value / jax.lax.stop_gradient(jnp.mean(jnp.abs(value))) for value in (q, z))
        value = jnp.mean(q) + jnp.mean(z)
        return self.config.alpha_actor * away - value, {"actor/anchor": away, "actor/q_loss": -value}

    def update_parts(self, state: State, batch: Batch, draws: FANDraws) -> tuple[State, Metrics]:
        (td, q), of_critic = jax.value_and_grad(self.critic_loss, has_aux=True)(
            state["critic"].params, state, batch, draws
        )
        spread, of_value = jax.value_and_grad(self.value_loss)(state["value"].params, state, batch, draws.value_noise)
        (loss, metrics), of_actor = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, batch["observations"], draws
        )
        new = {
            "critic": descend(state["critic"], of_critic, self.critic.optimizer, tau=self.config.tau),
            "value": descend(state["value"], of_value, self.value.optimizer),
            "actor": descend(state["actor"], of_actor, self.actor.optimizer),
        }
        metrics |= {"critic/loss": td, "critic/value": q, "value/loss": spread, "actor/loss": loss}
        return {**state, **new}, metrics

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        noise = jax.random.normal(key, (rows(obs), self.spec.action_dim))
        return one_action(jnp.clip(self.actor(state["actor"].params, obs, noise), -1.0, 1.0))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(1)
