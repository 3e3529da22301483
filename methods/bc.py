"""BC: act as the behaviour policy does (flow matching by default, or a Gaussian)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from methods.behavior import BehaviorConfig, BehaviorMethod
from methods.core import Array, Key, Knobs, MethodConfig, Stage, State
from methods.inference import Cost


@dataclass(frozen=True)
class BC(BehaviorMethod):
    """One sample of the behaviour policy."""

    config: BehaviorConfig
    Config: ClassVar[type[MethodConfig]] = BehaviorConfig
    name: ClassVar[str] = "bc"

    @property
    def fields(self) -> frozenset[str]:
        return frozenset({"observations", "actions"})

    def online(self) -> Stage | None:
        return None  # imitating oneself improves nothing

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        proposals = self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], 1)))
        return proposals, jnp.ones(proposals.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.sampler.passes)
