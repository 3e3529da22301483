"""The engine of methods that act in an environment: JAX, many lanes in one program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from core.memory import host_memory
from harness.arrays import ArrayFormat, fitted, stacked
from harness.attempts import Cohort
from harness.config import RunSettings
from harness.evaluate import Evaluator
from harness.online import OnlineTraining
from harness.plan import Lane, RunNode
from harness.programs import Program
from harness.record import write_arrays
from harness.session import Session
from harness.store import LaneStore
from harness.train import device_memory, device_summary, lane_bytes, learned, least_bytes, needed, take
from harness.training import Training
from methods.core import BadInput, Columns, Method, State
from tasks.core import Dataset, RewardTransform

if TYPE_CHECKING:
    from rich.console import Console

_ROUNDING = 1e-4  # of rewards that were scaled in float32
_SHARE = (
    0.2  # of the device's memory that parts may take: copies of them, gradients, activations and batches come on top
)


class ControlEngine:
    """See `harness.engine.Engine`."""

    form = ArrayFormat()
    side_by_side = True

    def device(self, run: RunNode | None = None) -> Mapping[str, Any]:
        del run
        return device_summary()

    def memory(self) -> float | None:
        return device_memory()

    def least_memory(self, run: RunNode, seeds: int) -> float:
        return least_bytes(run.method, seeds)

    def most_lanes(self, lane: Lane) -> int:
        return max(1, int(_SHARE * (device_memory() or host_memory()) / lane_bytes(lane.method)))

    def about(self, run: RunNode, dataset: Dataset) -> Mapping[str, Any]:
        return {"reward": learned(run.method, dataset.reward).record}

    def check(self, runs: Sequence[RunNode], dataset: Dataset) -> None:
        for run in runs:
            check_rewards(run.method, dataset)
            check_windows(run, dataset)
            check_series(run, dataset)

    def evaluator(self, session: Session, run: RunNode, seeds: Sequence[int]) -> Evaluator:
        return Evaluator(run.method, run.task, seeds, run.settings.episodes, session.kept)

    def parts(
        self, session: Session, run: RunNode, seeds: Sequence[int], ready: Collection[int], *, last: bool
    ) -> State:
        like = jax.eval_shape(run.method.init, jax.eval_shape(lambda: jax.random.key(0)))
        found = {seed: self._of_seed(session, run, seed, like, last) for seed in ready}
        if not found:
            return {}
        filler = next(iter(found.values()))
        return stacked([found.get(seed, filler) for seed in seeds]) if filler else {}

    def _of_seed(self, session: Session, run: RunNode, seed: int, like: State, last: bool) -> State:
        lanes = run.lanes(seed)
        trained = lanes[-1].node.stage.trains
        found: State = {}
        for lane in lanes:  # of a part that a later lane goes on with, the later one's
            parts = {part: like[part] for part in lane.node.stage.trains if (part in trained) == last}
            if parts and (lane is lanes[-1]) == last:
                store = LaneStore(session.artifact(lane.fingerprint), lane.identity, self.form)
                found |= fitted(store.load(), parts, str(store.folder))
        return found

    def work(
        self, session: Session, program: Program, stores: Callable[[Lane], LaneStore], cohorts: Sequence[Cohort],
        dataset: Dataset, settings: RunSettings,
    ) -> Training:  # fmt: skip
        method = program.first.method
        reward = learned(method, dataset.reward)
        columns = session.columns(dataset, needed(method), take, reward, method.rewards.masks)
        if program.first.node.online:
            return OnlineTraining(session, program, stores, cohorts, columns, settings.log_every,
                                  dataset=dataset, reward=reward)  # fmt: skip
        file_of = self._files(session, method, dataset, reward)
        return Training(session, program, stores, cohorts, columns, settings.log_every, dataset.series, file_of)

    @staticmethod
    def _files(session: Session, method: Method, dataset: Dataset, reward: RewardTransform) -> Callable[[int], Columns]:
        """What gives the columns of one file of a series."""

        def file_of(place: int) -> Columns:
            session.forget()  # before the next is there
            return session.columns(dataset.part(place), needed(method), take, reward, method.rewards.masks)

        return file_of

    def end(self, session: Session, run: RunNode, evaluator: Any, state: State, folders: Mapping[int, Path],
            dataset: Dataset) -> None:  # fmt: skip
        del session, run
        found = evaluator.candidates(state, dataset.transitions)
        for seed, folder in folders.items():
            write_arrays(folder / "candidates.npz", found[seed])

    def estimate(self, programs: Sequence[Program], console: Console) -> dict[str, float]:
        from harness.estimate import seconds_of

        return seconds_of(programs, console)


def check_rewards(method: Method, dataset: Dataset) -> None:
    """Raises `BadInput`: rewards are to be made sparse that do not count what is unsolved."""
    if not learned(method, dataset.reward).sparse:
        return
    paid = dataset.reward.undone(dataset.transitions["rewards"])
    counts = (paid <= 0.0) & (np.abs(paid - np.round(paid)) < _ROUNDING)
    if not counts.all():
        raise BadInput(f"{method.name}.rewards=sparse: the task must count what is unsolved (0, -1, ...), and its data "
                       f"have a reward of {paid[~counts].max():g}")  # fmt: skip


def check_series(run: RunNode, dataset: Dataset) -> None:
    """Raises `BadInput`: a run needs all files of a dataset at once."""
    if dataset.series is None:
        return
    where = f"{dataset.provenance.path}: {run.label}"
    if run.continues:
        raise BadInput(f"{where}: data of several files are for the offline phase")
    for node in run.nodes:
        if node.stage.prepare or node.stage.complete:
            raise BadInput(f"{where}: its stage {node.stage.name!r} looks at the whole dataset (a bank, weights, a "
                           "normaliser), of which one file is in memory at a time")  # fmt: skip


def check_windows(run: RunNode, dataset: Dataset) -> None:
    """Raises `BadInput`: a sample is of more consecutive transitions than any episode of the data has."""
    length = max(node.stage.sample.length for node in run.nodes)
    if length > 1 and length > (longest := int(dataset.columns({"remaining"})["remaining"].max()) + 1):
        name = "chunk" if run.method.config.chunk == length else "n_step"
        raise BadInput(f"{run.method.name}.{name}={length}: no episode of the data has so many transitions, the "
                       f"longest {longest}")  # fmt: skip
