"""Settings of JAX and torch that change draws or precision, pinned: they stand in no fingerprint, so whatever a user's
environment says, equal fingerprints have to be equal work.

What only debugs or reports, chooses the device or caches programs is the user's. XLA's flags may still choose other
sums; those that are set stand in the record's `device`, of runs and of lanes.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from core.errors import BadInput

_JAX: dict[str, Any] = {
    "jax_enable_x64": False, "jax_explicit_x64_dtypes": "warn", "jax_default_dtype_bits": "64",
    "jax_default_matmul_precision": None, "jax_numpy_dtype_promotion": "standard", "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32", "jax_threefry_partitionable": True, "jax_random_seed_offset": 0,
    "jax_enable_custom_prng": False, "jax_threefry_gpu_kernel_lowering": False, "jax_high_dynamic_range_gumbel": False,
    "jax_softmax_custom_jvp": False, "jax_use_direct_linearize": True, "jax_allow_f16_reductions": True,
    "jax_disable_jit": False, "jax_debug_nans": False, "jax_debug_infs": False,
}  # fmt: skip
"""JAX's own defaults. The last three: without programs nothing is fused, so sums differ; and NaN is what a metric is
that had nothing to report, while those that are wrong the trainer finds itself."""
_COMPILING: dict[str, Any] = {
    "jax_disable_most_optimizations": False, "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
}  # fmt: skip
"""JAX's defaults of how well to compile: what a user may have reasons to change, and which chooses other sums."""
_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE",
              "DNNL_DEFAULT_FPMATH_MODE")  # fmt: skip
"""Of libraries below: they make products of matrices coarser than asked for."""


def pin(family: str = "control") -> list[str]:
    """Sets everything for methods of a family, before the first computation; of torch see `pin_torch`.

    Returns:
      A line for each of the user's variables that has no effect by this.
    """
    return [f"{name} has no effect here: it would change the numbers under the same fingerprint"
            for name in (*(_pin_jax() if family == "control" else ()), *_pin_xla(), *_pin_variables())]  # fmt: skip


def pin_torch() -> None:
    """Likewise for torch, where that is imported."""
    import torch

    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")


def flags() -> dict[str, str]:
    """XLA's flags that are set, and JAX's settings of how well to compile that are not the default, for the record."""
    import jax

    value = os.environ.get("XLA_FLAGS", "").strip()
    known = jax.config.values  # other versions have others
    found = {name: known.get(name, default) for name, default in _COMPILING.items()}
    changed = {name: str(value) for name, value in found.items() if value != _COMPILING[name]}
    return {**({"xla_flags": value} if value else {}), **changed}


def processor() -> dict[str, Any]:
    """The processor's name and the cores that this process may use: on a CPU sums are cut by both."""
    found = re.search(r"^model name\s*:\s*(.+)$", _processors(), re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": found[1].strip() if found else platform.processor() or platform.machine(), "cores": cores}


def _processors() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


def _pin_jax() -> list[str]:
    import jax

    overridden = []
    for name, value in _JAX.items():
        if not hasattr(jax.config, name):  # other versions have others
            continue
        before = getattr(jax.config, name)
        jax.config.update(name, value)
        if getattr(jax.config, name) != before and name.upper() in os.environ:
            overridden.append(f"{name.upper()}={os.environ[name.upper()]}")
    return overridden


def _pin_xla() -> list[str]:
    """Takes fast arithmetic out of XLA's flags, which are read when the first device is."""
    words = os.environ.get("XLA_FLAGS", "").split()
    if words and not words[0].startswith("-"):  # XLA takes it for a file of flags
        raise BadInput(f"XLA_FLAGS={words[0]} names a file, which no record would hold: give the flags")
    fast = [word for word in words if "fast_math" in word or "fast_min_max" in word]
    if fast:
        os.environ["XLA_FLAGS"] = " ".join(word for word in words if word not in fast)
    return [f"XLA_FLAGS={word}" for word in fast]


def _pin_variables() -> list[str]:
    """Also what accelerate takes from its variables, over its arguments: mixed precision, steps between updates, ..."""
    found = [name for name in os.environ if name in _VARIABLES or name.startswith("ACCELERATE_")]
    return [f"{name}={os.environ.pop(name)}" for name in found]
