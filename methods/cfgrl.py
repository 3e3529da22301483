"""CFGRL: a flow that knows which actions were good; act by extrapolating towards those.

Source: Diffusion Guidance Is a Controllable Policy Improvement Operator, arXiv 2505.23458, as ported in the code of QGF
(arXiv 2606.11087): IQL's critic, and one flow with a label (1: better than average, 0: any) whose two velocities are
extrapolated by a weight omega at test time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.actors import SamplerActor
from methods.behavior import imitated
from methods.core import (
    Added,
    Array,
    Batch,
    Count,
    Explore,
    Fraction,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Metrics,
    Part,
    Repeats,
    Stage,
    State,
    Test,
    Weight,
)
from methods.critic import Aggregation, CriticConfig, InSample
from methods.inference import SAMPLES, Cost, Knob
from methods.learner import Params, descend
from methods.networks import rows
from methods.samplers import FlowDraws, FlowSampler, weighted
from methods.select import first, select

OMEGA = Knob("omega", "extrapolation towards good actions", setting="test_omegas")
ANY, GOOD = 0, 1  # labels


@dataclass(frozen=True)
class CFGRLConfig(CriticConfig):
    """CFGRL's settings; the grid of omega is that of QGF's code, whose headline is the best of it."""

    expectile: Fraction = 0.9  # of the IQL critic
    iql_activation: Literal["relu", "gelu"] = "gelu"
    iql_norm: Literal["before", "after"] = "after"  # LayerNorm of the IQL critic: FQL's suite; QGF's own has it before
    value_aggregation: Annotated[Aggregation, Added] = "min"  # of the critics, in the loss of IQL's V and the advantage
    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    flow_steps: Repeats = 10  # Euler steps
    advantage_threshold: float = 0.0  # above it an action is good
    plain_weight: Weight = 0.1  # of imitation under the label that any action has
    test_omegas: Annotated[tuple[Weight, ...], Test] = (1.0, 2.0, 3.0, 5.0, 10.0, 15.0)  # omega: 0 imitates all
    test_n: Annotated[tuple[Repeats, ...], Test] = (1,)  # N: the best of so many samples
    explore_omega: Annotated[Weight, Explore] = 3.0  # omega while exploring online (ours: in the middle of its grid)
    explore_n: Annotated[Count, Explore] = 1  # N while exploring online


@dataclass(frozen=True)
class CFGRL(Method):
    """Classifier-free guidance towards good actions."""

    config: CFGRLConfig
    Config: ClassVar[type[MethodConfig]] = CFGRLConfig
    name: ClassVar[str] = "cfgrl"
    rule: ClassVar[str] = "imitation under two labels: any action, and those of positive advantage"
    inference: ClassVar[tuple[Knob, ...]] = (OMEGA, SAMPLES)

    # parts

    @property
    def in_sample(self) -> InSample:
        """IQL's critic."""
        c = self.config
        return InSample.of(self.spec, c, expectile=c.expectile, activation=c.iql_activation, norm=c.iql_norm,
                           aggregation=c.value_aggregation)  # fmt: skip

    @property
    def sampler(self) -> FlowSampler:
        """The labelled flow, laid out as in QGF's code."""
        c = self.config
        return FlowSampler(
            self.spec.action_dim, c.hidden_dims, c.sampler_activation, c.flow_steps, norm="inner", time_embedding=16,
            grid=True, labels=2, precision=c.precision,
        )  # fmt: skip

    @property
    def actor(self) -> SamplerActor:
        return SamplerActor(self.sampler, self.spec.obs_dim, self.config.learning_rate)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {**self.in_sample.parts, "actor": self.actor}

    # training

    def stages(self) -> tuple[Stage, ...]:
        own = self.stage("actor", trains=frozenset({"actor"}), reads=self.in_sample.names,
                         sample=self.policy_sample)  # fmt: skip
        return self.in_sample.stage(self.config.steps, self.config.batch_size, self.sample), own

    def online(self) -> Stage | None:
        def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
            critic_key, actor_key = jax.random.split(key)
            judged, metrics = self.in_sample.update(state, batch, critic_key)
            imitating, more = self.update(state, batch, actor_key)
            return {**judged, "actor": imitating["actor"]}, {**metrics, **more}

        return self.online_stage(update=update, rule=f"{self.in_sample.rule}; {self.rule}")

    def draw(self, key: Key, batch: Batch) -> FlowDraws:
        return self.sampler.draw(key, batch["actions"].shape[0])

    def loss(self, params: Params, state: State, batch: Batch, draws: FlowDraws) -> tuple[Array, Array]:
        """1[A > threshold] |v(1) - u|^2 + weight |v(0) - u|^2, u = a - z, means over rows and dimensions, at the same
        noise and time; and the share of good actions. A by the target critics and V."""
        obs, actions = batch["observations"], batch["actions"]
        advantage = self.in_sample.advantage(state, obs, actions, target=True)
        good = (advantage > self.config.advantage_threshold).astype(actions.dtype)
        start, time = draws
        x, whole = (1.0 - time) * start + time * actions, imitated(batch, self.config)

        def error(label: int, rows: Array | None) -> Array:
            velocity = self.sampler.velocity(params, obs, x, time, jnp.full(actions.shape[0], label))
            weights = whole if rows is None else rows[:, None] if whole is None else rows[:, None] * whole
            return weighted((velocity - (actions - start)) ** 2, weights)

        return error(GOOD, good) + self.config.plain_weight * error(ANY, None), jnp.mean(good)

    def update_parts(self, state: State, batch: Batch, draws: FlowDraws) -> tuple[State, Metrics]:
        (loss, share), grads = jax.value_and_grad(self.loss, has_aux=True)(state["actor"].params, state, batch, draws)
        actor = descend(state["actor"], grads, self.actor.optimizer)
        return {**state, "actor": actor}, {"actor/loss": loss, "actor/good": share}

    # acting

    @property
    def explorer(self) -> Method:
        return self.having(test_omegas=(self.config.explore_omega,), test_n=(max(self.config.explore_n, 1),))

    def velocity(self, state: State, obs: Array, x: Array, time: Array, omega: Array) -> Array:
        """v(0) + omega (v(1) - v(0)) `[b, n, a]` for unfinished actions `[b, n, a]` and weights `[b, 1, 1]`."""
        params, shape = state["actor"].params, x.shape[:-1]
        plain, good = (self.sampler.velocity(params, obs, x, time, jnp.full(shape, label)) for label in (ANY, GOOD))
        return plain + omega * (good - plain)

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most, omega = max(self.config.test_n), knobs["omega"][:, None, None]
        noise = self.sampler.noise(key, (rows(obs), most))
        field = lambda x, time: self.velocity(state, obs, x, time, omega)  # noqa: E731
        return self.sampler.integrate(field, noise), first(knobs["N"], most)

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The best by the smaller of the online critics."""
        values = self.in_sample.critic.q(state["critic"].params, obs, candidates, "min")
        return select(candidates, values, valid, key)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return Cost(knobs["N"] * (2 * self.sampler.passes + 1))
