"""Parameters, optimiser state and target network of one part, as one pytree."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import jax
import optax

from methods.core import Array, Key

Params = Any


class Learner(NamedTuple):
    """A part of a method's state that gradient descent trains."""

    params: Params
    opt_state: optax.OptState
    target: Params | None = None  # Polyak average of `params`, where the part has one


def part_key(key: Key, name: str) -> Key:
    """The key of a part or stage, from the seed's key and its name alone: the same whichever method asks."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def optimizer(learning_rate: float, clip_norm: float | None = None) -> optax.GradientTransformation:
    """Adam, after a clip of the global gradient norm where one is asked for."""
    adam = optax.adam(learning_rate)
    return adam if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adam)


def create(params: Params, tx: optax.GradientTransformation, *, target: bool = False) -> Learner:
    """A learner at its start. The target is a copy, so that both can be donated."""
    return Learner(params, tx.init(params), jax.tree.map(lambda leaf: leaf.copy(), params) if target else None)


def descend(learner: Learner, grads: Params, tx: optax.GradientTransformation, *, tau: float = 0.0) -> Learner:
    """One optimiser step; the target follows the parameters *before* it at rate tau, as in the code of FQL,
    VGF and QGF (IVR, TD3+BC and Diffusion-QL take those after it)."""
    updates, opt_state = tx.update(grads, learner.opt_state, learner.params)
    target = learner.target
    if target is not None:
        target = jax.tree.map(lambda online, slow: tau * online + (1.0 - tau) * slow, learner.params, target)
    return Learner(optax.apply_updates(learner.params, updates), opt_state, target)


def global_norm(tree: Any) -> Array:
    """Euclidean norm of all leaves together, a scalar."""
    return optax.global_norm(tree)
