"""FBRAC: a flow policy that maximises Q by back-propagation through its own Euler steps.

Source: the baseline of that name in FQL (arXiv 2502.02538) and VGF (arXiv 2604.14265): behaviour-regularised
actor-critic whose regulariser is the flow-matching loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actors import SamplerActor
from methods.behavior import imitated
from methods.core import (
    Array,
    Batch,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Metrics,
    Part,
    Repeats,
    State,
    Weight,
)
from methods.critic import Critic, TDConfig
from methods.inference import Cost
from methods.learner import Params, descend
from methods.networks import rows
from methods.samplers import FlowDraws, FlowSampler
from methods.select import one_action


@dataclass(frozen=True)
class FBRACConfig(TDConfig):
    """FBRAC's settings. Papers tune `alpha` for each environment, under other protocols (docs/methods.md), so ours is a
    start."""

    activation: Literal["relu", "gelu"] = "gelu"  # of critic and flow
    flow_steps: Repeats = 10  # Euler steps
    alpha: Weight = 10.0  # weight of flow matching: the regulariser (ours: a start)


class FBRACDraws(NamedTuple):
    """Noise of the policy at the next states and at the states, `[b, a]` each; draws of flow matching."""

    next_noise: Array
    noise: Array
    flow: FlowDraws


@dataclass(frozen=True)
class FBRAC(Method):
    """Behaviour-regularised actor-critic with a flow policy."""

    config: FBRACConfig
    Config: ClassVar[type[MethodConfig]] = FBRACConfig
    name: ClassVar[str] = "fbrac"
    rule: ClassVar[str] = "TD on the flow policy; flow matching and Q ascent through the Euler steps"

    @property
    def critic(self) -> Critic:
        c = self.config
        return Critic.of(self.spec, c, activation=c.activation)

    @property
    def actor(self) -> SamplerActor:
        """The flow policy."""
        c = self.config
        sampler = FlowSampler(self.spec.action_dim, c.hidden_dims, c.activation, c.flow_steps, precision=c.precision)
        return SamplerActor(sampler, self.spec.obs_dim, c.learning_rate)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"critic": self.critic, "actor": self.actor}

    def draw(self, key: Key, batch: Batch) -> FBRACDraws:
        next_key, key, flow_key = jax.random.split(key, 3)
        size, sampler = batch["actions"].shape[0], self.actor.sampler
        return FBRACDraws(sampler.noise(next_key, (size,)), sampler.noise(key, (size,)), sampler.draw(flow_key, size))

    def actor_loss(self, params: Params, state: State, batch: Batch, draws: FBRACDraws) -> tuple[Array, Metrics]:
        """alpha L_flow - Q(s, ODE(s, z)), differentiated through the Euler steps; Q the mean of the critics."""
        obs = batch["observations"]
        weights = imitated(batch, self.config)
        imitation = self.actor.sampler.loss(params, obs, batch["actions"], draws.flow, weights)
        q_loss = -jnp.mean(self.critic.q_values(state["critic"].params, obs, self.actor(params, obs, draws.noise)))
        return self.config.alpha * imitation + q_loss, {"actor/imitation": imitation, "actor/q_loss": q_loss}

    def update_parts(self, state: State, batch: Batch, draws: FBRACDraws) -> tuple[State, Metrics]:
        obs = batch["next_observations"]
        next_actions = self.actor(state["actor"].params, obs, draws.next_noise)
        next_value = self.critic.q(state["critic"].target, obs, next_actions)
        critic, metrics = self.critic.update(state["critic"], batch, next_value)
        (loss, actor_metrics), grads = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, batch, draws
        )
        actor = descend(state["actor"], grads, self.actor.optimizer)
        return {**state, "critic": critic, "actor": actor}, {**metrics, "actor/loss": loss, **actor_metrics}

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        return one_action(self.actor(state["actor"].params, obs, self.actor.sampler.noise(key, (rows(obs),))))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.actor.sampler.passes)
