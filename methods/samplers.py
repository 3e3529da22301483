"""Samplers of the behaviour policy: one interface, three families.

`loss(params, obs, actions, draws)` imitates; `sample(params, obs, noise)` acts. Random draws are arguments (`draw`,
`noise`), so both are pure functions of what they are given. What `sample` starts from is `[..., k]`, where k is the
sampler's business. Losses are means over rows and dimensions; `weights` `[b, 1]` or `[b, a]` multiply their terms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from methods.core import Array, Key
from methods.learner import Params
from methods.networks import ActionField, DenoisingNetwork, GaussianHead, forward, per_action, sinusoids


class Sampler(Protocol):
    """A model of p(a | s) that can be fitted and sampled."""

    def init(self, key: Key, obs_dim: int) -> Params: ...

    def draw(self, key: Key, rows: int) -> Any:
        """The random draws of one `loss`."""

    def loss(self, params: Params, obs: Array, actions: Array, draws: Any, weights: Array | None = None) -> Array:
        """A scalar, at observations `[b, o]` and actions `[b, a]`."""

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """What `sample` starts from, `[*shape, k]`."""

    def sample(self, params: Params, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` in [-1, 1] at observations `[..., o]`, one for each noise `[..., k]`."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its fit depends on; settings of `sample` alone are left out."""

    @property
    def passes(self) -> int:
        """Network passes that one sample takes."""


class FlowDraws(NamedTuple):
    """Randomness of one flow-matching loss: x_0 ~ N(0, I) `[b, a]` and t in [0, 1] `[b, 1]`."""

    start: Array
    time: Array


@dataclass(frozen=True)
class FlowSampler:
    """Flow matching: x_t = (1 - t) x_0 + t a, regress a - x_0; sample by Euler steps from noise.

    Source: Lipman et al. 2023; as in FQL (arXiv 2502.02538) and VGF. QGF (arXiv 2606.11087) trains on the times it
    samples at (`grid`), embeds them, and normalises the layers.
    """

    action_dim: int
    hidden_dims: tuple[int, ...]
    activation: str = "relu"
    steps: int = 10  # Euler steps of `sample`
    norm: str = "none"  # LayerNorm's place: see `methods/networks.py`
    time_embedding: int = 0  # sinusoids of the time; 0: the time itself
    grid: bool = False  # t ~ U{0, 1/steps, ..., 1} instead of U[0, 1]
    labels: int = 0  # classes that the flow is conditioned on; 0: no condition
    precision: str = "float32"

    @property
    def settings(self) -> dict[str, Any]:
        unseen = set() if self.grid else {"steps"}
        return _settings(self, unseen | (set() if self.labels else {"labels"}))

    @property
    def network(self) -> ActionField:
        return ActionField(self.hidden_dims, self.action_dim, self.activation, self.norm, self.labels, self.precision)

    @property
    def passes(self) -> int:
        return self.steps

    @property
    def times(self) -> np.ndarray:
        """The times of the Euler steps, `[steps]`."""
        return np.arange(self.steps) / self.steps  # by NumPy: XLA would multiply by a rounded 1 / steps

    def init(self, key: Key, obs_dim: int) -> Params:
        action, label = jnp.zeros((1, self.action_dim)), jnp.zeros(1, int) if self.labels else None
        return self.network.init(key, jnp.zeros((1, obs_dim)), action, self._embed(action[:, :1]), label=label)

    def draw(self, key: Key, rows: int) -> FlowDraws:
        start_key, time_key = jax.random.split(key)
        if self.grid:
            time = jax.random.randint(time_key, (rows, 1), 0, self.steps + 1) / self.steps
        else:
            time = jax.random.uniform(time_key, (rows, 1))
        return FlowDraws(jax.random.normal(start_key, (rows, self.action_dim)), time)

    def loss(
        self, params: Params, obs: Array, actions: Array, draws: FlowDraws, weights: Array | None = None,
        label: Array | None = None,
    ) -> Array:  # fmt: skip
        """Mean squared velocity error over rows and dimensions, a scalar; `label` `[b]`, of a conditioned flow."""
        start, time = draws
        velocity = self.velocity(params, obs, (1.0 - time) * start + time * actions, time, label)
        return weighted((velocity - (actions - start)) ** 2, weights)

    def velocity(self, params: Params, obs: Array, actions: Array, time: Array, label: Array | None = None) -> Array:
        """v(s, a_t, t) `[..., a]` for actions `[..., a]` at observations `[..., o]` (or `[b, o]` for actions `[b, n,
        a]`), times `[..., 1]` or a scalar, and labels `[...]` or a scalar."""
        time = jnp.broadcast_to(time, (*actions.shape[:-1], 1))
        return forward(self.network, params, per_action(obs, actions), actions, self._embed(time), label=label)

    def _embed(self, time: Array) -> Array:
        return sinusoids(1e4 * time, self.time_embedding) if self.time_embedding else time

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """What `sample` starts from, `[*shape, a]`."""
        return jax.random.normal(key, (*shape, self.action_dim))

    def sample(self, params: Params, obs: Array, noise: Array, label: Array | None = None) -> Array:
        """Actions `[..., a]` in [-1, 1] at observations `[..., o]`, one for each noise `[..., a]`."""
        return self.integrate(lambda action, time: self.velocity(params, obs, action, time, label), noise)

    def integrate(self, field: Callable[[Array, Array], Array], noise: Array) -> Array:
        """Where Euler's steps along a field lead from noise `[..., a]`, clipped to [-1, 1]; `field`: unfinished actions
        and a scalar time -> `[..., a]`."""

        def euler(action: Array, time: Array) -> tuple[Array, None]:
            return action + field(action, time) / self.steps, None

        action, _ = jax.lax.scan(euler, noise, jnp.asarray(self.times, noise.dtype))
        return jnp.clip(action, -1.0, 1.0)


@dataclass(frozen=True)
class GaussianSampler:
    """Maximum likelihood of a diagonal Gaussian with a state-independent std; samples are clipped."""

    action_dim: int
    hidden_dims: tuple[int, ...]
    activation: str = "relu"
    precision: str = "float32"

    @property
    def settings(self) -> dict[str, Any]:
        return _settings(self)

    @property
    def network(self) -> GaussianHead:
        return GaussianHead(self.hidden_dims, self.action_dim, self.activation, precision=self.precision)

    @property
    def passes(self) -> int:
        return 1

    def init(self, key: Key, obs_dim: int) -> Params:
        return self.network.init(key, jnp.zeros((1, obs_dim)))

    def draw(self, key: Key, rows: int) -> tuple[()]:
        del key, rows  # the likelihood needs no draws
        return ()

    def loss(self, params: Params, obs: Array, actions: Array, draws: tuple[()], weights: Array | None = None) -> Array:
        """-mean log pi(a | s) over rows, a scalar."""
        del draws
        mean, log_std = forward(self.network, params, obs)
        return -jnp.mean(gaussian_log_prob(mean, log_std, actions, weights))

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """What `sample` starts from, `[*shape, a]`."""
        return jax.random.normal(key, (*shape, self.action_dim))

    def sample(self, params: Params, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` in [-1, 1] at observations `[..., o]`, one for each noise `[..., a]`; the most likely
        ones where the noise is 0."""
        mean, log_std = forward(self.network, params, obs)
        return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)


class DiffusionDraws(NamedTuple):
    """Randomness of one denoising loss: eps ~ N(0, I) `[b, a]`, the time in (0, 1] `[b, 1]`, a key for dropout."""

    eps: Array
    time: Array
    dropout: Key


@dataclass(frozen=True)
class DiffusionSampler:
    """Variance-preserving diffusion: x_t = sqrt(abar_t) a + sqrt(1 - abar_t) eps, regress eps.

    abar_t = exp(-beta_0 t - (beta_1 - beta_0) t^2 / 2), t in (0, 1] (Song et al. 2021). With the "ancestral" solver t
    lives on the grid 1/steps, ..., 1, which is the "vp" schedule of Diffusion-QL (arXiv 2208.06193) and of IDQL (arXiv
    2304.10573); the latter's sampler is "langevin". "ode" is DPM-Solver++(2M) (arXiv 2211.01095) on continuous times,
    for SfBC (arXiv 2209.14548).
    """

    action_dim: int
    hidden_dims: tuple[int, ...]
    activation: str = "mish"
    steps: int = 5
    blocks: int = 0  # residual LayerNorm blocks (IDQL); 0: an MLP
    dropout: float = 0.0
    solver: str = "ancestral"  # "ancestral" | "langevin" | "ode"
    beta: tuple[float, float] = (0.1, 10.0)
    numbered: bool = False  # whether the network sees the number of a step on the grid instead of its time
    precision: str = "float32"
    shortest: ClassVar[float] = 1e-5  # the least time that "ode" trains on
    last: ClassVar[float] = 1e-3  # the time at which it ends sampling

    @property
    def settings(self) -> dict[str, Any]:
        unseen = {"steps"} if self.solver == "ode" else set()
        unseen |= set() if self.numbered else {"numbered"}  # as before there was a choice
        solver = f"continuous times from {self.shortest}" if self.solver == "ode" else "grid"
        return {**_settings(self, unseen), "solver": solver}

    @property
    def network(self) -> DenoisingNetwork:
        numbered = self.steps if self.numbered else 0
        return DenoisingNetwork(
            self.hidden_dims, self.action_dim, self.activation, self.blocks, self.dropout, numbered, self.precision
        )

    @property
    def passes(self) -> int:
        return self.steps

    def init(self, key: Key, obs_dim: int) -> Params:
        action = jnp.zeros((1, self.action_dim))
        return self.network.init(key, jnp.zeros((1, obs_dim)), action, action[:, :1])

    def signal(self, time: Any) -> Any:
        """abar at a time in [0, 1]."""
        low, high = self.beta
        return jnp.exp(-low * time - 0.5 * (high - low) * time**2)

    def draw(self, key: Key, rows: int) -> DiffusionDraws:
        eps_key, time_key, dropout_key = jax.random.split(key, 3)
        if self.solver == "ode":
            time = jax.random.uniform(time_key, (rows, 1), minval=self.shortest)
        else:
            time = jax.random.randint(time_key, (rows, 1), 1, self.steps + 1) / self.steps
        return DiffusionDraws(jax.random.normal(eps_key, (rows, self.action_dim)), time, dropout_key)

    def loss(
        self, params: Params, obs: Array, actions: Array, draws: DiffusionDraws, weights: Array | None = None
    ) -> Array:
        """Mean squared error of eps over rows and dimensions, a scalar."""
        signal = self.signal(draws.time)
        noisy = jnp.sqrt(signal) * actions + jnp.sqrt(1.0 - signal) * draws.eps
        eps = forward(self.network, params, obs, noisy, draws.time, dropout=draws.dropout if self.dropout else None)
        return weighted((eps - draws.eps) ** 2, weights)

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """What `sample` starts from and, but for "ode", adds on the way: `[*shape, a * draws]`."""
        draws = 1 if self.solver == "ode" else self.steps
        return jax.random.normal(key, (*shape, self.action_dim * draws))

    def sample(self, params: Params, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` in [-1, 1] at observations `[..., o]`, one for each noise `[..., a * draws]`."""
        solve = self._sample_ode if self.solver == "ode" else self._sample_chain
        return jnp.clip(solve(params, obs, noise), -1.0, 1.0)

    def denoise(self, params: Params, obs: Array, noisy: Array, time: Array) -> tuple[Array, Array]:
        """eps and the clean action it implies, `[..., a]` each, at a scalar time."""
        eps = forward(self.network, params, obs, noisy, jnp.broadcast_to(time, (*noisy.shape[:-1], 1)))
        signal = self.signal(time)
        return eps, (noisy - jnp.sqrt(1.0 - signal) * eps) / jnp.sqrt(signal)

    def _sample_chain(self, params: Params, obs: Array, noise: Array) -> Array:
        parts = jnp.moveaxis(noise.reshape(*noise.shape[:-1], self.steps, self.action_dim), -2, 0)
        fresh = jnp.concatenate([parts[1:], jnp.zeros_like(parts[:1])])  # none after the last step
        times = jnp.asarray(np.arange(self.steps, 0, -1) / self.steps, noise.dtype)

        def reverse(noisy: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
            time, z = inputs
            after, before = self.signal(time), self.signal(time - 1.0 / self.steps)
            alpha = after / before
            eps, clean = self.denoise(params, obs, noisy, time)
            if self.solver == "langevin":  # mean from eps, variance beta, kept in the box (IDQL's code)
                mean = (noisy - (1.0 - alpha) / jnp.sqrt(1.0 - after) * eps) / jnp.sqrt(alpha)
                return jnp.clip(mean + jnp.sqrt(1.0 - alpha) * z, -1.0, 1.0), None
            # q(x_{t-1} | x_t, a): DDPM, arXiv 2006.11239, Eq. 7, with a clipped to the box (Diffusion-QL's code)
            clean = jnp.clip(clean, -1.0, 1.0)
            mean = jnp.sqrt(before) * (1.0 - alpha) * clean + jnp.sqrt(alpha) * (1.0 - before) * noisy
            variance = (1.0 - before) / (1.0 - after) * (1.0 - alpha)
            return mean / (1.0 - after) + jnp.sqrt(jnp.maximum(variance, 0.0)) * z, None

        action, _ = jax.lax.scan(reverse, parts[0], (times, fresh))
        return action

    def _sample_ode(self, params: Params, obs: Array, noise: Array) -> Array:
        # uniform in log SNR: uniform in time would leave the last, first-order steps so long that modes come out narrow
        low, high = self.beta
        ends = np.array([1.0, self.last])
        signal = np.exp(-low * ends - 0.5 * (high - low) * ends**2)
        first, last = 0.5 * np.log(signal / (1.0 - signal))
        spent = np.logaddexp(0.0, -2.0 * np.linspace(first, last, self.steps + 1))  # -log abar
        times = (np.sqrt(low**2 + 2.0 * (high - low) * spent) - low) / (high - low)
        signal = np.exp(-spent)
        scale, sigma = np.sqrt(signal), np.sqrt(1.0 - signal)
        snr = np.log(scale / sigma)
        widths = np.diff(snr)
        # 1 / (2 r) with r the ratio of the last step to this; 0: first order, for the first step and the last
        second = np.concatenate([[0.0], 0.5 * widths[1:] / widths[:-1]])
        second[-1] = 0.0
        columns = (times[:-1], sigma[1:] / sigma[:-1], -scale[1:] * np.expm1(-widths), second)

        def advance(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
            noisy, last = carry
            time, keep, add, mix = inputs
            _, clean = self.denoise(params, obs, noisy, time)
            return (keep * noisy + add * (clean + mix * (clean - last)), clean), None

        inputs = tuple(jnp.asarray(column, noise.dtype) for column in columns)
        (action, _), _ = jax.lax.scan(advance, (noise, jnp.zeros_like(noise)), inputs)
        return action


def gaussian_log_prob(mean: Array, log_std: Array, actions: Array, weights: Array | None = None) -> Array:
    """log N(a; mean, exp(log_std)^2), summed over dimensions, each times its weight, `[...]`."""
    terms = jax.scipy.stats.norm.logpdf(actions, mean, jnp.exp(log_std))
    return (terms if weights is None else weights * terms).sum(axis=-1)


def weighted(terms: Array, weights: Array | None) -> Array:
    """The mean of a loss's terms `[b, a]`, each times its weight `[b, 1]` or `[b, a]`."""
    return jnp.mean(terms if weights is None else weights * terms)


def _settings(sampler: Any, unseen: Collection[str] = ()) -> dict[str, Any]:
    """What a sampler's fit depends on: its fields, without those that its loss does not see."""
    known = {"precision"} if sampler.precision == "float32" else set()
    return {name: value for name, value in asdict(sampler).items() if name not in known.union(unseen)}
