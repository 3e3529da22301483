"""Best-of-N: draw N actions from the behaviour policy, take the one the critic likes best.

With `critic=td` the critic is trained by TD on behaviour samples at the next state, so this is VGF without the flow:
the same critic, L = 0. `target_select=mean` evaluates the behaviour policy (VGF's rule at L_train = 0); `max` evaluates
best-of-n itself (EMaQ, arXiv 2007.11091, Eq. 6). With `critic=iql` it is IQL's. N is a test-time knob.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from methods.core import Array, Count, Key, Knobs, Method, MethodConfig, Repeats, State
from methods.inference import SAMPLES, Cost, Knob
from methods.value import ValueConfig, ValueMethod


@dataclass(frozen=True)
class BestOfNConfig(ValueConfig):
    """`n_particles` is the number of samples in TD targets, `test_n` that at test time."""

    test_n: tuple[Repeats, ...] = (1, 5, 20, 50)  # N: each is evaluated, none needs retraining
    explore_n: Count = 0  # N while exploring online; 0: the largest of `test_n`


@dataclass(frozen=True)
class BestOfN(ValueMethod):
    """argmax over N behaviour samples."""

    config: BestOfNConfig
    Config: ClassVar[type[MethodConfig]] = BestOfNConfig
    name: ClassVar[str] = "best_of_n"
    inference: ClassVar[tuple[Knob, ...]] = (SAMPLES,)

    @property
    def test_time(self) -> frozenset[str]:
        return super().test_time | {"test_n"}

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        return tuple({"N": n} for n in self.config.test_n)

    @property
    def explorer(self) -> Method:
        return self.having(test_n=(self.config.explore_n or max(self.config.test_n),))

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        proposals = self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], most)))
        return proposals, jnp.arange(most) < knobs["N"][:, None]

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return Cost(knobs["N"] * (self.sampler.passes + 1))  # propose, and judge
