"""The engine of methods that act in an environment: JAX, all seeds in one program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import record
from harness.artifact import Author
from harness.checkpoint import StageStore
from harness.evaluate import Evaluator
from harness.online import OnlineWork
from harness.plan import RunNode, StageNode
from harness.stagework import StageWork
from harness.train import device_memory, device_summary, initial_state, least_bytes, take
from methods.core import Method, State
from tasks.core import RewardTransform

if TYPE_CHECKING:
    from rich.console import Console

    from harness.execute import Member


def learned(method: Method, own: RewardTransform) -> RewardTransform:
    """What a method learns from of a simulator's reward; `own`: the task's own transform."""
    rewards = method.rewards
    return (RewardTransform() if rewards.base == "raw" else own).followed_by(rewards.scale, rewards.shift)


class ControlEngine:
    """See `harness.engine.Engine`."""

    def device(self) -> Mapping[str, Any]:
        return device_summary()

    def memory(self) -> float | None:
        return device_memory()

    def least_memory(self, run: RunNode, seeds: int) -> float:
        return least_bytes(run.method, seeds)

    def evaluator(self, run: RunNode) -> Evaluator:
        return Evaluator(run.method, run.task, run.settings.seeds, run.settings.episodes)

    def begin(self, member: Member) -> State:
        run = member.run
        member.reward = learned(run.method, member.dataset.reward)
        member.record.save(reward=asdict(member.reward))
        member.columns = member.executor.columns(member.dataset, run.method.fields, take, member.reward)
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
