"""Samplers of the behaviour policy, and the base of every method that uses one.

One interface, two families: `FlowSampler` (flow matching, Euler steps) and `GaussianSampler`. Random draws are
arguments, so a loss is a pure function of parameters, batch and draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from methods.core import (
    Array,
    BadInput,
    Batch,
    Columns,
    Count,
    Key,
    Method,
    MethodConfig,
    Metrics,
    PositiveInt,
    Stage,
    State,
)
from methods.learner import Learner, Params, create, descend, optimizer, part_key
from methods.networks import ActionField, GaussianHead, forward


class FlowDraws(NamedTuple):
    """Randomness of one flow-matching loss: x_0 ~ N(0, I) `[b, a]` and t ~ U[0, 1] `[b, 1]`."""

    start: Array
    time: Array


@dataclass(frozen=True)
class FlowSampler:
    """Flow matching: x_t = (1 - t) x_0 + t a, regress a - x_0; sample by Euler steps from noise.

    Source: Lipman et al. 2023; as in FQL (arXiv 2502.02538) and VGF.
    """

    action_dim: int
    hidden_dims: tuple[int, ...]
    activation: str = "relu"
    steps: int = 10  # Euler steps of `sample`

    @property
    def network(self) -> ActionField:
        return ActionField(self.hidden_dims, self.action_dim, self.activation)

    def init(self, key: Key, obs_dim: int) -> Params:
        action = jnp.zeros((1, self.action_dim))
        return self.network.init(key, jnp.zeros((1, obs_dim)), action, action[:, :1])

    def draw(self, key: Key, rows: int) -> FlowDraws:
        start_key, time_key = jax.random.split(key)
        return FlowDraws(jax.random.normal(start_key, (rows, self.action_dim)), jax.random.uniform(time_key, (rows, 1)))

    def loss(self, params: Params, obs: Array, actions: Array, draws: FlowDraws) -> Array:
        """Mean squared velocity error over rows and dimensions, a scalar."""
        start, time = draws
        velocity = forward(self.network, params, obs, (1.0 - time) * start + time * actions, time)
        return jnp.mean((velocity - (actions - start)) ** 2)

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """What `sample` starts from, `[*shape, a]`."""
        return jax.random.normal(key, (*shape, self.action_dim))

    def sample(self, params: Params, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` in [-1, 1] at observations `[..., o]`, one for each noise `[..., a]`."""

        def euler(action: Array, time: Array) -> tuple[Array, None]:
            times = jnp.broadcast_to(time, (*action.shape[:-1], 1))
            return action + forward(self.network, params, obs, action, times) / self.steps, None

        grid = np.arange(self.steps) / self.steps  # by NumPy: XLA would multiply by a rounded 1 / steps
        action, _ = jax.lax.scan(euler, noise, jnp.asarray(grid, noise.dtype))
        return jnp.clip(action, -1.0, 1.0)


@dataclass(frozen=True)
class GaussianSampler:
    """Maximum likelihood of a diagonal Gaussian with a state-independent deviation; samples are clipped."""

    action_dim: int
    hidden_dims: tuple[int, ...]
    activation: str = "relu"

    @property
    def network(self) -> GaussianHead:
        return GaussianHead(self.hidden_dims, self.action_dim, self.activation)

    def init(self, key: Key, obs_dim: int) -> Params:
        return self.network.init(key, jnp.zeros((1, obs_dim)))

    def draw(self, key: Key, rows: int) -> tuple[()]:
        del key, rows  # the likelihood needs no draws
        return ()

    def loss(self, params: Params, obs: Array, actions: Array, draws: tuple[()]) -> Array:
        """-mean log pi(a | s), a scalar."""
        del draws
        mean, log_std = forward(self.network, params, obs)
        log_prob = jax.scipy.stats.norm.logpdf(actions, mean, jnp.exp(log_std)).sum(axis=-1)
        return -jnp.mean(log_prob)

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """What `sample` starts from, `[*shape, a]`."""
        return jax.random.normal(key, (*shape, self.action_dim))

    def sample(self, params: Params, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` in [-1, 1] at observations `[..., o]`, one for each noise `[..., a]`."""
        mean, log_std = forward(self.network, params, obs)
        return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)


Sampler = FlowSampler | GaussianSampler


@dataclass(frozen=True)
class BehaviorConfig(MethodConfig):
    """Settings of methods that lean on a behaviour sampler."""

    sampler: Literal["flow", "gaussian"] = "flow"
    flow_steps: PositiveInt = 10  # Euler steps of the flow sampler
    sampler_activation: Literal["relu", "gelu"] = "relu"
    behavior: Literal["joint", "pretrained"] = "joint"  # on the same batches, or a stage of its own that is shared
    behavior_steps: PositiveInt = 1_000_000  # gradient steps of that stage
    bank: Count = 0  # with "pretrained": actions drawn once for each next state, then looked up; 0: drawn anew. It
    # has no meaning, and no cost, for methods that do not sample the behaviour at next states


_SAMPLER_FIELDS = ("sampler", "sampler_activation", "hidden_dims", "learning_rate", "batch_size")
_STAGE_FIELDS = frozenset({"steps", "behavior", "behavior_steps"})  # where the work happens, not what it computes


@dataclass(frozen=True)
class BehaviorMethod(Method):
    """A method made of a behaviour sampler and parts of its own.

    A subclass names its `parts`, initialises them (`init_part`), says what an update draws (`draw`) and does
    (`update_parts`), and how to act. Whether the behaviour is trained on the same batches or beforehand is decided
    here, once, for all of them.
    """

    config: BehaviorConfig
    parts: ClassVar[tuple[str, ...]] = ()
    rule: ClassVar[str] = ""
    behavior_clip_norm: ClassVar[float | None] = None
    draws_next: ClassVar[bool] = False  # whether updates sample the behaviour at next states, which a bank can serve

    @property
    def test_time(self) -> frozenset[str]:
        """Settings that only acting depends on: changing them retrains nothing."""
        return frozenset()

    @property
    def sampler(self) -> Sampler:
        kinds = {"flow": FlowSampler, "gaussian": GaussianSampler}
        extra = {"steps": self.config.flow_steps} if self.config.sampler == "flow" else {}
        return kinds[self.config.sampler](
            self.spec.action_dim, self.config.hidden_dims, self.config.sampler_activation, **extra
        )

    # what subclasses bring

    def init_part(self, name: str, key: Key) -> Learner:
        raise NotImplementedError

    def draw(self, key: Key, batch: Batch) -> Any:
        """The random draws of one `update_parts`."""
        raise NotImplementedError

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        """New values of the method's own parts. `state` also holds "behavior", as it was before this step."""
        raise NotImplementedError

    # the contract

    def init(self, key: Key) -> State:
        tx = optimizer(self.config.learning_rate, self.behavior_clip_norm)
        params = self.sampler.init(part_key(key, "behavior"), self.spec.obs_dim)
        own = {name: self.init_part(name, part_key(key, name)) for name in self.parts}
        return {"behavior": create(params, tx), **own}

    def stages(self) -> tuple[Stage, ...]:
        config = self.config
        if config.bank and config.behavior != "pretrained":
            raise BadInput(f"{self.name}.bank={config.bank} needs behavior=pretrained: a joint sampler keeps changing")
        pretrained = config.behavior == "pretrained"
        frozen = pretrained or not self.parts
        behavior = Stage(
            name="behavior",
            trains=frozenset({"behavior"}),
            steps=config.behavior_steps if pretrained else config.steps,
            update=self._behavior_stage_update,
            rule=f"{type(self.sampler).__name__} imitation, gradient clip {self.behavior_clip_norm}",
            config={name: getattr(config, name) for name in _SAMPLER_FIELDS},
            batch_size=config.batch_size,
        )
        if not self.parts:
            return (behavior,)
        skip = _STAGE_FIELDS | self.test_time | (frozenset() if frozen and self.draws_next else {"bank"})
        own = Stage(
            name=self.parts[0] if frozen else "joint",
            trains=frozenset(self.parts) | (frozenset() if frozen else {"behavior"}),
            steps=config.steps,
            update=self._own_stage_update if frozen else self._joint_update,
            rule=self.rule,
            config={name: value for name, value in asdict(config).items() if name not in skip},
            batch_size=config.batch_size,
            reads=frozenset({"behavior"}) if frozen else frozenset(),
            prepare=self._fill_bank if frozen and self.draws_next and config.bank else None,
        )
        return (behavior, own) if frozen else (own,)

    # stages

    def update_behavior(self, learner: Learner, batch: Batch, draws: Any) -> tuple[Learner, Metrics]:
        """One gradient step of imitation."""
        loss, grads = jax.value_and_grad(self.sampler.loss)(
            learner.params, batch["observations"], batch["actions"], draws
        )
        tx = optimizer(self.config.learning_rate, self.behavior_clip_norm)
        return descend(learner, grads, tx), {"behavior/loss": loss}

    def _behavior_stage_update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        draws = self.sampler.draw(key, batch["actions"].shape[0])
        learner, metrics = self.update_behavior(state["behavior"], batch, draws)
        return {**state, "behavior": learner}, metrics

    def _own_stage_update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        return self.update_parts(state, batch, self.draw(key, batch))

    def _joint_update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        behavior_key, own_key = jax.random.split(key)
        behavior, behavior_metrics = self._behavior_stage_update(state, batch, behavior_key)
        own, metrics = self.update_parts(state, batch, self.draw(own_key, batch))
        return {**own, "behavior": behavior["behavior"]}, {**behavior_metrics, **metrics}

    # samples of the behaviour policy

    def propose(self, state: State, obs: Array, noise: Array) -> Array:
        """Behaviour actions `[b, n, a]` at observations `[b, o]` from noise `[b, n, a]`."""
        wide = jnp.broadcast_to(obs[:, None], (*noise.shape[:-1], obs.shape[-1]))
        return self.sampler.sample(state["behavior"].params, wide, noise)

    def draw_proposals(self, key: Key, batch: Batch, n: int) -> Array:
        """What `next_proposals` needs: noise `[b, n, a]`, or `n` places `[b, n]` in the bank."""
        rows = batch["actions"].shape[0]
        if "bank" not in batch:
            return self.sampler.noise(key, (rows, n))
        size = batch["bank"].shape[1]
        if n > size:
            return jax.random.randint(key, (rows, n), 0, size)
        return jax.lax.top_k(jax.random.uniform(key, (rows, size)), n)[1]  # without replacement

    def next_proposals(self, state: State, batch: Batch, draws: Array) -> Array:
        """Behaviour actions `[b, n, a]` at the batch's next observations."""
        if "bank" in batch:
            return jnp.take_along_axis(batch["bank"], draws[..., None], axis=1)
        return self.propose(state, batch["next_observations"], draws)

    def _fill_bank(self, state: State, columns: Columns, key: Key) -> Mapping[str, Array]:
        obs = columns["next_observations"]
        return {"bank": self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], self.config.bank)))}
