"""Critics that learn from dataset actions alone: Q by TD towards V(s'), V by regression on Q.

IQL (arXiv 2110.06169) takes V as an expectile of Q; IVR (arXiv 2303.15810) derives two other losses of V. No policy has
a say, so the critic is a stage of its own that every method with the same settings shares.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from methods.core import Array, Batch, Key, MethodConfig, Metrics, Stage, State, TaskSpec
from methods.critics import aggregate, expectile_loss, exponential_loss, sparse_loss, td_loss, td_target
from methods.learner import Learner, Params, create, descend, global_norm, optimizer
from methods.networks import Critic, Value, forward


@dataclass(frozen=True)
class InSampleCritic:
    """Q and V as the parts "critic" and "value" of a method."""

    obs_dim: int
    action_dim: int
    hidden_dims: tuple[int, ...]
    discount: float
    learning_rate: float = 3e-4
    tau: float = 0.005
    loss: str = "expectile"  # of V: "expectile" | "sql" | "eql"
    level: float = 0.9  # the expectile, or alpha of sql and eql
    activation: str = "gelu"
    norm: str = "after"  # LayerNorm of both networks, as in FQL's suite of baselines
    value_dropout: float = 0.0
    parts: ClassVar[tuple[str, ...]] = ("critic", "value")

    @classmethod
    def of(cls, spec: TaskSpec, config: MethodConfig, **rest: Any) -> Self:
        """With the settings that every method has, and `rest`."""
        return cls(
            spec.obs_dim, spec.action_dim, config.hidden_dims, config.discount, config.learning_rate, config.tau, **rest
        )

    @property
    def sequential(self) -> bool:
        """Whether V steps first, Q learns from the new V, and Q's target follows the new Q."""
        return False

    @property
    def rule(self) -> str:
        """What its stage computes."""
        return f"in-sample TD, {self.loss} value"

    @property
    def critic(self) -> Critic:
        return Critic(self.hidden_dims, self.activation, self.norm)

    @property
    def value(self) -> Value:
        return Value(self.hidden_dims, self.activation, self.norm, self.value_dropout)

    def init_part(self, name: str, key: Key) -> Learner:
        obs, action = jnp.zeros((1, self.obs_dim)), jnp.zeros((1, self.action_dim))
        params = self.critic.init(key, obs, action) if name == "critic" else self.value.init(key, obs)
        return create(params, optimizer(self.learning_rate), target=name == "critic")

    def advantage(self, state: State, obs: Array, actions: Array, *, target: bool = False) -> Array:
        """min Q(s, a) - V(s) `[b]`, by the online critic or the target one."""
        learner = state["critic"]
        values = forward(self.critic, learner.target if target else learner.params, obs, actions)
        return aggregate(values, "min") - forward(self.value, state["value"].params, obs)

    def value_loss(self, params: Params, state: State, batch: Batch, key: Key | None = None) -> Array:
        """The loss of V against min Q of the target critic, at dataset actions; `key` is for dropout."""
        obs = batch["observations"]
        q = aggregate(forward(self.critic, state["critic"].target, obs, batch["actions"]), "min")
        v = forward(self.value, params, obs, dropout=key if self.value_dropout else None)
        if self.loss == "expectile":
            return expectile_loss(q - v, self.level)
        return (sparse_loss if self.loss == "sql" else exponential_loss)(q - v, v, self.level)

    def critic_loss(self, params: Params, state: State, batch: Batch) -> tuple[Array, Array]:
        """Sum over the ensemble of the squared TD error towards r + gamma V(s'), and mean Q (IQL, Eq. 6)."""
        next_values = forward(self.value, state["value"].params, batch["next_observations"])
        target = td_target(batch["rewards"], batch["masks"], next_values, self.discount)
        values = forward(self.critic, params, batch["observations"], batch["actions"])
        return td_loss(values, jax.lax.stop_gradient(target)), jnp.mean(values)

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step of both, each from the other as it was unless `sequential`."""
        tx = optimizer(self.learning_rate)
        value_loss, value_grads = jax.value_and_grad(self.value_loss)(state["value"].params, state, batch, key)
        value = descend(state["value"], value_grads, tx)
        seen = {**state, "value": value} if self.sequential else state
        (critic_loss, mean), critic_grads = jax.value_and_grad(self.critic_loss, has_aux=True)(
            state["critic"].params, seen, batch
        )
        critic = descend(state["critic"], critic_grads, tx, tau=self.tau, after=self.sequential)
        new = {"critic": critic, "value": value}
        metrics = {"value/loss": value_loss, "critic/loss": critic_loss, "critic/value": mean,
                   "critic/grad_norm": global_norm(critic_grads)}  # fmt: skip
        return {**state, **new}, metrics

    def stage(self, steps: int, batch_size: int) -> Stage:
        """The stage that trains both; its settings are all the fingerprint sees, not who asks."""
        return Stage(
            name="critic",
            trains=frozenset(self.parts),
            steps=steps,
            update=self.update,
            rule=self.rule,
            config={**asdict(self), "batch_size": batch_size},
            batch_size=batch_size,
        )
