"""FQL: a one-step policy that maximises Q while staying near the behaviour flow.

Source: Flow Q-Learning, arXiv 2502.02538, Algorithm 1 and its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actors import FieldActor
from methods.behavior import Behavior, BehaviorConfig
from methods.core import Array, Batch, Key, Knobs, Method, MethodConfig, Metrics, Part, Stage, State, Weight
from methods.critic import Critic, TDConfig
from methods.inference import Cost
from methods.learner import Params, descend
from methods.networks import rows
from methods.select import one_action


@dataclass(frozen=True)
class FQLConfig(BehaviorConfig, TDConfig):
    """FQL's settings; `alpha` per task stands in the task tables."""

    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    activation: Literal["relu", "gelu"] = "gelu"  # of critic and one-step policy
    alpha: Weight = 10.0  # weight of distillation: the regulariser
    normalize_q: bool = False  # divide the Q loss by the batch's mean |Q|


class FQLDraws(NamedTuple):
    """Noise of the policy at the next states (`[b, n, a]` where a critic draws n values) and of the distilled actions,
    both `[b, a]`."""

    next_noise: Array
    noise: Array


@dataclass(frozen=True)
class FQL(Method):
    """Flow Q-Learning."""

    config: FQLConfig
    Config: ClassVar[type[MethodConfig]] = FQLConfig
    name: ClassVar[str] = "fql"
    rule: ClassVar[str] = "TD on the one-step policy; distillation of the flow and Q ascent"

    # parts

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config)

    @property
    def critic(self) -> Critic:
        c = self.config
        return Critic.of(self.spec, c, activation=c.activation)

    @property
    def actor(self) -> FieldActor:
        """mu(s, z), of one step from noise z."""
        return FieldActor.of(self.spec, self.config, self.config.activation)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"behavior": self.behavior, "critic": self.critic, "actor": self.actor}

    # training

    def stages(self) -> tuple[Stage, ...]:
        return self.behavior.beside(self.name, self.stage("joint"), next_samples=False)

    def online(self) -> Stage | None:
        return self.behavior.online(self.online_stage())

    def draw(self, key: Key, batch: Batch) -> FQLDraws:
        keys = jax.random.split(key)
        count, dims = batch["actions"].shape
        next_noise = jax.random.normal(keys[0], (count, *self.critic.draws, dims))
        return FQLDraws(next_noise, jax.random.normal(keys[1], (count, dims)))

    def next_value(self, state: State, batch: Batch, next_noise: Array) -> Array:
        """V(s') `[b]`: the target critics at mu(s', z), clipped to the box (Eq. 5); at several where values are drawn,
        each of its own noise."""
        obs = batch["next_observations"]
        next_actions = jnp.clip(self.actor(state["actor"].params, obs, next_noise), -1.0, 1.0)
        return self.critic.drawn(state["critic"].target, batch, next_actions)

    def critic_loss(self, params: Params, state: State, batch: Batch, next_noise: Array) -> tuple[Array, Array]:
        """Mean squared TD error over ensemble and rows, and mean Q; the target acts by mu (Eq. 5)."""
        target = self.critic.target(batch, self.next_value(state, batch, next_noise))
        return self.critic.td_loss(params, batch, target)

    def actor_loss(self, params: Params, state: State, batch: Batch, noise: Array) -> tuple[Array, Metrics]:
        """alpha |mu(s, z) - flow(s, z)|^2 - Q(s, mu(s, z)), means over rows and dimensions (Eq. 8)."""
        obs = batch["observations"]
        imitated = jax.lax.stop_gradient(self.behavior.sample(state["behavior"], obs, noise))
        raw = self.actor(params, obs, noise)
        distill = jnp.mean((raw - imitated) ** 2)
        values = self.critic.q(state["critic"].params, obs, jnp.clip(raw, -1.0, 1.0), "mean")
        q_loss = -jnp.mean(values)
        if self.config.normalize_q:
            q_loss = q_loss / jax.lax.stop_gradient(jnp.mean(jnp.abs(values)))
        return self.config.alpha * distill + q_loss, {"actor/distill": distill, "actor/q_loss": q_loss}

    def update_parts(self, state: State, batch: Batch, draws: FQLDraws) -> tuple[State, Metrics]:
        critic, metrics = self.critic.update(state["critic"], batch, self.next_value(state, batch, draws.next_noise))
        (loss, actor_metrics), grads = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, batch, draws.noise
        )
        actor = descend(state["actor"], grads, self.actor.optimizer)
        return {**state, "critic": critic, "actor": actor}, {**metrics, "actor/loss": loss, **actor_metrics}

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        noise = jax.random.normal(key, (rows(obs), self.spec.action_dim))
        return one_action(jnp.clip(self.actor(state["actor"].params, obs, noise), -1.0, 1.0))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(1)
