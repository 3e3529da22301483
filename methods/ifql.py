"""IFQL: IQL's critic and a behaviour flow; act by the best of N samples.

Source: the flow counterpart of IDQL in the suite of baselines of FQL (arXiv 2502.02538), after IDQL (arXiv 2304.10573)
with its diffusion model exchanged for a flow: argmax over N samples of min Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from methods.best_of_n import BestOfN, BestOfNConfig
from methods.core import MethodConfig, Repeats, Test


@dataclass(frozen=True)
class IFQLConfig(BestOfNConfig):
    """Defaults of FQL's suite."""

    critic: Literal["iql"] = "iql"
    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    test_n: Annotated[tuple[Repeats, ...], Test] = (32,)  # N per task stands in the task tables


@dataclass(frozen=True)
class IFQL(BestOfN):
    """Best-of-N with IQL's critic and a flow."""

    config: IFQLConfig
    Config: ClassVar[type[MethodConfig]] = IFQLConfig
    name: ClassVar[str] = "ifql"
