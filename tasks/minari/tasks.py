"""Minari's own datasets as tasks, on the simulators that they name. They are other data than D4RL v2."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np

from core.errors import BadInput, reason
from tasks.core import DataLocation, Dataset, TaskSpec
from tasks.data import files as data_files
from tasks.data.actions import Bounds
from tasks.minari import data as minari_data
from tasks.minari import files as minari_files
from tasks.simulation import physics
from tasks.simulation.robotics import register_robotics


def names() -> list[str]:
    """The tasks of the datasets in Minari's folder that are neither ours nor D4RL's: their ids, "/" written "--"."""
    return [name.replace("/", "--") for name in minari_data.ids() if not minari_files.is_ours(name)]


@dataclass(frozen=True)
class MinariTask:
    """One of Minari's datasets with the simulator that it names; see `tasks.core.Task`."""

    name: str

    suite: ClassVar[str] = "d4rl"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    cheap: ClassVar[bool] = False
    clone: ClassVar[None] = None
    rules: ClassVar[None] = None

    @property
    def dataset_id(self) -> str:
        """Minari's."""
        return self.name.replace("--", "/")

    @property
    def spec(self) -> TaskSpec:
        return _spec(self.dataset_id, minari_data.folder(self.dataset_id))

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """The simulator that the data name, with actions in [-1, 1] for those of the data's action space."""
        physics.load()
        return _bounds(minari_data.folder(self.dataset_id)).scaled(_Flat(_recovered(self.dataset_id), self.dataset_id))

    def make_online_env(self) -> gymnasium.Env[Any, Any]:
        """As `make_env`: what a reward goes through before it is learned from is for the caller to apply."""
        return self.make_env()

    def score(self, episode_return: np.ndarray, success: np.ndarray) -> np.ndarray:
        """Normalised by the reference returns that its metadata state."""
        del success
        return minari_data.reference_of(self.dataset_id).score(episode_return)

    def landscape(self) -> None:
        return None

    def sized(self, episodes: int) -> MinariTask:
        del episodes  # nothing is generated
        return self

    def data_location(self, data: str = "auto") -> DataLocation:
        """What `load(data)` would read; see `tasks.core.Task`."""
        if data not in ("auto", "download"):
            raise BadInput(f"{self.dataset_id} is Minari's own: --data {data} has no meaning for it")
        return DataLocation(f"Minari's: {minari_data.folder(self.dataset_id)}", True)

    def ready(self, data: str = "auto") -> Path:
        """It is there, as the task would not be otherwise; see `tasks.core.Task`."""
        self.data_location(data)
        return minari_data.file(self.dataset_id)

    def load(self, data: str = "auto") -> Dataset:
        """Its transitions; rewards of a goal's environment less 1, of others scaled, as for D4RL's own."""
        self.data_location(data)
        goal = isinstance(_recovered(self.dataset_id).observation_space, gymnasium.spaces.Dict)
        spec, bounds = self.spec, _bounds(minari_data.folder(self.dataset_id))  # refuses before anything is read
        reference = minari_data.reference_of(self.dataset_id)
        with data_files.within_memory(minari_data.file(self.dataset_id)):
            loaded = minari_data.read(self.dataset_id)
            return minari_data.as_dataset(self.dataset_id, spec, loaded, "downloaded", goal, reference, bounds)


@cache
def _spec(dataset_id: str, folder: Path) -> TaskSpec:
    """Of the dataset in a folder. Raises `BadInput` where data or simulator are of a kind that is not learned from."""
    bounds, env = _bounds(folder), _Flat(_recovered(dataset_id), dataset_id)
    acting = Bounds.of(env.action_space, f"{dataset_id}: its simulator")
    if not acting.like(bounds):
        raise BadInput(f"{dataset_id}: the data's actions live in {bounds}, its simulator's in {acting}")
    if not isinstance(env.observation_space, gymnasium.spaces.Box) or len(env.observation_space.shape) != 1:
        raise BadInput(f"{dataset_id}: its simulator observes {env.observation_space}; only vectors are learned from")
    if not (env.spec and env.spec.max_episode_steps):
        raise BadInput(f"{dataset_id}: its simulator has no time limit")
    return TaskSpec(env.observation_space.shape[0], len(bounds.low), env.spec.max_episode_steps)


@cache
def _bounds(folder: Path) -> Bounds:
    """Of the actions of the dataset in a folder. Raises `BadInput` where they cannot be mapped onto [-1, 1]."""
    return Bounds.of(_dataset(folder).action_space, f"{folder}")


def _dataset(folder: Path) -> Any:
    """Minari's view of a dataset.

    Raises:
      BadInput: it cannot be had; says why.
    """
    from minari import MinariDataset

    if minari_files.metadata(folder / "data") is None:
        raise BadInput(f"{folder} holds no Minari dataset")
    try:
        return MinariDataset(folder / "data")
    except Exception as error:  # what metadata say is taken apart by several libraries
        raise BadInput(f"{folder}: it cannot be used: {_said(error)}") from error


def _recovered(dataset_id: str) -> gymnasium.Env[Any, Any]:
    """The simulator that a Minari dataset names for evaluation.

    Raises:
      BadInput: it names none, or one that cannot be built here.
    """
    dataset = _dataset(minari_data.folder(dataset_id))
    register_robotics()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on versions
            return dataset.recover_environment(eval_env=True, disable_env_checker=True)
    except Exception as error:  # of any simulator there is
        raise BadInput(f"{dataset_id}: its simulator cannot be made: {_said(error)}") from error


def _said(error: Exception) -> str:
    """What an error says, with its kind where gymnasium and Python would leave it at that."""
    kind = "" if isinstance(error, gymnasium.error.Error | OSError) else f"{type(error).__name__}: "
    return f"{kind}{reason(error)}".removesuffix(f": {type(error).__name__}")[:300]


class _Flat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A goal's environment observed as D4RL has it: the position reached, then the rest; others as they are.

    Raises:
      BadInput: what is observed is no vector.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], dataset_id: str) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        if isinstance(space, gymnasium.spaces.Dict):
            parts: Any = [space.spaces.get(name) for name in ("achieved_goal", "observation")]
            if not all(isinstance(part, gymnasium.spaces.Box) and len(part.shape) == 1 for part in parts):
                named = ", ".join(space.spaces)
                raise BadInput(f"{dataset_id}: its simulator observes {named}; only vectors are learned from, or "
                               "achieved_goal and observation that are")  # fmt: skip
            width = sum(part.shape[0] for part in parts)
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._flat(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        return (self._flat(obs), *rest)

    @staticmethod
    def _flat(obs: Any) -> Any:
        return np.concatenate([obs["achieved_goal"], obs["observation"]]) if isinstance(obs, dict) else obs
