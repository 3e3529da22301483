"""ReBRAC: TD3 whose actor and critic both stay near the data.

Source: Revisiting the Minimalist Approach, arXiv 2305.09836; settings of FQL's suite (arXiv 2502.02538). Its own code
and CORL's go by `order=sequential`, which the table of D4RL sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from methods.behavior import imitated
from methods.core import Array, Batch, MethodConfig, Metrics, State, Weight
from methods.learner import Params
from methods.td3 import TD3, TD3Config


@dataclass(frozen=True)
class ReBRACConfig(TD3Config):
    """ReBRAC's settings; both coefficients per task stand in the task tables."""

    alpha_actor: Weight = 0.01  # a1: weight of |pi(s) - a|^2 in the actor's loss
    alpha_critic: Weight = 0.01  # a2: weight of |a~' - a'|^2 in the TD target


@dataclass(frozen=True)
class ReBRAC(TD3):
    """Behaviour-regularised actor-critic, revisited."""

    config: ReBRACConfig
    Config: ClassVar[type[MethodConfig]] = ReBRACConfig
    name: ClassVar[str] = "rebrac"
    rule: ClassVar[str] = "TD3, squared distances to the data in actor and critic"
    lagging: ClassVar[bool] = True  # as in its own code, where the critic's target does not

    @property
    def fields(self) -> frozenset[str]:
        return super().fields | {"next_actions", "terminals"}

    def penalty(self, batch: Batch, next_actions: Array) -> Array:
        """a2 |a~' - a'|^2 `[b]`, summed over dimensions, a' the same episode's next action; nothing at an episode's
        end, where there is none."""
        distance = jnp.sum((next_actions - batch["next_actions"]) ** 2, axis=-1)
        return self.config.alpha_critic * jnp.where(batch["terminals"] > 0.0, 0.0, distance)

    def actor_loss(self, params: Params, state: State, batch: Batch) -> tuple[Array, Metrics]:
        """-min Q / mean |min Q| + a1 |pi(s) - a|^2, summed over dimensions, mean over rows."""
        actions, weights = self.policy(params, batch["observations"]), imitated(batch, self.config)
        q = self.critic.q(state["critic"].params, batch["observations"], actions)
        scale = jax.lax.stop_gradient(1.0 / jnp.mean(jnp.abs(q)))
        squares = (actions - batch["actions"]) ** 2
        distance = jnp.mean(jnp.sum(squares if weights is None else weights * squares, axis=-1))
        q_loss = -scale * jnp.mean(q)
        return q_loss + self.config.alpha_actor * distance, {"actor/distance": distance, "actor/q_loss": q_loss}
