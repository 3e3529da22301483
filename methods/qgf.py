"""QGF: a behaviour flow whose velocity is pushed up the critic's gradient while it samples.

Source: Test-Time Gradient Guidance of Flow Policies, arXiv 2606.11087, and its public code. Nothing is trained for it
but a behaviour flow and IQL's critic; guidance weight w and number of samples N are test-time knobs. The paper reports
the best w at each evaluation; here every w is reported, and chosen by a declared rule if at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.best_of_n import BestOfN, BestOfNConfig
from methods.core import Array, Key, Knobs, Method, MethodConfig, Repeats, State, Switch, Weight, is_on
from methods.critics import aggregate
from methods.inference import SAMPLES, Cost, Knob
from methods.networks import per_action
from methods.samplers import FlowSampler
from methods.select import select


@dataclass(frozen=True)
class QGFConfig(BestOfNConfig):
    """QGF's settings; the grid of w is its code's, its choices per domain were not published."""

    critic: Literal["td", "iql"] = "iql"
    sampler: Literal["flow"] = "flow"
    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    gradient: Literal["denoised", "jacobian", "noisy", "full"] = "denoised"  # where the critic is asked
    guidance_aggregation: Literal["mean", "min"] = "min"  # of the target critics whose gradient guides
    test_weights: tuple[Weight, ...] = (0.0, 0.004, 0.008, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12)  # w; 0 is BC
    test_n: tuple[Repeats, ...] = (1,)  # N: the best of so many guided samples
    explore_weight: Annotated[Weight, Switch] = 0.02  # w while exploring online (ours: the middle of its grid)


@dataclass(frozen=True)
class QGF(BestOfN):
    """Q-guided flow."""

    config: QGFConfig
    Config: ClassVar[type[MethodConfig]] = QGFConfig
    name: ClassVar[str] = "qgf"
    inference: ClassVar[tuple[Knob, ...]] = (Knob("w", "weight of the guidance"), SAMPLES)

    @property
    def sampler(self) -> FlowSampler:
        c = self.config
        return FlowSampler(
            self.spec.action_dim, c.hidden_dims, c.sampler_activation, c.flow_steps, norm="inner", time_embedding=16,
            grid=True,
        )  # fmt: skip

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        return tuple({"w": w, "N": n} for w, n in product(self.config.test_weights, self.config.test_n))

    @property
    def explorer(self) -> Method:
        weight, most = self.config.explore_weight, max(self.config.test_n)
        return self.having(test_weights=(weight,), test_n=(self.config.explore_n or most,))

    @property
    def test_time(self) -> frozenset[str]:
        return super().test_time | {"test_weights", "gradient", "guidance_aggregation"}

    def velocity(self, state: State, obs: Array, actions: Array, time: Array) -> Array:
        """v(s, a, t) `[b, n, a]` for unfinished actions `[b, n, a]` at a scalar time."""
        times = jnp.broadcast_to(time, (*actions.shape[:-1], 1))
        return self.sampler.velocity(state["behavior"].params, per_action(obs, actions), actions, times)

    def estimate(self, state: State, obs: Array, actions: Array, time: Array, velocity: Array | None = None) -> Array:
        """The action that an unfinished one is on its way to, `[b, n, a]`: a + (1 - t) v(s, a, t), clipped to [-1, 1];
        `velocity`: v, if it is known."""
        v = self.velocity(state, obs, actions, time) if velocity is None else velocity
        return jnp.clip(actions + (1.0 - time) * v, -1.0, 1.0)

    def finish(self, state: State, obs: Array, actions: Array, time: Array) -> Array:
        """The clipped action that the remaining Euler steps lead to: `estimate` without its approximation."""

        def euler(carry: Array, at: Array) -> tuple[Array, None]:
            velocity = self.velocity(state, obs, carry, at)
            return carry + jnp.where(at >= time, velocity / self.sampler.steps, 0.0), None

        grid = jnp.asarray(self.sampler.times, actions.dtype)
        return jnp.clip(jax.lax.scan(euler, actions, grid)[0], -1.0, 1.0)

    def guidance(self, state: State, obs: Array, actions: Array, time: Array, velocity: Array | None = None) -> Array:
        """The critic's gradient for actions `[b, n, a]` at flow time `time`, where the flow's `velocity` may be known.

        "denoised": grad_x min Q_target(s, x) at x = `estimate`, without its Jacobian (the paper's); "jacobian": with
        it, through the clip; "full": through every remaining Euler step; "noisy": at the unfinished action itself.
        """

        def total(actions: Array) -> Array:
            values = self.values(state["critic"].target, obs, actions)
            return jnp.sum(aggregate(values, self.config.guidance_aggregation))

        how = self.config.gradient
        if how == "denoised":
            return jax.grad(total)(self.estimate(state, obs, actions, time, velocity))
        if how == "noisy":
            return jax.grad(total)(actions)
        ahead = self.estimate if how == "jacobian" else self.finish
        return jax.grad(lambda x: total(ahead(state, obs, x, time)))(actions)

    def guided(self, state: State, obs: Array, noise: Array, weight: Array) -> Array:
        """Actions `[b, n, a]` from noise `[b, n, a]` at observations `[b, o]`, guided with weights `[b]` or a scalar:
        a <- a + (v + w g) / steps for each Euler step, clipped to the box at the end."""
        scale = jnp.reshape(weight, (-1, 1, 1))

        def euler(actions: Array, time: Array) -> tuple[Array, None]:
            velocity = self.velocity(state, obs, actions, time)
            guidance = self.guidance(state, obs, actions, time, velocity)
            return actions + (velocity + scale * guidance) / self.sampler.steps, None

        grid = jnp.asarray(self.sampler.times, noise.dtype)
        return jnp.clip(jax.lax.scan(euler, noise, grid)[0], -1.0, 1.0)

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        noise = self.sampler.noise(key, (obs.shape[0], most))
        unguided = not any(map(is_on, self.config.test_weights))
        actions = self.propose(state, obs, noise) if unguided else self.guided(state, obs, noise, knobs["w"])
        return actions, jnp.arange(most) < knobs["N"][:, None]

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The best of the N by the critic that guides, as its code does."""
        values = aggregate(self.values(state["critic"].target, obs, candidates), self.config.guidance_aggregation)
        rule, temperature = self.config.particle_select, self.config.temperature
        return select(candidates, values, valid, key, rule=rule, temperature=temperature)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        n, steps = knobs["N"], self.sampler.passes
        if not knobs["w"]:
            return Cost(n * (steps + 1))
        # the velocity, and what the gradient passes: the critic, and before it what leads to the action it is asked of
        ahead = {"denoised": 0, "noisy": 0, "jacobian": 1, "full": steps}[self.config.gradient]
        return Cost(n * (steps * (2 + ahead) + 1), gradients=n * steps)
