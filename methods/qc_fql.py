"""QC-FQL: FQL over chunks of actions.

Source: Reinforcement Learning with Action Chunking, arXiv 2507.07969, and its public code: FQL's losses on chunks of 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from methods.core import MethodConfig, Repeats, Weight
from methods.fql import FQL, FQLConfig


@dataclass(frozen=True)
class QCFQLConfig(FQLConfig):
    """QC-FQL's settings; alpha is that of cube-triple in its paper."""

    chunk: Repeats = 5
    chunk_mask: Literal["window", "step", "none"] = "step"
    alpha: Weight = 100.0


@dataclass(frozen=True)
class QCFQL(FQL):
    """Q-chunking with a one-step policy."""

    config: QCFQLConfig
    Config: ClassVar[type[MethodConfig]] = QCFQLConfig
    name: ClassVar[str] = "qc_fql"

    def idle(self) -> frozenset[str]:
        """Of single actions it is FQL, and the same stage."""
        return super().idle() | (frozenset({"chunk", "chunk_mask"}) if self.config.window == 1 else frozenset())
