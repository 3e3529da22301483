"""Equal fingerprints are equal numbers, whatever a user's environment says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import pytest

from harness import numerics
from tests.harness.command import Command, invoke, refused

VARIABLES = {
    "JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16", "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_RANDOM_SEED_OFFSET": "7", "JAX_DEBUG_NANS": "1", "JAX_DEBUG_INFS": "1",
    "JAX_DISABLE_JIT": "1", "JAX_USE_DIRECT_LINEARIZE": "0", "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
    "NVIDIA_TF32_OVERRIDE": "1",
}  # fmt: skip


def same(one: Path, other: Path) -> None:
    """Both hold the same parts, bit by bit, under the same fingerprints, and the same tables."""

    def numbers(results: Path) -> dict[str, bytes]:
        files = [path for name in ("*.safetensors", "*.csv") for path in results.rglob(name)]
        return {str(path.relative_to(results)): path.read_bytes() for path in files}

    mine = numbers(one)
    assert len(mine) == 3 and mine == numbers(other)


ARGUMENTS = ("--preset", "smoke", "--seeds", "1", "--steps", "20", "--evaluate-every", "10", "--episodes", "3", "--set",
             "hidden_dims=8", "--methods", "td3bc", "--results")  # fmt: skip
"""TD3+BC could not run with 64 bits."""


def test_the_environment_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set as JAX sets them by the variables when it is imported."""
    plain = invoke(*ARGUMENTS, str(tmp_path / "plain"))
    assert plain.exit_code == 0 and "no effect" not in plain.stderr, plain.stderr
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
        if name.startswith("JAX_"):
            text = {"1": True, "0": False}.get(value, value)
            jax.config.update(name.lower(), 7 if value == "7" else text)
    done = invoke(*ARGUMENTS, str(tmp_path / "other"))
    assert done.exit_code == 0, done.stderr
    said = [line.split()[0] for line in done.stderr.splitlines() if "has no effect here" in line]
    assert sorted(said) == sorted(f"{name}={value}" for name, value in VARIABLES.items())
    same(tmp_path / "plain", tmp_path / "other")


@pytest.mark.slow
def test_nor_does_it_in_a_process_of_its_own(command: Command, tmp_path: Path) -> None:
    for name, variables in (("plain", {}), ("other", VARIABLES)):
        started = Command(Path(command.environment["JAX_COMPILATION_CACHE_DIR"]))
        started.environment = command.environment | variables
        done = started.run(*ARGUMENTS, str(tmp_path / name))
        assert done.returncode == 0 and done.stderr.count("has no effect here") == len(variables), done.stderr
    same(tmp_path / "plain", tmp_path / "other")


def test_what_is_left_to_the_user_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=1 --xla_a=2 --xla_gpu_enable_fast_min_max=true")
    lines = numerics.pin()
    assert [line.split(" ")[0] for line in lines] == [
        "XLA_FLAGS=--xla_cpu_enable_fast_math=1", "XLA_FLAGS=--xla_gpu_enable_fast_min_max=true"]  # fmt: skip
    # the latter is how these tests are compiled
    assert numerics.flags() == {"xla_flags": "--xla_a=2", "jax_disable_most_optimizations": "True"}
    assert numerics.pin() == []
    monkeypatch.delenv("XLA_FLAGS")
    assert "xla_flags" not in numerics.flags()


def test_a_file_of_flags_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XLA would read it, and no record would hold what it says."""
    (tmp_path / "flags").write_text("--xla_cpu_enable_fast_math=true")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert refused(*ARGUMENTS, str(tmp_path / "results")) == (
        f"XLA_FLAGS={tmp_path / 'flags'} names a file, which no record would hold: give the flags")  # fmt: skip
    assert not (tmp_path / "results").exists()


def test_the_processor_is_named() -> None:
    """Sums are cut by its kind and its cores."""
    found = numerics.processor()
    assert found["processor"] and found["cores"] == len(os.sched_getaffinity(0))


def test_torch_is_set_too(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = pytest.importorskip("torch")
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    from harness.language import LanguageEngine

    LanguageEngine()
    assert torch.get_float32_matmul_precision() == "highest" and torch.get_default_dtype() is torch.float32
    assert len(numerics.pin("language")) == 1 and "ONEDNN_DEFAULT_FPMATH_MODE" not in os.environ


@pytest.mark.slow
def test_throughput_is_measured_under_the_same_settings(command: Command) -> None:
    import subprocess
    import sys

    arguments = ("--methods", "td3bc", "--seeds", "1", "--steps", "2", "--repeats", "1", "--set", "hidden_dims=8")
    done = subprocess.run([sys.executable, "-m", "harness.throughput", *arguments], text=True, capture_output=True,
                          env=command.environment | {"JAX_ENABLE_X64": "1"}, check=True)  # fmt: skip
    assert "JAX_ENABLE_X64=1 has no effect here" in done.stderr
