"""FEdit: an edit policy on top of a behaviour flow.

Source: EXPO, arXiv 2507.07986, as a baseline in the code of QAM (arXiv 2601.14234): one action of the flow, edited,
where EXPO picks among several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax

from methods.behavior import Behavior, BehaviorConfig
from methods.core import Array, Batch, Key, Knobs, Method, MethodConfig, Metrics, Part, Stage, State, Weight
from methods.critic import Critic, TDConfig
from methods.edit import Edit
from methods.inference import Cost
from methods.learner import descend
from methods.networks import rows
from methods.select import one_action


@dataclass(frozen=True)
class FEditConfig(BehaviorConfig, TDConfig):
    """FEdit's settings; the size of edits per domain stands in the task tables of QAM's protocol."""

    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    activation: Literal["relu", "gelu"] = "gelu"  # of the critic
    edit_scale: Weight = 0.1  # kappa, of the largest edit


class FEditDraws(NamedTuple):
    """Noise `[b, a]` of the flow and of the edit, at next and at current observations."""

    next_noise: Array
    next_edit: Array
    noise: Array
    edit: Array


@dataclass(frozen=True)
class FEdit(Method):
    """A behaviour flow, edited."""

    config: FEditConfig
    Config: ClassVar[type[MethodConfig]] = FEditConfig
    name: ClassVar[str] = "fedit"
    rule: ClassVar[str] = "TD on an edited behaviour flow; edits by Q and entropy"

    # parts

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config)

    @property
    def critic(self) -> Critic:
        return Critic.of(self.spec, self.config, activation=self.config.activation)

    @property
    def editing(self) -> Edit:
        return Edit.of(self.spec, self.config, self.config.edit_scale)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"behavior": self.behavior, "critic": self.critic, **self.editing.parts}

    # training

    def stages(self) -> tuple[Stage, ...]:
        return self.behavior.beside(self.name, self.stage("joint"), next_samples=False)

    def online(self) -> Stage | None:
        return self.behavior.online(self.online_stage())

    def draw(self, key: Key, batch: Batch) -> FEditDraws:
        keys, shape = jax.random.split(key, 4), batch["actions"].shape
        starts = [self.behavior.sampler.noise(one, (shape[0],)) for one in keys[::2]]
        edits = [jax.random.normal(one, shape) for one in keys[1::2]]
        return FEditDraws(starts[0], edits[0], starts[1], edits[1])

    def edited(self, state: State, obs: Array, noise: Array, edit: Array) -> Array:
        """The flow's actions after their edits, `[..., a]`, from noise of either, `[..., a]`."""
        start = self.behavior.sample(state["behavior"], obs, noise)
        return self.editing(state["edit"].params, obs, start, edit)[0]

    def next_value(self, state: State, batch: Batch, noise: Array, edit: Array) -> Array:
        """V(s') `[b]`: the target critics at an edited action."""
        obs = batch["next_observations"]
        return self.critic.q(state["critic"].target, obs, self.edited(state, obs, noise, edit))

    def update_parts(self, state: State, batch: Batch, draws: FEditDraws) -> tuple[State, Metrics]:
        obs, parts = batch["observations"], self.editing.parts
        next_value = self.next_value(state, batch, draws.next_noise, draws.next_edit)
        critic, metrics = self.critic.update(state["critic"], batch, next_value)
        start = self.behavior.sample(state["behavior"], obs, draws.noise)
        grads, more = self.editing.gradients(state, self.critic, obs, start, draws.edit)
        new = {name: descend(state[name], grads[name], parts[name].optimizer) for name in grads}
        return {**state, "critic": critic, **new}, {**metrics, **more}

    # acting

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        start_key, edit_key = jax.random.split(key)
        start = self.behavior.sampler.noise(start_key, (rows(obs),))
        edit = jax.random.normal(edit_key, (rows(obs), self.spec.action_dim))
        return one_action(self.edited(state, obs, start, edit))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.behavior.sampler.passes + 1)
