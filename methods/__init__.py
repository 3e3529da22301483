"""The registry of methods, by family: those that act in an environment ("control"), and those that write ("language").

Names are known without importing JAX or torch; a method's file is loaded when it is asked for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from importlib.abc import InspectLoader
from typing import Any

from core.errors import BadInput
from core.extras import install
from core.text import nearest

__all__ = ["LANGUAGE", "REFERENCE", "REGISTRY", "about", "get", "nearest", "registry"]

NEEDED = ("torch", "transformers", "tokenizers")  # by language methods; the extra `rlhf` brings them

REGISTRY: dict[str, str] = {
    "vgf": "methods.vgf:VGF",
    "avgf": "methods.avgf:AVGF",
    "vgf_qgf": "methods.vgf_qgf:VGFQGF",
    "qgf": "methods.qgf:QGF",
    "robust_q": "methods.robust_q:RobustQ",
    "best_of_n": "methods.best_of_n:BestOfN",
    "ifql": "methods.ifql:IFQL",
    "idql": "methods.idql:IDQL",
    "sfbc": "methods.sfbc:SfBC",
    "fql": "methods.fql:FQL",
    "qc": "methods.qc:QC",
    "qc_fql": "methods.qc_fql:QCFQL",
    "fbrac": "methods.fbrac:FBRAC",
    "qam": "methods.qam:QAM",
    "qam_f": "methods.qam_f:QAMF",
    "qam_e": "methods.qam_e:QAME",
    "fedit": "methods.fedit:FEdit",
    "dsrl": "methods.dsrl:DSRL",
    "cfgrl": "methods.cfgrl:CFGRL",
    "rql": "methods.rql:RQL",
    "fan": "methods.fan:FAN",
    "qsm": "methods.qsm:QSM",
    "dac": "methods.dac:DAC",
    "diffusion_ql": "methods.diffusion_ql:DiffusionQL",
    "rebrac": "methods.rebrac:ReBRAC",
    "td3bc": "methods.td3bc:TD3BC",
    "iql": "methods.iql:IQL",
    "ivr": "methods.ivr:IVR",
    "bc": "methods.bc:BC",
    "bc_gaussian": "methods.bc_gaussian:BCGaussian",
}

REFERENCE = "fql"
"""The method that the others' costs are told beside."""

LANGUAGE: dict[str, str] = {
    "sft": "methods.language.sft:SFT",
    "dpo": "methods.language.dpo:DPO",
    "simpo": "methods.language.simpo:SimPO",
    "ppo": "methods.language.ppo:PPO",
    "rloo": "methods.language.rloo:RLOO",
    "grpo": "methods.language.grpo:GRPO",
    "best_of_n": "methods.language.best_of_n:BestOfN",
    "soft_best_of_n": "methods.language.soft_best_of_n:SoftBestOfN",
    "args": "methods.language.args:ARGS",
    "likely_swaps": "methods.language.likely_swaps:LikelySwaps",
    "random_swaps": "methods.language.random_swaps:RandomSwaps",
    "hotflip": "methods.language.hotflip:HotFlip",
    "quest": "methods.language.quest:QUEST",
    "vgf": "methods.language.vgf:VGF",
    "optimum": "methods.language.optimum:Optimum",
}


def registry(family: str) -> dict[str, str]:
    """The methods of a family, name -> place."""
    return LANGUAGE if family == "language" else REGISTRY


def get(name: str, family: str = "control") -> Any:
    """The method class called `name`; its settings' class is its `Config`.

    Raises:
      BadInput: the family has none of that name, or needs packages that are not installed.
    """
    known = registry(family)
    if name not in known:
        raise BadInput(f"unknown method {name!r}; {nearest(name, sorted(known), '--list')}")
    if family == "language" and (lacking := [one for one in NEEDED if importlib.util.find_spec(one) is None]):
        raise BadInput(f"language methods need {', '.join(lacking)}: {install('rlhf')}")
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def about(name: str, family: str = "control") -> str:
    """The first line of what a method's file says of itself, read without importing it."""
    spec = importlib.util.find_spec(registry(family)[name].partition(":")[0])
    source = spec.loader.get_source(spec.name) if spec and isinstance(spec.loader, InspectLoader) else None
    return (ast.get_docstring(ast.parse(source or "")) or "").partition("\n")[0]
