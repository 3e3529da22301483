"""The critic: an ensemble of Q(s, a) that learns by TD, and V(s), which learns from Q at dataset actions.

There is one `Critic`. Methods differ in what it bootstraps from: the value of proposals (VGF, best-of-N), of a policy's
action (FQL, TD3), or V(s') (IQL, IVR).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from methods.core import Added, Array, Batch, ControlConfig, Key, Metrics, PositiveInt, Stage, State, TaskSpec, Weight
from methods.floq import FloqConfig, ValueFlow
from methods.learner import Learner, Params, create, descend, global_norm, optimizer
from methods.losses import aggregate, expectile_loss, exponential_loss, over_ensemble, sparse_loss, td_loss, td_target
from methods.networks import QNetwork, ValueNetwork, forward, per_action
from methods.sampling import ROWS, Sampling

Aggregation = Literal["mean", "min", "mean_minus_std"]
"""Of an ensemble's values."""


@dataclass(frozen=True)
class CriticConfig(ControlConfig):
    """Settings of methods that learn a critic."""

    critics: Annotated[PositiveInt, Added] = 2  # K, Q-networks in the ensemble


@dataclass(frozen=True)
class TDConfig(CriticConfig, FloqConfig):
    """Settings of methods that may choose how TD targets aggregate the ensemble."""

    q_aggregation: Aggregation = "mean"  # of the critics in the TD target
    rho: Annotated[Weight, Added] = 0.5  # of the std that "mean_minus_std" takes off (QAM)


@dataclass(frozen=True)
class Critic:
    """An ensemble of K networks Q(s, a) with Polyak targets."""

    obs_dim: int
    action_dim: int
    hidden_dims: tuple[int, ...]
    discount: float  # of V(s'), gamma^h where s' is h steps ahead
    learning_rate: float
    tau: float
    activation: str = "gelu"
    norm: str = "after"  # LayerNorm's place: see `methods/networks.py`
    start: str = "uniform"
    members: int = 2  # K
    aggregation: str = "mean"  # of the ensemble, in TD targets
    rho: float = 0.5
    loss: Literal["mean", "sum"] = "mean"  # over the ensemble, which matters where gradients are clipped
    clip_norm: float | None = None
    precision: str = "float32"
    averaged: bool = True  # whether it has a Polyak target

    @classmethod
    def of(cls, spec: TaskSpec, config: ControlConfig, **rest: Any) -> Critic:
        """The TD critic that the settings ask for, `plain` or a `FlowCritic`."""
        made = cls.plain(spec, config, **rest)
        if not isinstance(config, FloqConfig) or config.critic != "floq":
            return made
        return FlowCritic(**vars(made), flow=ValueFlow.of(made.obs_dim, made.action_dim, made.members, config))

    @classmethod
    def plain(cls, spec: TaskSpec, config: ControlConfig, **rest: Any) -> Critic:
        """With the settings that every method with a critic has, and `rest`, which wins."""
        c = config
        shared = {name: getattr(c, name) for name in ("hidden_dims", "learning_rate", "tau", "precision")}
        members = c.critics if isinstance(c, CriticConfig) else cls.members
        shared |= {"discount": c.discount if c.window == 1 else c.discount**c.window, "members": members}
        shared |= {"aggregation": c.q_aggregation, "rho": c.rho} if isinstance(c, TDConfig) else {}
        return cls(**{"obs_dim": spec.obs_dim, "action_dim": spec.action_dim, **shared, **rest})

    @property
    def network(self) -> QNetwork:
        return QNetwork(self.hidden_dims, self.activation, self.norm, self.members, self.start, self.precision)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.learning_rate, self.clip_norm)

    def init(self, key: Key) -> Learner:
        params = self.network.init(key, jnp.zeros((1, self.obs_dim)), jnp.zeros((1, self.action_dim)))
        return create(params, self.optimizer, target=self.averaged)

    # values

    def q_values(self, params: Params, obs: Array, actions: Array) -> Array:
        """Q `[K, ...]` of actions `[..., a]`, at observations `[..., o]`, or at `[b, o]` for actions `[b, n, a]`."""
        return forward(self.network, params, per_action(obs, actions), actions)

    def q(self, params: Params, obs: Array, actions: Array, how: str | None = None) -> Array:
        """The ensemble's one value `[...]`; `how`: as in TD targets, or another aggregation."""
        return aggregate(self.q_values(params, obs, actions), how or self.aggregation, self.rho)

    def action_grad(self, params: Params, obs: Array, actions: Array, how: str = "mean") -> Array:
        """grad_a of `q`, shaped as actions `[..., a]`."""
        return jax.grad(lambda actions: jnp.sum(self.q(params, obs, actions, how)))(actions)

    # TD

    @property
    def draws(self) -> tuple[int, ...]:
        """How many actions of a policy `drawn` takes, as a shape: one, of no axis."""
        return ()

    def drawn(self, params: Params, batch: Batch, actions: Array) -> Array:
        """V(s') `[b]` of a policy's actions `[b, *draws, a]` at the batch's next observations."""
        return self.q(params, batch["next_observations"], actions)

    def target(self, batch: Batch, next_value: Array) -> Array:
        """r + gamma mask V(s') `[b]`, constant, from V(s') `[b]`."""
        return jax.lax.stop_gradient(td_target(batch["rewards"], batch["masks"], next_value, self.discount))

    def td_loss(self, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
        """(Q - target)^2, its mean over rows and mean or sum over the ensemble; and mean Q. `target` `[b]`. Windows
        that cross an episode's end count as 0."""
        values = self.q_values(params, batch["observations"], batch["actions"])
        whole = batch["valid"][:, -1] if "valid" in batch else None
        return td_loss(values, target, self.loss, whole), jnp.mean(values)

    def update(
        self, learner: Learner, batch: Batch, next_value: Array, *, follow: bool = True, after: bool = False
    ) -> tuple[Learner, Metrics]:
        """One gradient step towards r + gamma mask V(s'), V(s') `[b]`; the target follows if asked, the parameters
        before the step or those `after` it."""
        target = self.target(batch, next_value)
        (loss, value), grads = jax.value_and_grad(self.td_loss, has_aux=True)(learner.params, batch, target)
        metrics = {"critic/loss": loss, "critic/value": value, "critic/grad_norm": global_norm(grads)}
        return descend(learner, grads, self.optimizer, tau=self.tau if follow else 0.0, after=after), metrics


@dataclass(frozen=True)
class FlowCritic(Critic):
    """A flow of values, and an ensemble of networks that is regressed on it (floq, arXiv 2509.06863).

    Its parameters are those of the networks, "critic", and of the flow; the target has the flow's alone. So Q of the
    online parameters is the networks' value, one pass, and that of the target the flow's, the mean over `draws` starts.
    """

    flow: ValueFlow = field(kw_only=True)

    def init(self, key: Key) -> Learner:
        critic_key, flow_key = jax.random.split(key)
        params = self.network.init(critic_key, jnp.zeros((1, self.obs_dim)), jnp.zeros((1, self.action_dim)))
        flow = self.flow.init(flow_key)
        return create({"critic": params, **flow}, self.optimizer)._replace(target=jax.tree.map(jnp.copy, flow))

    def q_values(self, params: Params, obs: Array, actions: Array) -> Array:
        if "critic" in params:
            return super().q_values(params["critic"], obs, actions)
        return jnp.mean(self._ends(params, obs, actions), axis=-1)

    def q(self, params: Params, obs: Array, actions: Array, how: str | None = None) -> Array:
        if "critic" in params:
            return super().q(params, obs, actions, how)
        return jnp.mean(aggregate(self._ends(params, obs, actions), how or self.aggregation, self.rho), axis=-1)

    def _ends(self, params: Params, obs: Array, actions: Array) -> Array:
        """The flow's values `[K, ..., n]` of actions `[..., a]`, from a grid of starts."""
        starts = self.flow.starts(params, self.flow.grid)
        return self.flow.values(params, self.flow.seen(obs, actions)[..., None, :], starts)

    @property
    def draws(self) -> tuple[int, ...]:
        return (self.flow.draws,)

    def drawn(self, params: Params, batch: Batch, actions: Array) -> Array:
        """V(s') `[b]`: the mean over actions `[b, n, a]`, each from a start of its own, aggregated one by one."""
        ends = self.flow.drawn(params, batch, actions)
        return jnp.mean(aggregate(ends, self.aggregation, self.rho), axis=-1)

    def td_loss(self, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
        """Flow matching towards `target` `[b]`, its sum over draws, and (Q - V)^2, V the mean of the online flow's
        values over draws and ensemble; each its mean over rows and mean or sum over the ensemble. And mean Q."""
        whole = batch["valid"][:, -1] if "valid" in batch else None
        errors, ends = self.flow.matched(params, batch, target)
        values, taught = self.q_values(params, batch["observations"], batch["actions"]), jnp.mean(ends, axis=(0, 2))
        loss = over_ensemble(errors, self.loss, whole) + td_loss(values, taught, self.loss, whole)
        return loss, jnp.mean(values)

    def within(self, stage: Stage, name: str) -> Stage:
        return self.flow.within(stage, name)


def guide(critic: Critic, learner: Learner) -> Params:
    """What stands for the target critic where a rule asks it for value gradients, or to choose among actions: a flow of
    values has the networks for that, which are online."""
    return learner.params if isinstance(critic, FlowCritic) else learner.target


@dataclass(frozen=True)
class StateValue:
    """V(s), regressed on Q at dataset actions: an expectile of Q (IQL, arXiv 2110.06169), or by the losses of IVR
    (arXiv 2303.15810)."""

    obs_dim: int
    hidden_dims: tuple[int, ...]
    learning_rate: float
    regression: str = "expectile"  # "expectile" | "sql" | "eql"
    level: float = 0.9  # the expectile, or alpha of sql and eql
    activation: str = "gelu"
    norm: str = "after"
    start: str = "uniform"
    dropout: float = 0.0
    precision: str = "float32"

    @property
    def network(self) -> ValueNetwork:
        return ValueNetwork(self.hidden_dims, self.activation, self.norm, self.dropout, self.start, self.precision)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.learning_rate)

    def init(self, key: Key) -> Learner:
        return create(self.network.init(key, jnp.zeros((1, self.obs_dim))), self.optimizer)

    def v(self, params: Params, obs: Array, key: Key | None = None) -> Array:
        """V(s) `[...]` at observations `[..., o]`; with a key it drops units, as in training."""
        return forward(self.network, params, obs, dropout=key if self.dropout else None)

    def loss(self, params: Params, obs: Array, q: Array, key: Key | None = None) -> Array:
        """Of V(s) against Q(s, a) `[b]`, a scalar; `key` is for dropout."""
        v = self.v(params, obs, key)
        if self.regression == "expectile":
            return expectile_loss(q - v, self.level)
        return (sparse_loss if self.regression == "sql" else exponential_loss)(q - v, v, self.level)


@dataclass(frozen=True)
class InSample:
    """Q and V that learn from dataset actions alone, as the parts "critic" and "value".

    No policy has a say, so they are a stage of their own that every method with the same settings shares.
    """

    critic: Critic
    value: StateValue
    sequential: bool = False  # whether V steps first, Q learns from the new V, and Q's target follows the new Q
    remark: str = ""  # what else its rule says
    more: Mapping[str, Any] = field(default_factory=dict)  # further settings that its result depends on
    prefix: str = ""  # of its parts' names, where a method has a critic of its own beside it

    @classmethod
    def of(
        cls, spec: TaskSpec, config: ControlConfig, *, expectile: float, activation: str, norm: str,
        aggregation: str = "min",
    ) -> InSample:  # fmt: skip
        """IQL's: V an expectile of the smaller Q, or of another aggregation."""
        c = config
        critic = Critic.plain(spec, c, activation=activation, norm=norm, aggregation=aggregation, loss="sum")
        value = StateValue(spec.obs_dim, c.hidden_dims, c.learning_rate, "expectile", expectile, activation, norm,
                           precision=c.precision)  # fmt: skip
        return cls(critic, value)

    @property
    def critic_name(self) -> str:
        return f"{self.prefix}critic"

    @property
    def value_name(self) -> str:
        return f"{self.prefix}value"

    @property
    def names(self) -> frozenset[str]:
        """Of its parts."""
        return frozenset({self.critic_name, self.value_name})

    @property
    def parts(self) -> dict[str, Critic | StateValue]:
        return {self.critic_name: self.critic, self.value_name: self.value}

    @property
    def rule(self) -> str:
        """What its stage computes."""
        return f"in-sample TD, {self.value.regression} value{self.remark}"

    def advantage(self, state: State, obs: Array, actions: Array, *, target: bool = False) -> Array:
        """Q(s, a) - V(s) `[b]`, by the online critic or the target one."""
        learner = state[self.critic_name]
        q = self.critic.q(learner.target if target else learner.params, obs, actions)
        return q - self.value.v(state[self.value_name].params, obs)

    def value_loss(self, params: Params, state: State, batch: Batch, key: Key | None = None) -> Array:
        """Of V against Q of the target critic, at dataset actions; `key` is for dropout."""
        obs = batch["observations"]
        q = self.critic.q(state[self.critic_name].target, obs, batch["actions"])
        return self.value.loss(params, obs, q, key)

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step of both, each from the other as it was unless `sequential`. `key` is for dropout."""
        before = state[self.value_name]
        loss, grads = jax.value_and_grad(self.value_loss)(before.params, state, batch, key)
        value = descend(before, grads, self.value.optimizer)
        seen = value if self.sequential else before
        next_value = self.value.v(seen.params, batch["next_observations"])  # r + gamma V(s') (IQL, Eq. 6)
        critic, metrics = self.critic.update(state[self.critic_name], batch, next_value, after=self.sequential)
        metrics = {f"{self.prefix}{name}": one for name, one in {"value/loss": loss, **metrics}.items()}
        return {**state, self.critic_name: critic, self.value_name: value}, metrics

    def stage(self, steps: int, batch_size: int, sample: Sampling = ROWS) -> Stage:
        """The stage that trains both; its settings are all that its fingerprint sees, not who asks."""
        return Stage(
            name=self.critic_name,
            trains=self.names,
            steps=steps,
            update=self.update,
            rule=self.rule,
            config={**self.settings, "batch_size": batch_size},
            batch_size=batch_size,
            sample=sample,
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its result depends on."""
        q, v = self.critic, self.value
        added = {
            "critics": (q.members, 2),
            "precision": (q.precision, "float32"),
            "aggregation": (q.aggregation, "min"),
        }
        added |= {"rho": (q.rho, None)} if q.aggregation == "mean_minus_std" else {}
        return {"obs_dim": q.obs_dim, "action_dim": q.action_dim, "hidden_dims": q.hidden_dims, "discount": q.discount,
                "learning_rate": q.learning_rate, "tau": q.tau, "loss": v.regression, "level": v.level,
                "activation": q.activation, "norm": v.norm, "value_dropout": v.dropout, **self.more,
                **{name: value for name, (value, before) in added.items() if value != before}}  # fmt: skip
