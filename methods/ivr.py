"""IVR: implicit value regularisation, in its sparse (SQL) and exponential (EQL) forms.

Source: Offline RL with No OOD Actions, arXiv 2303.15810, and its public code: IQL's scheme with V's loss and the
regression's weights derived from a regulariser. Which form stands in VGF's table is not said; we take SQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import jax.numpy as jnp

from methods.core import Array, Batch, ControlConfig, Fraction, MethodConfig, PositiveFloat, PositiveInt, State, Weight
from methods.insample import InSampleCritic
from methods.iql import IQL, LARGEST_WEIGHT
from methods.learner import Params
from methods.networks import GaussianHead, forward


@dataclass(frozen=True)
class IVRConfig(ControlConfig):
    """IVR's settings; alphas per task stand in the task tables."""

    hidden_dims: tuple[PositiveInt, ...] = (256, 256)  # its code
    activation: Literal["relu", "gelu"] = "relu"
    regularizer: Literal["sql", "eql"] = "sql"
    sql_alpha: PositiveFloat = 1.0  # weight of the regulariser in SQL (its code, locomotion)
    eql_alpha: PositiveFloat = 2.0  # the same in EQL
    value_dropout: Fraction = 0.0  # 0.5 on AntMaze
    explore_scale: Weight = 1.0  # while exploring online: of the policy's own deviation


@dataclass(frozen=True)
class IVR(IQL):
    """SQL or EQL."""

    config: IVRConfig  # type: ignore[assignment]
    Config: ClassVar[type[MethodConfig]] = IVRConfig
    name: ClassVar[str] = "ivr"
    rule: ClassVar[str] = "regression weighted by the regulariser's optimal policy, at most 100"

    @cached_property
    def in_sample(self) -> InSampleCritic:
        c = self.config
        return InSampleCritic.of(
            self.spec,
            c,
            loss=c.regularizer,
            level=self.alpha,
            activation=c.activation,
            norm="none",
            value_dropout=c.value_dropout,
        )

    @property
    def alpha(self) -> float:
        """The regulariser's weight in the form that is asked for."""
        return self.config.sql_alpha if self.config.regularizer == "sql" else self.config.eql_alpha

    @property
    def test_time(self) -> frozenset[str]:
        return frozenset({"eql_alpha" if self.config.regularizer == "sql" else "sql_alpha"})  # has no bearing

    @property
    def actor(self) -> GaussianHead:
        return GaussianHead(self.config.hidden_dims, self.spec.action_dim, self.config.activation)

    def policy(self, params: Params, obs: Array) -> tuple[Array, Array]:
        """Mean within the box and a learned log deviation, `[b, a]` each."""
        mean, log_std = forward(self.actor, params, obs)
        return jnp.tanh(mean), log_std

    def weights(self, state: State, batch: Batch) -> Array:
        """max(A, 0) for SQL, exp(10 A / alpha) for EQL, at most 100, `[b]`; A = min Q - V, the
        target critic's."""
        advantage = self.in_sample.advantage(state, batch["observations"], batch["actions"], target=True)
        if self.config.regularizer == "sql":
            return jnp.clip(advantage, 0.0, LARGEST_WEIGHT)
        return jnp.minimum(jnp.exp(10.0 * advantage / self.alpha), LARGEST_WEIGHT)
