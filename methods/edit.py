"""The edit policy: a small learned change of another policy's action, with SAC's entropy bonus.

Source: EXPO, arXiv 2507.07986, as in the code of QAM (arXiv 2601.14234): action = clip(b + scale e), e = tanh of a
Gaussian that sees the observation and b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from methods.actors import SquashedActor, Temperature
from methods.core import Array, ControlConfig, Metrics, State, TaskSpec
from methods.critic import Critic
from methods.learner import Params


@dataclass(frozen=True)
class Edit:
    """The parts "edit" and "temperature"."""

    actor: SquashedActor
    temperature: Temperature
    scale: float
    """Of the largest change, in units of the action box's half width."""
    names: ClassVar[frozenset[str]] = frozenset({"edit", "temperature"})

    @classmethod
    def of(cls, spec: TaskSpec, config: ControlConfig, scale: float, clip_norm: float | None = None) -> Edit:
        """With the settings that every method has."""
        actor = SquashedActor.of(spec, config, "gelu", edits=True, clip_norm=clip_norm)
        return cls(actor, Temperature(spec.action_dim, config.learning_rate, clip_norm), scale)

    @property
    def parts(self) -> dict[str, Any]:
        return {"edit": self.actor, "temperature": self.temperature}

    def __call__(self, params: Params, obs: Array, start: Array, noise: Array) -> tuple[Array, Array]:
        """Edited actions `[..., a]`, clipped, of actions `start` `[..., a]`, one for each noise `[..., a]`; and log pi
        of the edits `[...]`, as they are before `scale`."""
        edits, log_prob = self.actor(params, obs, noise, start)
        return jnp.clip(start + self.scale * edits, -1.0, 1.0), log_prob

    def loss(self, params: Params, state: State, critic: Critic, obs: Array, start: Array, noise: Array) -> Any:
        """-Q(s, edited) + alpha log pi, mean over rows, by the online critics' mean; and log pi `[b]`."""
        actions, log_prob = self(params, obs, start, noise)
        alpha = jax.lax.stop_gradient(self.temperature(state["temperature"].params))
        values = critic.q(state["critic"].params, obs, actions, "mean")
        return alpha * jnp.mean(log_prob) - jnp.mean(values), log_prob

    def gradients(
        self, state: State, critic: Critic, obs: Array, start: Array, noise: Array
    ) -> tuple[dict[str, Params], Metrics]:
        """Of the edit's and the temperature's losses, at actions `start` `[b, a]`, which are constant."""
        start = jax.lax.stop_gradient(start)
        (loss, log_prob), of_edit = jax.value_and_grad(self.loss, has_aux=True)(
            state["edit"].params, state, critic, obs, start, noise
        )
        own, of_alpha = jax.value_and_grad(self.temperature.loss)(state["temperature"].params, log_prob)
        metrics = {"edit/loss": loss, "edit/entropy": -jnp.mean(log_prob), "temperature/loss": own}
        metrics["temperature/alpha"] = self.temperature(state["temperature"].params)
        return {"edit": of_edit, "temperature": of_alpha}, metrics
