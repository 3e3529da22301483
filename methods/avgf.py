"""Amortised VGF: particles follow a network that regresses the value gradient.

Source: the public code's a_vgf (arXiv 2604.14265): f(s, a) is fitted to grad_a mean Q at dataset actions; phi = f,
without a kernel; the global gradient norm is clipped to 1 in every optimiser, the particles' too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods import particles
from methods.core import Array, Batch, Key, MethodConfig, Metrics, State
from methods.learner import Learner, Params, create, descend, optimizer
from methods.networks import ActionField, forward, per_action
from methods.vgf import VGF, VGFConfig


@dataclass(frozen=True)
class AVGFConfig(VGFConfig):
    """As VGF, without a kernel and without repulsion; `flow_q_aggregation` is that of the regressed gradient."""

    critic: Literal["td"] = "td"  # the gradient is regressed beside it
    maxent: bool = False
    kernel: Literal["rbf", "none"] = "none"


@dataclass(frozen=True)
class AVGF(VGF):
    """VGF whose value gradient is a learned network."""

    config: AVGFConfig
    Config: ClassVar[type[MethodConfig]] = AVGFConfig
    name: ClassVar[str] = "avgf"
    parts: ClassVar[tuple[str, ...]] = ("critic", "gradient")
    rule: ClassVar[str] = "TD on particles moved by a regressed value gradient"
    behavior_clip_norm: ClassVar[float | None] = 1.0
    critic_clip_norm: ClassVar[float | None] = 1.0

    @property
    def gradient(self) -> ActionField:
        return ActionField(self.config.hidden_dims, self.spec.action_dim, self.config.activation, norm="before")

    @property
    def flow(self) -> particles.Flow:
        return replace(super().flow, clip_norm=1.0)

    @property
    def test_time(self) -> frozenset[str]:
        return super().test_time - {"flow_q_aggregation"}  # the regressed gradient's, whatever L_train is

    def init_part(self, name: str, key: Key) -> Learner:
        if name != "gradient":
            return super().init_part(name, key)
        params = self.gradient.init(key, jnp.zeros((1, self.spec.obs_dim)), jnp.zeros((1, self.spec.action_dim)))
        return create(params, optimizer(self.config.learning_rate, 1.0))

    def score(self, state: State, obs: Array, actions: Array) -> Array:
        """f(s, a), `[b, n, a]`."""
        wide = per_action(obs, actions)
        return forward(self.gradient, state["gradient"].params, wide, actions)

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        critic, metrics = self.update_critic(state, batch, self.next_proposals(state, batch, draws))
        gradient, gradient_metrics = self.update_gradient(state, batch)
        return {**state, "critic": critic, "gradient": gradient}, {**metrics, **gradient_metrics}

    def update_gradient(self, state: State, batch: Batch) -> tuple[Learner, Metrics]:
        """One step of |f(s, a) - grad_a Q(s, a)|^2, mean over rows and dimensions, at dataset actions."""
        learner, obs, actions = state["gradient"], batch["observations"], batch["actions"]
        target = super().score(state, obs, actions[:, None])[:, 0]

        def loss_fn(params: Params) -> Array:
            return jnp.mean((forward(self.gradient, params, obs, actions) - target) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(learner.params)
        return descend(learner, grads, optimizer(self.config.learning_rate, 1.0)), {"gradient/loss": loss}

    def candidates(self, state: State, obs: Array, key: Key, knobs: Any) -> tuple[Array, Array]:
        # the norm clip is over one observation's particles at test time: rows must not depend on each other
        start = self.test_proposals(state, obs, key)
        steps = max(self.config.test_flow_steps)

        def one(obs: Array, start: Array, limit: Array) -> Array:
            return self.transport(state, obs[None], start[None], steps, limit=limit[None])[0]

        moved = jax.vmap(one)(obs, start, knobs["L_test"])
        return moved, jnp.ones(moved.shape[:-1], bool)
