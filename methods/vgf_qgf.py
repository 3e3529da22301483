"""VGF's TD critic under QGF's guidance: the particles of TD targets are guided samples.

Ours, to tell apart what the critic and what the guidance contribute: critic x guidance is `vgf` (TD, flow of
particles), `vgf --set vgf.critic=iql` (IQL, flow of particles), `qgf` (IQL, guidance) and this (TD, guidance).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp

from methods.core import Array, Batch, MethodConfig, State, Switch, Weight, is_on
from methods.qgf import QGF, QGFConfig


@dataclass(frozen=True)
class VGFQGFConfig(QGFConfig):
    """QGF's settings with VGF's critic; `train_weight` is L_train's counterpart."""

    critic: Literal["td"] = "td"
    train_weight: Annotated[Weight, Switch] = 0.02  # w of the particles in TD targets (ours: the middle of QGF's grid)


@dataclass(frozen=True)
class VGFQGF(QGF):
    """Value gradients into the flow's velocity, in training too."""

    config: VGFQGFConfig
    Config: ClassVar[type[MethodConfig]] = VGFQGFConfig
    name: ClassVar[str] = "vgf_qgf"
    rule: ClassVar[str] = "TD on guided samples of the behaviour"

    @property
    def test_time(self) -> frozenset[str]:
        return super().test_time - {"gradient", "guidance_aggregation"}  # TD targets are guided too

    @property
    def draws_next(self) -> bool:
        return False  # a bank holds finished samples, and guidance starts from noise

    def next_proposals(self, state: State, batch: Batch, draws: Array) -> Array:
        del state, batch
        return draws  # noise: `improve` samples

    def improve(self, state: State, obs: Array, start: Array) -> Array:
        if not is_on(self.config.train_weight):
            return self.propose(state, obs, start)
        return self.guided(state, obs, start, jnp.asarray(self.config.train_weight))
