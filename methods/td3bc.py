"""TD3+BC: TD3 with a behaviour-cloning term, on normalised observations.

Source: A Minimalist Approach to Offline RL, arXiv 2106.06860.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.behavior import imitated
from methods.core import (
    Array,
    Batch,
    Columns,
    Explore,
    Key,
    Knobs,
    MethodConfig,
    Metrics,
    Order,
    Part,
    PositiveInt,
    Stage,
    State,
    Weight,
)
from methods.learner import Params
from methods.networks import features
from methods.samplers import weighted
from methods.td3 import TD3, TD3Config

_FLOOR = 1e-3  # added to the stds of observations, as its code does


@dataclass(frozen=True)
class TD3BCConfig(TD3Config):
    """The paper's settings (Table 3 there), in the order of its code."""

    order: Order = "sequential"
    hidden_dims: tuple[PositiveInt, ...] = (256, 256)
    activation: Literal["relu", "gelu"] = "relu"
    critic_norm: Literal["none", "before", "after"] = "none"
    alpha: Weight = 2.5  # weight of Q against imitation
    normalize_observations: bool = True
    explore_noise: Annotated[Weight, Explore] = 0.1  # TD3, arXiv 1802.09477


@dataclass(frozen=True)
class Normalizer:
    """The dataset's mean and std of observations, `[o]` each."""

    obs_dim: int

    def init(self, key: Key) -> State:
        del key
        return {"mean": jnp.zeros(self.obs_dim), "std": jnp.ones(self.obs_dim)}


@dataclass(frozen=True)
class TD3BC(TD3):
    """The minimalist approach."""

    config: TD3BCConfig
    Config: ClassVar[type[MethodConfig]] = TD3BCConfig
    name: ClassVar[str] = "td3bc"
    rule: ClassVar[str] = "TD3 on normalised observations, squared distance to the data in the actor, declared order"

    @property
    def parts(self) -> Mapping[str, Part]:
        return {**super().parts, "normalizer": Normalizer(self.spec.obs_dim)}

    def stages(self) -> tuple[Stage, ...]:
        (stage,) = super().stages()
        return (stage.completing(self.fit_normalizer),) if self.config.normalize_observations else (stage,)

    def fit_normalizer(self, state: State, columns: Columns) -> tuple[State, Columns]:
        obs = features(columns["observations"])
        normalizer = {"mean": jnp.mean(obs, axis=0), "std": jnp.std(obs, axis=0) + _FLOOR}
        return {**state, "normalizer": normalizer}, {}

    def _normalized(self, state: State, batch: Batch) -> Batch:
        names = {"observations", "next_observations"} & set(batch)
        return {**batch, **{name: self._scale(state, batch[name]) for name in names}}

    def _scale(self, state: State, obs: Array) -> Array:
        return (features(obs) - state["normalizer"]["mean"]) / state["normalizer"]["std"]

    def update_parts(self, state: State, batch: Batch, draws: Array) -> tuple[State, Metrics]:
        return super().update_parts(state, self._normalized(state, batch), draws)

    def update_critic_alone(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        return super().update_critic_alone(state, self._normalized(state, batch), key)

    def actor_loss(self, params: Params, state: State, batch: Batch) -> tuple[Array, Metrics]:
        """-alpha Q_1 / mean |Q_1| + |pi(s) - a|^2, means over rows and dimensions."""
        actions = self.policy(params, batch["observations"])
        q = self.critic.q_values(state["critic"].params, batch["observations"], actions)[0]
        scale = jax.lax.stop_gradient(self.config.alpha / jnp.mean(jnp.abs(q)))
        distance = weighted((actions - batch["actions"]) ** 2, imitated(batch, self.config))
        q_loss = -scale * jnp.mean(q)
        return q_loss + distance, {"actor/distance": distance, "actor/q_loss": q_loss}

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        return super().candidates(state, self._scale(state, obs), key, knobs)
