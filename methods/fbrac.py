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

from methods.core import (
    Array,
    Batch,
    ControlConfig,
    Key,
    Knobs,
    MethodConfig,
    Metrics,
    Repeats,
    State,
    Weight,
)
from methods.inference import Cost
from methods.learner import Learner, Params, create, descend, optimizer
from methods.parts import PartsMethod
from methods.policy_critic import PolicyCritic
from methods.samplers import FlowDraws, FlowSampler


@dataclass(frozen=True)
class FBRACConfig(ControlConfig):
    """FBRAC's settings. Papers tune `alpha` for each environment, under other protocols (docs/methods.md), so ours is a
    start."""

    activation: Literal["relu", "gelu"] = "gelu"  # of critic and flow
    flow_steps: Repeats = 10  # Euler steps
    alpha: Weight = 10.0  # weight of flow matching: the regulariser (ours: a start)
    q_aggregation: Literal["mean", "min"] = "mean"  # of the critics in the TD target


class FBRACDraws(NamedTuple):
    """Noise of the policy at the next states and at the states, `[b, a]` each; draws of flow matching."""

    next_noise: Array
    noise: Array
    flow: FlowDraws


@dataclass(frozen=True)
class FBRAC(PartsMethod):
    """Behaviour-regularised actor-critic with a flow policy."""

    config: FBRACConfig
    Config: ClassVar[type[MethodConfig]] = FBRACConfig
    name: ClassVar[str] = "fbrac"
    parts: ClassVar[tuple[str, ...]] = ("critic", "actor")
    rule: ClassVar[str] = "TD on the flow policy; flow matching and Q ascent through the Euler steps"

    @property
    def critic(self) -> PolicyCritic:
        c = self.config
        return PolicyCritic.of(self.spec, c, activation=c.activation, q_aggregation=c.q_aggregation)

    @property
    def actor(self) -> FlowSampler:
        c = self.config
        return FlowSampler(self.spec.action_dim, c.hidden_dims, c.activation, c.flow_steps)

    def init_part(self, name: str, key: Key) -> Learner:
        if name == "critic":
            return self.critic.init(key)
        return create(self.actor.init(key, self.spec.obs_dim), optimizer(self.config.learning_rate))

    def draw(self, key: Key, batch: Batch) -> FBRACDraws:
        next_key, key, flow_key = jax.random.split(key, 3)
        rows = batch["actions"].shape[0]
        return FBRACDraws(self.actor.noise(next_key, (rows,)), self.actor.noise(key, (rows,)),
                          self.actor.draw(flow_key, rows))  # fmt: skip

    def actor_loss(self, params: Params, state: State, batch: Batch, draws: FBRACDraws) -> tuple[Array, Metrics]:
        """alpha L_flow - Q(s, ODE(s, z)), differentiated through the Euler steps; Q the mean of the critics."""
        obs = batch["observations"]
        imitation = self.actor.loss(params, obs, batch["actions"], draws.flow)
        values = self.critic.values(state["critic"].params, obs, self.actor.sample(params, obs, draws.noise))
        q_loss = -jnp.mean(values)
        return self.config.alpha * imitation + q_loss, {"actor/imitation": imitation, "actor/q_loss": q_loss}

    def update_parts(self, state: State, batch: Batch, draws: FBRACDraws) -> tuple[State, Metrics]:
        next_actions = self.actor.sample(state["actor"].params, batch["next_observations"], draws.next_noise)
        next_value = self.critic.next_value(state["critic"], batch, next_actions)
        critic, metrics = self.critic.update(state["critic"], batch, next_value)
        (loss, actor_metrics), grads = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, batch, draws
        )
        actor = descend(state["actor"], grads, optimizer(self.config.learning_rate))
        return {**state, "critic": critic, "actor": actor}, {**metrics, "actor/loss": loss, **actor_metrics}

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        actions = self.actor.sample(state["actor"].params, obs, self.actor.noise(key, (obs.shape[0],)))[:, None]
        return actions, jnp.ones(actions.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.actor.passes)
