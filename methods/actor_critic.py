"""One update of a critic and of an actor that maximises it, in either order: TD3+BC, ReBRAC, Diffusion-QL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import optax

from methods.core import Array, Batch, Metrics, Order, State, Switch, Weight, is_on
from methods.critic import Critic, CriticConfig
from methods.learner import Params, descend


@dataclass(frozen=True)
class ActorCriticConfig(CriticConfig):
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

    @property
    def sequential(self) -> bool:
        return self.order == "sequential"


ActorLoss = Callable[[Params, State], tuple[Array, Metrics]]
"""The actor's parameters, and a state with the critic to maximise -> a scalar, and further metrics."""


def update_both(
    config: ActorCriticConfig, state: State, batch: Batch, next_value: Array, critic: Critic, actor_loss: ActorLoss,
    actor: optax.GradientTransformation, *, tau: float, lagging: bool = False,
) -> tuple[State, Metrics]:  # fmt: skip
    """One gradient step of "critic" towards V(s') `[b]` and of "actor".

    Args:
      actor: its optimiser; tau: the Polyak rate of its target.
      lagging: whether that follows the actor before its step in either order.
    """
    first = config.sequential
    learned, metrics = critic.update(state["critic"], batch, next_value, after=first)
    seen = {**state, "critic": learned} if first else state
    slope: Any = jax.value_and_grad(actor_loss, has_aux=True)
    (loss, actor_metrics), grads = slope(state["actor"].params, seen)
    improved = descend(state["actor"], grads, actor, tau=tau, after=first and not lagging)
    return {**state, "critic": learned, "actor": improved}, {**metrics, "actor/loss": loss, **actor_metrics}
