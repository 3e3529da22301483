"""Networks, all of them MLPs: critic ensemble, velocity field, Gaussian head.

Kernels start from variance_scaling(1, fan_avg, uniform), biases from 0, as in the references. `norm` places a
LayerNorm before (VGF) or after (FQL) each hidden activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from methods.core import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "gelu": nn.gelu}


_NORM_EPSILON = 1e-6  # of the variance, as flax's LayerNorm


@jax.custom_vjp
def standardize(x: Array) -> Array:
    """(x - mean) / std over the last axis.

    Its derivative is written out because autodiff of the same formula keeps more intermediates and passes over them
    more often, which shows in grad_a of a LayerNorm critic, the inner loop of value gradient flow. Reverse mode only.
    """
    return _standardize(x)[0]


def _standardize(x: Array) -> tuple[Array, tuple[Array, Array]]:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.maximum(jnp.mean(x * x, axis=-1, keepdims=True) - mean * mean, 0.0)
    inverse_std = jax.lax.rsqrt(variance + _NORM_EPSILON)
    y = (x - mean) * inverse_std
    return y, (y, inverse_std)


def _standardize_vjp(residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    y, inverse_std = residuals
    mean = jnp.mean(g, axis=-1, keepdims=True)
    along = jnp.mean(g * y, axis=-1, keepdims=True)
    return (inverse_std * (g - mean - y * along),)


standardize.defvjp(_standardize, _standardize_vjp)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, with scale and bias."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return standardize(x) * scale + bias


def forward(network: nn.Module, params: Any, *inputs: Array) -> Any:
    """The network's output; `params` as its `init` made them."""
    return network.apply(params, *inputs)


class MLP(nn.Module):
    """`[..., i]` -> `[..., out_dim]`."""

    hidden_dims: tuple[int, ...]
    out_dim: int
    activation: str = "relu"
    norm: str = "none"  # "none" | "before" | "after"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        activate = ACTIVATIONS[self.activation]
        for width in self.hidden_dims:
            x = nn.Dense(width, kernel_init=init)(x)
            if self.norm == "before":
                x = LayerNorm()(x)
            x = activate(x)
            if self.norm == "after":
                x = LayerNorm()(x)
        return nn.Dense(self.out_dim, kernel_init=init)(x)


class Critic(nn.Module):
    """An ensemble of Q(s, a): observations `[..., o]`, actions `[..., a]` -> `[members, ...]`."""

    hidden_dims: tuple[int, ...]
    activation: str = "relu"
    norm: str = "before"
    members: int = 2

    @nn.compact
    def __call__(self, obs: Array, actions: Array) -> Array:
        ensemble = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=0,
            axis_size=self.members,
        )
        net = ensemble(self.hidden_dims, 1, self.activation, self.norm)
        return net(jnp.concatenate([obs, actions], axis=-1)).squeeze(-1)


class ActionField(nn.Module):
    """A vector field on actions: observations `[..., o]` and actions `[..., a]`, with any further inputs (flow time
    `[..., 1]`) -> `[..., a]`. Serves the flow's velocity, the one-step policy and the amortised value gradient."""

    hidden_dims: tuple[int, ...]
    action_dim: int
    activation: str = "relu"
    norm: str = "none"

    @nn.compact
    def __call__(self, obs: Array, actions: Array, *more: Array) -> Array:
        net = MLP(self.hidden_dims, self.action_dim, self.activation, self.norm)
        return net(jnp.concatenate([obs, actions, *more], axis=-1))


class GaussianHead(nn.Module):
    """A diagonal Gaussian policy: observations `[..., o]` -> mean and log standard deviation, both `[..., a]`.

    The deviation does not depend on the state; its log is held in [-5, 2].
    """

    hidden_dims: tuple[int, ...]
    action_dim: int
    activation: str = "relu"

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, Array]:
        init = nn.initializers.variance_scaling(1e-2, "fan_avg", "uniform")
        features = ACTIVATIONS[self.activation](MLP(self.hidden_dims[:-1], self.hidden_dims[-1], self.activation)(obs))
        mean = nn.Dense(self.action_dim, kernel_init=init)(features)
        log_std = self.param("log_std", nn.initializers.zeros, (self.action_dim,))
        return mean, jnp.broadcast_to(jnp.clip(log_std, -5.0, 2.0), mean.shape)
