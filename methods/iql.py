"""IQL: an expectile critic from dataset actions, and a policy by advantage-weighted regression.

Source: Implicit Q-Learning, arXiv 2110.06169, Eq. 5-7; settings of FQL's suite (arXiv 2502.02538).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.actors import MeanActor
from methods.behavior import imitated
from methods.core import (
    Array,
    Batch,
    Explore,
    Fraction,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Metrics,
    Part,
    Stage,
    State,
    Weight,
)
from methods.critic import CriticConfig, InSample
from methods.inference import Cost
from methods.learner import Params, descend
from methods.samplers import gaussian_log_prob
from methods.select import one_action

LARGEST_WEIGHT = 100.0  # of a transition in the regression


@dataclass(frozen=True)
class IQLConfig(CriticConfig):
    """IQL's settings; `alpha` and `expectile` per task stand in the task tables."""

    activation: Literal["relu", "gelu"] = "gelu"
    expectile: Fraction = 0.9
    alpha: Weight = 10.0  # inverse temperature of the advantage weights
    explore_scale: Annotated[Weight, Explore] = (
        0.2  # while exploring online: of the policy's unit std, which spans the box (ours)
    )


@dataclass(frozen=True)
class IQL(Method):
    """Implicit Q-learning.

    The policy has no say in the critic, so it is extracted afterwards, from the finished critic ("either concurrently
    or after", says the paper's Section 4.3): the critic's stage is then the one that IFQL, IDQL and QGF use.
    """

    config: IQLConfig
    Config: ClassVar[type[MethodConfig]] = IQLConfig
    name: ClassVar[str] = "iql"
    greedy: ClassVar[bool] = True
    rule: ClassVar[str] = "advantage-weighted regression, exp(alpha A) at most 100, unit deviation"

    # parts

    @property
    def in_sample(self) -> InSample:
        c = self.config
        return InSample.of(self.spec, c, expectile=c.expectile, activation=c.activation, norm="after")

    @property
    def actor(self) -> MeanActor:
        return MeanActor.of(self.spec, self.config, self.config.activation)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {**self.in_sample.parts, "actor": self.actor}

    # training

    def stages(self) -> tuple[Stage, ...]:
        actor = self.stage("actor", trains=frozenset({"actor"}), reads=self.in_sample.names,
                           sample=self.policy_sample)  # fmt: skip
        return self._critic_stage(), actor

    def _critic_stage(self) -> Stage:
        return self.in_sample.stage(self.config.steps, self.config.batch_size, self.sample)

    def online(self) -> Stage | None:
        """Critic and policy on the same batches; the policy sees both critics as they were, or the new V where V steps
        first."""
        return self.online_stage(update=self.update_all, rule=f"{self._critic_stage().rule}; {self.rule}")

    def update_all(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step of everything. `key` is consumed."""
        new, metrics = self.in_sample.update(state, batch, key)
        seen = {**state, "value": new["value"]} if self.in_sample.sequential else state
        extracted, actor_metrics = self.update_parts(seen, batch, None)
        return {**new, "actor": extracted["actor"]}, {**metrics, **actor_metrics}

    def weights(self, state: State, batch: Batch) -> Array:
        """exp(alpha A), at most 100, `[b]`: A = min Q - V, the online critic's (IQL, Eq. 7)."""
        advantage = self.in_sample.advantage(state, batch["observations"], batch["actions"])
        return jnp.minimum(jnp.exp(self.config.alpha * advantage), LARGEST_WEIGHT)

    def policy(self, params: Params, obs: Array) -> tuple[Array, Array]:
        """Mean and log std of the policy, `[b, a]` each."""
        mean = self.actor(params, obs)
        return mean, jnp.zeros_like(mean)

    def actor_loss(self, params: Params, state: State, batch: Batch) -> Array:
        """-mean of weight * log pi(a | s) (IQL, Eq. 7), a scalar."""
        mean, log_std = self.policy(params, batch["observations"])
        log_prob = gaussian_log_prob(mean, log_std, batch["actions"], imitated(batch, self.config))
        return -jnp.mean(self.weights(state, batch) * log_prob)

    def update_parts(self, state: State, batch: Batch, draws: None) -> tuple[State, Metrics]:
        del draws  # regression needs none
        loss, grads = jax.value_and_grad(self.actor_loss)(state["actor"].params, state, batch)
        return {**state, "actor": descend(state["actor"], grads, self.actor.optimizer)}, {"actor/loss": loss}

    # acting

    def explore(self, state: State, obs: Array, key: Key) -> Array:
        """A draw of the policy, its std scaled by `explore_scale`."""
        mean, log_std = self.policy(state["actor"].params, obs)
        noise = jax.random.normal(key, mean.shape)
        return jnp.clip(mean + self.config.explore_scale * jnp.exp(log_std) * noise, -1.0, 1.0)

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del key, knobs  # the most likely action
        return one_action(jnp.clip(self.policy(state["actor"].params, obs)[0], -1.0, 1.0))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(1)
