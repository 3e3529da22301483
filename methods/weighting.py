"""Distribution reweighting: which of a dataset's actions the behaviour model imitates most.

A behaviour model of a dataset that is mostly poor play proposes poor actions, and a method that leans on it can only be
as good as its proposals and its transport budget allow: VGF's paper (arXiv 2604.14265) names that as its open limit.
The imitation loss of a transition is multiplied by

  w = min(exp(x / (temperature std(x))), largest) / mean of the same over the dataset,

x being the advantage of the action by an in-sample critic (as advantage-weighted regression, arXiv 1910.00177, has it)
or the return of its episode (as in return-weighted imitation: Peters & Schaal 2007), less its mean. The mean of all
weights is 1, so no learning rate changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from methods.core import Array, Columns, Key, Stage, State
from methods.critic import InSample

BEHAVIOR_WEIGHT = "behavior_weight"
"""The column of the weights, `[t]`."""
PREFIX = "weighting_"
"""Of the names of the parts that judge actions: a method may have a critic of its own."""
_LEAST_STD = 1e-6  # of a std that something is divided by


def weights(x: Array, temperature: Array | float, largest: Array | float) -> Array:
    """From how good each transition is taken to be, `[t]` -> `[t]`, mean 1."""
    centred = (x - jnp.mean(x)) / (temperature * jnp.maximum(jnp.std(x), _LEAST_STD))
    raw = jnp.exp(jnp.minimum(centred, jnp.log(largest)))
    return raw / jnp.mean(raw)


def episode_returns(rewards: Array, terminals: Array) -> Array:
    """The undiscounted return of each transition's episode, `[t]`; `terminals` is 1 at the last of an episode."""
    last = terminals > 0.0

    def ahead(later: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, end = row
        total = reward + jnp.where(end, 0.0, later)
        return total, total

    def whole(before: tuple[Array, Array], row: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        first, total = before
        to_go, end = row
        total = jnp.where(first, to_go, total)
        return (end, total), total

    zero = jnp.zeros((), rewards.dtype)
    to_go = jax.lax.scan(ahead, zero, (rewards, last), reverse=True)[1]
    return jax.lax.scan(whole, (jnp.bool_(True), zero), (to_go, last))[1]


@dataclass(frozen=True)
class ByReturn:
    """Weights by the returns of episodes."""

    temperature: Any
    largest: Any

    def complete(self, state: State, columns: Columns) -> tuple[State, Columns]:
        """The column BEHAVIOR_WEIGHT of the whole dataset in order."""
        returns = episode_returns(columns["rewards"], columns["terminals"])
        return state, {BEHAVIOR_WEIGHT: weights(returns, self.temperature, self.largest)}

    def apply(self, stage: Stage, config: Any) -> Stage:
        """A stage of imitation, weighted."""
        columns = frozenset({"rewards", "terminals"})
        return stage._replace(complete=self.complete, columns=columns, rewarded=True,
                              config={**stage.config, **_identity(config)})  # fmt: skip


@dataclass(frozen=True)
class ByAdvantage:
    """Weights by the advantages of actions, of an in-sample critic that is trained before."""

    judge: InSample
    temperature: Any
    largest: Any

    def prepare(self, state: State, columns: Columns, key: Key) -> Columns:
        """The advantages Q(s, a) - V(s) `[t]`, by the target critics."""
        del key
        obs, actions = columns["observations"], columns["actions"]
        return {"advantages": self.judge.advantage(state, obs, actions, target=True)}

    def complete(self, state: State, columns: Columns) -> tuple[State, Columns]:
        """The column BEHAVIOR_WEIGHT of the whole dataset."""
        return state, {BEHAVIOR_WEIGHT: weights(columns["advantages"], self.temperature, self.largest)}

    def apply(self, stage: Stage, config: Any) -> Stage:
        """A stage of imitation, weighted."""
        return stage._replace(prepare=self.prepare, complete=self.complete, reads=stage.reads | self.judge.names,
                              rewarded=True, config={**stage.config, **_identity(config)})  # fmt: skip


def judging(in_sample: InSample) -> InSample:
    """The same critic, as parts of other names."""
    return replace(in_sample, prefix=PREFIX)


def _identity(config: Any) -> dict[str, Any]:
    """What a weighted fit depends on beside others; the critic's settings are its own stage's."""
    names = ("behavior_weighting", "weighting_temperature", "weighting_largest")
    return {name: getattr(config, name) for name in names}
