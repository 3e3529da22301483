"""OGBench's goal-conditioned tasks: one policy for all goals, learned from data without rewards.

Source: OGBench, arXiv 2410.20092, and its public code. A task is a dataset ("cube-single-play-v0"): what is learned
from it is judged on the environment's five goals. An observation is the goal's observation, then the state's, both as
the simulator gives them. Which states of the data are goals of which rows, and what reaching one is worth, is the
choice `--set task.goals=...`.

The goals of one environment come in turn: episode e has goal 1 + e mod 5, so a mean over episodes, whose number must be
a multiple of five, is the benchmark's mean over goals. Success is OGBench's own test of the goal (a cube within 4 cm,
an ant within 0.5 m ...), not equality with the goal's observation.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np

from core.errors import BadInput
from core.text import nearest
from methods.core import ACHIEVED, HINDSIGHT, GoalLaw, GoalRule
from tasks.core import TaskSpec
from tasks.ogbench.data import KINDS, OnOGBenchData
from tasks.ogbench.simulators import clone, is_manipulation, make, spec_of
from tasks.simulation.simulators import Clone

GOALS = 5  # of each environment
_BENCHMARK = GoalRule(replace(HINDSIGHT, geometric=True), ACHIEVED, "cost")
RULES = {
    # the benchmark's GCDataset, with the settings of its GCIVL and GCIQL; `BY_KIND` has those of some datasets
    "ogbench": _BENCHMARK,
    # the same with later states alone as a policy's goals on every dataset, as its GCBC has them
    "ogbench-later": _BENCHMARK,
    # horizon-reduction (SHARSA): uniform value goals; policies' follow the geometric law on cubes, the uniform one
    # in mazes, and are half random on puzzles
    "sharsa": GoalRule(HINDSIGHT, ACHIEVED, "reached"),
    "sharsa-cube": GoalRule(HINDSIGHT, replace(ACHIEVED, geometric=True), "reached"),
    "sharsa-puzzle": GoalRule(HINDSIGHT, GoalLaw(0.0, 0.5, 0.5, geometric=True), "reached"),
}
BY_KIND = {  # kind of dataset -> a policy's goals by the rule "ogbench": where pieces must be put together
    "stitch": GoalLaw(0.0, 0.5, 0.5),
    "explore": GoalLaw(0.0, 0.0, 1.0),
}
LISTED = ("antmaze-*-navigate-v0", "humanoidmaze-*-navigate-v0", "cube-*-play-v0", "scene-play-v0", "puzzle-*-play-v0")


@functools.cache
def _environments() -> Mapping[str, str]:
    """Task name, which is its dataset's -> id of its gymnasium environment."""
    importlib.import_module("ogbench")  # registers its environments
    envs = [match[1] for one in gymnasium.registry if (match := re.fullmatch(r"([a-z]+-?\w*)-v0", one))]
    return {f"{env}-{kind}-v0": f"{env}-v0" for pattern, kinds in KINDS.items() for env in envs
            if re.fullmatch(pattern, env) for kind in kinds}  # fmt: skip


def names() -> tuple[str, ...]:
    """Every task: a dataset of states that OGBench has."""
    return tuple(sorted(_environments()))


def listed() -> tuple[tuple[str, ...], str]:
    """What `--list` shows, and what else there is."""
    shown = tuple(name for name in names() if any(fnmatch.fnmatch(name, pattern) for pattern in LISTED))
    return shown, f"and {len(names()) - len(shown)} more by name or glob: OGBench's other datasets of states"


def get(name: str) -> GoalTask:
    """The task called `name`, e.g. "cube-single-play-v0".

    Raises:
      BadInput: there is none of that name.
    """
    if name not in _environments():
        raise BadInput(f"unknown OGBench dataset {name!r}; {nearest(name, list(names()), '--list')}")
    return GoalTask(name)


@dataclass(frozen=True)
class GoalTask(OnOGBenchData):
    """A dataset and the goals of its environment; see `tasks.core.Task`."""

    success_timing: str = "post"  # which state a step's success is judged by; see `tasks/ogbench/suite.py`
    goals: str = "ogbench"  # how rows of the data get goals

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"success_timing": ("post", "pre"), "goals": tuple(RULES)}
    suite: ClassVar[str] = "ogbench-goals"
    cheap: ClassVar[bool] = False
    turns: ClassVar[int] = GOALS
    rules: ClassVar[None] = None  # of many simulators at once: they know no goals in observations

    @property
    def dataset(self) -> str:
        return self.name

    @property
    def env_id(self) -> str:
        return _environments()[self.name]

    @property
    def held(self) -> TaskSpec:
        return spec_of(self.env_id)

    @property
    def spec(self) -> TaskSpec:
        states = self.held
        return replace(states, obs_dim=2 * states.obs_dim, goals=self.rule)

    @property
    def rule(self) -> GoalRule:
        """How rows get goals."""
        kind = self.name.split("-")[-2]
        if self.goals == "ogbench" and kind in BY_KIND:
            return replace(_BENCHMARK, actor=BY_KIND[kind])
        return RULES[self.goals]

    @property
    def about_data(self) -> Mapping[str, Any]:
        return {"goals": self.goals}

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """A simulator whose episodes have one of the five goals each, by their seeds. Success ends the episode."""
        return InTurn(make(self.env_id, self.success_timing))

    def make_online_env(self) -> gymnasium.Env[Any, Any]:
        """Raises BadInput: goals are learned from finished episodes alone."""
        raise BadInput(f"{self.name}: goals are learned from finished episodes alone, so there is no online phase")

    @property
    def clone(self) -> Clone | None:
        """See `tasks.core.Task`; None in the mazes."""
        return clone if is_manipulation(self.env_id) else None

    def score(self, episode_return: np.ndarray, success: np.ndarray) -> np.ndarray:
        """100 for an episode that reached its goal."""
        return 100.0 * success

    def landscape(self) -> None:
        return None

    def _transitions(self, path: Path) -> dict[str, np.ndarray]:
        """Observations are states alone. Rewards come with goals, as batches are drawn: here they are 0, masks 1."""
        file = self._cut(path, self._plain)
        rows = len(file.terminals)
        return {
            "observations": file.columns["observations"],
            "actions": file.columns["actions"],
            "rewards": np.zeros(rows, np.float32),
            "masks": np.ones(rows, np.float32),
            "next_observations": file.next_observations,
            "terminals": file.terminals,
        }


class InTurn(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose goals come in turn, and whose observations begin with the goal's."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        width = env.observation_space.shape
        assert width is not None
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2 * width[0],), np.float64)
        self.goal: np.ndarray = np.zeros(width)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode with the goal 1 + seed mod 5, or the one that `options` name as "task_id"."""
        chosen = {"task_id": 1 + (seed or 0) % GOALS, **(options or {})}
        obs, info = super().reset(seed=seed, options=chosen)
        self.goal = np.asarray(info["goal"])
        return np.concatenate([self.goal, obs]), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return np.concatenate([self.goal, obs]), reward, terminated, truncated, info
