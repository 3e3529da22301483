"""What carries out stages and evaluations: JAX for methods that act, torch for those that write.

This is the one place where the harness asks which kind a run is of; everything else talks to an `Engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import tasks
from harness.artifact import Author
from harness.plan import RunNode, StageNode
from harness.watch import Store
from methods.core import State

if TYPE_CHECKING:
    from rich.console import Console

    from harness.execute import Member


class Evaluator(AbstractContextManager[Any], Protocol):
    """Evaluates one run's method."""

    knob_names: tuple[str, ...]
    rows: int  # of the record, per seed and evaluation

    def run(
        self, state: State, step: int, *, stop: Callable[[], bool], progress: Callable[[float], None]
    ) -> list[dict[str, Any]]:
        """Episode rows of the record (less `phase`). Raises: Interrupted."""

    def close(self) -> None: ...


class Work(Protocol):
    """The rest of one stage."""

    def finish(self) -> None:
        """Carries the stage to its end, and evaluates those who watch it."""


class Engine(Protocol):
    """How runs of one kind are carried out."""

    def device(self) -> Mapping[str, Any]:
        """Which device computes, for the record. Raises: BadInput where the one that is asked for is not there."""

    def memory(self) -> float | None:
        """Bytes on the device that computes, where it has its own."""

    def least_memory(self, run: RunNode, seeds: int) -> float:
        """Bytes that the parts of so many seeds take at least."""

    def evaluator(self, run: RunNode) -> Evaluator: ...

    def begin(self, member: Member) -> State:
        """The state before the first stage."""

    def store(self, folder: Path, node: StageNode, author: Author) -> AbstractContextManager[Store]: ...

    def work(self, member: Member, node: StageNode, store: Any, watching: Sequence[Member]) -> Work: ...

    def end(self, member: Member) -> None:
        """Records what there is to record of the finished policy."""

    def estimate(self, runs: Iterable[RunNode], console: Console) -> dict[str, float]:
        """Seconds that each stage takes on this device, by fingerprint; NaN where nobody can tell."""


def engine_of(run: RunNode) -> Engine:
    """The engine that a run's task needs. Torch is imported for language tasks alone."""
    if tasks.family(run.task.suite) == "language":
        from harness.language import LanguageEngine

        return LanguageEngine()
    from harness.control import ControlEngine

    return ControlEngine()
