"""The engine of methods that act in an environment: JAX, all seeds in one program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import record
from harness.artifact import Author
from harness.checkpoint import StageStore
from harness.evaluate import Evaluator
from harness.online import OnlineWork
from harness.plan import RunNode, StageNode
from harness.stagework import StageWork
from harness.train import device_summary, initial_state, take
from methods.core import State

if TYPE_CHECKING:
    from rich.console import Console

    from harness.execute import Member


class ControlEngine:
    """See `harness.engine.Engine`."""

    def device(self) -> Mapping[str, Any]:
        return device_summary()

    def evaluator(self, run: RunNode) -> Evaluator:
        return Evaluator(run.method, run.task, run.settings.seeds, run.settings.episodes)

    def begin(self, member: Member) -> State:
        run = member.run
        member.columns = member.executor.columns(member.dataset, run.method.fields, take)
        return initial_state(run.method.init, run.settings.seeds)

    def store(self, folder: Path, node: StageNode, author: Author) -> StageStore:
        return StageStore(folder, node.identity, author)

    def work(self, member: Member, node: StageNode, store: StageStore, watching: Sequence[Member]) -> StageWork:
        return (OnlineWork if node.online else StageWork)(member, node, store, watching)

    def end(self, member: Member) -> None:
        assert isinstance(member.evaluator, Evaluator)
        found = member.evaluator.candidates(member.state, member.dataset.transitions)
        record.write_arrays(member.folder / "candidates.npz", found)

    def estimate(self, runs: Iterable[RunNode], console: Console) -> dict[str, float]:
        from harness.estimate import seconds_per_stage

        return seconds_per_stage(runs, console)
