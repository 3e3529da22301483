"""What a task gives the harness: its spec, its transitions with their provenance, its simulator, its score."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from core.errors import BadInput
from core.text import nearest
from methods.core import TaskSpec

if TYPE_CHECKING:
    import gymnasium

    from tasks.data.series import Series
    from tasks.simulation.rules import MakeRules
    from tasks.simulation.simulators import Clone

__all__ = ["BadInput", "DataLocation", "Dataset", "Provenance", "RewardTransform", "Task", "TaskSpec",
           "check_transitions", "met"]  # fmt: skip

LARGEST_ACTION = 1 - 1e-5  # the papers' code clips to it, so that squashed policies can express every action
Transitions = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Provenance:
    """Which data a run used and how they were had."""

    name: str  # dataset name, e.g. "cube-single-play-v0"
    sha256: str  # of the file; of the arrays for a built-in dataset
    origin: str  # "downloaded" | "generated" | "given" | "built-in"
    path: str = ""  # where the file lies; empty for a built-in dataset
    details: Mapping[str, Any] = field(default_factory=dict)  # recipe, URL, success_timing, ...


class DataLocation(NamedTuple):
    """Where a task's data are."""

    text: str  # in a few words
    there: bool  # whether nothing need be fetched, made or imported


@dataclass(frozen=True)
class RewardTransform:
    """What learners see of an environment's reward r: scale r + shift, offline and online. Scores are of r itself."""

    scale: float = 1.0
    shift: float = 0.0
    sparse: bool = False  # whether r is first made -1 where it is not 0 (of counts of what is unsolved)

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        """Of the simulator's rewards `[...]`, those to learn from, float32."""
        own = np.asarray(rewards, np.float64)
        own = -(own != 0.0).astype(np.float64) if self.sparse else own
        return (self.scale * own + self.shift).astype(np.float32)

    def undone(self, rewards: np.ndarray) -> np.ndarray:
        """Of transformed rewards `[...]` the simulator's own, float64; what was made sparse cannot be had back."""
        return (np.asarray(rewards, np.float64) - self.shift) / self.scale

    @property
    def record(self) -> dict[str, float | bool]:
        """What records say of it."""
        return {"scale": self.scale, "shift": self.shift} | ({"sparse": True} if self.sparse else {})

    def followed_by(self, scale: float, shift: float) -> RewardTransform:
        """This transform and then another: scale (self(r)) + shift."""
        return RewardTransform(scale * self.scale, scale * self.shift + shift, self.sparse)


@dataclass(frozen=True)
class Dataset:
    """Float32 columns `[t, ...]`: observations, actions (in [-1, 1]), rewards, masks (0 where the episode
    truly ended), next_observations, terminals (1 at the last transition of its episode)."""

    transitions: Transitions
    provenance: Provenance
    reward: RewardTransform = RewardTransform()  # the task's own, which `rewards` went through
    series: Series | None = None  # of a dataset in several files, of which `transitions` are the first's

    def part(self, place: int) -> Dataset:
        """The file at a place of a series, as a dataset of its own. Raises: BadInput."""
        if self.series is None:
            return self
        return replace(self, transitions=self.series.transitions(place), series=None)

    def __len__(self) -> int:
        return len(self.transitions["rewards"])

    @property
    def identity(self) -> str:
        """What fingerprints know the data by: their digest, and the scale of rewards where the data say it, as the rule
        by which they do may change."""
        scale = self.reward.scale
        return self.provenance.sha256 + (f", rewards x {scale:.9g}" if scale != 1.0 else "")

    def rewards(self, reward: RewardTransform) -> np.ndarray:
        """The simulator's rewards `[t]` under another transform than the task's own, float32."""
        return reward(self.reward.undone(self.transitions["rewards"]))

    def columns(self, names: Collection[str]) -> Transitions:
        """The transitions, with what is derived of them if asked for: `next_actions` `[t, a]`, the action that follows
        in the same episode, 0 at an episode's last transition, which has none; `remaining` `[t]`, int32, how many
        transitions of the same episode follow."""
        made = {name: make(self.transitions) for name, make in _DERIVED.items() if name in names}
        return {**self.transitions, **made} if made else self.transitions


def _next_actions(transitions: Transitions) -> np.ndarray:
    actions, last = transitions["actions"], transitions["terminals"] > 0.0
    following = np.concatenate([actions[1:], np.zeros_like(actions[:1])])
    return np.where(last[:, None], 0.0, following).astype(actions.dtype)


def _remaining(transitions: Transitions) -> np.ndarray:
    rows = np.arange(len(transitions["terminals"]))
    ends = np.append(np.flatnonzero(transitions["terminals"] > 0.0), len(rows) - 1)
    return (ends[np.searchsorted(ends, rows)] - rows).astype(np.int32)


def met(transitions: Transitions, places: np.ndarray, spec: TaskSpec) -> np.ndarray:
    """Observations `[p, o]` as a policy meets them, at some places of a dataset. Where the task is one of goals, the
    goal is the last state of the trajectory."""
    states = transitions["observations"]
    if spec.goals is None:
        return states[places]
    last = places + _remaining(transitions)[places]
    return np.concatenate([states[last], states[places]], axis=1)


_DERIVED = {"next_actions": _next_actions, "remaining": _remaining}


class Task(Protocol):
    """One row of a benchmark.

    One that has episodes which nobody is trained on also has `validation(training)`, which gives them as a `Dataset`
    like the one that `load` gave (rewards under the same transform), or None where their file is not there.
    """

    @property
    def suite(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> TaskSpec: ...

    @property
    def choices(self) -> Mapping[str, tuple[str, ...]]:
        """What can be chosen of the task by `--set task.KEY=VALUE`, and the values each may take. The task is a
        dataclass with a field for each; its value is recorded, and runs with different ones are different runs."""

    @property
    def cheap(self) -> bool:
        """Whether simulators are so light that worker processes would cost more than they save."""

    @property
    def clone(self) -> Clone | None:
        """Copies a simulator where that is cheaper than `make_env`; None where it is not."""

    @property
    def rules(self) -> MakeRules | None:
        """Makes `tasks.simulation.rules.Rules` from a built simulator: what a step comes to, for many simulators at
        once, which is quicker than one by one. None where only a simulator's own `step` knows."""

    def load(self, data: str) -> Dataset:
        """The training transitions. `data`: "auto", "download", "generate", or a file's path.

        Raises `BadInput` with one line that names what is missing or wrong; nothing is left half-written.
        """

    def sized(self, episodes: int) -> Task:
        """The task with datasets of so many episodes, where they are generated."""

    def data_location(self, data: str) -> DataLocation:
        """What `load(data)` would read, fetch or make, without doing it.

        Raises `BadInput` where it can be told beforehand that `load` would.
        """

    def ready(self, data: str) -> Path | None:
        """Fetches, makes or imports what `load(data)` needs, without loading it; the file, None where there is none.

        Raises `BadInput` like `load`.
        """

    def make_env(self) -> gymnasium.Env:
        """A fresh simulator with actions in [-1, 1], for evaluation. Called in worker processes, too."""

    def make_online_env(self) -> gymnasium.Env:
        """As `make_env`, for learning from: rewards and ends come with the timing that `load`'s have. Rewards are the
        simulator's own, not transformed. `clone` copies it, too."""

    def score(self, episode_return: np.ndarray, success: np.ndarray) -> np.ndarray:
        """The headline number of each episode from its return and success (0 or 1)."""

    def landscape(self) -> Mapping[str, np.ndarray] | None:
        """Arrays for a picture of the task itself (a bandit's true reward on a grid), or None."""


T = TypeVar("T", bound=Task)


def options(task: Task) -> dict[str, str]:
    """The task's choices as they stand."""
    return {key: getattr(task, key) for key in task.choices}


def choose(task: T, chosen: Mapping[str, str]) -> T:
    """The task with its choices made.

    Raises:
      BadInput: a key it does not have, or a value that the key cannot take.
    """
    for key, value in chosen.items():
        if key not in task.choices:
            valid = nearest(key, list(task.choices)) if task.choices else "it has none"
            raise BadInput(f"task.{key}: {task.suite} tasks have no such choice; {valid}")
        if value not in task.choices[key]:
            raise BadInput(f"task.{key}={value}: expected one of {', '.join(task.choices[key])}")
    return replace(task, **chosen) if chosen else task  # type: ignore[type-var]


def check_transitions(transitions: Transitions, spec: TaskSpec, name: str) -> None:
    """Refuses columns that a learner would choke on, in one line that says which and where.

    Raises:
      BadInput: a missing column, a wrong shape, no transitions, or a non-finite value. Actions outside [-1, 1] are
        the business of `tasks.data.actions`.
    """
    widths = {"observations": (spec.obs_dim,), "actions": (spec.action_dim,), "rewards": (), "masks": (),
              "next_observations": (spec.obs_dim,), "terminals": ()}  # fmt: skip
    missing = sorted(set(widths) - set(transitions))
    if missing:
        raise BadInput(f"{name}: column {missing[0]!r} is missing")
    rows = len(transitions["rewards"])
    if rows == 0:
        raise BadInput(f"{name}: no transitions")
    for column, width in widths.items():
        values = transitions[column]
        if values.shape != (rows, *width):
            raise BadInput(f"{name}: {column} has shape {values.shape}, expected {(rows, *width)}")
        finite = np.isfinite(values)
        if not finite.all():
            where = int(np.argwhere(~finite)[0][0])
            raise BadInput(f"{name}: {column} holds a non-finite value at transition {where}")
