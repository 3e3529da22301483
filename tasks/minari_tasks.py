"""Minari's own datasets as tasks, on the simulators that they name. They are other data than D4RL v2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np

from methods.core import BadInput, TaskSpec
from tasks import minari_data, physics
from tasks.core import Dataset, Whereabouts
from tasks.d4rl_simulators import register_robotics


def names() -> list[str]:
    """The tasks of the datasets in Minari's folder that are neither ours nor D4RL's: their ids, "/" written "--"."""
    return [name.replace("/", "--") for name in minari_data.ids() if name.partition("/")[0] not in minari_data.OURS]


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
        return _spec(self.dataset_id)

    def make_env(self) -> gymnasium.Env[Any, Any]:
        physics.load()
        return _Flat(_recovered(self.dataset_id))

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

    def whereabouts(self, data: str = "auto") -> Whereabouts:
        """What `load(data)` would read; see `tasks.core.Task`."""
        if data not in ("auto", "download"):
            raise BadInput(f"{self.dataset_id} is Minari's own: --data {data} has no meaning for it")
        return Whereabouts(f"Minari's: {minari_data.folder(self.dataset_id)}", True)

    def ready(self, data: str = "auto") -> Path:
        """It is there, as the task would not be otherwise; see `tasks.core.Task`."""
        self.whereabouts(data)
        return minari_data.file(self.dataset_id)

    def load(self, data: str = "auto") -> Dataset:
        """Its transitions; rewards of a goal's environment less 1, of others scaled, as for D4RL's own."""
        self.whereabouts(data)
        goal = isinstance(_recovered(self.dataset_id).observation_space, gymnasium.spaces.Dict)
        loaded, reference = minari_data.read(self.dataset_id), minari_data.reference_of(self.dataset_id)
        return minari_data.as_dataset(self.dataset_id, self.spec, loaded, "downloaded", goal, reference)


@cache
def _spec(dataset_id: str) -> TaskSpec:
    env = _Flat(_recovered(dataset_id))
    if not (env.spec and env.spec.max_episode_steps and env.observation_space.shape and env.action_space.shape):
        raise BadInput(f"{dataset_id}: its simulator has no time limit, or observes or acts in more than numbers")
    return TaskSpec(env.observation_space.shape[0], env.action_space.shape[0], env.spec.max_episode_steps)


def _recovered(dataset_id: str) -> gymnasium.Env[Any, Any]:
    """The simulator that a Minari dataset names for evaluation.

    Raises:
      BadInput: it names none, or one that is not installed.
    """
    from minari import MinariDataset

    register_robotics()
    try:
        dataset = MinariDataset(minari_data.folder(dataset_id) / "data")
        return dataset.recover_environment(eval_env=True, disable_env_checker=True)
    except (gymnasium.error.Error, ValueError, OSError, KeyError, ImportError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise BadInput(f"{dataset_id}: its simulator cannot be made: {reason}") from error


class _Flat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A goal's environment observed as D4RL has it: the position reached, then the rest; others as they are."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        if isinstance(space, gymnasium.spaces.Dict):
            parts: Any = (space["achieved_goal"], space["observation"])
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
