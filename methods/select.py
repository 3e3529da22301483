"""Choosing one action among candidates."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from methods.core import Array, Key

RULES = ("argmax", "softmax", "uniform")


def first(n: Array, most: int) -> Array:
    """Which of `most` candidates are in play where the first `n` `[b]` of them are, `[b, most]` bool."""
    return jnp.arange(most) < n[:, None]


def one_action(actions: Array) -> tuple[Array, Array]:
    """(candidates `[b, 1, a]`, which of them count `[b, 1]`) of a policy that has one action for a row, `[b, a]`."""
    return actions[:, None], jnp.ones((len(actions), 1), bool)


def select(
    candidates: Array, values: Array, valid: Array, key: Key, *, rule: str = "argmax", temperature: float = 1.0
) -> Array:
    """One of each row's candidates.

    Args:
      candidates: `[b, n, a]`.
      values: `[b, n]`, what the critic thinks of them.
      valid: `[b, n]` bool, at least one true a row; the others are never chosen.
      key: consumed, unless the rule is "argmax".
      rule: "argmax" | "softmax" (of values / temperature) | "uniform".

    Returns:
      `[b, a]`.
    """
    if rule == "argmax":
        chosen = jnp.argmax(jnp.where(valid, values, -jnp.inf), axis=-1)
    else:
        logits = values / temperature if rule == "softmax" else jnp.zeros_like(values)
        chosen = jax.random.categorical(key, jnp.where(valid, logits, -jnp.inf), axis=-1)
    return jnp.take_along_axis(candidates, chosen[:, None, None], axis=1)[:, 0]
