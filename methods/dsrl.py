"""DSRL: a policy over the noise that a behaviour flow starts from.

Source: Diffusion Steering via Reinforcement Learning, arXiv 2506.15799, as ported to flows in the code of QAM (arXiv
2601.14234). A second critic, of noises, is regressed on the critic of the actions that they become; the noise actor
maximises it with SAC's entropy bonus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from methods.actors import SquashedActor, Temperature
from methods.behavior import Behavior, BehaviorConfig
from methods.core import Array, Batch, Key, Knobs, Method, MethodConfig, Metrics, Part, Stage, State, Weight
from methods.critic import Critic, TDConfig
from methods.inference import Cost
from methods.learner import Params, descend
from methods.networks import rows
from methods.select import one_action


@dataclass(frozen=True)
class DSRLConfig(BehaviorConfig, TDConfig):
    """DSRL's settings; the size of noises per domain stands in the task tables of QAM's protocol."""

    sampler: Literal["flow"] = "flow"
    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    activation: Literal["relu", "gelu"] = "gelu"  # of both critics
    noise_scale: Weight = 1.0  # c: noises lie in [-c, c]; 0 is the one action of the flow from 0


class DSRLDraws(NamedTuple):
    """Noise `[b, a]` of the noise actor at next and at current observations, and noise that the critic of noises is
    fitted at."""

    next_noise: Array
    noise: Array
    start: Array


@dataclass(frozen=True)
class DSRL(Method):
    """Steering a behaviour flow by its noise."""

    config: DSRLConfig
    Config: ClassVar[type[MethodConfig]] = DSRLConfig
    name: ClassVar[str] = "dsrl"
    rule: ClassVar[str] = "TD on a steered behaviour flow; a critic of noises; noises by it and entropy"

    # parts

    @property
    def behavior(self) -> Behavior:
        """The flow that is steered; where it learns beside the others, an average of it is."""
        c = self.config
        joint = c.behavior == "joint"
        settings = {"average": c.tau, "lagging": True} if joint else {}
        return Behavior.of(self.spec, c, average=c.tau if joint else 0.0, averaged=joint, lagging=True,
                           settings=settings)  # fmt: skip

    @property
    def critic(self) -> Critic:
        return Critic.of(self.spec, self.config, activation=self.config.activation)

    @property
    def noise_critic(self) -> Critic:
        """Z(s, z), head by head the critic's value of what z becomes."""
        return Critic.plain(self.spec, self.config, activation=self.config.activation, averaged=False)

    @property
    def actor(self) -> SquashedActor:
        """u ~ pi(s) in (-1, 1), noise before its scale."""
        return SquashedActor.of(self.spec, self.config, "gelu")

    @property
    def temperature(self) -> Temperature:
        return Temperature(self.spec.action_dim, self.config.learning_rate)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"behavior": self.behavior, "critic": self.critic, "noise_critic": self.noise_critic,
                "actor": self.actor, "temperature": self.temperature}  # fmt: skip

    # training

    def stages(self) -> tuple[Stage, ...]:
        return self.behavior.beside(self.name, self.stage("joint"), next_samples=False)

    def online(self) -> Stage | None:
        return self.behavior.online(self.online_stage())

    def draw(self, key: Key, batch: Batch) -> DSRLDraws:
        shape = batch["actions"].shape
        return DSRLDraws(*(jax.random.normal(one, shape) for one in jax.random.split(key, 3)))

    def steered(self, state: State, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` of the flow from the noise actor's draws, one for each noise `[..., a]`."""
        start, _ = self.actor(state["actor"].params, obs, noise)
        return self.behavior.sample(state["behavior"], obs, self.config.noise_scale * start)

    def next_value(self, state: State, batch: Batch, noise: Array) -> Array:
        """V(s') `[b]`: the target critics at a steered action."""
        obs = batch["next_observations"]
        return self.critic.q(state["critic"].target, obs, self.steered(state, obs, noise))

    def noise_loss(self, params: Params, state: State, obs: Array, start: Array) -> Array:
        """(Z_k(s, z) - Q_k(s, flow(s, z)))^2, mean over heads and rows, by the online critics."""
        actions = self.behavior.sample(state["behavior"], obs, start)
        target = jax.lax.stop_gradient(self.critic.q_values(state["critic"].params, obs, actions))
        return jnp.mean((self.noise_critic.q_values(params, obs, start) - target) ** 2)

    def actor_loss(self, params: Params, state: State, obs: Array, noise: Array) -> tuple[Array, Array]:
        """alpha log pi(u) - Z(s, c u), mean over rows, by the mean of its heads; and log pi `[b]`."""
        start, log_prob = self.actor(params, obs, noise)
        alpha = jax.lax.stop_gradient(self.temperature(state["temperature"].params))
        values = self.noise_critic.q(state["noise_critic"].params, obs, self.config.noise_scale * start, "mean")
        return alpha * jnp.mean(log_prob) - jnp.mean(values), log_prob

    def update_parts(self, state: State, batch: Batch, draws: DSRLDraws) -> tuple[State, Metrics]:
        obs, grads = batch["observations"], {}
        critic, metrics = self.critic.update(state["critic"], batch, self.next_value(state, batch, draws.next_noise))
        noise_loss, grads["noise_critic"] = jax.value_and_grad(self.noise_loss)(
            state["noise_critic"].params, state, obs, draws.start
        )
        (loss, log_prob), grads["actor"] = jax.value_and_grad(self.actor_loss, has_aux=True)(
            state["actor"].params, state, obs, draws.noise
        )
        own, grads["temperature"] = jax.value_and_grad(self.temperature.loss)(state["temperature"].params, log_prob)
        parts: Mapping[str, Any] = self.parts
        new = {name: descend(state[name], grads[name], parts[name].optimizer) for name in grads}
        metrics |= {"noise_critic/loss": noise_loss, "actor/loss": loss, "actor/entropy": -jnp.mean(log_prob)}
        metrics |= {"temperature/loss": own, "temperature/alpha": self.temperature(state["temperature"].params)}
        return {**state, "critic": critic, **new}, metrics

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        noise = jax.random.normal(key, (rows(obs), self.spec.action_dim))
        return one_action(self.steered(state, obs, noise))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.behavior.sampler.passes + 1)
