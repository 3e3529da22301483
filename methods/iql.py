"""IQL: an expectile critic from dataset actions, and a policy by advantage-weighted regression.

Source: Implicit Q-Learning, arXiv 2110.06169, Eq. 5-7; settings of FQL's suite (arXiv 2502.02538).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.core import Array, Batch, ControlConfig, Fraction, Key, Knobs, MethodConfig, Metrics, Stage, State, Weight
from methods.inference import Cost
from methods.insample import InSampleCritic
from methods.learner import Learner, Params, create, descend, optimizer
from methods.networks import GaussianHead, PolicyHead, forward
from methods.parts import PartsMethod
from methods.samplers import gaussian_log_prob

LARGEST_WEIGHT = 100.0  # of a transition in the regression


@dataclass(frozen=True)
class IQLConfig(ControlConfig):
    """IQL's settings; `alpha` and `expectile` per task stand in the task tables."""

    activation: Literal["relu", "gelu"] = "gelu"
    expectile: Fraction = 0.9
    alpha: Weight = 10.0  # inverse temperature of the advantage weights
    explore_scale: Weight = 0.2  # while exploring online: of the policy's unit std, which spans the box (ours)


@dataclass(frozen=True)
class IQL(PartsMethod):
    """Implicit Q-learning.

    The policy has no say in the critic, so it is extracted afterwards, from the finished critic ("either concurrently
    or after", says the paper's Section 4.3): the critic's stage is then the one that IFQL, IDQL and QGF use.
    """

    config: IQLConfig
    Config: ClassVar[type[MethodConfig]] = IQLConfig
    name: ClassVar[str] = "iql"
    parts: ClassVar[tuple[str, ...]] = ("critic", "value", "actor")
    greedy: ClassVar[bool] = True
    rule: ClassVar[str] = "advantage-weighted regression, exp(alpha A) at most 100, unit deviation"

    @cached_property
    def in_sample(self) -> InSampleCritic:
        c = self.config
        return InSampleCritic.of(self.spec, c, level=c.expectile, activation=c.activation)

    @property
    def actor(self) -> PolicyHead | GaussianHead:
        return PolicyHead(self.config.hidden_dims, self.spec.action_dim, self.config.activation)

    def init_part(self, name: str, key: Key) -> Learner:
        if name != "actor":
            return self.in_sample.init_part(name, key)
        params = self.actor.init(key, jnp.zeros((1, self.spec.obs_dim)))
        return create(params, optimizer(self.config.learning_rate))

    def stages(self) -> tuple[Stage, ...]:
        critic = self.in_sample.stage(self.config.steps, self.config.batch_size)
        actor = self.own_stage("actor", trains=frozenset({"actor"}), reads=frozenset(self.in_sample.parts))
        return critic, actor

    def online(self) -> Stage | None:
        """Critic and policy on the same batches; the policy sees both critics as they were, or the new V where V steps
        first."""
        critic = self.in_sample.stage(self.config.steps, self.config.batch_size)
        return self.online_stage(update=self.update_all, rule=f"{critic.rule}; {self.rule}")

    def update_all(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step of everything."""
        new, metrics = self.in_sample.update(state, batch, key)
        seen = {**state, "value": new["value"]} if self.in_sample.sequential else state
        extracted, actor_metrics = self.update_own(seen, batch, key)  # which draws nothing
        return {**new, "actor": extracted["actor"]}, {**metrics, **actor_metrics}

    def explore(self, state: State, obs: Array, key: Key) -> Array:
        """A draw of the policy, its std scaled by `explore_scale`."""
        mean, log_std = self.policy(state["actor"].params, obs)
        noise = jax.random.normal(key, mean.shape)
        return jnp.clip(mean + self.config.explore_scale * jnp.exp(log_std) * noise, -1.0, 1.0)

    def weights(self, state: State, batch: Batch) -> Array:
        """exp(alpha A), at most 100, `[b]`: A = min Q - V, the online critic's (IQL, Eq. 7)."""
        advantage = self.in_sample.advantage(state, batch["observations"], batch["actions"])
        return jnp.minimum(jnp.exp(self.config.alpha * advantage), LARGEST_WEIGHT)

    def policy(self, params: Params, obs: Array) -> tuple[Array, Array]:
        """Mean and log std of the policy, `[b, a]` each."""
        mean = forward(self.actor, params, obs)
        return mean, jnp.zeros_like(mean)

    def actor_loss(self, params: Params, state: State, batch: Batch) -> Array:
        """-mean of weight * log pi(a | s) (IQL, Eq. 7), a scalar."""
        log_prob = gaussian_log_prob(*self.policy(params, batch["observations"]), batch["actions"])
        return -jnp.mean(self.weights(state, batch) * log_prob)

    def update_own(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        del key  # regression draws nothing
        loss, grads = jax.value_and_grad(self.actor_loss)(state["actor"].params, state, batch)
        return {**state, "actor": descend(state["actor"], grads, optimizer(self.config.learning_rate))}, {
            "actor/loss": loss
        }

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del key, knobs  # the most likely action
        actions = jnp.clip(self.policy(state["actor"].params, obs)[0], -1.0, 1.0)[:, None]
        return actions, jnp.ones(actions.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(1)
