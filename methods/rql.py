"""RQL: a value over the states of a flow, from noise to action, which the flow itself maximises.

Source: arXiv 2606.17551 and its public code. V(s, x, f) values an unfinished action x at flow time f: at f = 1 it is
Q(s, a), at f = 0, x noise, the value of acting by the flow from there, so that no policy stands in the TD target.
Dataset actions are carried back along the flow to the times between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actors import SamplerActor
from methods.behavior import imitated
from methods.core import (
    Array,
    BadInput,
    Batch,
    Fraction,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Metrics,
    Part,
    Repeats,
    State,
    Switch,
    Weight,
    is_on,
)
from methods.critic import Critic, TDConfig
from methods.inference import Cost
from methods.learner import Params, descend
from methods.losses import counted, expectile_loss
from methods.networks import rows
from methods.samplers import FlowDraws, FlowSampler
from methods.select import one_action

AHEAD = 0.1  # of flow time: the step at whose end the actor asks V


@dataclass(frozen=True)
class RQLConfig(TDConfig):
    """RQL's settings; alpha and the expectile per domain stand in the task tables."""

    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    activation: Literal["relu", "gelu"] = "gelu"  # of V
    flow_steps: Repeats = 10  # Euler steps, forwards and back
    alpha: Weight = 1.0  # of imitation
    expectile: Fraction = 0.5  # kappa, of the TD error
    average_rate: Annotated[Fraction, Switch] = 0.001  # of the average of the actor that evaluation acts by; 0: none

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        super().__post_init__()
        if self.critic == "floq":
            raise BadInput("rql.critic=floq: its values are of unfinished actions, fitted by an expectile; it takes td")


class RQLDraws(NamedTuple):
    """Noise `[b, a]` at next observations, how far back actions are carried `[b, 1]`, and the draws of imitation."""

    next_noise: Array
    back: Array
    imitation: FlowDraws


@dataclass(frozen=True)
class RQL(Method):
    """Values of flow states."""

    config: RQLConfig
    Config: ClassVar[type[MethodConfig]] = RQLConfig
    name: ClassVar[str] = "rql"
    rule: ClassVar[str] = "expectile TD on flow states reached back from data; imitation and ascent of their value"

    # parts

    @property
    def sampler(self) -> FlowSampler:
        c = self.config
        return FlowSampler(
            self.spec.action_dim, c.hidden_dims, c.sampler_activation, c.flow_steps, precision=c.precision
        )

    @property
    def actor(self) -> SamplerActor:
        c = self.config
        return SamplerActor(self.sampler, self.spec.obs_dim, c.learning_rate, target=is_on(c.average_rate))

    @property
    def critic(self) -> Critic:
        """V(s, x, f): the flow time stands behind the action."""
        return Critic.of(self.spec, self.config, activation=self.config.activation, action_dim=self.spec.action_dim + 1)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"critic": self.critic, "actor": self.actor}

    # training

    def draw(self, key: Key, batch: Batch) -> RQLDraws:
        """The first half of the rows goes back by any share of the way, the second by tenths."""
        next_key, any_key, tenth_key, imitation_key = jax.random.split(key, 4)
        count = batch["actions"].shape[0]
        anywhere = jax.random.uniform(any_key, (count, 1))
        tenths = jax.random.randint(tenth_key, (count, 1), 0, 11) / 10.0
        back = jnp.where(jnp.arange(count)[:, None] < count // 2, anywhere, tenths)
        return RQLDraws(self.sampler.noise(next_key, (count,)), back, self.sampler.draw(imitation_key, count))

    def values(self, params: Params, obs: Array, x: Array, time: Array) -> Array:
        """V `[K, b]` of unfinished actions `[b, a]` at flow times `[b, 1]`."""
        return self.critic.q_values(params, obs, jnp.concatenate([x, jnp.broadcast_to(time, (*x.shape[:-1], 1))], -1))

    def carried_back(self, state: State, obs: Array, actions: Array, back: Array) -> tuple[Array, Array]:
        """(x `[b, a]`, f = 1 - d `[b, 1]`): where actions come from, d `[b, 1]` of the way back along the flow."""
        width = back / self.sampler.steps

        def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            x, time = carry
            return (x - width * self.sampler.velocity(state["actor"].params, obs, x, time), time - width), None

        start = (actions, jnp.ones_like(back))
        (x, time), _ = jax.lax.scan(step, start, None, length=self.sampler.steps)
        return jax.lax.stop_gradient(x), time

    def next_value(self, state: State, batch: Batch, noise: Array) -> Array:
        """V(s', z, 0) `[b]` of the target critics, z noise."""
        obs = batch["next_observations"]
        inputs = jnp.concatenate([noise, jnp.zeros((*noise.shape[:-1], 1))], axis=-1)
        return self.critic.q(state["critic"].target, obs, inputs)

    def critic_loss(self, params: Params, state: State, batch: Batch, draws: RQLDraws) -> tuple[Array, Array]:
        """The expectile loss of r + gamma m V(s', z, 0) - V(s, x_f, f), mean over the ensemble and rows, and mean V."""
        obs = batch["observations"]
        target = self.critic.target(batch, self.next_value(state, batch, draws.next_noise))
        values = self.values(params, obs, *self.carried_back(state, obs, batch["actions"], draws.back))
        return expectile_loss(target - values, self.config.expectile, counted(batch)), jnp.mean(values)

    def actor_loss(self, params: Params, state: State, batch: Batch, draws: FlowDraws) -> tuple[Array, Metrics]:
        """alpha |v - (a - z)|^2 - V(s, x_t + v min(.1, 1 - t), min(t + .1, 1)), means over rows and dimensions; V
        online, constant."""
        obs, actions, (start, time) = batch["observations"], batch["actions"], draws
        x = (1.0 - time) * start + time * actions
        velocity = self.sampler.velocity(params, obs, x, time)
        weights = imitated(batch, self.config)
        errors = (velocity - (actions - start)) ** 2
        imitation = jnp.mean(errors if weights is None else weights * errors)
        ahead = jnp.minimum(AHEAD, 1.0 - time)
        values = jnp.mean(self.values(state["critic"].params, obs, x + ahead * velocity, time + ahead), axis=0)
        value_loss = -jnp.mean(counted(batch) * values)
        return self.config.alpha * imitation + value_loss, {
            "actor/imitation": imitation,
            "actor/value_loss": value_loss,
        }

    def update_parts(self, state: State, batch: Batch, draws: RQLDraws) -> tuple[State, Metrics]:
        (td, value), of_critic = jax.value_and_grad(self.critic_loss, has_aux=True)(
            state["critic"].params, state, batch, draws
        )
        (loss, metrics), of_actor = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, batch, draws.imitation
        )
        c = self.config
        critic = descend(state["critic"], of_critic, self.critic.optimizer, tau=c.tau)
        actor = descend(state["actor"], of_actor, self.actor.optimizer, tau=c.average_rate)
        metrics |= {"critic/loss": td, "critic/value": value, "actor/loss": loss}
        return {**state, "critic": critic, "actor": actor}, metrics

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        learner = state["actor"]
        params = learner.params if learner.target is None else learner.target
        return one_action(self.actor(params, obs, self.sampler.noise(key, (rows(obs),))))

    def explore(self, state: State, obs: Array, key: Key) -> Array:
        """By the actor itself, without its average, as its code does."""
        return self.act({**state, "actor": state["actor"]._replace(target=None)}, obs, key, {})

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.sampler.passes)
