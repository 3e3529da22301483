"""What compiling costs: most of the time of these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# XLA without most of its optimisations, here, in worker processes and in the commands that tests start: programs that
# run a few times compile more than twice as fast. JAX reads it once, so it stands before all that may import JAX.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """Programs that run long, as a user's are compiled."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
