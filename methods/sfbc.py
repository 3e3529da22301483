"""SfBC: select from behaviour candidates, by a critic fitted to the best returns found within the data.

Source: Offline RL via High-Fidelity Generative Behavior Modeling, arXiv 2209.14548. A diffusion model imitates; a
critic is regressed on Monte-Carlo returns, then, round after round, on returns that may switch to what the last critic
thinks of behaviour samples; actions are drawn among behaviour samples by softmax of the critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from methods.behavior import BehaviorConfig, BehaviorMethod
from methods.core import (
    Array,
    Batch,
    Columns,
    Key,
    Knobs,
    MethodConfig,
    Metrics,
    PositiveFloat,
    PositiveInt,
    Stage,
    State,
)
from methods.critics import planned_returns, softmax_value
from methods.learner import Params, create, descend, optimizer
from methods.networks import Critic, forward
from methods.samplers import DiffusionSampler, Sampler
from methods.select import select

_NARROWEST = 1e-6  # range of returns, where they are all the same


@dataclass(frozen=True)
class SfBCConfig(BehaviorConfig):
    """Settings of the paper, as our notes on it have them; networks are ours."""

    sampler: Literal["diffusion"] = "diffusion"
    sampler_activation: Literal["relu", "gelu", "mish"] = "mish"
    solver_steps: PositiveInt = 15  # of the diffusion's ODE
    activation: Literal["relu", "gelu"] = "relu"  # of the critic
    rounds: PositiveInt = 2  # of planning; `steps` are divided among them
    plan_samples: PositiveInt = 16  # behaviour samples in V(s')
    weight: PositiveFloat = 100.0  # of Q in the softmax, returns scaled to [0, 1]
    test_n: tuple[PositiveInt, ...] = (32,)  # N behaviour candidates
    picks: PositiveInt = 1  # the action is the mean of so many draws (4 on locomotion)


@dataclass(frozen=True)
class SfBC(BehaviorMethod):
    """Selecting from behaviour candidates."""

    config: SfBCConfig
    Config: ClassVar[type[MethodConfig]] = SfBCConfig
    name: ClassVar[str] = "sfbc"
    rule: ClassVar[str] = "regression on planned returns, scaled to [0, 1]"

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

    def init_part(self, name: str, key: Key) -> Any:
        """A critic of scaled returns, and the returns that are its 0 and 1."""
        params = self.critic.init(key, jnp.zeros((1, self.spec.obs_dim)), jnp.zeros((1, self.spec.action_dim)))
        learner = create(params, optimizer(self.config.learning_rate))
        return {"learner": learner, "low": jnp.zeros(()), "high": jnp.ones(())}

    @property
    def test_time(self) -> frozenset[str]:
        return frozenset({"test_n", "picks"})

    @property
    def knobs(self) -> tuple[dict[str, float], ...]:
        return tuple({"N": n} for n in self.config.test_n)

    # training

    def own_stages(self) -> tuple[Stage, ...]:
        stages = []
        c, before = self.config, None
        for number, name in enumerate(self.parts):
            steps = c.steps * (number + 1) // c.rounds - c.steps * number // c.rounds
            stage = self.own_stage(
                name,
                skip=frozenset({"behavior", "behavior_steps", "bank", "rounds", *(() if before else ("weight",))}),
                trains=frozenset({name}),
                steps=max(steps, 1),
                update=partial(self.update_critic, name),
                complete=partial(self.plan, name),
            )
            if before:
                reads, prepare = frozenset({"behavior", before}), partial(self.value_next, before)
                stage = stage._replace(reads=reads, prepare=prepare)
            stages.append(stage)
            before = name
        return tuple(stages)

    def scores(self, part: Any, obs: Array, actions: Array) -> Array:
        """Scaled Q `[b, n]` at observations `[b, o]`, actions `[b, n, a]`."""
        wide = jnp.broadcast_to(obs[:, None], (*actions.shape[:-1], obs.shape[-1]))
        return forward(self.critic, part["learner"].params, wide, actions)[0]

    def value_next(self, name: str, state: State, columns: Columns, key: Key) -> Columns:
        """V(s') of the last round's critic, `[t]`: the softmax mean over behaviour samples."""
        obs, part = columns["next_observations"], state[name]
        actions = self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], self.config.plan_samples)))
        scaled = softmax_value(self.scores(part, obs, actions), self.config.weight)
        return {"next_values": part["low"] + (part["high"] - part["low"]) * scaled}

    def plan(self, name: str, state: State, columns: Columns) -> tuple[State, Columns]:
        """The round's targets: returns along each episode, switching to V(s') where that is more, scaled to [0, 1]."""
        next_values = columns.get("next_values", jnp.full_like(columns["rewards"], -jnp.inf))
        returns = planned_returns(
            columns["rewards"], columns["masks"], columns["terminals"], next_values, self.config.discount
        )
        low, high = jnp.min(returns), jnp.max(returns)
        high = jnp.maximum(high, low + _NARROWEST)
        return {**state, name: {**state[name], "low": low, "high": high}}, {"returns": (returns - low) / (high - low)}

    def update_critic(self, name: str, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step of the mean of (Q(s, a) - G)^2."""
        del key
        learner = state[name]["learner"]

        def loss_fn(params: Params) -> Array:
            values = forward(self.critic, params, batch["observations"], batch["actions"])
            return jnp.mean((values[0] - batch["returns"]) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(learner.params)
        learner = descend(learner, grads, optimizer(self.config.learning_rate))
        return {**state, name: {**state[name], "learner": learner}}, {f"{name}/loss": loss}

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        most = max(self.config.test_n)
        proposals = self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], most)))
        return proposals, jnp.arange(most) < knobs["N"][:, None]

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        values = self.scores(state["critic"], obs, candidates)
        pick = partial(select, candidates, values, valid, rule="softmax", temperature=1.0 / self.config.weight)
        return jnp.mean(jax.vmap(pick)(jax.random.split(key, self.config.picks)), axis=0)
