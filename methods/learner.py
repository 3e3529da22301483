"""Parameters, optimiser state and target network of one part, as one pytree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from methods.core import Array, is_on

Params = Any

CLIP_NORM = 1.0  # of gradients, in the codes that clip them


class Learner(NamedTuple):
    """A part of a method's state that gradient descent trains."""

    params: Params
    opt_state: optax.OptState
    target: Params | None = None  # Polyak average of `params`, or of some of them, where the part has one


def optimizer(
    learning_rate: float, clip_norm: float | None = None, *, weight_decay: float = 0.0, decay_steps: int = 0
) -> optax.GradientTransformation:
    """Adam, after a clip of the global gradient norm where one is asked for. With `weight_decay` it is AdamW, of every
    parameter; with `decay_steps` the rate falls to 0 along half a cosine over so many steps, and stays there."""
    rate = optax.cosine_decay_schedule(learning_rate, decay_steps) if decay_steps else learning_rate
    adam = optax.adamw(rate, weight_decay=weight_decay) if is_on(weight_decay) else optax.adam(rate)
    return adam if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adam)


def create(params: Params, tx: optax.GradientTransformation, *, target: bool = False) -> Learner:
    """A learner at its start. The target is a copy, so that both can be donated."""
    return Learner(params, tx.init(params), jax.tree.map(lambda leaf: leaf.copy(), params) if target else None)


def descend(
    learner: Learner, grads: Params, tx: optax.GradientTransformation, *, tau: float = 0.0, after: bool = False
) -> Learner:
    """One optimiser step; the target follows at rate tau the parameters before it, as in the code of FQL, VGF and QGF,
    or those `after` it, as in that of IVR, TD3+BC, Diffusion-QL and IDQL."""
    updates, opt_state = tx.update(grads, learner.opt_state, learner.params)
    params, target = optax.apply_updates(learner.params, updates), learner.target
    if target is not None:
        followed = params if after else learner.params
        followed = {name: followed[name] for name in target} if isinstance(target, dict) else followed
        target = jax.tree.map(lambda online, slow: tau * online + (1.0 - tau) * slow, followed, target)
    return Learner(params, opt_state, target)


def clipped_together(grads: Mapping[str, Params], norm: float) -> dict[str, Params]:
    """The gradients of several parts, all scaled alike where the norm of all of them is above `norm`: what one
    optimiser with one clip makes of them, where a large gradient of one part shortens the steps of the others."""
    factor = jnp.minimum(1.0, norm / global_norm(dict(grads)))
    return {name: jax.tree.map(lambda leaf: factor * leaf, part) for name, part in grads.items()}


def global_norm(tree: Any) -> Array:
    """Euclidean norm of all leaves together, a scalar."""
    return optax.global_norm(tree)
