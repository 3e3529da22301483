"""VGF: behaviour particles moved up the value gradient, and a critic trained on where they arrive.

Source: Value Gradient Flow, arXiv 2604.14265, Algorithm 1 and Tables 4-6; where the paper and its public code differ
we follow the code, which docstrings note where it matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods import particles
from methods.behavior import BehaviorConfig, BehaviorMethod
from methods.core import (
    Array,
    Batch,
    Count,
    Key,
    Knobs,
    MethodConfig,
    Metrics,
    PositiveFloat,
    PositiveInt,
    State,
)
from methods.critics import aggregate, td_loss, td_target
from methods.learner import Learner, Params, create, descend, global_norm, optimizer
from methods.networks import Critic, forward
from methods.select import select

UNROLL = 3  # steps of the flow
_FLOW_SETTINGS = frozenset(
    {"step_size", "alpha", "particle_optimizer", "maxent", "kernel", "bandwidth", "sigma", "bandwidth_gradient"}
)  # fmt: skip


@dataclass(frozen=True)
class VGFConfig(BehaviorConfig):
    """VGF's settings; per-task values of `train_flow_steps`, `step_size`, `discount` and `q_aggregation` stand in
    the task tables (the paper's Tables 5 and 6)."""

    activation: Literal["relu", "gelu"] = "relu"  # of the critic
    n_particles: PositiveInt = 5  # N
    train_flow_steps: Count = 1  # L_train: steps of the flow that TD targets see
    test_flow_steps: tuple[Count, ...] = (0, 1, 2, 3)  # L_test: each is evaluated, none needs retraining
    test_particles: Count = 0  # particles at test time; 0: n_particles, as the paper has it
    step_size: PositiveFloat = 0.1  # eps
    alpha: PositiveFloat = 1.0  # temperature: repulsion against value gradient
    particle_optimizer: Literal["adam", "sgd"] = "adam"
    maxent: bool = True  # repulsion between particles, and alpha
    kernel: Literal["rbf", "none"] = "rbf"
    bandwidth: Literal["median", "fixed"] = "median"
    sigma: PositiveFloat = 1.0  # bandwidth, if fixed
    bandwidth_gradient: bool = True  # repulsion through the median, as the public code's autodiff has it
    q_aggregation: Literal["mean", "min"] = "mean"  # of the critics, in the TD target and in the choice at test time
    flow_q_aggregation: Literal["mean", "min"] = "mean"  # of the critics whose gradient moves particles
    target_select: Literal["mean", "max"] = "mean"  # over the particles' target values
    particle_select: Literal["argmax", "softmax", "uniform"] = "argmax"  # among the particles at test time
    temperature: PositiveFloat = 1.0  # of softmax


@dataclass(frozen=True)
class VGF(BehaviorMethod):
    """Value Gradient Flow with exact gradients of the critic."""

    config: VGFConfig
    Config: ClassVar[type[MethodConfig]] = VGFConfig
    name: ClassVar[str] = "vgf"
    parts: ClassVar[tuple[str, ...]] = ("critic",)
    rule: ClassVar[str] = "TD on particles moved by the exact value gradient"
    draws_next: ClassVar[bool] = True
    critic_clip_norm: ClassVar[float | None] = None

    @property
    def critic(self) -> Critic:
        return Critic(self.config.hidden_dims, self.config.activation, norm="before")

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
    def test_time(self) -> frozenset[str]:
        # a flow that TD targets never see shapes no critic, so L_train = 0 shares best-of-N's
        unseen = frozenset() if self.config.train_flow_steps else _FLOW_SETTINGS
        return unseen | {"test_flow_steps", "test_particles", "particle_select", "temperature"}

    def init_part(self, name: str, key: Key) -> Learner:
        spec = self.spec
        params = self.critic.init(key, jnp.zeros((1, spec.obs_dim)), jnp.zeros((1, spec.action_dim)))
        return create(params, optimizer(self.config.learning_rate, self.critic_clip_norm), target=True)

    # the flow

    def score(self, state: State, obs: Array, actions: Array) -> Array:
        """grad_a Q(s, a) of the *online* critic, `[b, n, a]`, at observations `[b, o]`, actions `[b, n, a]`."""

        def total(actions: Array) -> Array:
            values = self._values(state["critic"].params, obs, actions)
            return jnp.sum(aggregate(values, self.config.flow_q_aggregation))

        return jax.grad(total)(actions)

    def transport(self, state: State, obs: Array, start: Array, steps: int, limit: Array | None = None) -> Array:
        """Particles `[b, n, a]` after `steps` steps of the flow (or `limit` `[b]`, if fewer) from `start`."""
        # a few steps are unrolled, for XLA to fuse; many would take long to compile
        loop = partial(jax.lax.fori_loop, unroll=min(max(steps, 1), UNROLL))
        return particles.transport(start, lambda x: self.score(state, obs, x), steps, self.flow, limit=limit, loop=loop)

    def _values(self, params: Params, obs: Array, actions: Array) -> Array:
        """Q `[members, b, n]` at observations `[b, o]`, actions `[b, n, a]`."""
        wide = jnp.broadcast_to(obs[:, None], (*actions.shape[:-1], obs.shape[-1]))
        return forward(self.critic, params, wide, actions)

    # training

    def draw(self, key: Key, batch: Batch) -> Array:
        return self.draw_proposals(key, batch, self.config.n_particles)

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        critic, metrics = self.update_critic(state, batch, self.next_proposals(state, batch, draws))
        return {**state, "critic": critic}, metrics

    def critic_target(self, state: State, batch: Batch, start: Array) -> Array:
        """TD target `[b]` from behaviour particles `start` `[b, n, a]` at the next observations (Algorithm 1)."""
        config = self.config
        moved = self.transport(state, batch["next_observations"], start, config.train_flow_steps)
        values = self._values(state["critic"].target, batch["next_observations"], moved)
        values = aggregate(values, config.q_aggregation)
        next_values = jnp.max(values, axis=-1) if config.target_select == "max" else jnp.mean(values, axis=-1)
        return td_target(batch["rewards"], batch["masks"], next_values, config.discount)

    def update_critic(self, state: State, batch: Batch, start: Array) -> tuple[Learner, Metrics]:
        """One TD step of the critic on particles that started at `start` `[b, n, a]`."""
        learner = state["critic"]
        target = self.critic_target(state, batch, start)

        def loss_fn(params: Params) -> tuple[Array, Array]:
            values = forward(self.critic, params, batch["observations"], batch["actions"])
            return td_loss(values, target), jnp.mean(values)

        (loss, value), grads = jax.value_and_grad(loss_fn, has_aux=True)(learner.params)
        tx = optimizer(self.config.learning_rate, self.critic_clip_norm)
        metrics = {"critic/loss": loss, "critic/value": value, "critic/grad_norm": global_norm(grads)}
        return descend(learner, grads, tx, tau=self.config.tau), metrics

    # acting

    def test_proposals(self, state: State, obs: Array, key: Key) -> Array:
        """Behaviour particles `[b, n, a]` that the flow starts from at test time."""
        n = self.config.test_particles or self.config.n_particles
        return self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], n)))

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        start = self.test_proposals(state, obs, key)
        moved = self.transport(state, obs, start, max(self.config.test_flow_steps), limit=knobs["L_test"])
        return moved, jnp.ones(moved.shape[:-1], bool)

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The best particle by the *online* critic, with the target's aggregation of the ensemble."""
        values = aggregate(self._values(state["critic"].params, obs, candidates), self.config.q_aggregation)
        rule, temperature = self.config.particle_select, self.config.temperature
        return select(candidates, values, valid, key, rule=rule, temperature=temperature)
