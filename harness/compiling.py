"""How hard XLA tries: programs that run once, or for seconds, are compiled fast instead of well.

Only on the CPU, which knows these options, and where compiling costs more than running. They change how sums are
ordered, hence last digits, so what is decided here is part of what a record says made it (`provenance.code_of`).
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import jax

SHORT = 2_000  # steps of a stage that does not make up for compiling well
FEW_STEPS = 10  # of an episode: so few calls do not, either


def quick(fits: bool = True) -> dict[str, Any]:
    """Options for a program that runs once or for a moment, if it `fits` that."""
    if not fits or jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True, **_plain()}


def light(fits: bool = True) -> dict[str, Any]:
    """Options for one that runs for seconds, if it `fits` that: all but its products of matrices runs slower."""
    return {"xla_backend_optimization_level": 1, **_plain()} if fits and jax.default_backend() == "cpu" else {}


def _plain() -> dict[str, Any]:
    """What both leave out: programs compile side by side, so none need be cut up for several cores."""
    options: dict[str, Any] = {"xla_cpu_parallel_codegen_split_count": 1}
    if version("jaxlib").startswith("0.10."):  # later ones do not know it
        options["xla_cpu_use_fusion_emitters"] = False
    return options
