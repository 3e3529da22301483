"""QAM-E: QAM's flow with an edit policy on top.

Source: Q-learning with Adjoint Matching, arXiv 2601.14234, and its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import jax

from methods.core import Array, Batch, Key, Knobs, MethodConfig, Metrics, Part, State, Switch, Weight, is_on
from methods.edit import Edit
from methods.inference import Cost
from methods.learner import Params
from methods.networks import rows
from methods.qam import QAM, QAMConfig, QAMDraws
from methods.select import one_action


@dataclass(frozen=True)
class QAMEConfig(QAMConfig):
    """QAM's settings and the size of edits."""

    edit_scale: Annotated[Weight, Switch] = 0.1  # kappa, of the largest edit; 0: plain QAM


class QAMEDraws(NamedTuple):
    """QAM's draws; noise `[b, a]` of edits at next and at current observations, and of the actions edited there."""

    flow: QAMDraws
    next_edit: Array
    noise: Array
    edit: Array


@dataclass(frozen=True)
class QAME(QAM):
    """Q-learning with adjoint matching, edited."""

    config: QAMEConfig
    Config: ClassVar[type[MethodConfig]] = QAMEConfig
    name: ClassVar[str] = "qam_e"
    rule: ClassVar[str] = "TD on an edited flow; adjoint matching; edits by Q and entropy"

    @property
    def editing(self) -> Edit:
        return Edit.of(self.spec, self.config, self.config.edit_scale, self.clip_norm)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {**super().parts, **self.editing.parts} if self.edits else super().parts

    @property
    def edits(self) -> bool:
        """Whether it has an edit policy."""
        return is_on(self.config.edit_scale)

    def draw(self, key: Key, batch: Batch) -> QAMEDraws:  # type: ignore[override]
        flow_key, *keys = jax.random.split(key, 4)
        shape = batch["actions"].shape
        return QAMEDraws(super().draw(flow_key, batch), *(jax.random.normal(one, shape) for one in keys))

    def edited(self, state: State, obs: Array, noise: Array, edit: Array) -> Array:
        """The flow's actions after their edits, `[..., a]`, from noise of either, `[..., a]`."""
        start = self.policy(state, obs, noise)
        return self.editing(state["edit"].params, obs, start, edit)[0] if self.edits else start

    def next_value(self, state: State, batch: Batch, noise: Any) -> Array:
        """V(s') `[b]`: the target critics at an edited action; `noise`: of the flow, and of the edit."""
        obs = batch["next_observations"]
        return self.critic.q(state["critic"].target, obs, self.edited(state, obs, *noise))

    def gradients(self, state: State, batch: Batch, draws: Any) -> tuple[dict[str, Params], Metrics]:
        obs = batch["observations"]
        both = (draws.flow.next_noise, draws.next_edit)
        found, metrics = super().gradients(state, batch, draws.flow._replace(next_noise=both))
        if not self.edits:
            return found, metrics
        start = self.policy(state, obs, draws.noise)
        own, more = self.editing.gradients(state, self.critic, obs, start, draws.edit)
        return {**found, **own}, {**metrics, **more}

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        del knobs
        keys = jax.random.split(key)
        noises = (self.sampler.noise(one, (rows(obs),)) for one in keys)
        return one_action(self.edited(state, obs, *noises))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        del knobs
        return Cost(self.sampler.passes + self.edits)
