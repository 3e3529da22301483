"""Critic targets and losses, one equation a function. Shapes: `[members, b]` for an ensemble, `[b]` otherwise."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from methods.core import Array, Batch


def aggregate(values: Array, how: str, rho: float = 0.5) -> Array:
    """One value out of an ensemble's, `[members, ...]` -> `[...]`; `how`: "mean" | "min" | "mean_minus_std", which is
    mean - rho std, of the population (QAM, arXiv 2601.14234)."""
    if how == "min":
        return jnp.min(values, axis=0)
    mean = jnp.mean(values, axis=0)
    if how == "mean":
        return mean
    variance = jnp.var(values, axis=0)
    apart = variance > 0.0  # where all are equal the root has no slope
    return mean - rho * jnp.where(apart, jnp.sqrt(jnp.where(apart, variance, 1.0)), 0.0)


def td_target(rewards: Array, masks: Array, next_values: Array, discount: float) -> Array:
    """r + gamma * mask * V(s'), `[b]` (VGF Algorithm 1, line 7; IQL, arXiv 2110.06169, Eq. 6)."""
    return rewards + discount * masks * next_values


def td_loss(values: Array, target: Array, over: str = "sum", whole: Array | None = None) -> Array:
    """The squared TD error, its mean over rows and sum (or "mean") `over` the ensemble, a scalar; `values` `[members,
    b]`, `target` `[b]`. Rows where `whole` `[b]` is 0 count as 0, not as absent (Q-chunking's and QAM's codes)."""
    return over_ensemble((values - target) ** 2, over, whole)


def over_ensemble(errors: Array, over: str = "sum", whole: Array | None = None) -> Array:
    """The mean of errors `[members, b]` over rows, and their sum (or "mean") `over` the ensemble; `whole` as in
    `td_loss`."""
    errors = errors if whole is None else whole * errors
    return jnp.mean(errors) if over == "mean" else jnp.mean(jnp.sum(errors, axis=0))


def counted(batch: Batch) -> Array | float:
    """What multiplies the loss of each row: 0 `[b]` where its window crosses an episode's end, or 1 of rows."""
    return batch["valid"][:, -1] if "valid" in batch else 1.0


def particle_value(values: Array, how: str) -> Array:
    """V(s') of particles `[b, n]` -> `[b]`: their "mean" (VGF Algorithm 1) or their "max" (EMaQ, arXiv 2007.11091,
    Eq. 6)."""
    return jnp.max(values, axis=-1) if how == "max" else jnp.mean(values, axis=-1)


def expectile_loss(advantage: Array, expectile: float, whole: Array | float = 1.0) -> Array:
    """Mean of |tau - 1[u < 0]| u^2, u = Q - V: V becomes the tau-expectile of Q (IQL, Eq. 5). `whole`: `counted`."""
    weight = jnp.where(advantage > 0.0, expectile, 1.0 - expectile)
    return jnp.mean(whole * weight * advantage**2)


def sparse_loss(advantage: Array, value: Array, alpha: float) -> Array:
    """Mean of 1[w > 0] w^2 + V / alpha, w = 1 + (Q - V) / (2 alpha): sparse Q-learning (SQL of IVR,
    arXiv 2303.15810)."""
    weight = jnp.maximum(1.0 + advantage / (2.0 * alpha), 0.0)
    return jnp.mean(weight**2 + value / alpha)


EXPONENT_LIMIT = 5.0  # of (Q - V) / alpha in EQL, as its code has it


def exponential_loss(advantage: Array, value: Array, alpha: float) -> Array:
    """Mean of exp(u) + V / alpha, u = min((Q - V) / alpha, 5): exponential Q-learning (EQL of IVR). Both terms are
    scaled by exp(-m), m the batch's largest u but at least -1, so that the exponential cannot overflow."""
    exponent = jnp.minimum(advantage / alpha, EXPONENT_LIMIT)
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(exponent), -1.0))
    return jnp.mean(jnp.exp(exponent - largest) + jnp.exp(-largest) * value / alpha)


def softmax_value(values: Array, weight: float) -> Array:
    """sum_i softmax(weight * Q_i) Q_i over `[..., n]` samples of the behaviour, `[...]` (SfBC, arXiv
    2209.14548: importance sampling of the improved policy's value)."""
    return jnp.sum(jax.nn.softmax(weight * values, axis=-1) * values, axis=-1)


def planned_returns(rewards: Array, masks: Array, terminals: Array, values: Array, discount: float) -> Array:
    """G_t = max(r_t + gamma * mask_t * G_{t+1}, V(s_t)) along each episode, `[t]` (SfBC's implicit in-sample planning,
    as its code does it; the paper writes the maximum at the next state).

    Args:
      rewards, masks: of the whole dataset in order, `[t]`.
      terminals: 1 at the last transition of its episode, `[t]`; a return never crosses it.
      values: V(s), `[t]`; -inf gives Monte-Carlo returns.
    """

    def back(later: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, mask, last, value = row
        later = jnp.where(last > 0.0, 0.0, later)
        current = jnp.maximum(reward + discount * mask * later, value)
        return current, current

    start = jnp.zeros((), rewards.dtype)
    return jax.lax.scan(back, start, (rewards, masks, terminals, values), reverse=True)[1]
