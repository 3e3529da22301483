"""QAM-F: a one-step policy that maximises Q while staying near QAM's flow.

Source: Q-learning with Adjoint Matching, arXiv 2601.14234, and its public code: FQL's actor with the fine-tuned flow as
its teacher. The flow learns as in QAM; the one-step policy bootstraps and acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from methods.actors import FieldActor
from methods.core import Array, Batch, Key, MethodConfig, Metrics, Part, State, Switch, Weight, is_on
from methods.inference import Cost
from methods.learner import Params
from methods.qam import QAM, QAMConfig, QAMDraws


@dataclass(frozen=True)
class QAMFConfig(QAMConfig):
    """QAM's settings and the weight of distillation."""

    alpha: Annotated[Weight, Switch] = 10.0  # of staying near the flow; 0: no one-step policy, plain QAM (as its code)


class QAMFDraws(NamedTuple):
    """QAM's draws, and the noise of the distilled actions `[b, a]`."""

    flow: QAMDraws
    noise: Array


@dataclass(frozen=True)
class QAMF(QAM):
    """Q-learning with adjoint matching, distilled."""

    config: QAMFConfig
    Config: ClassVar[type[MethodConfig]] = QAMFConfig
    name: ClassVar[str] = "qam_f"
    rule: ClassVar[str] = "TD on a one-step policy; adjoint matching; distillation of its flow and Q ascent"

    @property
    def actor(self) -> FieldActor:
        """mu(s, z), of one step from noise z."""
        return FieldActor.of(self.spec, self.config, self.config.activation, clip_norm=self.clip_norm)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {**super().parts, "actor": self.actor} if is_on(self.config.alpha) else super().parts

    def draw(self, key: Key, batch: Batch) -> QAMFDraws:  # type: ignore[override]
        keys = jax.random.split(key)
        return QAMFDraws(super().draw(keys[0], batch), jax.random.normal(keys[1], batch["actions"].shape))

    def policy(self, state: State, obs: Array, noise: Array) -> Array:
        """mu(s, z), clipped, `[..., a]`; without it, the flow's."""
        if not is_on(self.config.alpha):
            return super().policy(state, obs, noise)
        return jnp.clip(self.actor(state["actor"].params, obs, noise), -1.0, 1.0)

    def actor_loss(self, params: Params, state: State, obs: Array, noise: Array) -> tuple[Array, Metrics]:
        """alpha |mu(s, z) - flow(s, z)|^2 - Q(s, mu(s, z)), means over rows and dimensions, by the online critics'
        mean."""
        imitated = jax.lax.stop_gradient(self.flow(state["flow"].params, obs, noise))
        raw = self.actor(params, obs, noise)
        distill = jnp.mean((raw - imitated) ** 2)
        q_loss = -jnp.mean(self.critic.q(state["critic"].params, obs, jnp.clip(raw, -1.0, 1.0), "mean"))
        return self.config.alpha * distill + q_loss, {"actor/distill": distill, "actor/q_loss": q_loss}

    def gradients(self, state: State, batch: Batch, draws: Any) -> tuple[dict[str, Params], Metrics]:
        found, metrics = super().gradients(state, batch, draws.flow)
        if not is_on(self.config.alpha):
            return found, metrics
        (loss, more), of_actor = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, batch["observations"], draws.noise
        )
        return {**found, "actor": of_actor}, {**metrics, "actor/loss": loss, **more}

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return Cost(1) if is_on(self.config.alpha) else super().cost(knobs)
