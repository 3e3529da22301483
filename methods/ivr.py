"""IVR: implicit value regularisation, in its sparse (SQL) and exponential (EQL) forms.

Source: Offline RL with No OOD Actions, arXiv 2303.15810, and its public code: IQL's scheme with V's loss and the
regression's weights derived from a regulariser. Which form stands in VGF's table is not said; we take SQL. As in its
code V steps first, Q and the policy learn from the new V, and V has LayerNorm where Q has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp

from methods.core import (
    Array,
    Batch,
    ControlConfig,
    Fraction,
    MethodConfig,
    Order,
    PositiveFloat,
    PositiveInt,
    State,
    Static,
    Weight,
)
from methods.insample import InSampleCritic
from methods.iql import IQL, LARGEST_WEIGHT
from methods.learner import Params
from methods.networks import Critic, GaussianHead, Value, forward


@dataclass(frozen=True)
class IVRConfig(ControlConfig):
    """IVR's settings; alphas per task stand in the task tables."""

    hidden_dims: tuple[PositiveInt, ...] = (256, 256)  # its code
    activation: Literal["relu", "gelu"] = "relu"
    regularizer: Literal["sql", "eql"] = "sql"
    sql_alpha: PositiveFloat = 1.0  # weight of the regulariser in SQL (its code, locomotion)
    eql_alpha: PositiveFloat = 2.0  # the same in EQL
    value_dropout: Annotated[Fraction, Static] = 0.0  # its code sets 0.5 on AntMaze, where it is inert:
    # V is called as in evaluation
    order: Order = "sequential"  # of the steps of V, then Q and the policy
    explore_scale: Weight = 1.0  # while exploring online: of the policy's own std


_START = "orthogonal"  # of every kernel, as in its code


@dataclass(frozen=True)
class RegularizedCritic(InSampleCritic):
    """Q and V of IVR: V with LayerNorm before the activation, and first to step."""

    order: str = "sequential"

    @property
    def sequential(self) -> bool:
        return self.order == "sequential"

    @property
    def rule(self) -> str:
        return f"{super().rule}, V normalised, {_START} start"

    @property
    def critic(self) -> Critic:
        return Critic(self.hidden_dims, self.activation, "none", start=_START)

    @property
    def value(self) -> Value:
        return Value(self.hidden_dims, self.activation, self.norm, self.value_dropout, _START)


@dataclass(frozen=True)
class IVR(IQL):
    """SQL or EQL."""

    config: IVRConfig  # type: ignore[assignment]
    Config: ClassVar[type[MethodConfig]] = IVRConfig
    name: ClassVar[str] = "ivr"
    rule: ClassVar[str] = f"regression weighted by the regulariser's optimal policy, at most 100, {_START} start"

    @cached_property
    def in_sample(self) -> RegularizedCritic:
        c = self.config
        return RegularizedCritic.of(
            self.spec, c, loss=c.regularizer, level=self.alpha, activation=c.activation, norm="before",
            value_dropout=c.value_dropout, order=c.order,
        )  # fmt: skip

    @property
    def alpha(self) -> float:
        """The regulariser's weight in the form that is asked for."""
        return self.config.sql_alpha if self.config.regularizer == "sql" else self.config.eql_alpha

    @property
    def test_time(self) -> frozenset[str]:
        return frozenset({"eql_alpha" if self.config.regularizer == "sql" else "sql_alpha"})  # has no bearing

    @property
    def actor(self) -> GaussianHead:
        return GaussianHead(self.config.hidden_dims, self.spec.action_dim, self.config.activation, _START)

    def policy(self, params: Params, obs: Array) -> tuple[Array, Array]:
        """Mean within the box and a learned log std, `[b, a]` each."""
        mean, log_std = forward(self.actor, params, obs)
        return jnp.tanh(mean), log_std

    def weights(self, state: State, batch: Batch) -> Array:
        """max(A, 0) for SQL, exp(10 A / alpha) for EQL, at most 100, `[b]`; A = min Q - V, the
        target critic's."""
        advantage = self.in_sample.advantage(state, batch["observations"], batch["actions"], target=True)
        if self.config.regularizer == "sql":
            return jnp.clip(advantage, 0.0, LARGEST_WEIGHT)
        return jnp.minimum(jnp.exp(10.0 * advantage / self.alpha), LARGEST_WEIGHT)
