"""Networks, all of them MLPs: critic ensemble, value, velocity field, policy heads, denoiser.

Kernels start from variance_scaling(1, fan_avg, uniform) unless said otherwise (`start`: "orthogonal", of gain sqrt 2,
as in the code of IVR), biases from 0. `norm` places a LayerNorm before (VGF) or after (FQL) each hidden activation, or
before each but the last ("inner", QGF's policy).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from methods.core import Array, Key
from methods.precision import PRODUCTS


def mish(x: Array) -> Array:
    """x tanh(softplus(x)) (Misra 2020), as x n / (n + 2) with n = e^x (e^x + 2): one exponential in place of three."""
    power = jnp.exp(jnp.minimum(x, _SATURATED[x.dtype == jnp.float64]))
    n = power * (power + 2.0)
    return x * (n / (n + 2.0))


# where n / (n + 2) is 1: in float64, and in less, whose range n^3 must not leave
_SATURATED = {True: 20.0, False: 10.0}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "gelu": nn.gelu, "mish": mish}


def _orthogonal(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Kernels with orthogonal columns of length sqrt 2, or rows where they are wide.

    One after another under `vmap`: several batched QRs in flight at once wait for each other for ever on a CPU of few
    cores (jaxlib 0.10.2, whose LAPACK calls wait inside the thread pool that has to serve them).
    """
    draw = nn.initializers.orthogonal(math.sqrt(2.0))
    return jax.custom_batching.sequential_vmap(lambda key: draw(key, shape, dtype))(key)


STARTS: dict[str, Callable[..., Array]] = {
    "uniform": nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    "orthogonal": _orthogonal,
}


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


def forward(network: nn.Module, params: Any, *inputs: Array, dropout: Key | None = None, **named: Any) -> Any:
    """The network's output; `params` as its `init` made them. With a `dropout` key it drops units, as in training."""
    if dropout is None:
        return network.apply(params, *inputs, **named)
    return network.apply(params, *inputs, **named, train=True, rngs={"dropout": dropout})


def per_action(obs: Any, actions: Array) -> Any:
    """Observations `[b, o]` beside each of their actions `[b, n, a]`: `[b, n, o]`. One for each action already, `[...,
    o]` and `[..., a]`, they stay. A pytree's leaves are treated alike."""

    def wide(leaf: Array) -> Array:
        if leaf.ndim == actions.ndim:
            return leaf
        return jnp.broadcast_to(leaf[:, None], (*actions.shape[:-1], leaf.shape[-1]))

    return jax.tree.map(wide, obs)


def rows(obs: Any) -> int:
    """How many observations there are, of `[b, o]` or a pytree of such."""
    return len(jax.tree.leaves(obs)[0])


def features(obs: Any) -> Array:
    """Of observations `[..., o]` what networks begin with, `[..., f]`: themselves, or a pytree's leaves one after
    another. The place for an encoder."""
    leaves = jax.tree.leaves(obs)
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)


class MLP(nn.Module):
    """`[..., i]` -> `[..., out_dim]`."""

    hidden_dims: tuple[int, ...]
    out_dim: int
    activation: str = "relu"
    norm: str = "none"  # "none" | "before" | "after" | "inner"
    dropout: float = 0.0  # after each hidden layer, while training
    start: str = "uniform"
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        init, product = STARTS[self.start], PRODUCTS[self.precision]
        activate = ACTIVATIONS[self.activation]
        for number, width in enumerate(self.hidden_dims, start=1):
            x = nn.Dense(width, kernel_init=init, dot_general=product)(x)
            if self.norm == "before" or (self.norm == "inner" and number < len(self.hidden_dims)):
                x = LayerNorm()(x)
            x = activate(x)
            if self.norm == "after":
                x = LayerNorm()(x)
            if self.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.out_dim, kernel_init=init, dot_general=product)(x)


class QNetwork(nn.Module):
    """An ensemble of Q(s, a): observations `[..., o]`, actions `[..., a]` -> `[members, ...]`."""

    hidden_dims: tuple[int, ...]
    activation: str = "relu"
    norm: str = "before"
    members: int = 2
    start: str = "uniform"
    precision: str = "float32"

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
        net = ensemble(self.hidden_dims, 1, self.activation, self.norm, start=self.start, precision=self.precision)
        return net(jnp.concatenate([features(obs), actions], axis=-1)).squeeze(-1)


LABEL_WIDTH = 32  # of the vector that stands for a class (QGF's code of CFGRL)


class ActionField(nn.Module):
    """A vector field on actions: observations `[..., o]` and actions `[..., a]`, with any further inputs (flow time
    `[..., 1]`) -> `[..., a]`. Serves the flow's velocity, the one-step policy and the amortised value gradient. With
    `labels` it is conditioned on one of so many classes, which a learned vector stands for."""

    hidden_dims: tuple[int, ...]
    action_dim: int
    activation: str = "relu"
    norm: str = "none"
    labels: int = 0
    precision: str = "float32"

    @nn.compact
    def __call__(self, obs: Array, actions: Array, *more: Array, label: Array | None = None) -> Array:
        net = MLP(self.hidden_dims, self.action_dim, self.activation, self.norm, precision=self.precision)
        inputs = [features(obs), actions, *more]
        if self.labels:
            assert label is not None
            inputs.append(nn.Embed(self.labels, LABEL_WIDTH)(jnp.broadcast_to(label, actions.shape[:-1])))
        return net(jnp.concatenate(inputs, axis=-1))


class ValueNetwork(nn.Module):
    """V(s): observations `[..., o]` -> `[...]`."""

    hidden_dims: tuple[int, ...]
    activation: str = "relu"
    norm: str = "none"
    dropout: float = 0.0
    start: str = "uniform"
    precision: str = "float32"

    @nn.compact
    def __call__(self, obs: Array, train: bool = False) -> Array:
        net = MLP(self.hidden_dims, 1, self.activation, self.norm, self.dropout, self.start, self.precision)
        return net(features(obs), train=train).squeeze(-1)


class PolicyHead(nn.Module):
    """A policy that starts near 0, if not "orthogonal": observations `[..., o]` -> `[..., a]`, not yet squashed."""

    hidden_dims: tuple[int, ...]
    action_dim: int
    activation: str = "relu"
    start: str = "uniform"
    precision: str = "float32"

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        near_0 = nn.initializers.variance_scaling(1e-2, "fan_avg", "uniform")
        init = near_0 if self.start == "uniform" else STARTS[self.start]
        trunk = MLP(self.hidden_dims[:-1], self.hidden_dims[-1], self.activation, start=self.start,
                    precision=self.precision)  # fmt: skip
        hidden = ACTIVATIONS[self.activation](trunk(features(obs)))
        return nn.Dense(self.action_dim, kernel_init=init, dot_general=PRODUCTS[self.precision])(hidden)


class GaussianHead(nn.Module):
    """A diagonal Gaussian policy: observations `[..., o]` -> mean and log standard deviation, both `[..., a]`.

    The std does not depend on the state; its log is clipped to [-5, 2].
    """

    hidden_dims: tuple[int, ...]
    action_dim: int
    activation: str = "relu"
    start: str = "uniform"
    precision: str = "float32"

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, Array]:
        mean = PolicyHead(self.hidden_dims, self.action_dim, self.activation, self.start, self.precision)(obs)
        log_std = self.param("log_std", nn.initializers.zeros, (self.action_dim,))
        return mean, jnp.broadcast_to(jnp.clip(log_std, -5.0, 2.0), mean.shape)


class SquashedHead(nn.Module):
    """A Gaussian before tanh, whose std depends on the input: observations `[..., o]`, with any further inputs (actions
    `[..., a]`) -> mean and log std, both `[..., a]`, the latter clipped to [-20, 2]. As in SAC and the code of QAM."""

    hidden_dims: tuple[int, ...]
    action_dim: int
    activation: str = "gelu"
    precision: str = "float32"

    @nn.compact
    def __call__(self, obs: Array, *more: Array) -> tuple[Array, Array]:
        product = PRODUCTS[self.precision]
        trunk = MLP(self.hidden_dims[:-1], self.hidden_dims[-1], self.activation, precision=self.precision)
        hidden = ACTIVATIONS[self.activation](trunk(jnp.concatenate([features(obs), *more], axis=-1)))
        mean, log_std = (
            nn.Dense(self.action_dim, kernel_init=STARTS["uniform"], dot_general=product)(hidden) for _ in range(2)
        )
        return mean, jnp.clip(log_std, -20.0, 2.0)


class DenoisingNetwork(nn.Module):
    """eps(s, x_t, t): observations `[..., o]`, noisy actions `[..., a]` and times `[..., 1]` in [0, 1] -> `[..., a]`.

    The time passes through sinusoids and a small MLP. With `numbered` steps it is the step's number that does,
    0, ..., numbered - 1 at the times 1 / numbered, ..., 1 (the code of Diffusion-QL). With `blocks` the trunk is
    residual, of width `hidden_dims[-1]`: x + W2 act(W1 norm(dropout(x))), W1 four times as wide (IDQL, arXiv
    2304.10573, Appendix).
    """

    hidden_dims: tuple[int, ...]
    action_dim: int
    activation: str = "mish"
    blocks: int = 0
    dropout: float = 0.0
    numbered: int = 0
    precision: str = "float32"

    @nn.compact
    def __call__(self, obs: Array, noisy: Array, time: Array, train: bool = False) -> Array:
        activate, product = ACTIVATIONS[self.activation], PRODUCTS[self.precision]
        encoded = MLP((32,), 16, self.activation, precision=self.precision)(self._sinusoids(time))
        x = jnp.concatenate([features(obs), noisy, encoded], axis=-1)
        if not self.blocks:
            return MLP(self.hidden_dims, self.action_dim, self.activation, precision=self.precision)(x)
        width = self.hidden_dims[-1]
        x = nn.Dense(width, dot_general=product)(x)
        for _ in range(self.blocks):
            inner = nn.Dropout(self.dropout, deterministic=not train)(x) if self.dropout else x
            # in this order, so that parameters keep the names that the first of the two layers had
            second, first = (nn.Dense(size, dot_general=product) for size in (width, 4 * width))
            x = x + second(activate(first(LayerNorm()(inner))))
        return nn.Dense(self.action_dim, dot_general=product)(activate(x))

    def _sinusoids(self, time: Array) -> Array:
        if not self.numbered:
            return sinusoids(1e3 * time, 16)
        return sinusoids(jnp.round(self.numbered * time) - 1.0, 16, closed=True)


FOURIER_FEATURES, FOURIER_STD = 64, 0.2  # of a time: how many, and of their frequencies at the start


class FourierDenoiser(nn.Module):
    """eps(s, x_t, t): observations `[..., o]`, noisy actions `[..., a]`, steps t `[..., 1]` of 1, ..., T -> `[..., a]`.

    The step passes through sinusoids of learned frequencies and an MLP of the trunk's size (the code of QSM and DAC in
    QAM's suite).
    """

    hidden_dims: tuple[int, ...]
    action_dim: int
    activation: str = "mish"
    precision: str = "float32"

    @nn.compact
    def __call__(self, obs: Array, noisy: Array, time: Array) -> Array:
        start = nn.initializers.normal(FOURIER_STD)
        angles = 2.0 * math.pi * time * self.param("frequencies", start, (1, FOURIER_FEATURES // 2))  # outer
        encoder = MLP(self.hidden_dims[:-1], self.hidden_dims[-1], self.activation, precision=self.precision)
        encoded = encoder(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1))
        trunk = MLP(self.hidden_dims, self.action_dim, self.activation, precision=self.precision)
        return trunk(jnp.concatenate([noisy, features(obs), encoded], axis=-1))


def sinusoids(x: Array, size: int, longest: float = 1e4, *, closed: bool = False) -> Array:
    """cos and sin of x `[..., 1]` at size / 2 frequencies from 1 down to almost 1 / longest, or with `closed` down to
    that itself, `[..., size]`."""
    half = size // 2
    frequencies = jnp.exp(-math.log(longest) * jnp.arange(half, dtype=x.dtype) / (half - closed))
    return jnp.concatenate([jnp.cos(x * frequencies), jnp.sin(x * frequencies)], axis=-1)
