"""What several tests share: one folder of compiled programs, and one whole run as the reference."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.harness.command import SMALL, Command


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled programs, which this process and the commands it starts share."""
    folder = tmp_path_factory.mktemp("compiled")
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
def reference(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of an uninterrupted run of VGF and BC, which share a behaviour. Not to be changed."""
    results = tmp_path_factory.mktemp("reference") / "results"
    done = command.run(*SMALL, "--results", str(results))
    assert done.returncode == 0, done.stderr
    return results
