"""Diffusion-QL: a diffusion policy that imitates and maximises Q through its own denoising chain.

Source: Diffusion Policies as an Expressive Policy Class, arXiv 2208.06193, and its public code, whose checkpoint
selection by imitation loss we leave out: the last step is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actor_critic import ActorCritic, ActorCriticConfig
from methods.core import (
    Array,
    Batch,
    Key,
    Knobs,
    MethodConfig,
    Metrics,
    Order,
    PositiveFloat,
    PositiveInt,
    Repeats,
    State,
    Weight,
)
from methods.inference import SAMPLES, Cost, Knob
from methods.learner import Learner, Params, create
from methods.networks import per_action
from methods.policy_critic import PolicyCritic
from methods.samplers import DiffusionDraws, DiffusionSampler
from methods.select import select


@dataclass(frozen=True)
class DiffusionQLConfig(ActorCriticConfig):
    """Settings of its code; `eta`, `clip_norm` and `max_q_backup` per task stand in the task tables."""

    order: Order = "sequential"
    hidden_dims: tuple[PositiveInt, ...] = (256, 256, 256)
    activation: Literal["relu", "gelu", "mish"] = "mish"
    diffusion_steps: Repeats = 5  # T
    eta: Weight = 1.0  # weight of Q against imitation
    clip_norm: PositiveFloat = 10.0  # of every gradient
    max_q_backup: bool = False  # TD targets take the best of `backup_n` actions (AntMaze)
    backup_n: PositiveInt = 10
    test_n: tuple[Repeats, ...] = (50,)  # N samples to choose from; a knob
    particle_select: Literal["argmax", "softmax", "uniform"] = "softmax"  # its code draws with weights exp(Q)


class DiffusionQLDraws(NamedTuple):
    """Noise at the next states `[b, n, k]` and at the states `[b, k]`, draws of the denoising loss, which critic the
    policy maximises (0 or 1)."""

    next_noise: Array
    noise: Array
    denoising: DiffusionDraws
    which: Array


@dataclass(frozen=True)
class DiffusionQL(ActorCritic):
    """Diffusion Q-learning."""

    config: DiffusionQLConfig
    Config: ClassVar[type[MethodConfig]] = DiffusionQLConfig
    name: ClassVar[str] = "diffusion_ql"
    inference: ClassVar[tuple[Knob, ...]] = (SAMPLES,)
    rule: ClassVar[str] = "TD on the averaged diffusion policy; denoising by numbered steps, Q ascent through the chain"

    @property
    def critic(self) -> PolicyCritic:
        c = self.config
        return PolicyCritic.of(
            self.spec, c, learning_rate=c.critic_rate, activation=c.activation, norm="none", clip_norm=c.clip_norm,
            summed=True,
        )  # fmt: skip

    @property
    def actor(self) -> DiffusionSampler:
        c = self.config
        return DiffusionSampler(
            self.spec.action_dim, c.hidden_dims, c.activation, steps=c.diffusion_steps, numbered=True
        )

    @property
    def actor_clip_norm(self) -> float:
        return self.config.clip_norm

    @property
    def actor_tau(self) -> float:
        """Its code averages by 0.005 every 5 steps, from step 1000 on; here by a fifth of that at every step."""
        return self.config.tau / 5.0

    def init_part(self, name: str, key: Key) -> Learner:
        if name == "critic":
            return self.critic.init(key)
        return create(self.actor.init(key, self.spec.obs_dim), self.actor_optimizer, target=True)

    @property
    def test_time(self) -> frozenset[str]:
        return frozenset({"test_n", "particle_select"} | (set() if self.config.max_q_backup else {"backup_n"}))

    @property
    def knobs(self) -> tuple[dict[str, float], ...]:
        return tuple({"N": n} for n in self.config.test_n)

    def draw(self, key: Key, batch: Batch) -> DiffusionQLDraws:
        next_key, noise_key, denoising_key, which_key = jax.random.split(key, 4)
        rows, c = batch["actions"].shape[0], self.config
        next_shape = (rows, c.backup_n) if c.max_q_backup else (rows,)
        return DiffusionQLDraws(
            self.actor.noise(next_key, next_shape), self.actor.noise(noise_key, (rows,)),
            self.actor.draw(denoising_key, rows), jax.random.randint(which_key, (), 0, 2),
        )  # fmt: skip

    def next_value(self, state: State, batch: Batch, draws: DiffusionQLDraws) -> Array:
        """V(s') `[b]`: the smaller target critic at the averaged policy's action, or at each critic's best of n."""
        obs, noise = batch["next_observations"], draws.next_noise
        wide = per_action(obs, noise) if noise.ndim == 3 else obs
        return self.critic.next_value(state["critic"], batch, self.actor.sample(state["actor"].target, wide, noise))

    def actor_loss(self, params: Params, state: State, batch: Batch, draws: DiffusionQLDraws) -> tuple[Array, Metrics]:
        """L_eps - eta mean Q_i / mean |Q_j|, i and j the two critics in random order (its Eq. 3, normalised as its code
        does), differentiated through the denoising chain."""
        obs = batch["observations"]
        imitation = self.actor.loss(params, obs, batch["actions"], draws.denoising)
        values = self.critic.values(state["critic"].params, obs, self.actor.sample(params, obs, draws.noise))
        scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(values[1 - draws.which])))
        q_loss = -jnp.mean(values[draws.which]) / scale
        return imitation + self.config.eta * q_loss, {"actor/imitation": imitation, "actor/q_loss": q_loss}

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        noise = self.actor.noise(key, (obs.shape[0], most))
        wide = per_action(obs, noise)
        return self.actor.sample(state["actor"].params, wide, noise), jnp.arange(most) < knobs["N"][:, None]

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """By the smaller target critic, as its code."""
        wide = per_action(obs, candidates)
        values = jnp.min(self.critic.values(state["critic"].target, wide, candidates), axis=0)
        return select(candidates, values, valid, key, rule=self.config.particle_select)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return Cost(knobs["N"] * (self.actor.passes + 1))  # propose, and judge
