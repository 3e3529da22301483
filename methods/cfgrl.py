"""CFGRL: a flow that knows which actions were good; act by extrapolating towards those.

Source: Diffusion Guidance Is a Controllable Policy Improvement Operator, arXiv 2505.23458, as ported in the code of QGF
(arXiv 2606.11087): IQL's critic, and one flow with a label (1: better than average, 0: any) whose two velocities are
extrapolated by a weight omega at test time. In tasks of goals `condition=goal` is the paper's other form, without a
critic: the label says whether the flow sees its goal, which training hides from it now and then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actors import SamplerActor
from methods.behavior import imitated
from methods.core import (
    Added,
    Array,
    BadInput,
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
    condition: Annotated[Literal["advantage", "goal"], Added] = "advantage"  # what the second label says: a better
    # action than average, or that the goal is seen
    goal_drop: Annotated[Fraction, Added] = 0.1  # share of rows whose goal is hidden
    test_omegas: Annotated[tuple[Weight, ...], Test] = (1.0, 2.0, 3.0, 5.0, 10.0, 15.0)  # omega: 0 imitates all
    test_n: Annotated[tuple[Repeats, ...], Test] = (1,)  # N: the best of so many samples
    explore_omega: Annotated[Weight, Explore] = 3.0  # omega while exploring online (ours: in the middle of its grid)
    explore_n: Annotated[Count, Explore] = 1  # N while exploring online

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        super().__post_init__()
        if self.condition == "goal" and self.test_n != (1,):
            raise BadInput(f"cfgrl.test_n={','.join(map(str, self.test_n))}: with cfgrl.condition=goal there is no "
                           "critic to choose by; it takes 1")  # fmt: skip


class GoalDraws(NamedTuple):
    """Those of flow matching, and the rows whose goal is hidden, `[b]` bool."""

    flow: FlowDraws
    hidden: Array


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
        return {"actor": self.actor} if self.by_goal else {**self.in_sample.parts, "actor": self.actor}

    @property
    def by_goal(self) -> bool:
        return self.config.condition == "goal"

    # training

    def idle(self) -> frozenset[str]:
        own = {"expectile", "iql_activation", "iql_norm", "value_aggregation", "advantage_threshold", "plain_weight"}
        return frozenset(own | {"critics", "tau"} if self.by_goal else {"goal_drop"})

    def stages(self) -> tuple[Stage, ...]:
        """Raises: BadInput: the label is the goal, and the task has none."""
        if self.by_goal:
            if self.spec.goals is None:
                raise BadInput("cfgrl.condition=goal: the task has no goals; valid: advantage")
            return (self.stage("actor", sample=self.policy_sample, rule="imitation with and without the goal"),)
        own = self.stage("actor", trains=frozenset({"actor"}), reads=self.in_sample.names,
                         sample=self.policy_sample)  # fmt: skip
        return self.in_sample.stage(self.config.steps, self.config.batch_size, self.sample), own

    def online(self) -> Stage | None:
        if self.by_goal:
            return None

        def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
            critic_key, actor_key = jax.random.split(key)
            judged, metrics = self.in_sample.update(state, batch, critic_key)
            imitating, more = self.update(state, batch, actor_key)
            return {**judged, "actor": imitating["actor"]}, {**metrics, **more}

        return self.online_stage(update=update, rule=f"{self.in_sample.rule}; {self.rule}")

    def draw(self, key: Key, batch: Batch) -> FlowDraws | GoalDraws:
        count = batch["actions"].shape[0]
        if not self.by_goal:
            return self.sampler.draw(key, count)
        flow_key, hidden_key = jax.random.split(key)
        return GoalDraws(self.sampler.draw(flow_key, count),
                         jax.random.bernoulli(hidden_key, self.config.goal_drop, (count,)))  # fmt: skip

    def without_goal(self, obs: Array) -> Array:
        """Observations `[..., o]` whose goal, their first half, is zero."""
        return jnp.asarray(obs).at[..., : self.spec.obs_dim // 2].set(0.0)

    def goal_loss(self, params: Params, batch: Batch, draws: GoalDraws) -> tuple[Array, Array]:
        """|v(s, g, 1) - (a - z)|^2, or |v(s, 0, 0) - (a - z)|^2 where the goal is hidden, mean over rows and
        dimensions; and the share of rows that see it."""
        obs, hidden = batch["observations"], draws.hidden
        seen = jnp.where(hidden[:, None], self.without_goal(obs), obs)
        loss = self.sampler.loss(params, seen, batch["actions"], draws.flow, imitated(batch, self.config),
                                 jnp.where(hidden, ANY, GOOD))  # fmt: skip
        return loss, 1.0 - jnp.mean(hidden)

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

    def update_parts(self, state: State, batch: Batch, draws: FlowDraws | GoalDraws) -> tuple[State, Metrics]:
        def loss_of(params: Params) -> tuple[Array, Array]:
            if isinstance(draws, GoalDraws):
                return self.goal_loss(params, batch, draws)
            return self.loss(params, state, batch, draws)

        (loss, share), grads = jax.value_and_grad(loss_of, has_aux=True)(state["actor"].params)
        actor = descend(state["actor"], grads, self.actor.optimizer)
        return {**state, "actor": actor}, {"actor/loss": loss, "actor/good": share}

    # acting

    @property
    def explorer(self) -> Method:
        return self.having(test_omegas=(self.config.explore_omega,), test_n=(max(self.config.explore_n, 1),))

    def velocity(self, state: State, obs: Array, x: Array, time: Array, omega: Array) -> Array:
        """v(0) + omega (v(1) - v(0)) `[b, n, a]` for unfinished actions `[b, n, a]` and weights `[b, 1, 1]`; v(0)
        without the goal, where that is the condition."""
        params, shape = state["actor"].params, x.shape[:-1]
        seen = {ANY: self.without_goal(obs) if self.by_goal else obs, GOOD: obs}
        plain, good = (self.sampler.velocity(params, seen[label], x, time, jnp.full(shape, label)) for label in seen)
        return plain + omega * (good - plain)

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most, omega = max(self.config.test_n), knobs["omega"][:, None, None]
        noise = self.sampler.noise(key, (rows(obs), most))
        field = lambda x, time: self.velocity(state, obs, x, time, omega)  # noqa: E731
        return self.sampler.integrate(field, noise), first(knobs["N"], most)

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The best by the smaller of the online critics; the one there is, without a critic."""
        if self.by_goal:
            return candidates[:, 0]
        values = self.in_sample.critic.q(state["critic"].params, obs, candidates, "min")
        return select(candidates, values, valid, key)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return Cost(knobs["N"] * (2 * self.sampler.passes + (not self.by_goal)))
