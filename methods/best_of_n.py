"""Best-of-N: draw N actions from the behaviour policy, take the one the critic likes best.

With `critic=td` the critic is trained by TD on behaviour samples at the next state, so this is VGF without the flow:
the same critic, L = 0. `target_select=mean` evaluates the behaviour policy (VGF's rule at L_train = 0); `max` evaluates
best-of-n itself (EMaQ, arXiv 2007.11091, Eq. 6); `online` does so without the target critic's own optimism (Q-chunking,
arXiv 2507.07969). With `critic=iql` it is IQL's. N is a test-time knob.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp

from methods.behavior import Behavior, BehaviorConfig
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
    PositiveFloat,
    Repeats,
    Stage,
    State,
    Test,
)
from methods.critic import Aggregation, Critic, InSample, TDConfig
from methods.inference import SAMPLES, Cost, Knob
from methods.learner import Learner, Params
from methods.losses import particle_value
from methods.select import first, select


@dataclass(frozen=True)
class ProposalConfig(BehaviorConfig, TDConfig):
    """Settings of proposals and the critic that chooses among them."""

    critic: Literal["td", "iql", "floq"] = "td"  # type: ignore[assignment]  # TD on the method's own proposals, IQL's
    # critic, or TD with a flow of values
    activation: Literal["relu", "gelu"] = "relu"  # of the TD critic
    n_particles: Repeats = 5  # N: proposals a TD target sees
    q_aggregation: Aggregation = "mean"  # of the critics, in the TD target and in the choice at test time
    target_select: Literal["mean", "max", "online"] = "mean"  # of their target values: the mean, the largest,
    # or that of the proposal which the online critic prefers (Q-chunking)
    expectile: Fraction = 0.9  # of the IQL critic (FQL's suite; 0.7 on D4RL locomotion)
    iql_activation: Literal["relu", "gelu"] = "gelu"  # of the IQL critic
    value_aggregation: Annotated[Aggregation, Added] = "min"  # of the critics, in the loss of IQL's V
    iql_norm: Literal["before", "after"] = "after"  # LayerNorm of the IQL critic: FQL's suite; QGF's own has it before
    particle_select: Annotated[Literal["argmax", "softmax", "uniform"], Test] = "argmax"  # among the proposals
    temperature: Annotated[PositiveFloat, Test] = 1.0  # of softmax


@dataclass(frozen=True)
class BestOfNConfig(ProposalConfig):
    """`n_particles` is the number of samples in TD targets, `test_n` that at test time."""

    test_n: Annotated[tuple[Repeats, ...], Test] = (1, 5, 20, 50)  # N: each is evaluated, none needs retraining
    explore_n: Annotated[Count, Explore] = 0  # N while exploring online; 0: the largest of `test_n`


@dataclass(frozen=True)
class BestOfN(Method):
    """argmax over N behaviour samples.

    VGF, QGF, IFQL and IDQL are built on it: they improve the samples by the critic's gradient, in TD targets
    (`next_actions`), at test time (`candidates`) or both, or bring another sampler or critic.
    """

    config: BestOfNConfig
    Config: ClassVar[type[MethodConfig]] = BestOfNConfig
    name: ClassVar[str] = "best_of_n"
    rule: ClassVar[str] = "TD on behaviour proposals"
    inference: ClassVar[tuple[Knob, ...]] = (SAMPLES,)

    # parts

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config)

    @property
    def critic(self) -> Critic:
        c = self.config
        if c.critic == "iql":
            return self.in_sample.critic
        return Critic.of(self.spec, c, activation=c.activation, norm="before", loss="sum")

    @property
    def in_sample(self) -> InSample:
        """IQL's critic, if that is the one asked for."""
        c = self.config
        return InSample.of(self.spec, c, expectile=c.expectile, activation=c.iql_activation, norm=c.iql_norm,
                           aggregation=c.value_aggregation)  # fmt: skip

    @property
    def parts(self) -> Mapping[str, Part]:
        own = self.in_sample.parts if self.config.critic == "iql" else {"critic": self.critic}
        return {"behavior": self.behavior, **own}

    # training

    def stages(self) -> tuple[Stage, ...]:
        if self.config.critic != "iql":
            return self.behavior.beside(self.name, self.stage("joint"))
        return *self.behavior.before(), self.behavior.alone(self.sample), self._in_sample_stage()

    def _in_sample_stage(self) -> Stage:
        return self.in_sample.stage(self.config.steps, self.config.batch_size, self.sample)

    def online(self) -> Stage | None:
        if self.config.critic != "iql":
            return self.behavior.online(self.online_stage())
        own = self._in_sample_stage()
        return self.behavior.online(self.online_stage(update=own.update, rule=own.rule))

    def idle(self) -> frozenset[str]:
        # IQL's critic has a stage of its own
        own = frozenset({"expectile", "iql_activation", "iql_norm", "value_aggregation"})
        return own if self.config.critic == "floq" else own | {"critic"}

    def draw(self, key: Key, batch: Batch) -> Array:
        return self.behavior.draw_next(key, batch, self.config.n_particles)

    def next_actions(self, state: State, batch: Batch, draws: Array) -> Array:
        """What TD targets see at the next observations, `[b, n, a]`: behaviour samples."""
        return self.behavior.propose_next(state["behavior"], batch, draws)

    def next_value(self, state: State, batch: Batch, draws: Array) -> Array:
        """V(s') `[b]`: the target critic's mean (or largest) value of those (VGF, arXiv 2604.14265, Algorithm 1)."""
        obs, actions = batch["next_observations"], self.next_actions(state, batch, draws)
        if self.config.target_select == "online":
            best = jnp.argmax(self.critic.q(state["critic"].params, obs, actions), axis=-1)
            actions = jnp.take_along_axis(actions, best[:, None, None], axis=1)  # the others need no value
            return self.critic.q(state["critic"].target, obs, actions)[:, 0]
        return particle_value(self.critic.q(state["critic"].target, obs, actions), self.config.target_select)

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        critic, metrics = self.critic.update(state["critic"], batch, self.next_value(state, batch, draws))
        return {**state, "critic": critic}, metrics

    # acting

    @property
    def explorer(self) -> Method:
        return self.having(test_n=(self.config.explore_n or max(self.config.test_n),))

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        return self.behavior.propose(state["behavior"], obs, key, most), first(knobs["N"], most)

    def judge(self, critic: Learner) -> Params:
        """The critic that chooses among candidates: the online one."""
        return critic.params

    @property
    def judging(self) -> str:
        """How its ensemble is aggregated then: as in the TD target, the smaller for IQL's."""
        return "min" if self.config.critic == "iql" else self.critic.aggregation

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The best candidate by `judge`."""
        values = self.critic.q(self.judge(state["critic"]), obs, candidates, self.judging)
        rule, temperature = self.config.particle_select, self.config.temperature
        return select(candidates, values, valid, key, rule=rule, temperature=temperature)

    def cost(self, knobs: Mapping[str, float]) -> Cost | None:
        return Cost(knobs["N"] * (self.behavior.sampler.passes + 1))  # propose, and judge
