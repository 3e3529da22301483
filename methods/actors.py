"""Actors as components: a network of its own, with its optimiser, and what it says at an observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from methods.core import Array, ControlConfig, Key, TaskSpec
from methods.learner import Learner, Params, create, optimizer
from methods.networks import ActionField, FourierDenoiser, GaussianHead, PolicyHead, SquashedHead, forward, per_action
from methods.samplers import Sampler


@dataclass(frozen=True)
class _Actor:
    obs_dim: int
    action_dim: int
    hidden_dims: tuple[int, ...]
    activation: str
    learning_rate: float
    norm: str = "none"
    start: str = "uniform"
    clip_norm: float | None = None  # largest norm of the gradient
    target: bool = False  # whether it has a Polyak target
    precision: str = "float32"

    @classmethod
    def of(cls, spec: TaskSpec, config: ControlConfig, activation: str, **rest: Any) -> Self:
        """With the settings that every method has, and `rest`, which wins."""
        c = config
        shared = {"hidden_dims": c.hidden_dims, "learning_rate": c.learning_rate, "precision": c.precision}
        return cls(spec.obs_dim, spec.action_dim, activation=activation, **{**shared, **rest})

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.learning_rate, self.clip_norm)

    def _create(self, params: Params) -> Learner:
        return create(params, self.optimizer, target=self.target)


@dataclass(frozen=True)
class FieldActor(_Actor):
    """f(s, x) `[..., a]`: a policy of one step from noise x (FQL), or a value gradient at actions x (A-VGF)."""

    @property
    def network(self) -> ActionField:
        return ActionField(self.hidden_dims, self.action_dim, self.activation, self.norm, precision=self.precision)

    def init(self, key: Key) -> Learner:
        return self._create(self.network.init(key, jnp.zeros((1, self.obs_dim)), jnp.zeros((1, self.action_dim))))

    def __call__(self, params: Params, obs: Array, x: Array) -> Array:
        """f at x `[..., a]` and observations `[..., o]` (or `[b, o]` for x `[b, n, a]`), not clipped."""
        return forward(self.network, params, per_action(obs, x), x)


@dataclass(frozen=True)
class MeanActor(_Actor):
    """pi(s) `[..., a]`: one action, or the mean of a Gaussian of unit std."""

    @property
    def network(self) -> PolicyHead:
        return PolicyHead(self.hidden_dims, self.action_dim, self.activation, self.start, self.precision)

    def init(self, key: Key) -> Learner:
        return self._create(self.network.init(key, jnp.zeros((1, self.obs_dim))))

    def __call__(self, params: Params, obs: Array) -> Array:
        """Neither squashed nor clipped."""
        return forward(self.network, params, obs)


@dataclass(frozen=True)
class GaussianActor(_Actor):
    """A diagonal Gaussian whose std does not depend on the state."""

    @property
    def network(self) -> GaussianHead:
        return GaussianHead(self.hidden_dims, self.action_dim, self.activation, self.start, self.precision)

    def init(self, key: Key) -> Learner:
        return self._create(self.network.init(key, jnp.zeros((1, self.obs_dim))))

    def __call__(self, params: Params, obs: Array) -> tuple[Array, Array]:
        """Mean, neither squashed nor clipped, and log std, `[..., a]` each."""
        mean, log_std = forward(self.network, params, obs)
        return mean, log_std


@dataclass(frozen=True)
class SquashedActor(_Actor):
    """tanh of a Gaussian that depends on the state, or with `edits` on an action too (SAC's policy; DSRL's noise actor,
    the edit policy of EXPO and QAM-E)."""

    edits: bool = False

    @property
    def network(self) -> SquashedHead:
        return SquashedHead(self.hidden_dims, self.action_dim, self.activation, self.precision)

    def init(self, key: Key) -> Learner:
        more = (jnp.zeros((1, self.action_dim)),) if self.edits else ()
        return self._create(self.network.init(key, jnp.zeros((1, self.obs_dim)), *more))

    def __call__(self, params: Params, obs: Array, noise: Array, *more: Array) -> tuple[Array, Array]:
        """Draws u `[..., a]` in (-1, 1), one for each noise `[..., a]` ~ N(0, I), and log pi(u) `[...]`; `more`: the
        action `[..., a]` that is edited."""
        mean, log_std = forward(self.network, params, per_action(obs, noise), *more)
        raw = mean + jnp.exp(log_std) * noise
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which does not lose its digits where tanh is near 1
        slope = 2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))
        log_prob = jax.scipy.stats.norm.logpdf(noise) - log_std - slope
        return jnp.tanh(raw), jnp.sum(log_prob, axis=-1)


@dataclass(frozen=True)
class Temperature:
    """alpha = exp(l) of an entropy bonus, which keeps a policy's entropy at -dims / 2 (SAC's, with QAM's target)."""

    dims: int
    learning_rate: float
    clip_norm: float | None = None

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.learning_rate, self.clip_norm)

    def init(self, key: Key) -> Learner:
        del key
        return create({"log_alpha": jnp.zeros(())}, self.optimizer)

    def __call__(self, params: Params) -> Array:
        """alpha, a scalar; 1 at its start."""
        return jnp.exp(params["log_alpha"])

    def loss(self, params: Params, log_prob: Array) -> Array:
        """alpha (H - target), a scalar, with the entropy H = -mean log pi `[b]` constant."""
        entropy = -jnp.mean(jax.lax.stop_gradient(log_prob))
        return self(params) * (entropy + self.dims / 2.0)


@dataclass(frozen=True)
class DenoisingActor(_Actor):
    """A diffusion policy of T numbered steps, variance preserving, as in the code of QSM and DAC in QAM's suite."""

    steps: int = 10  # T
    clipped: str = "before"  # "before": clean actions within a step; "after": each step's result; "none"

    @property
    def network(self) -> FourierDenoiser:
        return FourierDenoiser(self.hidden_dims, self.action_dim, self.activation, self.precision)

    @property
    def betas(self) -> np.ndarray:
        """beta_0 = 0, beta_1, ..., beta_T: 1 - exp(-.1 / T - 4.95 (2 t - 1) / T^2)."""
        steps = np.arange(1, self.steps + 1)
        return np.concatenate([[0.0], 1.0 - np.exp(-0.1 / self.steps - 4.95 * (2 * steps - 1) / self.steps**2)])

    @property
    def signal(self) -> np.ndarray:
        """abar_0 = 1, ..., abar_T, `[T + 1]`."""
        return np.cumprod(1.0 - self.betas)

    def init(self, key: Key) -> Learner:
        action = jnp.zeros((1, self.action_dim))
        return self._create(self.network.init(key, jnp.zeros((1, self.obs_dim)), action, jnp.ones((1, 1))))

    def predict(self, params: Params, obs: Array, noisy: Array, step: Array) -> Array:
        """The noise `[..., a]` in noisy actions `[..., a]` at steps `[..., 1]` or a scalar."""
        time = jnp.broadcast_to(step, (*noisy.shape[:-1], 1)).astype(noisy.dtype)
        return forward(self.network, params, per_action(obs, noisy), noisy, time)

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """What samples start from and are shaken by, `[*shape, T, a]`."""
        return jax.random.normal(key, (*shape, self.steps, self.action_dim))

    def __call__(self, params: Params, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` at observations `[..., o]`, one for each noise `[..., T, a]`, clipped at the end.

        "before": x <- the posterior mean of the clipped clean action (DDPM, arXiv 2006.11239, Eq. 7); otherwise x <-
        the clean action itself; and noise of std sqrt(beta_t) in every step but the last.
        """
        betas, signal = self.betas, self.signal
        steps = np.arange(self.steps, 0, -1)
        before, now = signal[steps - 1], signal[steps]
        of_clean = np.sqrt(before) * betas[steps] / (1.0 - now)
        of_noisy = np.sqrt(1.0 - betas[steps]) * (1.0 - before) / (1.0 - now)
        shake = np.where(steps > 1, np.sqrt(betas[steps]), 0.0)
        columns = (steps, np.sqrt(now), np.sqrt(1.0 - now), of_clean, of_noisy, shake)
        parts = jnp.moveaxis(noise, -2, 0)
        fresh = jnp.concatenate([parts[1:], jnp.zeros_like(parts[:1])])  # the last step is not shaken

        def reverse(noisy: Array, inputs: tuple[Array, ...]) -> tuple[Array, None]:
            step, root, level, clean_share, noisy_share, std, z = inputs
            clean = (noisy - level * self.predict(params, obs, noisy, step)) / root
            if self.clipped == "before":
                return clean_share * jnp.clip(clean, -1.0, 1.0) + noisy_share * noisy + std * z, None
            moved = clean + std * z
            return jnp.clip(moved, -1.0, 1.0) if self.clipped == "after" else moved, None

        inputs = tuple(jnp.asarray(column, noise.dtype) for column in columns)
        action, _ = jax.lax.scan(reverse, parts[0], (*inputs, fresh))
        return jnp.clip(action, -1.0, 1.0)


@dataclass(frozen=True)
class SamplerActor:
    """A sampler that is the policy itself, and learns by more than imitation (FBRAC, Diffusion-QL)."""

    sampler: Sampler
    obs_dim: int
    learning_rate: float
    clip_norm: float | None = None
    target: bool = False

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.learning_rate, self.clip_norm)

    def init(self, key: Key) -> Learner:
        return create(self.sampler.init(key, self.obs_dim), self.optimizer, target=self.target)

    def __call__(self, params: Params, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` in [-1, 1], one for each noise `[..., k]`, at observations `[..., o]` (or `[b, o]` for
        noise `[b, n, k]`)."""
        return self.sampler.sample(params, per_action(obs, noise), noise)
