"""Critic targets and losses, one equation a function."""

from __future__ import annotations

import jax.numpy as jnp

from methods.core import Array


def aggregate(values: Array, how: str) -> Array:
    """One value out of an ensemble's, `[members, ...]` -> `[...]`; `how`: "mean" | "min"."""
    return jnp.min(values, axis=0) if how == "min" else jnp.mean(values, axis=0)


def td_target(rewards: Array, masks: Array, next_values: Array, discount: float) -> Array:
    """r + gamma * mask * V(s'), `[b]` (VGF Algorithm 1, line 7)."""
    return rewards + discount * masks * next_values


def td_loss(values: Array, target: Array) -> Array:
    """Sum over the ensemble of the mean squared TD error, a scalar; `values` `[members, b]`, `target` `[b]`."""
    return jnp.mean(jnp.sum((values - target) ** 2, axis=0))
