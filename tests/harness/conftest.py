"""What several tests share: one folder of compiled programs, and one whole run as the reference."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import pytest
from filelock import FileLock
from jax.experimental.compilation_cache import compilation_cache

from tests.harness.command import SMALL, Command


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that its worker processes share."""
    mine = tmp_path_factory.getbasetemp()
    return mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine


@pytest.fixture(scope="session", autouse=True)
def compiled(shared: Path) -> Path:
    """A folder of compiled programs, which the workers and the commands they start share."""
    folder = shared / "compiled"
    folder.mkdir(exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()
    return folder


@pytest.fixture(scope="session")
def command(compiled: Path) -> Command:
    """Starts the command line in processes of its own."""
    return Command(compiled)


@pytest.fixture(scope="session")
def reference(command: Command, shared: Path) -> Path:
    """Results of an uninterrupted run of VGF, made by the first worker that asks. Not to be changed."""
    results = shared / "reference"
    with FileLock(f"{results}.lock"):
        if not results.exists():
            done = command.run(*SMALL, "--results", str(results))
            assert done.returncode == 0, done.stderr
    return results
