"""Actors as components: a network of its own, with its optimiser, and what it says at an observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from methods.core import Array, ControlConfig, Key, TaskSpec
from methods.learner import Learner, Params, create, optimizer
from methods.networks import ActionField, GaussianHead, PolicyHead, SquashedHead, forward, per_action
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
