"""BC with a Gaussian: maximum likelihood, acting by the mean (greedy, as FQL's suite evaluates it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from methods.bc import BC
from methods.behavior import BehaviorConfig
from methods.core import Array, Key, Knobs, MethodConfig, State
from methods.networks import rows


@dataclass(frozen=True)
class BCGaussianConfig(BehaviorConfig):
    """BC's settings with a Gaussian."""

    sampler: Literal["gaussian"] = "gaussian"


@dataclass(frozen=True)
class BCGaussian(BC):
    """The mean of a Gaussian behaviour model."""

    config: BCGaussianConfig
    Config: ClassVar[type[MethodConfig]] = BCGaussianConfig
    name: ClassVar[str] = "bc_gaussian"
    greedy: ClassVar[bool] = True

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del key, knobs
        actions = self.behavior.sample(state["behavior"], obs, jnp.zeros((rows(obs), 1, self.spec.action_dim)))
        return actions, jnp.ones(actions.shape[:-1], bool)
