"""What carries out programs and evaluations, as the rest of the harness sees it (`harness.engines` has them)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.config import RunSettings
from harness.plan import Lane, RunNode
from harness.programs import Program
from harness.session import Session
from harness.store import Format, LaneStore
from methods.core import State
from tasks.core import Dataset

if TYPE_CHECKING:
    from rich.console import Console


class Evaluator(Protocol):
    """Evaluates seeds of one run side by side."""

    knob_names: tuple[str, ...]
    rows: int  # of the record, per seed and evaluation

    def run(
        self, state: State, step: int, chosen: Collection[int], *, stop: Callable[[], bool],
        progress: Callable[[float], None],
    ) -> dict[int, list[dict[str, Any]] | Exception]:  # fmt: skip
        """Episode rows of the record (less `phase`) of each chosen seed, or what it failed of. Raises: Interrupted."""

    def close(self) -> None: ...


class Work(Protocol):
    """The rest of one program."""

    def finish(self) -> None:
        """Carries its lanes to their ends, and evaluates the trials whose last lanes they are."""


class Engine(Protocol):
    """How runs of one kind are carried out."""

    @property
    def form(self) -> Format:
        """Of stored parts."""

    def device(self, run: RunNode | None = None) -> Mapping[str, Any]:
        """Which device computes, and in which precision if a run's settings choose it, for the record. Raises: BadInput
        where the device that is asked for is not there."""

    @property
    def side_by_side(self) -> bool:
        """Whether a program may hold more than one lane."""

    def memory(self) -> float | None:
        """Bytes on the device that computes, where it has its own."""

    def least_memory(self, run: RunNode, seeds: int) -> float:
        """Bytes that the parts of so many seeds take at least."""

    def most_lanes(self, lane: Lane) -> int:
        """How many lanes like this one may train side by side."""

    def about(self, run: RunNode, dataset: Dataset) -> Mapping[str, Any]:
        """What is put on record of how a run learns from a dataset."""

    def check(self, runs: Sequence[RunNode], dataset: Dataset) -> None:
        """Before anything is written: raises `BadInput` where a run cannot learn from these data."""

    def evaluator(self, session: Session, run: RunNode, seeds: Sequence[int]) -> Evaluator: ...

    def parts(
        self, session: Session, run: RunNode, seeds: Sequence[int], ready: Collection[int], *, last: bool
    ) -> State:
        """From disk, the parts that the last stage trains, or all the others, for the evaluator of these seeds. Of
        seeds that are not `ready` there need be none."""

    def work(
        self, session: Session, program: Program, stores: Callable[[Lane], LaneStore], cohorts: Sequence[Any],
        dataset: Dataset, settings: RunSettings,
    ) -> Work: ...  # fmt: skip

    def end(self, session: Session, run: RunNode, evaluator: Any, state: State, folders: Mapping[int, Path],
            dataset: Dataset) -> None:  # fmt: skip
        """Records, in the folders of these seeds, what there is to record of the finished policies."""

    def estimate(self, programs: Sequence[Program], console: Console) -> dict[str, float]:
        """Seconds that programs train on this device, by their first lanes' fingerprints; NaN where nobody can tell."""
