"""QAM: a behaviour flow fine-tuned towards exp(Q / temperature) by adjoint matching.

Source: Q-learning with Adjoint Matching, arXiv 2601.14234, and its public code, which this follows. A second flow is
regressed on what the value gradient at finished actions says about the velocity at each unfinished one: no gradient
passes through its own sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from methods.actors import SamplerActor
from methods.behavior import Behavior, BehaviorConfig
from methods.core import (
    Array,
    BadInput,
    Batch,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Metrics,
    Part,
    Stage,
    State,
    Switch,
    Weight,
    is_on,
)
from methods.critic import Critic, TDConfig, guide
from methods.inference import Cost
from methods.learner import CLIP_NORM, Params, clipped_together, descend, global_norm
from methods.networks import rows
from methods.samplers import FlowDraws, FlowSampler
from methods.select import one_action


@dataclass(frozen=True)
class QAMConfig(BehaviorConfig, TDConfig):
    """QAM's settings; its inverse temperatures per domain stand in the task tables of its protocol."""

    sampler: Literal["flow"] = "flow"
    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    activation: Literal["relu", "gelu"] = "gelu"  # of the critic
    inverse_temperature: Annotated[Weight, Switch] = 1.0  # of exp(Q / temperature); 0 acts by the behaviour flow
    clip: Literal["apart", "together"] = "apart"  # each network's gradient to norm 1, or that of all of them (its code)


class QAMDraws(NamedTuple):
    """Noise of the next actions `[b, a]`, of the stochastic chain's start `[b, a]` and steps `[T - 1, b, a]`; and of
    imitation, where that is part of the update."""

    next_noise: Array
    start: Array
    steps: Array
    imitation: FlowDraws | None = None


@dataclass(frozen=True)
class QAM(Method):
    """Q-learning with adjoint matching."""

    config: QAMConfig
    Config: ClassVar[type[MethodConfig]] = QAMConfig
    name: ClassVar[str] = "qam"
    rule: ClassVar[str] = "TD on a flow that is fitted by adjoint matching"

    # parts

    @property
    def clip_norm(self) -> float | None:
        """Of each network's own gradient."""
        return CLIP_NORM if self.config.clip == "apart" else None

    @property
    def behavior(self) -> Behavior:
        """The base flow; where it learns beside the others, an average of it is what they see."""
        c = self.config
        joint = c.behavior == "joint"
        settings = {"average": c.tau, "lagging": True} if joint else {}
        return Behavior.of(self.spec, c, clip_norm=self.clip_norm, average=c.tau if joint else 0.0,
                           averaged=joint, lagging=True, settings=settings)  # fmt: skip

    @property
    def sampler(self) -> FlowSampler:
        """Of both flows."""
        sampler = self.behavior.sampler
        assert isinstance(sampler, FlowSampler)
        return sampler

    @property
    def critic(self) -> Critic:
        return Critic.of(self.spec, self.config, activation=self.config.activation, clip_norm=self.clip_norm)

    @property
    def flow(self) -> SamplerActor:
        """The flow that is fine-tuned: a network of its own, which starts anew."""
        return SamplerActor(self.sampler, self.spec.obs_dim, self.config.learning_rate, self.clip_norm)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"behavior": self.behavior, "critic": self.critic, "flow": self.flow}

    # the stochastic chain and its adjoint

    @property
    def width(self) -> float:
        """h, of an Euler step."""
        return 1.0 / self.sampler.steps

    def sigma(self, time: Array) -> Array:
        """Of the memoryless noise at a time: sqrt(2 (1 - t + h) / (t + h))."""
        later = time + self.width
        return jnp.sqrt(2.0 * (1.0 - time + self.width) / later)

    def base(self, state: State) -> Params:
        """Parameters of the base flow that the fine-tuning sees: the average, or the finished flow."""
        learner = state["behavior"]
        return learner.params if learner.target is None else learner.target

    def chain(self, state: State, obs: Array, draws: QAMDraws) -> tuple[Array, Array]:
        """Unfinished actions x_0 ... x_{T-1} `[T, b, a]` of the memoryless process, and the finished x_T `[b, a]`.

        x <- x + h (2 v(s, x, t) - x / (t + h)) + sqrt(h) sigma eps by the fine-tuned flow; the last step is a plain
        Euler step of the base. Nothing is clipped on the way.
        """
        h, params, base = self.width, state["flow"].params, self.base(state)

        def step(x: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            time, eps = inputs
            drift = 2.0 * self.sampler.velocity(params, obs, x, time) - x / (time + h)
            return x + h * drift + jnp.sqrt(h) * self.sigma(time) * eps, x

        times = jnp.asarray(self.sampler.times, draws.start.dtype)
        last, before = jax.lax.scan(step, draws.start, (times[:-1], draws.steps))
        finished = last + h * self.sampler.velocity(base, obs, last, times[-1])
        return jnp.concatenate([before, last[None]]), finished

    def adjoint(self, state: State, obs: Array, chain: Array, finished: Array) -> Array:
        """The lean adjoint g_0 ... g_{T-1} `[T, b, a]` of a chain `[T, b, a]` that ended at `finished` `[b, a]`.

        g_T = -(1 / temperature) grad_a mean Q_target(s, clip a); back through the base alone,
        g_i = g_{i+1} + h J^T g_{i+1} with J of 2 v(s, x, t + h) - x / (t + h) at x_i.
        """
        h, base, critic = self.width, self.base(state), guide(self.critic, state["critic"])

        def value(actions: Array) -> Array:
            return jnp.sum(self.critic.q(critic, obs, jnp.clip(actions, -1.0, 1.0), "mean"))

        def back(later: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            x, after = inputs
            drift = lambda x: 2.0 * self.sampler.velocity(base, obs, x, after) - x / after  # noqa: E731
            _, pull = jax.vjp(drift, x)
            now = later + h * pull(later)[0]
            return now, now

        start = -self.config.inverse_temperature * jax.grad(value)(finished)
        ends = jnp.asarray(np.arange(1, self.sampler.steps + 1) / self.sampler.steps, chain.dtype)
        return jax.lax.scan(back, start, (chain, ends), reverse=True)[1]

    # training

    def stages(self) -> tuple[Stage, ...]:
        if self.config.clip == "together":
            if self.config.behavior != "joint":
                raise BadInput(f"{self.name}.clip=together needs behavior=joint: gradients of one step share a clip")
            if self.behavior.weighting is not None:
                raise BadInput(f"{self.name}.clip=together imitates all alike: behavior_weighting takes clip=apart")
            return (self.behavior.without_own_settings(self.stage("joint")),)
        return self.behavior.beside(self.name, self.stage("joint"), next_samples=False)

    def online(self) -> Stage | None:
        stage = self.online_stage()
        return stage if self.config.clip == "together" else self.behavior.online(stage)

    def draw(self, key: Key, batch: Batch) -> QAMDraws:
        next_key, start_key, steps_key, imitation_key = jax.random.split(key, 4)
        count, dims = batch["actions"].shape
        steps = jax.random.normal(steps_key, (self.sampler.steps - 1, count, dims))
        imitation = self.sampler.draw(imitation_key, count) if self.config.clip == "together" else None
        start = self.sampler.noise(start_key, (count,))
        return QAMDraws(self.sampler.noise(next_key, (count,)), start, steps, imitation)

    def policy(self, state: State, obs: Array, noise: Array) -> Array:
        """Actions `[..., a]` of the fine-tuned flow from noise `[..., a]`, clipped; of the base if Q has no weight."""
        if is_on(self.config.inverse_temperature):
            return self.flow(state["flow"].params, obs, noise)
        return self.flow(state["behavior"].params, obs, noise)

    def next_value(self, state: State, batch: Batch, noise: Array) -> Array:
        """V(s') `[b]`: the target critics at the policy's action."""
        obs = batch["next_observations"]
        return self.critic.q(state["critic"].target, obs, self.policy(state, obs, noise))

    def matching_loss(self, params: Params, state: State, obs: Array, chain: Array, adjoint: Array) -> Array:
        """|(2 / sigma) (v(s, x, t) - v_base(s, x, t)) + sigma g|^2, sum over steps and dimensions, mean over rows."""
        base = self.base(state)

        def one(x: Array, g: Array, time: Array) -> Array:
            change = self.sampler.velocity(params, obs, x, time) - self.sampler.velocity(base, obs, x, time)
            sigma = self.sigma(time)
            return jnp.sum((2.0 / sigma * change + sigma * g) ** 2, axis=-1)

        times = jnp.asarray(self.sampler.times, chain.dtype)
        return jnp.mean(jnp.sum(jax.vmap(one)(chain, adjoint, times), axis=0))

    def gradients(self, state: State, batch: Batch, draws: QAMDraws) -> tuple[dict[str, Params], Metrics]:
        """Of every part's loss, each from the others as they were."""
        obs = batch["observations"]
        target = self.critic.target(batch, self.next_value(state, batch, draws.next_noise))
        (td, value), of_critic = jax.value_and_grad(self.critic.td_loss, has_aux=True)(
            state["critic"].params, batch, target
        )
        chain, finished = self.chain(state, obs, draws)
        adjoint = self.adjoint(state, obs, chain, finished)
        loss, of_flow = jax.value_and_grad(self.matching_loss)(state["flow"].params, state, obs, chain, adjoint)
        metrics = {"critic/loss": td, "critic/value": value, "critic/grad_norm": global_norm(of_critic)}
        metrics |= {"flow/loss": loss, "flow/adjoint": jnp.sqrt(jnp.mean(jnp.sum(adjoint[0] ** 2, axis=-1)))}
        found = {"critic": of_critic, "flow": of_flow}
        if draws.imitation is not None:
            imitation, found["behavior"] = self.behavior.gradient(state["behavior"], batch, draws.imitation)
            metrics["behavior/loss"] = imitation
        return found, metrics

    def update_parts(self, state: State, batch: Batch, draws: QAMDraws) -> tuple[State, Metrics]:
        grads, metrics = self.gradients(state, batch, draws)
        if self.config.clip == "together":
            grads = clipped_together(grads, CLIP_NORM)
        parts: Mapping[str, Any] = self.parts
        new = {name: descend(state[name], grads[name], parts[name].optimizer, tau=self.config.tau) for name in grads}
        return {**state, **new}, metrics

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        return one_action(self.policy(state, obs, self.sampler.noise(key, (rows(obs),))))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.sampler.passes)
