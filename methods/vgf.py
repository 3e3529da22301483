"""VGF: behaviour particles moved up the value gradient, and a critic trained on where they arrive.

Source: Value Gradient Flow, arXiv 2604.14265, Algorithm 1 and Tables 4-6; where the paper and its public code differ
we follow the code, which docstrings note where it matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods import particles
from methods.best_of_n import BestOfN, ProposalConfig
from methods.core import (
    Array,
    Batch,
    Count,
    Explore,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Moves,
    PositiveFloat,
    State,
    Test,
)
from methods.inference import Cost, Knob

UNROLL = 3  # steps of the flow
FLOW_STEPS = Knob("L_test", "flow steps at test time", "steps", path=True, setting="test_flow_steps")
_FLOW_SETTINGS = frozenset(
    {"train_flow_steps", "step_size", "alpha", "particle_optimizer", "maxent", "kernel", "bandwidth", "sigma",
     "bandwidth_gradient", "flow_q_aggregation"}
)  # fmt: skip


@dataclass(frozen=True)
class VGFConfig(ProposalConfig):
    """VGF's settings; per-task values of `train_flow_steps`, `step_size`, `discount` and `q_aggregation` stand in
    the task tables (the paper's Tables 5 and 6)."""

    train_flow_steps: Moves = 1  # L_train: steps of the flow that TD targets see
    test_flow_steps: Annotated[tuple[Moves, ...], Test] = (0, 1, 2, 3)  # L_test: each is evaluated, none needs
    # retraining
    test_particles: Annotated[Count, Test] = 0  # particles at test time; 0: n_particles, as the paper has it
    step_size: PositiveFloat = 0.1  # eps
    alpha: PositiveFloat = 1.0  # temperature: repulsion against value gradient
    particle_optimizer: Literal["adam", "sgd"] = "adam"
    maxent: bool = True  # repulsion between particles, and alpha
    kernel: Literal["rbf", "none"] = "rbf"
    bandwidth: Literal["median", "fixed"] = "median"
    sigma: PositiveFloat = 1.0  # bandwidth, if fixed
    bandwidth_gradient: bool = True  # repulsion through the median, as the public code's autodiff has it
    flow_q_aggregation: Literal["mean", "min"] = "mean"  # of the critics whose gradient moves particles
    explore_flow_steps: Annotated[Moves, Explore] = 0  # L while exploring online: 0, the best of the particles, as its
    # code has it

    @property
    def flow(self) -> particles.Flow:
        """How particles move."""
        return particles.Flow(
            step_size=self.step_size, optimizer=self.particle_optimizer, maxent=self.maxent, alpha=self.alpha,
            kernel=self.kernel, bandwidth=self.bandwidth, sigma=self.sigma, bandwidth_gradient=self.bandwidth_gradient,
        )  # fmt: skip

    @property
    def n_test(self) -> int:
        """Particles at test time."""
        return self.test_particles or self.n_particles

    @property
    def unseen(self) -> frozenset[str]:
        """Settings of a flow that TD targets never see: it shapes no critic, so L_train = 0 shares best-of-N's."""
        return frozenset() if self.train_flow_steps else _FLOW_SETTINGS


@dataclass(frozen=True)
class VGF(BestOfN):
    """Value Gradient Flow with exact gradients of the critic."""

    config: VGFConfig  # type: ignore[assignment]
    Config: ClassVar[type[MethodConfig]] = VGFConfig
    name: ClassVar[str] = "vgf"
    inference: ClassVar[tuple[Knob, ...]] = (FLOW_STEPS,)

    @property
    def rule(self) -> str:  # type: ignore[override]
        return "TD on particles moved by the exact value gradient" if self.config.train_flow_steps else BestOfN.rule

    def idle(self) -> frozenset[str]:
        return super().idle() | self.config.unseen

    # the flow

    def action_grad(self, state: State, obs: Array, actions: Array) -> Array:
        """grad_a Q(s, a) of the *online* critic, `[b, n, a]`, at observations `[b, o]`, actions `[b, n, a]`."""
        return self.critic.action_grad(state["critic"].params, obs, actions, self.config.flow_q_aggregation)

    def transport(self, state: State, obs: Array, start: Array, steps: int, limit: Array | None = None) -> Array:
        """Particles `[b, n, a]` after `steps` steps of the flow (or `limit` `[b]`, if fewer) from `start`."""
        return transported(start, partial(self.action_grad, state, obs), steps, self.config.flow, limit)

    def next_actions(self, state: State, batch: Batch, draws: Array) -> Array:
        """Behaviour particles after L_train steps of the flow, `[b, n, a]`."""
        start = super().next_actions(state, batch, draws)
        return self.transport(state, batch["next_observations"], start, self.config.train_flow_steps)

    # acting

    @property
    def explorer(self) -> Method:
        return self.having(test_flow_steps=(self.config.explore_flow_steps,))

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        start = self.behavior.propose(state["behavior"], obs, key, self.config.n_test)
        moved = self.transport(state, obs, start, max(self.config.test_flow_steps), limit=knobs["L_test"])
        return moved, jnp.ones(moved.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return flow_cost(self.config, self.behavior.sampler.passes, knobs)


def transported(
    start: Array, action_grad: Callable[[Array], Array], steps: int, flow: particles.Flow, limit: Array | None = None
) -> Array:
    """Particles `[b, n, a]` after `steps` steps of a flow along `action_grad` (or `limit` `[b]`, if fewer)."""
    # a few steps are unrolled, for XLA to fuse; many would take long to compile
    loop: Any = partial(jax.lax.fori_loop, unroll=min(max(steps, 1), UNROLL))
    return particles.transport(start, action_grad, steps, flow, limit=limit, loop=loop)


def flow_cost(config: VGFConfig, passes: int, knobs: Mapping[str, float]) -> Cost:
    """What an action costs: propose in so many passes a sample, move, and judge."""
    n, steps = config.n_test, knobs["L_test"]
    return Cost(n * (passes + steps + 1), gradients=n * steps)
