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
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.behavior import BehaviorConfig, BehaviorMethod
from methods.core import (
    Array,
    BadInput,
    Batch,
    Columns,
    Key,
    Knobs,
    MethodConfig,
    Metrics,
    PositiveFloat,
    PositiveInt,
    Repeats,
    Stage,
    State,
    Switch,
    Weight,
    is_on,
)
from methods.critics import planned_returns, softmax_value
from methods.inference import SAMPLES, Cost, Knob
from methods.learner import Params, create, descend, optimizer
from methods.networks import Critic, forward, per_action
from methods.samplers import DiffusionSampler, Sampler

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
    weight: PositiveFloat = 100.0  # of Q in the softmax that acts, returns normalised
    test_n: tuple[Repeats, ...] = (32,)  # N behaviour candidates
    picks: Repeats = 1  # the action is the mean of so many different draws (4 on locomotion)

    def __post_init__(self) -> None:
        if self.picks > min(self.test_n):
            raise BadInput(f"sfbc.picks={self.picks} is more than sfbc.test_n={min(self.test_n)}")


@dataclass(frozen=True)
class SfBC(BehaviorMethod):
    """Selecting from behaviour candidates."""

    config: SfBCConfig
    Config: ClassVar[type[MethodConfig]] = SfBCConfig
    name: ClassVar[str] = "sfbc"
    inference: ClassVar[tuple[Knob, ...]] = (SAMPLES,)
    rule: ClassVar[str] = "regression on planned returns, normalised, at a rate of its own"

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """One critic a round; the last acts."""
        return (*(f"critic_{number}" for number in range(1, self.config.rounds)), "critic")

    @property
    def fields(self) -> frozenset[str]:
        return super().fields | {"terminals"}

    @property
    def uses_behavior(self) -> bool:
        return False  # only between rounds, and then it must be finished

    @property
    def sampler(self) -> Sampler:
        c = self.config
        return DiffusionSampler(
            self.spec.action_dim, c.hidden_dims, c.sampler_activation, steps=c.solver_steps, solver="ode",
            beta=(0.1, 20.0),
        )  # fmt: skip

    @property
    def critic(self) -> Critic:
        return Critic(self.config.hidden_dims, self.config.activation, norm="none", members=1)

    @property
    def critic_rate(self) -> float:
        c = self.config
        return c.critic_learning_rate if is_on(c.critic_learning_rate) else c.learning_rate

    def init_part(self, name: str, key: Key) -> Any:
        """A critic of normalised returns, with their mean and std."""
        params = self.critic.init(key, jnp.zeros((1, self.spec.obs_dim)), jnp.zeros((1, self.spec.action_dim)))
        learner = create(params, optimizer(self.critic_rate))
        return {"learner": learner, "mean": jnp.zeros(()), "std": jnp.ones(())}

    @property
    def test_time(self) -> frozenset[str]:
        return frozenset({"test_n", "picks", "weight"})

    @property
    def knobs(self) -> tuple[dict[str, float], ...]:
        return tuple({"N": n} for n in self.config.test_n)

    # training

    def own_stages(self) -> tuple[Stage, ...]:
        stages = []
        c, before = self.config, None
        planning = {"plan_samples", "plan_weight", "solver_steps"}
        sampling = {"behavior", "behavior_steps", "bank", "rounds", "sampler", "sampler_activation", "flow_steps"}
        for number, name in enumerate(self.parts):
            steps = c.steps * (number + 1) // c.rounds - c.steps * number // c.rounds
            stage = self.own_stage(
                name,
                skip=frozenset(sampling if before else sampling | planning),
                trains=frozenset({name}),
                steps=max(steps, 1),
                update=partial(self.update_critic, name),
                complete=partial(self.plan, name),
            )
            if before:
                reads, prepare = frozenset({"behavior", before}), partial(self.value, before)
                stage = stage._replace(reads=reads, prepare=prepare)
            stages.append(stage)
            before = name
        return tuple(stages)

    def online(self) -> Stage | None:
        return None  # its critics are regressed on returns along the episodes of a finished dataset

    def scores(self, part: Any, obs: Array, actions: Array) -> Array:
        """Normalised Q `[b, n]` at observations `[b, o]`, actions `[b, n, a]`."""
        wide = per_action(obs, actions)
        return forward(self.critic, part["learner"].params, wide, actions)[0]

    def value(self, name: str, state: State, columns: Columns, key: Key) -> Columns:
        """V(s) of the last round's critic, `[t]`: the softmax mean over behaviour samples."""
        obs, part = columns["observations"], state[name]
        actions = self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], self.config.plan_samples)))
        normalised = softmax_value(self.scores(part, obs, actions), self.config.plan_weight)
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
            values = forward(self.critic, params, batch["observations"], batch["actions"])
            return jnp.mean((values[0] - batch["returns"]) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(learner.params)
        learner = descend(learner, grads, optimizer(self.critic_rate))
        return {**state, name: {**state[name], "learner": learner}}, {f"{name}/loss": loss}

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        proposals = self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], most)))
        return proposals, jnp.arange(most) < knobs["N"][:, None]

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The mean of `picks` draws without replacement, with odds exp(weight Q) (by the Gumbel trick)."""
        logits = jnp.where(valid, self.config.weight * self.scores(state["critic"], obs, candidates), -jnp.inf)
        places = jax.lax.top_k(logits + jax.random.gumbel(key, logits.shape), self.config.picks)[1]
        return jnp.mean(jnp.take_along_axis(candidates, places[..., None], axis=1), axis=1)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return Cost(knobs["N"] * (self.sampler.passes + 1))  # propose, and judge
