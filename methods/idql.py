"""IDQL: IQL's critic and a diffusion model of the behaviour; act by the best of N samples.

Source: Implicit Diffusion Q-learning, arXiv 2304.10573, Algorithms 1 and 2; settings of its public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from methods.best_of_n import BestOfN, BestOfNConfig
from methods.core import Fraction, MethodConfig, PositiveInt
from methods.samplers import DiffusionSampler, Sampler


@dataclass(frozen=True)
class IDQLConfig(BestOfNConfig):
    """Defaults of the paper's code; the critic is shared with IQL, so it has IQL's."""

    critic: Literal["iql"] = "iql"
    sampler: Literal["diffusion"] = "diffusion"
    sampler_activation: Literal["relu", "gelu", "mish"] = "mish"
    sampler_dims: tuple[PositiveInt, ...] = (256,)  # width of the residual trunk
    diffusion_steps: PositiveInt = 5  # T
    blocks: PositiveInt = 3  # residual LayerNorm blocks
    dropout: Fraction = 0.1
    sampler_batch_size: PositiveInt = 512
    test_n: tuple[PositiveInt, ...] = (16, 64, 256)  # N: each is evaluated, as the paper tunes it per domain


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
