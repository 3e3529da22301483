"""Diffusion-QL: a diffusion policy that imitates and maximises Q through its own denoising chain.

Source: Diffusion Policies as an Expressive Policy Class, arXiv 2208.06193, and its public code, whose checkpoint
selection by imitation loss we leave out: the last step is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actor_critic import ActorCriticConfig, update_both
from methods.actors import SamplerActor
from methods.behavior import imitated
from methods.core import (
    Array,
    BadInput,
    Batch,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Metrics,
    Order,
    Part,
    PositiveFloat,
    PositiveInt,
    Repeats,
    State,
    Test,
    Weight,
)
from methods.critic import Critic, guide
from methods.floq import FloqConfig
from methods.inference import SAMPLES, Cost, Knob
from methods.learner import Params
from methods.losses import aggregate
from methods.networks import rows
from methods.samplers import DiffusionDraws, DiffusionSampler
from methods.select import first, select


@dataclass(frozen=True)
class DiffusionQLConfig(ActorCriticConfig, FloqConfig):
    """Settings of its code; `eta`, `clip_norm` and `max_q_backup` per task stand in the task tables."""

    order: Order = "sequential"
    hidden_dims: tuple[PositiveInt, ...] = (256, 256, 256)
    activation: Literal["relu", "gelu", "mish"] = "mish"
    diffusion_steps: Repeats = 5  # T
    eta: Weight = 1.0  # weight of Q against imitation
    clip_norm: PositiveFloat = 10.0  # of every gradient
    max_q_backup: bool = False  # TD targets take the best of `backup_n` actions (AntMaze)
    backup_n: PositiveInt = 10
    test_n: Annotated[tuple[Repeats, ...], Test] = (50,)  # N samples to choose from; a knob
    particle_select: Annotated[Literal["argmax", "softmax", "uniform"], Test] = "softmax"  # its code draws with weights
    # exp(Q)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critics < 2:
            raise BadInput(f"diffusion_ql.critics={self.critics}: one critic scales the other, so it takes two")


class DiffusionQLDraws(NamedTuple):
    """Noise at the next states `[b, n, k]` and at the states `[b, k]`, draws of the denoising loss, which critic the
    policy maximises."""

    next_noise: Array
    noise: Array
    denoising: DiffusionDraws
    which: Array


@dataclass(frozen=True)
class DiffusionQL(Method):
    """Diffusion Q-learning."""

    config: DiffusionQLConfig
    Config: ClassVar[type[MethodConfig]] = DiffusionQLConfig
    name: ClassVar[str] = "diffusion_ql"
    inference: ClassVar[tuple[Knob, ...]] = (SAMPLES,)
    rule: ClassVar[str] = "TD on the averaged diffusion policy; denoising by numbered steps, Q ascent through the chain"

    # parts

    @property
    def critic(self) -> Critic:
        c = self.config
        return Critic.of(
            self.spec, c, learning_rate=c.critic_rate, activation=c.activation, norm="none", clip_norm=c.clip_norm,
            aggregation="min", loss="sum",
        )  # fmt: skip

    @property
    def actor(self) -> SamplerActor:
        c = self.config
        sampler = DiffusionSampler(
            self.spec.action_dim, c.hidden_dims, c.activation, steps=c.diffusion_steps, numbered=True,
            precision=c.precision,
        )  # fmt: skip
        return SamplerActor(sampler, self.spec.obs_dim, c.actor_rate, c.clip_norm, target=True)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"critic": self.critic, "actor": self.actor}

    # training

    def idle(self) -> frozenset[str]:
        return frozenset() if self.config.max_q_backup else frozenset({"backup_n"})

    def draw(self, key: Key, batch: Batch) -> DiffusionQLDraws:
        next_key, noise_key, denoising_key, which_key = jax.random.split(key, 4)
        size, c, sampler = batch["actions"].shape[0], self.config, self.actor.sampler
        next_shape = (size, c.backup_n) if c.max_q_backup else (size,)
        return DiffusionQLDraws(
            sampler.noise(next_key, next_shape), sampler.noise(noise_key, (size,)),
            sampler.draw(denoising_key, size), jax.random.randint(which_key, (), 0, c.critics),
        )  # fmt: skip

    def next_value(self, state: State, batch: Batch, draws: DiffusionQLDraws) -> Array:
        """V(s') `[b]`: the smaller target critic at the averaged policy's action, or at each critic's best of n."""
        obs, target = batch["next_observations"], state["critic"].target
        actions = self.actor(state["actor"].target, obs, draws.next_noise)
        if actions.ndim == 2:
            return self.critic.q(target, obs, actions)
        # each critic's own best, then the smaller, as its code has it
        return aggregate(jnp.max(self.critic.q_values(target, obs, actions), axis=-1), self.critic.aggregation)

    def actor_loss(self, params: Params, state: State, batch: Batch, draws: DiffusionQLDraws) -> tuple[Array, Metrics]:
        """L_eps - eta mean Q_i / mean |Q_j|, i a critic at random and j the next one: with two, both in random order
        (its Eq. 3, normalised as its code does). Differentiated through the denoising chain."""
        obs, weights = batch["observations"], imitated(batch, self.config)
        imitation = self.actor.sampler.loss(params, obs, batch["actions"], draws.denoising, weights)
        values = self.critic.q_values(state["critic"].params, obs, self.actor(params, obs, draws.noise))
        other = (draws.which + 1) % self.config.critics
        scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(values[other])))
        q_loss = -jnp.mean(values[draws.which]) / scale
        return imitation + self.config.eta * q_loss, {"actor/imitation": imitation, "actor/q_loss": q_loss}

    def update_parts(self, state: State, batch: Batch, draws: DiffusionQLDraws) -> tuple[State, Metrics]:
        def loss(params: Params, seen: State) -> tuple[Array, Metrics]:
            return self.actor_loss(params, seen, batch, draws)

        # its code averages by 0.005 every 5 steps, from step 1000 on; here by a fifth of that at every step
        value, tau = self.next_value(state, batch, draws), self.config.tau / 5.0
        return update_both(self.config, state, batch, value, self.critic, loss, self.actor.optimizer, tau=tau)

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        noise = self.actor.sampler.noise(key, (rows(obs), most))
        return self.actor(state["actor"].params, obs, noise), first(knobs["N"], most)

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """By the smaller target critic, as its code."""
        values = self.critic.q(guide(self.critic, state["critic"]), obs, candidates)
        return select(candidates, values, valid, key, rule=self.config.particle_select)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return Cost(knobs["N"] * (self.actor.sampler.passes + 1))  # propose, and judge
