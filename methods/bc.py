"""BC: act as the behaviour policy does (flow matching by default, or a Gaussian)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from methods.behavior import Behavior, BehaviorConfig
from methods.core import Array, Key, Knobs, Method, MethodConfig, Part, Stage, State
from methods.inference import Cost


@dataclass(frozen=True)
class BC(Method):
    """One sample of the behaviour policy."""

    config: BehaviorConfig
    Config: ClassVar[type[MethodConfig]] = BehaviorConfig
    name: ClassVar[str] = "bc"

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"behavior": self.behavior}

    @property
    def fields(self) -> frozenset[str]:
        return frozenset({"observations", "actions"})

    def stages(self) -> tuple[Stage, ...]:
        return *self.behavior.before(), self.behavior.alone(self.sample)

    def online(self) -> Stage | None:
        return None  # imitating oneself improves nothing

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        actions = self.behavior.propose(state["behavior"], obs, key, 1)
        return actions, jnp.ones(actions.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.behavior.sampler.passes)
