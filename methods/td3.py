"""The base of deterministic actor-critics with smoothed targets and delayed policy updates: TD3+BC and ReBRAC.

Source: TD3, arXiv 1802.09477.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.actor_critic import ActorCritic, ActorCriticConfig
from methods.core import Array, Batch, Key, Knobs, Metrics, PositiveInt, Stage, State, Weight
from methods.inference import Cost
from methods.learner import Learner, Params, create
from methods.networks import PolicyHead, forward
from methods.policy_critic import PolicyCritic


@dataclass(frozen=True)
class TD3Config(ActorCriticConfig):
    """Settings of TD3."""

    activation: Literal["relu", "gelu"] = "gelu"  # of critic and actor
    critic_norm: Literal["none", "before", "after"] = "after"  # LayerNorm of the critic
    actor_noise: Weight = 0.2  # std of the noise on target actions
    actor_noise_clip: Weight = 0.5
    actor_period: PositiveInt = 2  # critic steps to one of the actor and of the targets
    explore_noise: Weight = 0.2  # std of the noise while exploring online, clipped as that on target actions


@dataclass(frozen=True)
class TD3(ActorCritic):
    """A tanh policy, its target, and twin critics. A subclass brings the actor's loss, and a penalty in the target."""

    config: TD3Config
    greedy: ClassVar[bool] = True

    @property
    def critic(self) -> PolicyCritic:
        c = self.config
        return PolicyCritic.of(self.spec, c, learning_rate=c.critic_rate, activation=c.activation, norm=c.critic_norm)

    @property
    def actor(self) -> PolicyHead:
        return PolicyHead(self.config.hidden_dims, self.spec.action_dim, self.config.activation)

    def init_part(self, name: str, key: Key) -> Learner:
        if name == "critic":
            return self.critic.init(key)
        params = self.actor.init(key, jnp.zeros((1, self.spec.obs_dim)))
        return create(params, self.actor_optimizer, target=True)

    def stages(self) -> tuple[Stage, ...]:
        return (self.own_stage("joint", period=self.config.actor_period, between=self.update_critic_alone),)

    def online(self) -> Stage | None:
        return self.online_stage(period=self.config.actor_period, between=self.update_critic_alone)

    # what subclasses bring

    def penalty(self, batch: Batch, next_actions: Array) -> Array | float:
        """What is taken off V(s'), `[b]`; nothing here."""
        del batch, next_actions
        return 0.0

    # training

    def policy(self, params: Params, obs: Array) -> Array:
        """pi(s) `[..., a]` within the box."""
        return jnp.tanh(forward(self.actor, params, obs))

    def noisy(self, actions: Array, noise: Array) -> Array:
        """Actions `[..., a]` with clipped noise, clipped to the box too."""
        clip = self.config.actor_noise_clip
        return jnp.clip(actions + jnp.clip(noise, -clip, clip), -1.0, 1.0)

    def explore(self, state: State, obs: Array, key: Key) -> Array:
        """The policy's action with clipped noise."""
        act_key, noise_key = jax.random.split(key)
        actions = super().explore(state, obs, act_key)
        return self.noisy(actions, self.config.explore_noise * jax.random.normal(noise_key, actions.shape))

    def draw(self, key: Key, batch: Batch) -> Array:
        return jax.random.normal(key, batch["actions"].shape)

    def next_value(self, state: State, batch: Batch, draws: Array) -> Array:
        """V(s') `[b]`: the smaller target critic at the target policy's action with clipped noise, less the penalty;
        `draws` is standard normal, `[b, a]`."""
        next_actions = self.policy(state["actor"].target, batch["next_observations"])
        next_actions = self.noisy(next_actions, self.config.actor_noise * draws)
        return self.critic.next_value(state["critic"], batch, next_actions) - self.penalty(batch, next_actions)

    def update_critic_alone(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """A step between the actor's: the critic learns, targets stay."""
        value = self.next_value(state, batch, self.draw(key, batch))
        critic, metrics = self.critic.update(state["critic"], batch, value, follow=False)
        return {**state, "critic": critic}, metrics

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del key, knobs
        actions = self.policy(state["actor"].params, obs)[:, None]
        return actions, jnp.ones(actions.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(1)
