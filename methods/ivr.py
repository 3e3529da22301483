"""IVR: implicit value regularisation, in its sparse (SQL) and exponential (EQL) forms.

Source: Offline RL with No OOD Actions, arXiv 2303.15810, and its public code: IQL's scheme with V's loss and the
regression's weights derived from a regulariser. Which form stands in VGF's table is not said; we take SQL. As in its
code V steps first, Q and the policy learn from the new V, and V has LayerNorm where Q has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp

from methods.actors import GaussianActor
from methods.core import (
    Array,
    Batch,
    Explore,
    Fraction,
    MethodConfig,
    Order,
    PositiveFloat,
    PositiveInt,
    State,
    Static,
    Weight,
)
from methods.critic import Critic, CriticConfig, InSample, StateValue
from methods.iql import IQL, LARGEST_WEIGHT
from methods.learner import Params


@dataclass(frozen=True)
class IVRConfig(CriticConfig):
    """IVR's settings; alphas per task stand in the task tables."""

    hidden_dims: tuple[PositiveInt, ...] = (256, 256)  # its code
    activation: Literal["relu", "gelu"] = "relu"
    regularizer: Literal["sql", "eql"] = "sql"
    sql_alpha: PositiveFloat = 1.0  # weight of the regulariser in SQL (its code, locomotion)
    eql_alpha: PositiveFloat = 2.0  # the same in EQL
    value_dropout: Annotated[Fraction, Static] = 0.0  # its code sets 0.5 on AntMaze, where it is inert:
    # V is called as in evaluation
    order: Order = "sequential"  # of the steps of V, then Q and the policy
    explore_scale: Annotated[Weight, Explore] = 1.0  # while exploring online: of the policy's own std


_START = "orthogonal"  # of every kernel, as in its code


@dataclass(frozen=True)
class IVR(IQL):
    """SQL or EQL."""

    config: IVRConfig  # type: ignore[assignment]
    Config: ClassVar[type[MethodConfig]] = IVRConfig
    name: ClassVar[str] = "ivr"
    rule: ClassVar[str] = f"regression weighted by the regulariser's optimal policy, at most 100, {_START} start"

    @property
    def in_sample(self) -> InSample:
        """V with LayerNorm before the activation, Q without, and V first to step."""
        c = self.config
        critic = Critic.of(self.spec, c, activation=c.activation, norm="none", start=_START, aggregation="min",
                           loss="sum")  # fmt: skip
        value = StateValue(
            self.spec.obs_dim, c.hidden_dims, c.learning_rate, c.regularizer, self.alpha, c.activation, "before",
            _START, c.value_dropout, c.precision,
        )  # fmt: skip
        first = c.order == "sequential"
        return InSample(critic, value, first, f", V normalised, {_START} start", {"order": c.order})

    @property
    def alpha(self) -> float:
        """The regulariser's weight in the form that is asked for."""
        return self.config.sql_alpha if self.config.regularizer == "sql" else self.config.eql_alpha

    def idle(self) -> frozenset[str]:
        return frozenset({"eql_alpha" if self.config.regularizer == "sql" else "sql_alpha"})

    @property
    def actor(self) -> GaussianActor:  # type: ignore[override]
        return GaussianActor.of(self.spec, self.config, self.config.activation, start=_START)

    def policy(self, params: Params, obs: Array) -> tuple[Array, Array]:
        """Mean within the box and a learned log std, `[b, a]` each."""
        mean, log_std = self.actor(params, obs)
        return jnp.tanh(mean), log_std

    def weights(self, state: State, batch: Batch) -> Array:
        """max(A, 0) for SQL, exp(10 A / alpha) for EQL, at most 100, `[b]`; A = min Q - V, the
        target critic's."""
        advantage = self.in_sample.advantage(state, batch["observations"], batch["actions"], target=True)
        if self.config.regularizer == "sql":
            return jnp.clip(advantage, 0.0, LARGEST_WEIGHT)
        return jnp.minimum(jnp.exp(10.0 * advantage / self.alpha), LARGEST_WEIGHT)
