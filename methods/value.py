"""The base of methods that propose by a behaviour sampler and judge by a critic.

VGF, best-of-N, IFQL, IDQL and QGF differ in what happens between the two: nothing, or an improvement of the proposals
by the critic's gradient. The critic is learned by TD on what the method itself would propose ("td": VGF's), or from
dataset actions alone ("iql").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.behavior import BehaviorConfig, BehaviorMethod
from methods.core import Array, Batch, Fraction, Key, Metrics, PositiveFloat, Repeats, Stage, State
from methods.critics import aggregate, particle_value, td_loss, td_target
from methods.insample import InSampleCritic
from methods.learner import Learner, Params, create, descend, global_norm, optimizer
from methods.networks import Critic, forward, per_action
from methods.select import select

_TD_SETTINGS = frozenset({"activation", "n_particles", "target_select", "q_aggregation"})
_IQL_SETTINGS = frozenset({"expectile", "iql_activation", "iql_norm"})


@dataclass(frozen=True)
class ValueConfig(BehaviorConfig):
    """Settings of proposals and critic."""

    critic: Literal["td", "iql"] = "td"  # TD on the method's own proposals, or IQL's critic
    activation: Literal["relu", "gelu"] = "relu"  # of the TD critic
    n_particles: Repeats = 5  # N: proposals a TD target sees
    q_aggregation: Literal["mean", "min"] = "mean"  # of the critics, in the TD target and in the choice at test time
    target_select: Literal["mean", "max"] = "mean"  # over the proposals' target values
    expectile: Fraction = 0.9  # of the IQL critic (FQL's suite; 0.7 on D4RL locomotion)
    iql_activation: Literal["relu", "gelu"] = "gelu"  # of the IQL critic
    iql_norm: Literal["before", "after"] = "after"  # LayerNorm of the IQL critic: FQL's suite; QGF's own has it before
    particle_select: Literal["argmax", "softmax", "uniform"] = "argmax"  # among the proposals at test time
    temperature: PositiveFloat = 1.0  # of softmax


@dataclass(frozen=True)
class ValueMethod(BehaviorMethod):
    """Proposals, a critic, and a choice."""

    config: ValueConfig
    rule: ClassVar[str] = "TD on behaviour proposals"
    critic_clip_norm: ClassVar[float | None] = None

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        return InSampleCritic.parts if self.config.critic == "iql" else ("critic",)

    @property
    def uses_behavior(self) -> bool:
        return self.config.critic == "td"

    @property
    def draws_next(self) -> bool:
        return self.config.critic == "td"

    @property
    def test_time(self) -> frozenset[str]:
        return frozenset({"particle_select", "temperature"})

    @property
    def critic(self) -> Critic:
        if self.config.critic == "iql":
            return self.in_sample.critic
        return Critic(self.config.hidden_dims, self.config.activation, norm="before")

    @cached_property
    def in_sample(self) -> InSampleCritic:
        """IQL's critic, if that is the one asked for."""
        c = self.config
        return InSampleCritic.of(self.spec, c, level=c.expectile, activation=c.iql_activation, norm=c.iql_norm)

    def init_part(self, name: str, key: Key) -> Learner:
        if self.config.critic == "iql":
            return self.in_sample.init_part(name, key)
        spec = self.spec
        params = self.critic.init(key, jnp.zeros((1, spec.obs_dim)), jnp.zeros((1, spec.action_dim)))
        return create(params, optimizer(self.config.learning_rate, self.critic_clip_norm), target=True)

    def settings(self, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
        return dict(super().settings(skip | {"critic"} | _IQL_SETTINGS))  # the TD critic's: IQL's has its own stage

    def own_stages(self) -> tuple[Stage, ...]:
        if self.config.critic == "iql":
            return (self.in_sample.stage(self.config.steps, self.config.batch_size),)
        return super().own_stages()

    def online_stage(self, **changes: Any) -> Stage:
        if self.config.critic == "iql":
            own = self.in_sample.stage(self.config.steps, self.config.batch_size)
            changes = {"update": own.update, "rule": own.rule, **changes}
        return super().online_stage(**changes)

    # what a subclass improves

    def improve(self, state: State, obs: Array, start: Array) -> Array:
        """What TD targets make of behaviour actions `start` `[b, n, a]` at observations `[b, o]`; nothing here."""
        del state, obs
        return start

    # training the TD critic

    def values(self, params: Params, obs: Array, actions: Array) -> Array:
        """Q `[members, b, n]` at observations `[b, o]`, actions `[b, n, a]`."""
        wide = per_action(obs, actions)
        return forward(self.critic, params, wide, actions)

    def draw(self, key: Key, batch: Batch) -> Array:
        return self.draw_proposals(key, batch, self.config.n_particles)

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        critic, metrics = self.update_critic(state, batch, self.next_proposals(state, batch, draws))
        return {**state, "critic": critic}, metrics

    def critic_target(self, state: State, batch: Batch, start: Array) -> Array:
        """TD target `[b]` from behaviour particles `start` `[b, n, a]` at the next observations: r + gamma mask V(s'),
        V(s') the mean of the target critic over improved particles (VGF, arXiv 2604.14265, Algorithm 1)."""
        moved = self.improve(state, batch["next_observations"], start)
        values = self.values(state["critic"].target, batch["next_observations"], moved)
        next_values = particle_value(aggregate(values, self.config.q_aggregation), self.config.target_select)
        return td_target(batch["rewards"], batch["masks"], next_values, self.config.discount)

    def update_critic(self, state: State, batch: Batch, start: Array) -> tuple[Learner, Metrics]:
        """One TD step of the critic on particles that started at `start` `[b, n, a]`."""
        learner = state["critic"]
        target = self.critic_target(state, batch, start)

        def loss_fn(params: Params) -> tuple[Array, Array]:
            values = forward(self.critic, params, batch["observations"], batch["actions"])
            return td_loss(values, target), jnp.mean(values)

        (loss, value), grads = jax.value_and_grad(loss_fn, has_aux=True)(learner.params)
        tx = optimizer(self.config.learning_rate, self.critic_clip_norm)
        metrics = {"critic/loss": loss, "critic/value": value, "critic/grad_norm": global_norm(grads)}
        return descend(learner, grads, tx, tau=self.config.tau), metrics

    # acting

    def judge(self, critic: Learner) -> Params:
        """The critic that chooses among candidates: the online one."""
        return critic.params

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The best candidate by `judge`; the ensemble as in the TD target, the smaller for IQL's."""
        how = "min" if self.config.critic == "iql" else self.config.q_aggregation
        values = aggregate(self.values(self.judge(state["critic"]), obs, candidates), how)
        rule, temperature = self.config.particle_select, self.config.temperature
        return select(candidates, values, valid, key, rule=rule, temperature=temperature)
