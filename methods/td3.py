"""The base of deterministic actor-critics with smoothed targets and delayed policy updates: TD3+BC and ReBRAC.

Source: TD3, arXiv 1802.09477.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.actor_critic import ActorCriticConfig, update_both
from methods.actors import MeanActor
from methods.core import (
    Added,
    Array,
    Batch,
    Explore,
    Key,
    Knobs,
    Method,
    Metrics,
    Part,
    PositiveInt,
    Stage,
    State,
    Weight,
)
from methods.critic import Aggregation, Critic, TDConfig
from methods.inference import Cost
from methods.learner import Params
from methods.select import one_action


@dataclass(frozen=True)
class TD3Config(ActorCriticConfig, TDConfig):
    """Settings of TD3."""

    activation: Literal["relu", "gelu"] = "gelu"  # of critic and actor
    critic_norm: Literal["none", "before", "after"] = "after"  # LayerNorm of the critic
    actor_noise: Weight = 0.2  # std of the noise on target actions
    actor_noise_clip: Weight = 0.5
    actor_period: PositiveInt = 2  # critic steps to one of the actor and of the targets
    q_aggregation: Annotated[Aggregation, Added] = "min"  # in TD targets and ReBRAC's actor loss
    explore_noise: Annotated[Weight, Explore] = 0.2  # std of the noise, clipped as that on target actions


@dataclass(frozen=True)
class TD3(Method):
    """A tanh policy, its target, and twin critics. A subclass brings the actor's loss, and a penalty in the target."""

    config: TD3Config
    greedy: ClassVar[bool] = True
    lagging: ClassVar[bool] = False  # whether the actor's target follows the actor before its step in either order

    # parts

    @property
    def critic(self) -> Critic:
        c = self.config
        return Critic.of(self.spec, c, learning_rate=c.critic_rate, activation=c.activation, norm=c.critic_norm)

    @property
    def actor(self) -> MeanActor:
        c = self.config
        return MeanActor.of(self.spec, c, c.activation, learning_rate=c.actor_rate, target=True)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"critic": self.critic, "actor": self.actor}

    def stages(self) -> tuple[Stage, ...]:
        return (self.stage("joint", **self._delayed),)

    def online(self) -> Stage | None:
        return self.online_stage(**self._delayed)

    @property
    def _delayed(self) -> Mapping[str, Any]:
        return {"period": self.config.actor_period, "between": self.update_critic_alone}

    # what subclasses bring

    def penalty(self, batch: Batch, next_actions: Array) -> Array | float:
        """What is taken off V(s'), `[b]`; nothing here."""
        del batch, next_actions
        return 0.0

    def actor_loss(self, params: Params, state: State, batch: Batch) -> tuple[Array, Metrics]:
        """The loss of the actor, a scalar, by the critic in `state`, and further metrics."""
        raise NotImplementedError

    # training

    def policy(self, params: Params, obs: Array) -> Array:
        """pi(s) `[..., a]` within the box."""
        return jnp.tanh(self.actor(params, obs))

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
        obs = batch["next_observations"]
        actions = self.noisy(self.policy(state["actor"].target, obs), self.config.actor_noise * draws)
        return self.critic.q(state["critic"].target, obs, actions) - self.penalty(batch, actions)

    def update_parts(self, state: State, batch: Batch, draws: Array) -> tuple[State, Metrics]:
        def loss(params: Params, seen: State) -> tuple[Array, Metrics]:
            return self.actor_loss(params, seen, batch)

        value = self.next_value(state, batch, draws)
        return update_both(self.config, state, batch, value, self.critic, loss, self.actor.optimizer,
                           tau=self.config.tau, lagging=self.lagging)  # fmt: skip

    def update_critic_alone(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """A step between the actor's: the critic learns, targets stay."""
        value = self.next_value(state, batch, self.draw(key, batch))
        critic, metrics = self.critic.update(state["critic"], batch, value, follow=False)
        return {**state, "critic": critic}, metrics

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del key, knobs
        return one_action(self.policy(state["actor"].params, obs))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(1)
