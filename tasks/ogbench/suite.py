"""OGBench's single-task environments: their simulators, and their transitions downloaded, generated or given.

Timing of success. `rewards[t]` of the relabelled data judges the state that action t is taken *in*
(`observations[t]`; the files store its `qpos`), not the one it leads to: minus the number of unmet conditions there
(0 or -1 in the mazes), and `masks[t]` is 0 where they are all met. OGBench 1.1.0 judged the simulator's steps by the
state they lead to (`success_timing="post"`); since 1.2.0 single-task environments default to "pre", which agrees with
the data, reports a success one step late and loses one at the time limit. Results in print, the paper's among them,
were had with "post", so that is what `make_env` asks for unless told otherwise (`--set task.success_timing=pre`); every
run records which. What is learned from must agree with the data, so `make_online_env` asks for "pre".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from ogbench.relabel_utils import relabel_dataset

from core.errors import BadInput, reason
from core.text import nearest
from tasks.core import TaskSpec
from tasks.data import download
from tasks.ogbench.data import KINDS, SOURCES, OnOGBenchData, data_folder
from tasks.ogbench.simulators import clone, is_manipulation, make, spec_of
from tasks.simulation.rules import MakeRules
from tasks.simulation.simulators import Clone, global_generator

__all__ = ["DEFAULT_TASKS", "LARGE_MAZE_TASKS", "PAPER_TASKS", "SOURCES", "OGBenchTask", "data_folder", "download",
           "get", "listed", "names"]  # fmt: skip

PAPER_DATASETS = (
    "antmaze-giant-navigate", "humanoidmaze-medium-navigate", "humanoidmaze-large-navigate",
    "antsoccer-arena-navigate", "cube-single-play", "cube-double-play", "scene-play", "puzzle-3x3-play",
    "puzzle-4x4-play",
)  # fmt: skip
PAPER_TASKS = tuple(f"{dataset}-singletask-task{i}-v0" for dataset in PAPER_DATASETS for i in range(1, 6))
LARGE_MAZE_TASKS = tuple(f"antmaze-large-navigate-singletask-task{i}-v0" for i in range(1, 6))  # in VGF's Table 6 only
DEFAULT_TASKS = tuple(f"{dataset}-singletask-v0" for dataset in PAPER_DATASETS)


@functools.cache
def _environments() -> Mapping[str, tuple[str, str]]:
    """Task name -> (id of its gymnasium environment, name of its dataset)."""
    found = {}
    for env_id in gymnasium.registry:
        if match := re.fullmatch(r"(.+)-singletask(-task\d)?-v0", env_id):
            env, task = match[1], match[2] or ""
            for kind in (kind for pattern, kinds in KINDS.items() if re.fullmatch(pattern, env) for kind in kinds):
                found[f"{env}-{kind}-singletask{task}-v0"] = env_id, f"{env}-{kind}-v0"
    return found


def names() -> tuple[str, ...]:
    """Every task: five for each dataset, and without a number the one among them that is OGBench's default."""
    return tuple(sorted(_environments()))


def listed() -> tuple[tuple[str, ...], str]:
    """What `--list` shows: the 45 tasks of the paper's Table 7 and the 5 of antmaze-large; and what else there is."""
    shown = (*LARGE_MAZE_TASKS, *PAPER_TASKS)
    more = len(names()) - len(shown)
    return shown, (f"and {more} more by name or glob: OGBench's other single-task environments and datasets, and the "
                   "default-task aliases (--tasks default: the paper's 9)")  # fmt: skip


def get(name: str) -> OGBenchTask:
    """The task called `name`, e.g. "cube-single-play-singletask-task2-v0".

    Raises:
      BadInput: there is none of that name.
    """
    if name not in _environments():
        raise BadInput(f"unknown OGBench task {name!r}; {nearest(name, list(names()), '--list')}")
    return OGBenchTask(name)


@dataclass(frozen=True)
class OGBenchTask(OnOGBenchData):
    """A single-task environment with its dataset; see `tasks.core.Task`."""

    success_timing: str = "post"  # which state a step's success and reward are judged by; see the head of this file

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"success_timing": ("post", "pre")}
    suite: ClassVar[str] = "ogbench"
    cheap: ClassVar[bool] = False

    @property
    def env_id(self) -> str:
        return _environments()[self.name][0]

    @property
    def dataset(self) -> str:
        return _environments()[self.name][1]

    @property
    def held(self) -> TaskSpec:
        return self.spec

    @property
    def about_data(self) -> Mapping[str, Any]:
        return {"success_timing": self.success_timing, "rewards": "judge the state acted in"}

    @property
    def spec(self) -> TaskSpec:
        return spec_of(self.env_id)

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """A simulator. Success ends the episode and is reported as `info["success"]` of the step that reaches it."""
        return make(self.env_id, self.success_timing)

    def make_online_env(self) -> gymnasium.Env[Any, Any]:
        """A simulator whose rewards and ends judge the state acted in, as the data's do; success shows a step late."""
        return make(self.env_id, "pre")

    def _ready_env(self) -> gymnasium.Env[Any, Any]:
        """A simulator after a reset. Raises `BadInput` where this machine cannot build it."""
        try:
            with global_generator():
                env = self.make_env()
                env.reset(seed=0)
        except MemoryError:
            raise
        except Exception as error:  # of any kind: packages that do not fit each other
            raise BadInput(f"{self.name}: its simulator cannot be made: {type(error).__name__}: "
                           f"{reason(error)[:300]}") from error  # fmt: skip
        return env

    @property
    def clone(self) -> Clone | None:
        """See `tasks.core.Task`; None in the mazes."""
        return clone if is_manipulation(self.env_id) else None

    @property
    def rules(self) -> MakeRules | None:
        """See `tasks.core.Task`; None for arms, points, and where a teleport's other end is drawn at random."""
        if "teleport" in self.env_id or not self.env_id.startswith(("ant", "humanoid")):
            return None
        from tasks.ogbench import mazes  # late: it loads MuJoCo

        return mazes.rules

    def score(self, episode_return: np.ndarray, success: np.ndarray) -> np.ndarray:
        """100 for an episode that succeeded at any step."""
        return 100.0 * success

    def landscape(self) -> None:
        return None

    def _transitions(self, path: Path) -> dict[str, np.ndarray]:
        """See the head of this file for when rewards count success."""
        env = self._ready_env()
        file = self._cut(path, {**self._plain, **_states(env)})
        with global_generator():  # mazes draw from it as they relabel, beside simulators maybe
            relabel_dataset(self.env_id, env, file.columns)  # adds rewards and masks
        env.close()
        columns = {name: file.columns[name] for name in ("observations", "actions", "rewards", "masks")}
        return {**columns, "next_observations": file.next_observations, "terminals": file.terminals}


def _states(env: gymnasium.Env[Any, Any]) -> dict[str, tuple[int, ...]]:
    """Column that says what state the simulator was in -> shape of a row. `qvel` is in the files, too, but nothing here
    needs it."""
    base: Any = env.unwrapped
    buttons = {"button_states": (base._num_buttons,)} if hasattr(base, "_num_buttons") else {}
    return {"qpos": (base.model.nq,), **buttons}
