"""IDQL: IQL's critic and a diffusion model of the behaviour; act by the best of N samples.

Source: Implicit Diffusion Q-learning, arXiv 2304.10573, Algorithms 1 and 2; settings of its public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from methods.behavior import Behavior
from methods.best_of_n import BestOfN, BestOfNConfig
from methods.core import Count, Fraction, MethodConfig, PositiveInt, Repeats, Static, Switch, Test, Weight
from methods.learner import Learner, Params
from methods.samplers import DiffusionSampler


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
    select_critic: Annotated[Literal["target", "online"], Test] = "target"  # which chooses among the samples
    test_n: Annotated[tuple[Repeats, ...], Test] = (
        16,
        64,
        256,
    )  # N: each is evaluated, as the paper tunes it per domain


@dataclass(frozen=True)
class IDQL(BestOfN):
    """Best-of-N with IQL's critic and a DDPM."""

    config: IDQLConfig
    Config: ClassVar[type[MethodConfig]] = IDQLConfig
    name: ClassVar[str] = "idql"

    @property
    def behavior(self) -> Behavior:
        c = self.config
        sampler = DiffusionSampler(
            self.spec.action_dim, c.sampler_dims, c.sampler_activation, steps=c.diffusion_steps, blocks=c.blocks,
            dropout=c.dropout, solver="langevin", precision=c.precision,
        )  # fmt: skip
        settings = {name: getattr(c, name) for name in ("weight_decay", "decay_steps", "average_rate")}
        return Behavior.of(
            self.spec, c, sampler, batch_size=c.sampler_batch_size, weight_decay=c.weight_decay,
            decay_steps=c.decay_steps, average=c.average_rate, settings=settings,
        )  # fmt: skip

    def judge(self, critic: Learner) -> Params:
        return critic.target if self.config.select_critic == "target" else critic.params
