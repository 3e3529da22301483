"""Flow-matched values: a critic whose value of an action is where an ODE carries a number.

Source: floq, arXiv 2509.06863, and its public code. A velocity psi(s, a, x, t) is matched to the straight ways from
numbers x_0, drawn from a small range, to the TD target y: x_t = (1 - t) x_0 + t y, velocity y - x_0. The value is x
after a few Euler steps, and more of them are more computation for the same parameters. What actors maximise is a plain
network that is regressed on it (`methods.critic.FlowCritic`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from methods.core import (
    Added,
    Array,
    BadInput,
    Batch,
    Columns,
    ControlConfig,
    Fraction,
    Key,
    Metrics,
    PositiveFloat,
    PositiveInt,
    Repeats,
    Stage,
    State,
    Static,
)
from methods.learner import Params
from methods.networks import MLP, features, forward, per_action

VALUE_NOISE = "value_noise"
"""The column of uniform numbers that one loss takes, `[b, draws, 3]`: where the target's ODE starts, where the loss
starts, and the loss's time t."""
Update = Callable[[State, Batch, Key], tuple[State, Metrics]]
MARGIN = 0.01  # of rewards beyond the dataset's, in the support of the features
FAR = 8.0  # stds beyond the support from where on numbers look alike: further out float32 has no masses to divide by


@dataclass(frozen=True)
class FloqConfig(ControlConfig):
    """Settings of methods whose TD critic may be a flow of values; those named floq_ belong to that one alone."""

    critic: Annotated[Literal["td", "floq"], Added] = "td"  # a network, or a flow of values with a network that it
    # teaches (`methods/floq.py`)
    floq_steps: Annotated[Repeats, Added] = 8  # Euler steps of a value
    floq_draws: Annotated[Repeats, Added] = 8  # numbers that a value, and a loss, starts from
    floq_coverage: Annotated[Fraction, Static, Added] = 0.1  # c: they are c times the returns that rewards allow
    floq_bins: Annotated[PositiveInt, Added] = 50  # of the features of a number
    floq_smoothing: Annotated[PositiveFloat, Static, Added] = 16.0  # std of a number there, in bins
    floq_hidden_dims: Annotated[tuple[PositiveInt, ...], Added] = ()  # of the velocity; none: as hidden_dims

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        super().__post_init__()
        if self.critic == "floq" and isinstance(self.discount, Real) and self.discount >= 1.0:
            raise BadInput(f"critic=floq needs a discount below 1, not {self.discount:g}: it bounds the returns")


class VelocityNetwork(nn.Module):
    """An ensemble of MLPs, each with inputs of its own: `[members, ..., i]` -> `[members, ...]`."""

    hidden_dims: tuple[int, ...]
    members: int
    precision: str = "float32"

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        ensemble = nn.vmap(MLP, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=self.members)
        return ensemble(self.hidden_dims, 1, "gelu", "after", precision=self.precision)(inputs).squeeze(-1)


@dataclass(frozen=True)
class ValueFlow:
    """K velocities psi and what they carry. Its parameters are those of the network, "flow", and the least and the
    largest reward of the dataset, "rewards" `[2]`, which no gradient reaches."""

    obs_dim: int
    action_dim: int
    hidden_dims: tuple[int, ...]
    discount: Any  # gamma of one environment step, which bounds returns whatever the length of chunks
    members: int = 2  # K
    steps: int = 8
    draws: int = 8
    coverage: float = 0.1
    bins: int = 50
    smoothing: float = 16.0
    precision: str = "float32"

    @classmethod
    def of(cls, obs_dim: int, action_dim: int, members: int, config: FloqConfig) -> ValueFlow:
        c = config
        return cls(obs_dim, action_dim, c.floq_hidden_dims or c.hidden_dims, c.discount, members, c.floq_steps,
                   c.floq_draws, c.floq_coverage, c.floq_bins, c.floq_smoothing, c.precision)  # fmt: skip

    @property
    def network(self) -> VelocityNetwork:
        return VelocityNetwork(self.hidden_dims, self.members, self.precision)

    def init(self, key: Key) -> dict[str, Params]:
        """Before the dataset is seen, rewards are taken to lie in [-1, 1]. `key` is consumed."""
        width = self.obs_dim + self.action_dim + self.bins + 1
        params = self.network.init(key, jnp.zeros((self.members, 1, width)))
        return {"flow": params, "rewards": jnp.array([-1.0, 1.0])}

    @staticmethod
    def fitted(params: Mapping[str, Params], rewards: Array) -> dict[str, Params]:
        """Parameters that know the dataset's rewards `[t]`."""
        return {**params, "rewards": jnp.stack([jnp.min(rewards), jnp.max(rewards)]).astype(jnp.result_type(float))}

    # inputs

    def _returns(self, params: Mapping[str, Params], margin: float = 0.0) -> tuple[Array, Array]:
        """(r_min - margin) / (1 - gamma) and (r_max + margin) / (1 - gamma)."""
        least, largest = jax.lax.stop_gradient(params["rewards"])
        return (least - margin) / (1.0 - self.discount), (largest + margin) / (1.0 - self.discount)

    def starts(self, params: Mapping[str, Params], shares: Array) -> Array:
        """x_0 `[...]`, at shares `[...]` in [0, 1] of the way from c r_min / (1 - gamma) to c r_max / (1 - gamma)."""
        low, high = self._returns(params)
        return self.coverage * ((1.0 - shares) * low + shares * high)

    @property
    def grid(self) -> Array:
        """Shares `[draws]` in the middles of as many equal parts of [0, 1]: the mean over them stands for that over
        random ones."""
        return (jnp.arange(self.draws) + 0.5) / self.draws

    def noise(self, key: Key, rows: int) -> Array:
        """The column VALUE_NOISE of so many rows. `key` is consumed."""
        return jax.random.uniform(key, (rows, self.draws, 3))

    def masses(self, params: Mapping[str, Params], x: Array) -> Array:
        """HL-Gauss features `[..., bins]` of numbers `[...]`: what a Gaussian around each, of std `smoothing` bins, has
        in each of equal bins of the support, divided by what it has in all."""
        low, high = self._returns(params, MARGIN)
        places = (x - low) * (self.bins / (high - low))  # in bins
        far = FAR * self.smoothing
        places = jnp.clip(places, -far, self.bins + far)[..., None]
        away = (jnp.arange(self.bins + 1) - places) / (jnp.sqrt(2.0) * self.smoothing)
        # what lies beyond each edge, on the side where it is little: differences keep their digits
        beyond = jax.scipy.special.erfc(jnp.where(places < self.bins / 2, away, -away))
        return (beyond[..., 1:] - beyond[..., :-1]) / (beyond[..., -1:] - beyond[..., :1])

    @staticmethod
    def seen(obs: Any, actions: Array) -> Array:
        """What stands for (s, a), `[..., o + a]`: actions `[..., a]` at observations `[..., o]`, or at `[b, o]` for
        actions `[b, n, a]`."""
        return jnp.concatenate([features(per_action(obs, actions)), actions], axis=-1)

    # the flow

    def velocity(self, params: Mapping[str, Params], seen: Array, x: Array, time: Array) -> Array:
        """psi `[K, ...]` at numbers x `[K, ...]` and times `[...]`, for (s, a) `[..., i]` as `seen` has them."""
        wide = jnp.broadcast_to(seen, (*x.shape, seen.shape[-1]))
        clock = jnp.broadcast_to(jnp.cos(time), x.shape)[..., None]
        return forward(self.network, params["flow"], jnp.concatenate([wide, self.masses(params, x), clock], axis=-1))

    def values(self, params: Mapping[str, Params], seen: Array, starts: Array) -> Array:
        """Where Euler's steps end, `[K, ...]`, from x_0 `[...]` for (s, a) `[..., i]`; both are broadcast."""
        shape = jnp.broadcast_shapes(seen.shape[:-1], starts.shape)

        def step(x: Array, time: Array) -> tuple[Array, None]:
            return x + self.velocity(params, seen, x, time) / self.steps, None

        times = jnp.arange(self.steps) / self.steps
        return jax.lax.scan(step, jnp.broadcast_to(starts, (self.members, *shape)), times)[0]

    def drawn(self, params: Mapping[str, Params], batch: Batch, actions: Array) -> Array:
        """Values `[K, b, n]` of actions `[b, n, a]` at next observations, each from a start of its own."""
        starts = self.starts(params, batch[VALUE_NOISE][..., 0])
        return self.values(params, self.seen(batch["next_observations"], actions), starts)

    def matched(self, params: Mapping[str, Params], batch: Batch, target: Array) -> tuple[Array, Array]:
        """(psi(s, a, (1 - t) x_0 + t y, t) - (y - x_0))^2, their sum over draws `[K, b]`, of targets y `[b]`; and the
        flow's values `[K, b, n]` from the same x_0, constant."""
        seen = self.seen(batch["observations"], batch["actions"])[:, None]
        starts, time = self.starts(params, batch[VALUE_NOISE][..., 1]), batch[VALUE_NOISE][..., 2]
        y = target[:, None]
        x = (1.0 - time) * starts + time * y
        found = self.velocity(params, seen, jnp.broadcast_to(x, (self.members, *x.shape)), time)
        errors = jnp.sum((found - (y - starts)) ** 2, axis=-1)
        return errors, self.values(jax.lax.stop_gradient(dict(params)), seen, starts)

    # its stage

    def within(self, stage: Stage, name: str) -> Stage:
        """The stage with what a loss draws in its batches, and the dataset's rewards in the part `name`."""

        def noisy(update: Update) -> Update:
            def drawing(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
                noise_key, key = jax.random.split(key)
                noise = self.noise(noise_key, len(batch["actions"]))
                return update(state, {**batch, VALUE_NOISE: noise}, key)

            return drawing

        def fit(state: State, columns: Columns) -> tuple[State, Columns]:
            learner, rewards = state[name], columns["rewards"]
            params, target = (self.fitted(one, rewards) for one in (learner.params, learner.target))
            return {**state, name: learner._replace(params=params, target=target)}, {}

        between = stage.between and noisy(stage.between)
        return stage._replace(update=noisy(stage.update), between=between).completing(fit)
