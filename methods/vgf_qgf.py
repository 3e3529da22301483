"""VGF's TD critic under QGF's guidance: the particles of TD targets are guided samples.

Ours, to tell apart what the critic and what the guidance contribute: critic x guidance is `vgf` (TD, flow of
particles), `vgf --set vgf.critic=iql` (IQL, flow of particles), `qgf` (IQL, guidance) and this (TD, guidance).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp

from methods.behavior import Behavior
from methods.best_of_n import BestOfN
from methods.core import Array, Batch, Key, Knobs, Method, MethodConfig, Stage, State, Switch, Weight, is_on
from methods.critic import guide
from methods.guidance import Guidance
from methods.inference import SAMPLES, Cost, Knob
from methods.learner import Learner, Params
from methods.qgf import WEIGHT, QGFConfig, flow_of, guidance_of
from methods.select import first


@dataclass(frozen=True)
class VGFQGFConfig(QGFConfig):
    """QGF's settings with VGF's critic; `train_weight` is L_train's counterpart."""

    critic: Literal["td", "floq"] = "td"
    # TD targets are guided, too, so these are of training
    gradient: Literal["denoised", "jacobian", "noisy", "full"] = "denoised"
    guidance_aggregation: Literal["mean", "min"] = "min"
    train_weight: Annotated[Weight, Switch] = 0.02  # w of the particles in TD targets (ours: the middle of QGF's grid)


@dataclass(frozen=True)
class VGFQGF(BestOfN):
    """Value gradients into the flow's velocity, in training too."""

    config: VGFQGFConfig
    Config: ClassVar[type[MethodConfig]] = VGFQGFConfig
    name: ClassVar[str] = "vgf_qgf"
    rule: ClassVar[str] = "TD on guided samples of the behaviour"
    inference: ClassVar[tuple[Knob, ...]] = (WEIGHT, SAMPLES)

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config, flow_of(self.spec, self.config))

    @property
    def guidance(self) -> Guidance:
        return guidance_of(self.spec, self.config, self.critic)

    # training

    def stages(self) -> tuple[Stage, ...]:
        return self.behavior.beside(self.name, self.stage("joint"), next_samples=False)  # a bank holds finished samples

    def next_actions(self, state: State, batch: Batch, draws: Array) -> Array:
        """Samples guided with `train_weight`, `[b, n, a]`; `draws`: the noise that they start from."""
        obs, weight = batch["next_observations"], self.config.train_weight
        if not is_on(weight):
            return self.behavior.sample(state["behavior"], obs, draws)
        return self.guidance.sample(state, obs, draws, jnp.asarray(weight))

    # acting

    @property
    def explorer(self) -> Method:
        return self.having(**self.config.explored)

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        if not any(map(is_on, self.config.test_weights)):  # plain samples
            return super().candidates(state, obs, key, knobs)
        most = max(self.config.test_n)
        return self.guidance.candidates(state, obs, key, most, knobs["w"]), first(knobs["N"], most)

    def judge(self, critic: Learner) -> Params:
        """The target critic, which guides."""
        return guide(self.critic, critic)

    @property
    def judging(self) -> str:
        return self.config.guidance_aggregation

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return self.guidance.cost(knobs["N"], guided=bool(knobs["w"]))
