"""Robust-Q: guidance by a critic that has seen unfinished actions.

QGF's paper (arXiv 2606.11087) compares with a method of this name, whose rule could not be read here. This one is the
usual rule of its kind, recalled from Diffuser (arXiv 2205.09991), whose guide learns from noised plans. Once IQL's
critic Q is finished, Q~(s, a_t, t) is regressed on Q(s, a), a_t = (1 - t) z + t a, a a dataset action and z noise.
So Q~ comes to E[Q(s, a) | a_t], and to Q itself at t = 1. Sampling follows the gradient of Q~ at the unfinished action,
where `qgf --set qgf.gradient=noisy` asks a critic that never saw one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.behavior import Behavior
from methods.best_of_n import BestOfN
from methods.core import Array, Batch, Key, Knobs, Method, MethodConfig, Metrics, Part, Stage, State, is_on
from methods.critic import Critic, guide
from methods.inference import SAMPLES, Cost, Knob
from methods.learner import Learner, Params, descend, global_norm
from methods.losses import aggregate, counted
from methods.networks import rows, sinusoids
from methods.qgf import WEIGHT, GuidedConfig, flow_of
from methods.samplers import FlowDraws
from methods.select import first

_SEEN = (
    "batch_size",
    "learning_rate",
    "hidden_dims",
    "critics",
    "precision",
    "iql_activation",
    "iql_norm",
    "flow_steps",
)
"""Settings that the regression depends on, beside Q."""
TIME_WIDTH = 16  # sinusoids of the flow's time, which stand behind the action


@dataclass(frozen=True)
class RobustQConfig(GuidedConfig):
    """QGF's settings but for where Q is asked: here that is the method."""

    critic: Literal["iql"] = "iql"  # a finished one


@dataclass(frozen=True)
class RobustQ(BestOfN):
    """Guidance by values of unfinished actions."""

    config: RobustQConfig
    Config: ClassVar[type[MethodConfig]] = RobustQConfig
    name: ClassVar[str] = "robust_q"
    rule: ClassVar[str] = "regression of Q on unfinished actions"
    inference: ClassVar[tuple[Knob, ...]] = (WEIGHT, SAMPLES)

    # parts

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config, flow_of(self.spec, self.config))

    @property
    def noised(self) -> Critic:
        """Q~: as many networks as Q has, each regressed on its own of those."""
        c = self.config
        return Critic.plain(self.spec, c, activation=c.iql_activation, norm=c.iql_norm, averaged=False,
                            action_dim=self.spec.action_dim + TIME_WIDTH)  # fmt: skip

    @property
    def parts(self) -> Mapping[str, Part]:
        return {**super().parts, "noised": self.noised}

    # training

    def stages(self) -> tuple[Stage, ...]:
        own = self.stage("noised", trains=frozenset({"noised"}), reads=frozenset({"critic"}),
                         config={name: getattr(self.config, name) for name in _SEEN})  # fmt: skip
        return *super().stages(), own

    def online(self) -> Stage | None:
        in_sample = self._in_sample_stage()

        def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
            critic_key, own_key = jax.random.split(key)
            judged, metrics = in_sample.update(state, batch, critic_key)
            own, more = self.update(state, batch, own_key)
            return {**judged, "noised": own["noised"]}, {**metrics, **more}

        return self.behavior.online(self.online_stage(update=update, rule=f"{in_sample.rule}; {self.rule}"))

    def draw(self, key: Key, batch: Batch) -> FlowDraws:  # type: ignore[override]
        """Noise and times as the flow has them in training."""
        return flow_of(self.spec, self.config).draw(key, batch["actions"].shape[0])

    def values(self, params: Params, obs: Array, x: Array, time: Array) -> Array:
        """Q~ `[K, ...]` of unfinished actions `[..., a]` at flow times `[..., 1]` or a scalar, at observations as in
        `Critic.q_values`."""
        embedded = sinusoids(1e4 * jnp.broadcast_to(time, (*x.shape[:-1], 1)), TIME_WIDTH)
        return self.noised.q_values(params, obs, jnp.concatenate([x, embedded], axis=-1))

    def loss(self, params: Params, state: State, batch: Batch, draws: FlowDraws) -> Array:
        """(Q~_k(s, a_t, t) - Q_k(s, a))^2, its mean over rows and sum over the ensemble, a scalar; Q the target
        critics."""
        obs, actions, (start, time) = batch["observations"], batch["actions"], draws
        taught = self.critic.q_values(guide(self.critic, state["critic"]), obs, actions)
        errors = (self.values(params, obs, (1.0 - time) * start + time * actions, time) - taught) ** 2
        return jnp.mean(jnp.sum(counted(batch) * errors, axis=0))

    def update_parts(self, state: State, batch: Batch, draws: FlowDraws) -> tuple[State, Metrics]:
        loss, grads = jax.value_and_grad(self.loss)(state["noised"].params, state, batch, draws)
        noised = descend(state["noised"], grads, self.noised.optimizer)
        return {**state, "noised": noised}, {"noised/loss": loss, "noised/grad_norm": global_norm(grads)}

    # acting

    @property
    def explorer(self) -> Method:
        return self.having(**self.config.explored)

    def action_grad(self, state: State, obs: Array, x: Array, time: Array) -> Array:
        """grad_x of the smaller Q~ (or their mean: `guidance_aggregation`) at unfinished actions `[b, n, a]`."""
        params, how = state["noised"].params, self.config.guidance_aggregation
        return jax.grad(lambda x: jnp.sum(aggregate(self.values(params, obs, x, time), how)))(x)

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most, flow, weight = max(self.config.test_n), flow_of(self.spec, self.config), knobs["w"][:, None, None]
        if not any(map(is_on, self.config.test_weights)):  # plain samples
            return super().candidates(state, obs, key, knobs)

        def guided(x: Array, time: Array) -> Array:
            plain = flow.velocity(state["behavior"].params, obs, x, time)
            return plain + weight * self.action_grad(state, obs, x, time)

        return flow.integrate(guided, flow.noise(key, (rows(obs), most))), first(knobs["N"], most)

    def judge(self, critic: Learner) -> Params:
        """The target critic, as in QGF."""
        return guide(self.critic, critic)

    @property
    def judging(self) -> str:
        return self.config.guidance_aggregation

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        steps, guided = flow_of(self.spec, self.config).passes, bool(knobs["w"])
        return Cost(knobs["N"] * (steps * (1 + guided) + 1), gradients=knobs["N"] * steps * guided)
