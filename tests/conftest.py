"""What all tests share: cheap compiling, most of their time; and which are left out where an extra is not installed."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

from core.extras import EXTRAS

# XLA without most of its optimisations, here, in worker processes and in the commands that tests start: programs that
# run a few times compile three times as fast. JAX reads them once, so they stand before all that may import JAX.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
emitters = " --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""  # later: unknown
os.environ.setdefault("XLA_FLAGS", f"--xla_cpu_parallel_codegen_split_count=1{emitters}")
hypothesis.settings.register_profile("without clocks", deadline=None)  # a first example may import for seconds
hypothesis.settings.load_profile("without clocks")
# Tracing makes objects by the million that live on: Python's default looks through all of them again and again.
gc.set_threshold(200_000, 20, 100)
# Commands that tests start and interrupt hear it also where this session was told not to (in the background, by nohup).
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LACKING = tuple(package for package in ("torch", "transformers", "tokenizers", "trl") if not find_spec(package))
_IMPORTS = re.compile(rf"^(?:import|from) (?:{'|'.join(LACKING)})\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out files, and folders whose `conftest.py` is one, that import at once what is not installed."""
    file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    if LACKING and file.suffix == ".py" and file.exists() and _IMPORTS.search(file.read_text(encoding="utf-8")):
        return True
    return None


def pytest_report_header() -> str | None:
    lacking = ", ".join(f"{package} (extra {EXTRAS[package]})" for package in LACKING)
    return f"left out are the tests of what is not installed: {lacking}" if LACKING else None


@pytest.fixture(scope="session", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Folders of datasets of this session's own: what a user has downloaded or generated changes no test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OGBENCH_DATA_DIR", "D4RL_DATASET_DIR", "MINARI_DATASETS_PATH"):
            patch.setenv(name, str(tmp_path_factory.mktemp("datasets") / name.lower()))
        yield


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """Programs that run long, as a user's are compiled."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
