"""The toy bandit of the VGF paper's Figure 2: two modes of reward, data beside them.

The paper gives no formula; this one is built so that the figure can show what it is about. The true reward has a
better and a worse mode. The data lie in two clusters, each on the flank of a mode, so that all of it is sub-optimal
and the reward rises towards the mode just outside. A reward model fitted to the data is right near them and
extrapolates the rise past the mode, where the true reward falls: whoever trusts it too far is misled, and whoever
stays within the data gains little.

`toy-skewed` is the same bandit with data of which nine tenths are poor play: they lie where it pays next to nothing and
rises nowhere. The other tenth is `toy`'s. It shows what reweighted imitation is for, VGF's open limit.

`toy-line` has actions on a line: three clusters of data, the last on the flank of the only mode of reward. Where
guidance leads can be drawn there, path by path, as in Figures 2 and 14 of QGF (arXiv 2606.11087).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np

from core.text import nearest
from tasks.core import BadInput, DataLocation, Dataset, Provenance, TaskSpec

MODES = np.array([[0.35, 0.45], [-0.35, -0.45]])  # better, worse
HEIGHTS = np.array([1.0, 0.9])  # of the true reward at the modes
WIDTH = 0.25  # of each mode, a standard deviation
CENTRES = np.array([[0.0, 0.6], [0.0, -0.6]])  # of the data's clusters
SPREAD = 0.07  # of each cluster
NOISE = 0.02  # of observed rewards
SIZE = 2000  # transitions
POOR = np.array([-0.6, 0.5])  # centre of a skewed dataset's poor play, as wide as the clusters
POOR_SHARE = 0.9
LINE_CENTRES = np.array([[-0.6], [0.0], [0.5]])  # of `toy-line`'s clusters, each as wide as the others
LINE_MODE = 0.65  # where it pays 1
LINE_WIDTH = 0.3  # of that mode, a standard deviation
PAPER_TASKS = ("toy",)


def true_reward(actions: np.ndarray) -> np.ndarray:
    """Expected reward `[...]` of actions `[..., 2]`: the sum of two Gaussian bumps, 1 at the better mode."""
    distance2 = np.sum((actions[..., None, :] - MODES) ** 2, axis=-1)
    bumps = np.sum(HEIGHTS * np.exp(-distance2 / (2.0 * WIDTH**2)), axis=-1)
    return bumps / _PEAK


_PEAK = 1.0
_PEAK = float(true_reward(MODES[0]))


def line_reward(actions: np.ndarray) -> np.ndarray:
    """Expected reward `[...]` of `toy-line`'s actions `[..., 1]`: one Gaussian bump."""
    return np.exp(-((actions[..., 0] - LINE_MODE) ** 2) / (2.0 * LINE_WIDTH**2))


class ToyBandit(gymnasium.Env):
    """One step an episode; the observation is constant.

    Args:
      noise: std of the rewards it pays. For evaluation there is none: scores carry no noise of the bandit's own.
      reward: the expected reward `[...]` of actions `[..., dims]`.
      dims: of an action.
    """

    observation_space = gymnasium.spaces.Box(1.0, 1.0, (1,), np.float32)

    def __init__(
        self, noise: float = 0.0, reward: Callable[[np.ndarray], np.ndarray] = true_reward, dims: int = 2
    ) -> None:
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (dims,), np.float32)
        self.noise, self.reward = noise, reward

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        expected = float(self.reward(np.asarray(action, np.float64)))
        reward = expected + self.noise * float(self.np_random.standard_normal()) if self.noise else expected
        return np.ones(1, np.float32), reward, True, False, {"success": expected > 0.9}


@dataclass(frozen=True)
class ToyTask:
    """The bandit as a task. Score: true reward, 100 at the better mode."""

    suite: ClassVar[str] = "toy"
    name: ClassVar[str] = "toy"
    spec: ClassVar[TaskSpec] = TaskSpec(obs_dim=1, action_dim=2, horizon=1)
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    cheap: ClassVar[bool] = True
    clone: ClassVar[None] = None
    rules: ClassVar[None] = None

    def sized(self, episodes: int) -> ToyTask:
        del episodes  # the data are always the same
        return self

    def data_location(self, data: str) -> DataLocation:
        if data not in ("auto", "generate"):
            raise BadInput(f"the toy task makes its own data: --data {data} has no meaning for it")
        return DataLocation(f"built-in, {SIZE} transitions", True)

    def ready(self, data: str) -> None:
        self.data_location(data)

    def load(self, data: str) -> Dataset:
        self.data_location(data)
        return self._drawn(0, self.name)

    def validation(self, training: Dataset) -> Dataset:
        """As many transitions of the same law that nobody is trained on."""
        del training  # they are built in, as it is
        return self._drawn(1, f"{self.name}-val")

    def _drawn(self, seed: int, name: str) -> Dataset:
        rng = np.random.default_rng(seed)
        actions = self.centres(rng) + SPREAD * rng.standard_normal((SIZE, self.spec.action_dim))
        actions = np.clip(actions, -1.0, 1.0).astype(np.float32)
        rewards = self.reward(actions) + NOISE * rng.standard_normal(SIZE)
        constant = np.ones((SIZE, 1), np.float32)
        transitions: dict[str, np.ndarray] = {
            "observations": constant,
            "actions": actions,
            "rewards": rewards.astype(np.float32),
            "masks": np.zeros(SIZE, np.float32),
            "next_observations": constant,
            "terminals": np.ones(SIZE, np.float32),
        }
        digest = hashlib.sha256(b"".join(transitions[column].tobytes() for column in sorted(transitions)))
        return Dataset(transitions, Provenance(name, digest.hexdigest(), "built-in"))

    def centres(self, rng: np.random.Generator) -> np.ndarray:
        """Around which actions of the data lie, `[t, 2]`."""
        return CENTRES[rng.integers(0, 2, SIZE)]

    def reward(self, actions: np.ndarray) -> np.ndarray:
        """What actions `[..., a]` are expected to pay, `[...]`."""
        return true_reward(actions)

    def make_env(self) -> gymnasium.Env:
        return ToyBandit(0.0, self.reward, self.spec.action_dim)

    def make_online_env(self) -> gymnasium.Env:
        return ToyBandit(NOISE, self.reward, self.spec.action_dim)  # noise as the data's rewards have it

    def score(self, episode_return: np.ndarray, success: np.ndarray) -> np.ndarray:
        del success
        return 100.0 * episode_return

    def landscape(self) -> Mapping[str, np.ndarray] | None:
        """The true reward on a grid, and a sample of the data."""
        axis = np.linspace(-1.0, 1.0, 101)
        grid = np.stack(np.meshgrid(axis, axis), axis=-1)
        transitions = self.load("auto").transitions
        shown = slice(0, 400)
        return {
            "grid_x": axis,
            "grid_y": axis,
            "true_reward": 100.0 * true_reward(grid),
            "data_actions": transitions["actions"][shown],
            "data_reward": 100.0 * transitions["rewards"][shown],
            "modes": MODES,
        }


@dataclass(frozen=True)
class SkewedToyTask(ToyTask):
    """The same with data of nine tenths poor play."""

    name: ClassVar[str] = "toy-skewed"

    def centres(self, rng: np.random.Generator) -> np.ndarray:
        """Of each action, poor or not."""
        return np.where(rng.random((SIZE, 1)) < POOR_SHARE, POOR, super().centres(rng))


@dataclass(frozen=True)
class LineToyTask(ToyTask):
    """Three clusters on a line, and one mode of reward beside the last of them."""

    name: ClassVar[str] = "toy-line"
    spec: ClassVar[TaskSpec] = TaskSpec(obs_dim=1, action_dim=1, horizon=1)

    def centres(self, rng: np.random.Generator) -> np.ndarray:
        return LINE_CENTRES[rng.integers(0, len(LINE_CENTRES), SIZE)]

    def reward(self, actions: np.ndarray) -> np.ndarray:
        return line_reward(actions)

    def landscape(self) -> None:
        """It is drawn in two dimensions."""


_TASKS = {task.name: task for task in (ToyTask(), SkewedToyTask(), LineToyTask())}


def names() -> tuple[str, ...]:
    """The tasks of this suite; without a choice only `toy` is run, the paper's."""
    return tuple(_TASKS)


def get(name: str) -> ToyTask:
    """The task called `name`.

    Raises:
      BadInput: there is none of that name.
    """
    if name not in _TASKS:
        raise BadInput(f"unknown toy task {name!r}; {nearest(name, names(), '--list')}")
    return _TASKS[name]
