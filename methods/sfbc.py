"""SfBC: select from behaviour candidates, by a critic fitted to the best returns found within the data.

Source: Offline RL via High-Fidelity Generative Behavior Modeling, arXiv 2209.14548. A diffusion model imitates; a
critic is regressed on Monte-Carlo returns, then, round after round, on returns that may switch to what the last critic
thinks of behaviour samples; actions are drawn among behaviour samples by softmax of the critic. Where paper and public
code differ (the maximum with V at the next state or at this one) it follows the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from methods.behavior import Behavior, BehaviorConfig
from methods.core import (
    Array,
    BadInput,
    Batch,
    Columns,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Metrics,
    Part,
    PositiveFloat,
    PositiveInt,
    Repeats,
    Stage,
    State,
    Switch,
    TaskSpec,
    Test,
    Weight,
    is_on,
)
from methods.inference import SAMPLES, Cost, Knob
from methods.learner import Params, create, descend, optimizer
from methods.losses import planned_returns, softmax_value
from methods.networks import QNetwork, forward, per_action
from methods.samplers import DiffusionSampler
from methods.select import first

_NARROWEST = 0.1  # least std that returns are divided by


@dataclass(frozen=True)
class SfBCConfig(BehaviorConfig):
    """Settings of its code; networks are ours."""

    batch_size: PositiveInt = 4096
    learning_rate: PositiveFloat = 1e-4  # of the sampler
    critic_learning_rate: Annotated[Weight, Switch] = 1e-3  # 0: as learning_rate
    sampler: Literal["diffusion"] = "diffusion"
    sampler_activation: Literal["relu", "gelu", "mish"] = "mish"
    solver_steps: Repeats = 15  # of the diffusion's ODE
    activation: Literal["relu", "gelu"] = "relu"  # of the critic
    rounds: PositiveInt = 2  # critics, the first of Monte-Carlo returns; `steps` are divided among them
    plan_samples: PositiveInt = 16  # behaviour samples in V(s)
    plan_weight: PositiveFloat = 20.0  # of Q in V's softmax, returns normalised
    weight: Annotated[PositiveFloat, Test] = 100.0  # of Q in the softmax that acts, returns normalised
    test_n: Annotated[tuple[Repeats, ...], Test] = (32,)  # N behaviour candidates
    picks: Annotated[Repeats, Test] = 1  # the action is the mean of so many different draws (4 on locomotion)

    def __post_init__(self) -> None:
        if self.picks > min(self.test_n):
            raise BadInput(f"sfbc.picks={self.picks} is more than sfbc.test_n={min(self.test_n)}")
        if self.window > 1:
            raise BadInput(f"sfbc takes single actions and whole returns: chunk={self.chunk}, n_step={self.n_step}")


@dataclass(frozen=True)
class ReturnCritic:
    """Q of normalised returns, with their mean and std."""

    network: QNetwork
    spec: TaskSpec
    learning_rate: float

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.learning_rate)

    def init(self, key: Key) -> State:
        params = self.network.init(key, jnp.zeros((1, self.spec.obs_dim)), jnp.zeros((1, self.spec.action_dim)))
        return {"learner": create(params, self.optimizer), "mean": jnp.zeros(()), "std": jnp.ones(())}

    def q(self, params: Params, obs: Array, actions: Array) -> Array:
        """Normalised Q `[...]` of actions `[..., a]` at observations `[..., o]`, or `[b, o]` for `[b, n, a]`."""
        return forward(self.network, params, per_action(obs, actions), actions)[0]


@dataclass(frozen=True)
class SfBC(Method):
    """Selecting from behaviour candidates."""

    config: SfBCConfig
    Config: ClassVar[type[MethodConfig]] = SfBCConfig
    name: ClassVar[str] = "sfbc"
    inference: ClassVar[tuple[Knob, ...]] = (SAMPLES,)
    rule: ClassVar[str] = "regression on planned returns, normalised, at a rate of its own"

    # parts

    @property
    def behavior(self) -> Behavior:
        c = self.config
        sampler = DiffusionSampler(
            self.spec.action_dim, c.hidden_dims, c.sampler_activation, steps=c.solver_steps, solver="ode",
            beta=(0.1, 20.0), precision=c.precision,
        )  # fmt: skip
        return Behavior.of(self.spec, c, sampler)

    @property
    def critic(self) -> ReturnCritic:
        c = self.config
        rate = c.critic_learning_rate if is_on(c.critic_learning_rate) else c.learning_rate
        network = QNetwork(c.hidden_dims, c.activation, norm="none", members=1, precision=c.precision)
        return ReturnCritic(network, self.spec, rate)

    @property
    def round_parts(self) -> tuple[str, ...]:
        """The parts that are critics: one a round; the last acts."""
        return (*(f"critic_{number}" for number in range(1, self.config.rounds)), "critic")

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"behavior": self.behavior, **dict.fromkeys(self.round_parts, self.critic)}

    @property
    def fields(self) -> frozenset[str]:
        return super().fields | {"terminals"}

    # training

    def stages(self) -> tuple[Stage, ...]:
        """The behaviour's, which must be finished between rounds, and one a round."""
        stages, before = [*self.behavior.before(), self.behavior.alone()], None
        c = self.config
        planning = {"plan_samples", "plan_weight", "solver_steps"}
        sampling = {"behavior", "behavior_steps", "bank", "rounds", "sampler", "sampler_activation", "flow_steps"}
        for number, name in enumerate(self.round_parts):
            steps = c.steps * (number + 1) // c.rounds - c.steps * number // c.rounds
            skip = sampling if before else sampling | planning
            stage = self.stage(
                name,
                trains=frozenset({name}),
                steps=max(steps, 1),
                update=partial(self.update_critic, name),
                complete=partial(self.plan, name),
                config={key: value for key, value in self.settings().items() if key not in skip},
            )
            if before:
                reads, prepare = frozenset({"behavior", before}), partial(self.value, before)
                stage = stage._replace(reads=reads, prepare=prepare)
            stages.append(stage)
            before = name
        return tuple(stages)

    def online(self) -> Stage | None:
        return None  # its critics are regressed on returns along the episodes of a finished dataset

    def value(self, name: str, state: State, columns: Columns, key: Key) -> Columns:
        """V(s) of the last round's critic, `[t]`: the softmax mean over behaviour samples."""
        obs, part = columns["observations"], state[name]
        actions = self.behavior.propose(state["behavior"], obs, key, self.config.plan_samples)
        q = self.critic.q(part["learner"].params, obs, actions)
        normalised = softmax_value(q, self.config.plan_weight)
        return {"values": part["mean"] + part["std"] * normalised}

    def plan(self, name: str, state: State, columns: Columns) -> tuple[State, Columns]:
        """The round's targets: returns along each episode, raised to V(s) where that is more, normalised."""
        values = columns.get("values", jnp.full_like(columns["rewards"], -jnp.inf))
        returns = planned_returns(
            columns["rewards"], columns["masks"], columns["terminals"], values, self.config.discount
        )
        mean, std = jnp.mean(returns), jnp.maximum(jnp.std(returns), _NARROWEST)
        return {**state, name: {**state[name], "mean": mean, "std": std}}, {"returns": (returns - mean) / std}

    def update_critic(self, name: str, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step of the mean of (Q(s, a) - G)^2."""
        del key
        learner = state[name]["learner"]

        def loss_fn(params: Params) -> Array:
            q = self.critic.q(params, batch["observations"], batch["actions"])
            return jnp.mean((q - batch["returns"]) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(learner.params)
        learner = descend(learner, grads, self.critic.optimizer)
        return {**state, name: {**state[name], "learner": learner}}, {f"{name}/loss": loss}

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        return self.behavior.propose(state["behavior"], obs, key, most), first(knobs["N"], most)

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The mean of `picks` draws without replacement, with odds exp(weight Q) (by the Gumbel trick)."""
        q = self.critic.q(state["critic"]["learner"].params, obs, candidates)
        logits = jnp.where(valid, self.config.weight * q, -jnp.inf)
        places = jax.lax.top_k(logits + jax.random.gumbel(key, logits.shape), self.config.picks)[1]
        return jnp.mean(jnp.take_along_axis(candidates, places[..., None], axis=1), axis=1)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return Cost(knobs["N"] * (self.behavior.sampler.passes + 1))  # propose, and judge
