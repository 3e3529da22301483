"""The base of TD3+BC, ReBRAC and Diffusion-QL: a critic by TD on the policy, and a policy that maximises the critic.

What an update does first (`order`) and learning rates that actor and critic do not share are settled here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import optax

from methods.core import Array, Batch, ControlConfig, Metrics, Order, State, Switch, Weight, is_on
from methods.learner import Params, descend, optimizer
from methods.parts import PartsMethod
from methods.policy_critic import PolicyCritic


@dataclass(frozen=True)
class ActorCriticConfig(ControlConfig):
    """Settings of both learners.

    "simultaneous" order: each learns from the other as it was, and targets follow the parameters before the step (FQL's
    suite). "sequential": the actor maximises Q of the critic after its step, and targets follow the parameters after
    the step (the codes of TD3+BC, Diffusion-QL and CORL's ReBRAC).
    """

    order: Order = "simultaneous"
    actor_learning_rate: Annotated[Weight, Switch] = 0.0  # 0: as learning_rate
    critic_learning_rate: Annotated[Weight, Switch] = 0.0  # 0: as learning_rate

    @property
    def actor_rate(self) -> float:
        return self.actor_learning_rate if is_on(self.actor_learning_rate) else self.learning_rate

    @property
    def critic_rate(self) -> float:
        return self.critic_learning_rate if is_on(self.critic_learning_rate) else self.learning_rate


@dataclass(frozen=True)
class ActorCritic(PartsMethod):
    """One update of "critic" and "actor". A subclass brings both networks and losses."""

    config: ActorCriticConfig
    parts: ClassVar[tuple[str, ...]] = ("critic", "actor")
    lagging: ClassVar[bool] = False  # whether the actor's target follows the actor before its step in either order

    # what subclasses bring

    @property
    def critic(self) -> PolicyCritic:
        raise NotImplementedError

    @property
    def actor_clip_norm(self) -> float | None:
        """Largest norm of the actor's gradient."""
        return None

    @property
    def actor_tau(self) -> float:
        """Polyak rate of the actor's target."""
        return self.config.tau

    def next_value(self, state: State, batch: Batch, draws: Any) -> Array:
        """V(s') of the TD target, `[b]`."""
        raise NotImplementedError

    def actor_loss(self, params: Params, state: State, batch: Batch, draws: Any) -> tuple[Array, Metrics]:
        """The loss of the actor, a scalar, by the critic in `state`, and further metrics."""
        raise NotImplementedError

    # training

    @property
    def sequential(self) -> bool:
        return self.config.order == "sequential"

    @property
    def actor_optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.config.actor_rate, self.actor_clip_norm)

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        value = self.next_value(state, batch, draws)
        critic, metrics = self.critic.update(state["critic"], batch, value, after=self.sequential)
        seen = {**state, "critic": critic} if self.sequential else state
        (loss, actor_metrics), grads = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, seen, batch, draws
        )
        after = self.sequential and not self.lagging
        actor = descend(state["actor"], grads, self.actor_optimizer, tau=self.actor_tau, after=after)
        return {**state, "critic": critic, "actor": actor}, {**metrics, "actor/loss": loss, **actor_metrics}
