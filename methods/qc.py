"""QC: best-of-N over chunks of actions.

Source: Reinforcement Learning with Action Chunking, arXiv 2507.07969, and its public code: `best_of_n` on chunks of 5,
TD targets at the best of 32 samples by the online critics, valued by the target ones, and networks as in FQL's suite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from methods.best_of_n import BestOfN, BestOfNConfig
from methods.core import MethodConfig, Repeats, Test
from methods.critic import Critic


@dataclass(frozen=True)
class QCConfig(BestOfNConfig):
    """QC's settings. With `chunk=1` and an `n_step` it is BFN-n, for which its code has N = 4."""

    critic: Literal["td", "floq"] = "td"
    chunk: Repeats = 5
    chunk_mask: Literal["window", "step", "none"] = "step"
    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    activation: Literal["relu", "gelu"] = "gelu"
    n_particles: Repeats = 32
    target_select: Literal["mean", "max", "online"] = "online"
    test_n: Annotated[tuple[Repeats, ...], Test] = (32,)


@dataclass(frozen=True)
class QC(BestOfN):
    """Q-chunking."""

    config: QCConfig
    Config: ClassVar[type[MethodConfig]] = QCConfig
    name: ClassVar[str] = "qc"
    rule: ClassVar[str] = "TD on behaviour proposals, by critics of FQL's suite"  # whose layout best_of_n's have not

    @property
    def critic(self) -> Critic:
        return Critic.of(self.spec, self.config, activation=self.config.activation)
