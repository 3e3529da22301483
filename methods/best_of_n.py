"""Best-of-N: draw N actions from the behaviour policy, take the one the critic likes best.

The critic is trained by TD on behaviour samples at the next state, so this is VGF without the flow: the same critic,
L = 0. `target_select=mean` evaluates the behaviour policy (VGF's rule at L_train = 0); `max` evaluates best-of-n
itself (EMaQ, arXiv 2007.11091, Eq. 6). N is a test-time knob and needs no retraining.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from methods.core import Array, BadInput, Count, Key, Knobs, MethodConfig, PositiveInt, State
from methods.vgf import VGF, VGFConfig


@dataclass(frozen=True)
class BestOfNConfig(VGFConfig):
    """VGF's settings with the flow switched off; `n_particles` is the number of samples in TD targets."""

    train_flow_steps: Count = 0  # fixed
    test_flow_steps: tuple[Count, ...] = (0,)
    test_n: tuple[PositiveInt, ...] = (1, 5, 20, 50)  # N: each is evaluated, none needs retraining

    def __post_init__(self) -> None:
        if self.train_flow_steps:
            raise BadInput(
                f"best_of_n.train_flow_steps={self.train_flow_steps}: best-of-N has no flow; name the method, "
                f"as in vgf.train_flow_steps={self.train_flow_steps}"
            )


@dataclass(frozen=True)
class BestOfN(VGF):
    """argmax over N behaviour samples."""

    config: BestOfNConfig
    Config: ClassVar[type[MethodConfig]] = BestOfNConfig
    name: ClassVar[str] = "best_of_n"
    rule: ClassVar[str] = VGF.rule  # at L = 0 the work is the same, and shared if the settings are

    @property
    def test_time(self) -> frozenset[str]:
        return super().test_time | {"test_n"}

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        return tuple({"N": n} for n in self.config.test_n)

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        proposals = self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], most)))
        return proposals, jnp.arange(most) < knobs["N"][:, None]
