"""Matrix products in bfloat16 with sums in float32: the setting `precision`.

Parameters, targets, activations, losses and optimisers stay as they are. Only what goes into a product is rounded, in
the derivative too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from methods.core import Array


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """x `[..., i]` times kernel `[i, j]`, `[..., j]`: both rounded to bfloat16, summed in float32."""
    return _forward(x, kernel)[0]


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    x16, kernel16 = _rounded(x), _rounded(kernel)
    return _sum(x16, kernel16, (x.ndim - 1, 0)).astype(x.dtype), (x16, kernel16)


def _backward(rounded: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x16, kernel16 = rounded
    g16 = _rounded(g)
    dx = _sum(g16, kernel16, (g.ndim - 1, 1))
    # g first: where members of an ensemble share x, XLA's CPU (jaxlib 0.10) has no such product with x first
    dkernel = _sum(g16.reshape(-1, g.shape[-1]), x16.reshape(-1, x16.shape[-1]), (0, 0)).T
    return dx.astype(g.dtype), dkernel.astype(g.dtype)


product.defvjp(_forward, _backward)


def _sum(x: Array, y: Array, over: tuple[int, int]) -> Array:
    """The product over one dimension of each, of bfloat16, in float32."""
    return jax.lax.dot_general(x, y, (((over[0],), (over[1],)), ((), ())), preferred_element_type=jnp.float32)


def _rounded(x: Array) -> Array:
    return x.astype(jnp.bfloat16)


def _dense(x: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    """As a dense layer calls `jax.lax.dot_general`."""
    del dimensions, options  # the last of x with the first of the kernel
    return product(x, kernel)


PRODUCTS: dict[str, Callable[..., Array] | None] = {"float32": None, "bfloat16": _dense}
"""Precision -> what multiplies a dense layer's input by its kernel; None: the library's own, in the computation's
precision."""
