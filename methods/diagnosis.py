"""What can be asked of a trained sampler and the critic that guides it, beside scores: how much a gradient depends on
the noise of an unfinished action, and where guidance leads.

Source: Test-Time Gradient Guidance of Flow Policies, arXiv 2606.11087, Figures 2, 3, 14, 17, 18 and 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from methods.core import Array, Key, State
from methods.critic import guide
from methods.guidance import Guidance
from methods.inference import Diagnosis
from methods.networks import rows
from methods.samplers import FlowSampler

ESTIMATORS = ("denoised", "jacobian", "noisy", "full")  # gradients at an unfinished action
WAYS = (*ESTIMATORS, "after")
TIMES = (0.0, 0.3, 0.6, 0.9)  # of the flow, or the nearest at which it takes steps
NOISES = (0.01, 0.03, 0.1, 0.3)  # std of what is added to an unfinished action, whose own noise has 1
BEST_OF = 32
STARTS = tuple(round(NormalDist().inv_cdf((i + 0.5) / 15), 3) for i in range(15))  # quantiles of noise
EDGES = np.round(np.linspace(-1.0, 1.0, 41), 3)  # of actions on a line
SAMPLES_A_STATE = 64  # that are counted between them
_LEAST = 1e-12  # of a norm that something is divided by


def times(sampler: FlowSampler) -> tuple[float, ...]:
    """Those of `TIMES`, on the sampler's own grid."""
    return tuple(sorted({float(sampler.times[np.abs(sampler.times - time).argmin()]) for time in TIMES}))


def over_noise(sampler: FlowSampler) -> Diagnosis:
    """How alike gradients are, at each time and noise."""
    x, panels = ("noise", NOISES), ("t", times(sampler))
    return Diagnosis("similarity", "cosine similarity of gradients", "-", ("gradient", ESTIMATORS), x, panels)


def over_weights(weights: Sequence[float]) -> tuple[Diagnosis, ...]:
    """What guidance comes to, at each weight."""
    asked = (("guided_value", "value of the action [Q]"), ("to_best_of_n", f"distance to best-of-{BEST_OF}'s action"),
             ("to_data", "distance to the nearest action of the data"))  # fmt: skip
    lines, x = ("gradient", WAYS), ("w", tuple(weights))
    return tuple(Diagnosis(name, label, "-", lines, x) for name, label in asked)


def on_a_line(sampler: FlowSampler, weights: Sequence[float]) -> tuple[Diagnosis, ...]:
    """Of one-dimensional actions: the way from each of some noises, and where samples end, at each weight."""
    times = tuple(float(time) for time in np.arange(sampler.steps + 1) / sampler.steps)
    edges = tuple(float(one) for one in EDGES)
    return (
        Diagnosis("path", "action", "-", ("noise", STARTS), ("t", times), ("w", tuple(weights))),
        Diagnosis(
            "share", "share of actions up to here", "-", ("w", tuple(weights)), ("action", edges), ("gradient", WAYS)
        ),
    )


def paths(guidance: Guidance, state: State, obs: Array, weights: Sequence[float]) -> Array:
    """Unfinished actions from the noises `STARTS` at each time of the flow, `[b, starts, weights, steps + 1]`, for
    observations `[b, o]` and one-dimensional actions; the last is clipped to [-1, 1]. Steps after sampling, of
    "after", are not on the way."""
    sampler, start = guidance.sampler, jnp.broadcast_to(jnp.asarray(STARTS)[:, None], (rows(obs), len(STARTS), 1))

    def of(weight: Array) -> Array:
        """`[b, starts, steps + 1]`"""

        def euler(action: Array, time: Array) -> tuple[Array, Array]:
            field = guidance.velocity(state, obs, action, time)
            if guidance.gradient != "after":
                field = field + weight * guidance.action_grad(state, obs, action, time, field)
            moved = action + field / sampler.steps
            return moved, moved[..., 0]

        _, way = jax.lax.scan(euler, start, jnp.asarray(sampler.times, start.dtype))
        way = jnp.moveaxis(way, 0, -1)
        return jnp.concatenate([start, way[..., :-1], jnp.clip(way[..., -1:], -1.0, 1.0)], axis=-1)

    return jnp.moveaxis(jax.vmap(of)(jnp.asarray(weights)), 0, 2)


def shares(guidance: Guidance, state: State, obs: Array, weights: Sequence[float], key: Key) -> Array:
    """Of one-dimensional samples, those at most `EDGES`, `[b, weights, ways, edges]`, for observations `[b, o]`; the
    noise is one for all of them. `key` is consumed."""
    start = guidance.sampler.noise(key, (rows(obs), SAMPLES_A_STATE))

    def of(own: Guidance, weight: Array) -> Array:
        """`[b, edges]`"""
        return jnp.mean(own.sample(state, obs, start, weight) <= jnp.asarray(EDGES, start.dtype), axis=1)

    each = [jax.vmap(partial(of, replace(guidance, gradient=name)))(jnp.asarray(weights)) for name in WAYS]
    return jnp.moveaxis(jnp.stack(each), (2, 1), (0, 1))


def cosine(one: Array, other: Array) -> Array:
    """Of vectors `[..., a]`, `[...]`; 0 where one of them is 0."""
    norms = jnp.linalg.norm(one, axis=-1) * jnp.linalg.norm(other, axis=-1)
    return jnp.sum(one * other, axis=-1) / jnp.maximum(norms, _LEAST)


def unfinished(guidance: Guidance, state: State, obs: Array, noise: Array, time: float) -> Array:
    """The unguided flow's action `[b, n, a]` at a time of it, from noise `[b, n, a]`; not clipped."""
    sampler = guidance.sampler
    action = noise
    for at in sampler.times[sampler.times < time - 1e-6]:
        action = action + guidance.velocity(state, obs, action, at) / sampler.steps
    return action


def similarities(guidance: Guidance, state: State, obs: Array, key: Key) -> Array:
    """Cosine of an estimator's gradients at an unfinished action and at the same with noise added, `[b, estimators,
    times, noises]`, for observations `[b, o]`; the noise is one for all of them. `key` is consumed."""
    start_key, added_key = jax.random.split(key)
    start = guidance.sampler.noise(start_key, (rows(obs), 1))
    added, grid = jax.random.normal(added_key, start.shape), times(guidance.sampler)
    action = jnp.stack([unfinished(guidance, state, obs, start, time) for time in grid])

    def of(own: Guidance, action: Array, time: Array) -> Array:
        """`[noises, b]`"""
        plain = own.action_grad(state, obs, action, time)
        moved = lambda noise: own.action_grad(state, obs, action + noise * added, time)  # noqa: E731
        return jax.vmap(lambda noise: cosine(plain, moved(noise))[:, 0])(jnp.asarray(NOISES))

    each = [jax.vmap(partial(of, replace(guidance, gradient=name)))(action, jnp.asarray(grid)) for name in ESTIMATORS]
    return jnp.moveaxis(jnp.stack(each), -1, 0)


def led_to(
    guidance: Guidance, state: State, obs: Array, near: Array, weights: Sequence[float], key: Key
) -> tuple[Array, Array, Array]:
    """Where guidance leads from one noise: value, distance to the best of BEST_OF unguided samples, and distance to the
    nearest of some actions `near` `[b, m, a]`, each `[b, ways, weights]`. `key` is consumed."""
    start_key, others_key = jax.random.split(key)
    start = guidance.sampler.noise(start_key, (rows(obs), 1))
    critic = guide(guidance.critic, state["critic"])
    others = guidance.sampler.noise(others_key, (rows(obs), BEST_OF))
    samples = guidance.sampler.integrate(lambda x, time: guidance.velocity(state, obs, x, time), others)
    place = jnp.argmax(guidance.critic.q(critic, obs, samples, guidance.aggregation), axis=1)
    best = jnp.take_along_axis(samples, place[:, None, None], axis=1)

    def of(own: Guidance, weight: Array) -> tuple[Array, Array, Array]:
        """`[b]` each"""
        action = own.sample(state, obs, start, weight)
        value = guidance.critic.q(critic, obs, action, guidance.aggregation)[:, 0]
        off = jnp.min(jnp.linalg.norm(action - near, axis=-1), axis=1)
        return value, jnp.linalg.norm(action - best, axis=-1)[:, 0], off

    each = [jax.vmap(partial(of, replace(guidance, gradient=name)))(jnp.asarray(weights)) for name in WAYS]
    value, apart, off = (jnp.moveaxis(jnp.stack(one), -1, 0) for one in zip(*each, strict=True))
    return value, apart, off
