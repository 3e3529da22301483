"""Guidance of a behaviour flow: its velocity is pushed up the critic's gradient while it samples, or its samples are
when they are finished.

Source: Test-Time Gradient Guidance of Flow Policies, arXiv 2606.11087, and its public code.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from methods.core import Array, Key, State
from methods.critic import Critic, guide
from methods.inference import Cost
from methods.networks import per_action, rows
from methods.samplers import FlowSampler

_UNROLLED = 3  # steps after sampling


@dataclass(frozen=True)
class Guidance:
    """A flow and the critic that guides it, by the gradient of its targets at one of five actions."""

    sampler: FlowSampler
    critic: Critic
    gradient: str = "denoised"  # "denoised" | "jacobian" | "noisy" | "full" | "after": where the critic is asked
    aggregation: str = "min"  # of the target critics
    after_steps: int = 3  # of "after": steps that finished samples take

    def velocity(self, state: State, obs: Array, actions: Array, time: Array) -> Array:
        """v(s, a, t) `[b, n, a]` for unfinished actions `[b, n, a]` at a scalar time."""
        return self.sampler.velocity(state["behavior"].params, obs, actions, time)

    def estimate(self, state: State, obs: Array, actions: Array, time: Array, velocity: Array | None = None) -> Array:
        """The action that an unfinished one is on its way to, `[b, n, a]`: a + (1 - t) v(s, a, t), clipped to [-1, 1];
        `velocity`: v, if it is known."""
        v = self.velocity(state, obs, actions, time) if velocity is None else velocity
        return jnp.clip(actions + (1.0 - time) * v, -1.0, 1.0)

    def finish(self, state: State, obs: Array, actions: Array, time: Array) -> Array:
        """The clipped action that the remaining Euler steps lead to: `estimate` without its approximation."""

        def remaining(carry: Array, at: Array) -> Array:
            return jnp.where(at >= time, self.velocity(state, obs, carry, at), 0.0)

        return self.sampler.integrate(remaining, actions)

    def action_grad(
        self, state: State, obs: Array, actions: Array, time: Array, velocity: Array | None = None
    ) -> Array:
        """The critic's gradient for actions `[b, n, a]` at flow time `time`, where the flow's `velocity` may be known.

        "denoised": grad_x min Q_target(s, x) at x = `estimate`, without its Jacobian (the paper's); "jacobian": with
        it, through the clip; "full": through every remaining Euler step; "noisy": at the unfinished action itself.
        """
        critic, how = guide(self.critic, state["critic"]), self.aggregation
        if self.gradient == "denoised":
            actions = self.estimate(state, obs, actions, time, velocity)
        if self.gradient in ("denoised", "noisy"):
            return self.critic.action_grad(critic, obs, actions, how)
        ahead = self.estimate if self.gradient == "jacobian" else self.finish
        return jax.grad(lambda x: jnp.sum(self.critic.q(critic, obs, ahead(state, obs, x, time), how)))(actions)

    def sample(self, state: State, obs: Array, noise: Array, weight: Array) -> Array:
        """Actions `[b, n, a]` from noise `[b, n, a]` at observations `[b, o]`, guided with weights `[b]` or a scalar:
        a <- a + (v + w g) / steps for each Euler step, clipped to the box at the end. With "after" it is finished
        samples that take steps, a <- clip(a + w g) (the paper's GradStep)."""
        scale = jnp.reshape(weight, (-1, 1, 1))
        if self.gradient == "after":
            finished = self.sampler.sample(state["behavior"].params, per_action(obs, noise), noise)
            return self._ascend(state, obs, finished, scale)

        def guided(actions: Array, time: Array) -> Array:
            velocity = self.velocity(state, obs, actions, time)
            return velocity + scale * self.action_grad(state, obs, actions, time, velocity)

        return self.sampler.integrate(guided, noise)

    def _ascend(self, state: State, obs: Array, actions: Array, scale: Array) -> Array:
        """Finished actions `[b, n, a]` after their steps up the critic's gradient."""
        critic = guide(self.critic, state["critic"])

        def step(_: int, at: Array) -> Array:
            return jnp.clip(at + scale * self.critic.action_grad(critic, obs, at, self.aggregation), -1.0, 1.0)

        return jax.lax.fori_loop(0, self.after_steps, step, actions, unroll=min(self.after_steps, _UNROLLED) or 1)

    def candidates(self, state: State, obs: Array, key: Key, n: int, weight: Array) -> Array:
        """`n` guided samples `[b, n, a]` at observations `[b, o]` with weights `[b]`. `key` is consumed."""
        return self.sample(state, obs, self.sampler.noise(key, (rows(obs), n)), weight)

    def cost(self, n: float, *, guided: bool) -> Cost:
        """What it takes to sample `n` actions and judge them."""
        steps = self.sampler.passes
        if not guided:
            return Cost(n * (steps + 1))
        if self.gradient == "after":
            return Cost(n * (steps + self.after_steps + 1), gradients=n * self.after_steps)
        # the velocity, and what the gradient passes: the critic, and before it what leads to the action it is asked of
        ahead = {"denoised": 0, "noisy": 0, "jacobian": 1, "full": steps}[self.gradient]
        return Cost(n * (steps * (2 + ahead) + 1), gradients=n * steps)
