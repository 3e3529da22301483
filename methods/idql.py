"""IDQL: IQL's critic and a diffusion model of the behaviour; act by the best of N samples.

Source: Implicit Diffusion Q-learning, arXiv 2304.10573, Algorithms 1 and 2; settings of its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import optax

from methods.best_of_n import BestOfN, BestOfNConfig
from methods.core import Count, Fraction, MethodConfig, PositiveInt, Repeats, Static, Switch, Weight
from methods.learner import Learner, Params, optimizer
from methods.samplers import DiffusionSampler, Sampler


@dataclass(frozen=True)
class IDQLConfig(BestOfNConfig):
    """Defaults of the paper's code; the critic is shared with IQL, so it has IQL's."""

    critic: Literal["iql"] = "iql"
    sampler: Literal["diffusion"] = "diffusion"
    sampler_activation: Literal["relu", "gelu", "mish"] = "mish"
    sampler_dims: tuple[PositiveInt, ...] = (256,)  # width of the residual trunk
    diffusion_steps: Repeats = 5  # T
    blocks: PositiveInt = 3  # residual LayerNorm blocks
    dropout: Annotated[Fraction, Static] = 0.1  # 0 and 1 are other programs in flax
    sampler_batch_size: PositiveInt = 512
    weight_decay: Annotated[Weight, Switch] = 1e-4  # of the sampler's AdamW; 0: Adam
    decay_steps: Count = 3_000_000  # steps in which the sampler's rate falls to 0, along a cosine; 0: it stays
    average_rate: Annotated[Fraction, Switch] = 0.001  # of the average of the sampler's parameters that proposes; 0:
    # they do themselves
    select_critic: Literal["target", "online"] = "target"  # which chooses among the samples
    test_n: tuple[Repeats, ...] = (16, 64, 256)  # N: each is evaluated, as the paper tunes it per domain


@dataclass(frozen=True)
class IDQL(BestOfN):
    """Best-of-N with IQL's critic and a DDPM."""

    config: IDQLConfig
    Config: ClassVar[type[MethodConfig]] = IDQLConfig
    name: ClassVar[str] = "idql"

    @property
    def sampler(self) -> Sampler:
        c = self.config
        return DiffusionSampler(
            self.spec.action_dim, c.sampler_dims, c.sampler_activation, steps=c.diffusion_steps, blocks=c.blocks,
            dropout=c.dropout, solver="langevin",
        )  # fmt: skip

    @property
    def behavior_batch(self) -> int:
        return self.config.sampler_batch_size

    @property
    def behavior_optimizer(self) -> optax.GradientTransformation:
        c = self.config
        return optimizer(c.learning_rate, weight_decay=c.weight_decay, decay_steps=c.decay_steps)

    @property
    def behavior_average(self) -> float:
        return self.config.average_rate

    @property
    def behavior_settings(self) -> Mapping[str, Any]:
        c = self.config
        return {"weight_decay": c.weight_decay, "decay_steps": c.decay_steps, "average_rate": c.average_rate}

    @property
    def test_time(self) -> frozenset[str]:
        return super().test_time | {"select_critic"}

    def judge(self, critic: Learner) -> Params:
        return critic.target if self.config.select_critic == "target" else critic.params
