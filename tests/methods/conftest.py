"""What compiling costs: most of the time of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compile() -> Iterator[None]:
    """XLA without most of its optimisations: programs that run a few times compile more than twice as fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)  # the default
