"""QSM: a diffusion policy whose score is matched to the value gradient.

Source: Q-Score Matching, arXiv 2312.11752, with a term of imitation, as in the code of QAM (arXiv 2601.14234): the
predicted noise is regressed on -grad_a Q / temperature at the noisy action, and on the noise of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actors import DenoisingActor
from methods.behavior import imitated
from methods.core import Array, Batch, Key, Knobs, Method, MethodConfig, Metrics, Part, Repeats, State, Weight
from methods.critic import Critic, TDConfig, guide
from methods.inference import Cost
from methods.learner import CLIP_NORM, Params, clipped_together, descend, global_norm
from methods.networks import rows
from methods.select import one_action


@dataclass(frozen=True)
class QSMConfig(TDConfig):
    """QSM's settings; `alpha` and `inverse_temperature` per domain stand in the task tables of QAM's protocol."""

    activation: Literal["relu", "gelu"] = "gelu"  # of the critic
    diffusion_steps: Repeats = 10  # T
    alpha: Weight = 1.0  # of imitation
    inverse_temperature: Weight = 1.0  # of the value gradient
    clip_samples: Literal["before", "after", "none"] = "after"  # clean actions within a step, or each step's result
    clip: Literal["apart", "together"] = "apart"  # each network's gradient to norm 1, or that of all of them (its code)


class QSMDraws(NamedTuple):
    """What samples at next observations start from `[b, T, a]`; the noise `[b, a]` and steps `[b, 1]`, 1, ..., T, of
    noisy actions."""

    next_noise: Array
    eps: Array
    step: Array


@dataclass(frozen=True)
class QSM(Method):
    """Q-score matching."""

    config: QSMConfig
    Config: ClassVar[type[MethodConfig]] = QSMConfig
    name: ClassVar[str] = "qsm"
    rule: ClassVar[str] = "TD on a diffusion policy; its noise matched to the data's and to the value gradient"

    # parts

    @property
    def clip_norm(self) -> float | None:
        """Of each network's own gradient."""
        return CLIP_NORM if self.config.clip == "apart" else None

    @property
    def critic(self) -> Critic:
        return Critic.of(self.spec, self.config, activation=self.config.activation, clip_norm=self.clip_norm)

    @property
    def actor(self) -> DenoisingActor:
        c = self.config
        return DenoisingActor.of(self.spec, c, "mish", steps=c.diffusion_steps, clipped=c.clip_samples,
                                 clip_norm=self.clip_norm)  # fmt: skip

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"critic": self.critic, "actor": self.actor}

    # training

    def draw(self, key: Key, batch: Batch) -> QSMDraws:
        next_key, eps_key, step_key = jax.random.split(key, 3)
        count, dims = batch["actions"].shape
        step = jax.random.randint(step_key, (count, 1), 1, self.config.diffusion_steps + 1)
        return QSMDraws(self.actor.noise(next_key, (count,)), jax.random.normal(eps_key, (count, dims)), step)

    def next_value(self, state: State, batch: Batch, noise: Array) -> Array:
        """V(s') `[b]`: the target critics at the policy's sample."""
        obs = batch["next_observations"]
        return self.critic.q(state["critic"].target, obs, self.actor(state["actor"].params, obs, noise))

    def guided(self, predicted: Array, action_grad: Array, level: Array) -> Array:
        """The term `[b, a]` of predicted noise `[b, a]` that the value gradient `[b, a]` at the noisy action has a say
        in; `level` `[b, 1]`: sqrt(1 - abar), its noise."""
        del level
        return (predicted + self.config.inverse_temperature * action_grad) ** 2

    def actor_loss(self, params: Params, state: State, batch: Batch, draws: QSMDraws) -> tuple[Array, Metrics]:
        """alpha |eps - eps_hat|^2 + `guided`, means over rows and dimensions, at a_t = sqrt(abar) a + sqrt(1 - abar)
        eps; the gradient of the target critics' mean, constant."""
        obs, signal = batch["observations"], jnp.asarray(self.actor.signal)[draws.step]
        level = jnp.sqrt(1.0 - signal)
        noisy = jnp.sqrt(signal) * batch["actions"] + level * draws.eps
        action_grad = self.critic.action_grad(guide(self.critic, state["critic"]), obs, noisy)
        predicted = self.actor.predict(params, obs, noisy, draws.step)
        weights = imitated(batch, self.config)
        terms = self.config.alpha * (draws.eps - predicted) ** 2, self.guided(predicted, action_grad, level)
        imitation, guidance = (jnp.mean(one if weights is None else weights * one) for one in terms)
        return imitation + guidance, {"actor/imitation": imitation, "actor/guidance": guidance}

    def update_parts(self, state: State, batch: Batch, draws: QSMDraws) -> tuple[State, Metrics]:
        target = self.critic.target(batch, self.next_value(state, batch, draws.next_noise))
        (td, value), of_critic = jax.value_and_grad(self.critic.td_loss, has_aux=True)(
            state["critic"].params, batch, target
        )
        (loss, metrics), of_actor = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, batch, draws
        )
        grads: dict[str, Params] = {"critic": of_critic, "actor": of_actor}
        metrics |= {"critic/loss": td, "critic/value": value, "critic/grad_norm": global_norm(of_critic)}
        if self.config.clip == "together":
            grads = clipped_together(grads, CLIP_NORM)
        parts: Mapping[str, Any] = self.parts
        new = {name: descend(state[name], grads[name], parts[name].optimizer, tau=self.config.tau) for name in grads}
        return {**state, **new}, {**metrics, "actor/loss": loss}

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        return one_action(self.actor(state["actor"].params, obs, self.actor.noise(key, (rows(obs),))))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.config.diffusion_steps)
