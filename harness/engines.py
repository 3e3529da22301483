"""Which engine carries out a run: JAX for methods that act, torch for those that write.

This is the one place where the harness asks which kind a run is of; everything else talks to an `Engine`.
"""

from __future__ import annotations

import tasks
from harness.engine import Engine


def engine_of(suite: str) -> Engine:
    """The engine that a suite's tasks need. Torch is imported for language tasks alone."""
    if tasks.family(suite) == "language":
        from harness.language import LanguageEngine

        return LanguageEngine()
    from harness.control import ControlEngine

    return ControlEngine()
