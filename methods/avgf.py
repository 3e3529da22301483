"""Amortised VGF: particles follow a network that regresses the value gradient.

Source: the public code's a_vgf (arXiv 2604.14265): f(s, a) is fitted to grad_a mean Q at dataset actions; phi = f,
without a kernel; the global gradient norm is clipped to 1 in every optimiser, the particles' too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods import vgf
from methods.actors import FieldActor
from methods.behavior import Behavior
from methods.best_of_n import BestOfN
from methods.core import Array, Batch, Key, Knobs, Method, MethodConfig, Metrics, Part, State
from methods.critic import Critic
from methods.inference import Cost, Knob
from methods.learner import CLIP_NORM, Learner, Params, descend
from methods.particles import Flow


@dataclass(frozen=True)
class AVGFConfig(vgf.VGFConfig):
    """As VGF, without a kernel and without repulsion; `flow_q_aggregation` is that of the regressed gradient."""

    critic: Literal["td", "floq"] = "td"  # the gradient is regressed beside it
    maxent: bool = False
    kernel: Literal["rbf", "none"] = "none"


@dataclass(frozen=True)
class AVGF(BestOfN):
    """VGF whose value gradient is a learned network."""

    config: AVGFConfig  # type: ignore[assignment]
    Config: ClassVar[type[MethodConfig]] = AVGFConfig
    name: ClassVar[str] = "avgf"
    rule: ClassVar[str] = "TD on particles moved by a regressed value gradient"
    inference: ClassVar[tuple[Knob, ...]] = (vgf.FLOW_STEPS,)

    # parts

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config, clip_norm=CLIP_NORM)

    @property
    def critic(self) -> Critic:
        return replace(super().critic, clip_norm=CLIP_NORM)

    @property
    def gradient(self) -> FieldActor:
        """f(s, a)."""
        return FieldActor.of(self.spec, self.config, self.config.activation, norm="before", clip_norm=CLIP_NORM)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {**super().parts, "gradient": self.gradient}

    # the flow

    @property
    def flow(self) -> Flow:
        return replace(self.config.flow, clip_norm=CLIP_NORM)

    def action_grad(self, state: State, obs: Array, actions: Array) -> Array:
        """f(s, a), `[b, n, a]`, at observations `[b, o]`, actions `[b, n, a]`."""
        return self.gradient(state["gradient"].params, obs, actions)

    def transport(self, state: State, obs: Array, start: Array, steps: int, limit: Array | None = None) -> Array:
        """Particles `[b, n, a]` after `steps` steps of the flow (or `limit` `[b]`, if fewer) from `start`."""
        return vgf.transported(start, partial(self.action_grad, state, obs), steps, self.flow, limit)

    # training

    def idle(self) -> frozenset[str]:
        return super().idle() | (self.config.unseen - {"flow_q_aggregation"})  # the regressed gradient's in any case

    def next_actions(self, state: State, batch: Batch, draws: Array) -> Array:
        """Behaviour particles after L_train steps of the flow, `[b, n, a]`."""
        start = super().next_actions(state, batch, draws)
        return self.transport(state, batch["next_observations"], start, self.config.train_flow_steps)

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        new, metrics = super().update_parts(state, batch, draws)
        gradient, gradient_metrics = self.update_gradient(state, batch)
        return {**new, "gradient": gradient}, {**metrics, **gradient_metrics}

    def update_gradient(self, state: State, batch: Batch) -> tuple[Learner, Metrics]:
        """One step of |f(s, a) - grad_a Q(s, a)|^2, mean over rows and dimensions, at dataset actions."""
        learner, obs, actions = state["gradient"], batch["observations"], batch["actions"]
        target = self.critic.action_grad(state["critic"].params, obs, actions, self.config.flow_q_aggregation)

        def loss_fn(params: Params) -> Array:
            return jnp.mean((self.gradient(params, obs, actions) - target) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(learner.params)
        return descend(learner, grads, self.gradient.optimizer), {"gradient/loss": loss}

    # acting

    @property
    def explorer(self) -> Method:
        return self.having(test_flow_steps=(self.config.explore_flow_steps,))

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        # the norm clip is over one observation's particles at test time: rows must not depend on each other
        start = self.behavior.propose(state["behavior"], obs, key, self.config.n_test)
        steps = max(self.config.test_flow_steps)

        def one(obs: Any, start: Array, limit: Array) -> Array:
            alone = jax.tree.map(lambda leaf: leaf[None], obs)
            return self.transport(state, alone, start[None], steps, limit=limit[None])[0]

        moved = jax.vmap(one)(obs, start, knobs["L_test"])
        return moved, jnp.ones(moved.shape[:-1], bool)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return vgf.flow_cost(self.config, self.behavior.sampler.passes, knobs)
