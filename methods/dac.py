"""DAC: a diffusion policy with the value gradient as a linear term of its loss.

Source: Diffusion Actor-Critic, arXiv 2405.20555, as in the code of QAM (arXiv 2601.14234): the minimiser is the data's
noise less sqrt(1 - abar) grad_a Q / (2 alpha).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from methods.core import Array, MethodConfig
from methods.qsm import QSM, QSMConfig


@dataclass(frozen=True)
class DACConfig(QSMConfig):
    """DAC's settings: `alpha` is the regulariser; `inverse_temperature` has no part in it."""

    clip_samples: Literal["before", "after", "none"] = "before"


@dataclass(frozen=True)
class DAC(QSM):
    """Diffusion actor-critic."""

    config: DACConfig
    Config: ClassVar[type[MethodConfig]] = DACConfig
    name: ClassVar[str] = "dac"
    rule: ClassVar[str] = "TD on a diffusion policy; its noise matched to the data's, and turned by the value gradient"

    def idle(self) -> frozenset[str]:
        return frozenset({"inverse_temperature"})

    def guided(self, predicted: Array, action_grad: Array, level: Array) -> Array:
        """sqrt(1 - abar) grad_a Q eps_hat, `[b, a]`."""
        return level * action_grad * predicted
