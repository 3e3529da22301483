"""VGF: behaviour particles moved up the value gradient, and a critic trained on where they arrive.

Source: Value Gradient Flow, arXiv 2604.14265, Algorithm 1 and Tables 4-6; where the paper and its public code differ
we follow the code, which docstrings note where it matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from methods import particles
from methods.core import Array, Count, Key, Knobs, MethodConfig, Moves, PositiveFloat, State
from methods.critics import aggregate
from methods.inference import Cost, Knob
from methods.value import ValueConfig, ValueMethod

UNROLL = 3  # steps of the flow
_FLOW_SETTINGS = frozenset(
    {"train_flow_steps", "step_size", "alpha", "particle_optimizer", "maxent", "kernel", "bandwidth", "sigma",
     "bandwidth_gradient", "flow_q_aggregation"}
)  # fmt: skip


@dataclass(frozen=True)
class VGFConfig(ValueConfig):
    """VGF's settings; per-task values of `train_flow_steps`, `step_size`, `discount` and `q_aggregation` stand in
    the task tables (the paper's Tables 5 and 6)."""

    train_flow_steps: Moves = 1  # L_train: steps of the flow that TD targets see
    test_flow_steps: tuple[Moves, ...] = (0, 1, 2, 3)  # L_test: each is evaluated, none needs retraining
    test_particles: Count = 0  # particles at test time; 0: n_particles, as the paper has it
    step_size: PositiveFloat = 0.1  # eps
    alpha: PositiveFloat = 1.0  # temperature: repulsion against value gradient
    particle_optimizer: Literal["adam", "sgd"] = "adam"
    maxent: bool = True  # repulsion between particles, and alpha
    kernel: Literal["rbf", "none"] = "rbf"
    bandwidth: Literal["median", "fixed"] = "median"
    sigma: PositiveFloat = 1.0  # bandwidth, if fixed
    bandwidth_gradient: bool = True  # repulsion through the median, as the public code's autodiff has it
    flow_q_aggregation: Literal["mean", "min"] = "mean"  # of the critics whose gradient moves particles
    explore_flow_steps: Moves = 0  # L while exploring online: 0, the best of the particles, as its code has it


@dataclass(frozen=True)
class VGF(ValueMethod):
    """Value Gradient Flow with exact gradients of the critic."""

    config: VGFConfig
    Config: ClassVar[type[MethodConfig]] = VGFConfig
    name: ClassVar[str] = "vgf"
    inference: ClassVar[tuple[Knob, ...]] = (Knob("L_test", "flow steps at test time", "steps", path=True),)

    @property
    def rule(self) -> str:  # type: ignore[override]
        return "TD on particles moved by the exact value gradient" if self.config.train_flow_steps else ValueMethod.rule

    @property
    def flow(self) -> particles.Flow:
        c = self.config
        return particles.Flow(
            step_size=c.step_size, optimizer=c.particle_optimizer, maxent=c.maxent, alpha=c.alpha, kernel=c.kernel,
            bandwidth=c.bandwidth, sigma=c.sigma, bandwidth_gradient=c.bandwidth_gradient,
        )  # fmt: skip

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        return tuple({"L_test": steps} for steps in self.config.test_flow_steps)

    @property
    def explorer(self) -> VGF:
        return self.having(test_flow_steps=(self.config.explore_flow_steps,))

    @property
    def test_time(self) -> frozenset[str]:
        # a flow that TD targets never see shapes no critic, so L_train = 0 shares best-of-N's
        unseen = frozenset() if self.config.train_flow_steps else _FLOW_SETTINGS
        return super().test_time | unseen | {"test_flow_steps", "test_particles"}

    # the flow

    def score(self, state: State, obs: Array, actions: Array) -> Array:
        """grad_a Q(s, a) of the *online* critic, `[b, n, a]`, at observations `[b, o]`, actions `[b, n, a]`."""

        def total(actions: Array) -> Array:
            values = self.values(state["critic"].params, obs, actions)
            return jnp.sum(aggregate(values, self.config.flow_q_aggregation))

        return jax.grad(total)(actions)

    def transport(self, state: State, obs: Array, start: Array, steps: int, limit: Array | None = None) -> Array:
        """Particles `[b, n, a]` after `steps` steps of the flow (or `limit` `[b]`, if fewer) from `start`."""
        # a few steps are unrolled, for XLA to fuse; many would take long to compile
        loop = partial(jax.lax.fori_loop, unroll=min(max(steps, 1), UNROLL))
        return particles.transport(start, lambda x: self.score(state, obs, x), steps, self.flow, limit=limit, loop=loop)

    def improve(self, state: State, obs: Array, start: Array) -> Array:
        return self.transport(state, obs, start, self.config.train_flow_steps)

    # acting

    @property
    def n_test(self) -> int:
        """Particles at test time."""
        return self.config.test_particles or self.config.n_particles

    def test_proposals(self, state: State, obs: Array, key: Key) -> Array:
        """Behaviour particles `[b, n, a]` that the flow starts from at test time."""
        return self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], self.n_test)))

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        start = self.test_proposals(state, obs, key)
        moved = self.transport(state, obs, start, max(self.config.test_flow_steps), limit=knobs["L_test"])
        return moved, jnp.ones(moved.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        n, steps = self.n_test, knobs["L_test"]
        return Cost(n * (self.sampler.passes + steps + 1), gradients=n * steps)  # propose, move, and judge
