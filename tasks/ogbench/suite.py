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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import ogbench  # registers the environments
from ogbench.relabel_utils import relabel_dataset

from core.errors import BadInput, reason
from core.text import nearest
from tasks.core import DataLocation, Dataset, Provenance, TaskSpec, check_transitions
from tasks.data import actions, download
from tasks.data import files as data_files
from tasks.data.recipes import recipe_of
from tasks.ogbench import collect
from tasks.ogbench.simulators import SharedModel, clone, is_manipulation, widths
from tasks.screen import say, say_once
from tasks.simulation import physics
from tasks.simulation.rules import MakeRules
from tasks.simulation.simulators import Clone

HOSTS = (
    ogbench.utils.DATASET_URL,
    "https://huggingface.co/datasets/zhouzypaul/ogbench_datasets/resolve/main",
)
KINDS = {  # environment -> the kinds of dataset that were published for it
    r"(point|ant)maze-(medium|large|giant|teleport)": ("navigate", "stitch"),
    r"antmaze-(medium|large|teleport)": ("explore",),
    r"humanoidmaze-(medium|large|giant)": ("navigate", "stitch"),
    r"antsoccer-(arena|medium)": ("navigate", "stitch"),
    r"cube-(single|double|triple|quadruple)|scene|puzzle-(3x3|4x4|4x5|4x6)": ("play", "noisy"),
}
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
class OGBenchTask:
    """A single-task environment with its dataset; see `tasks.core.Task`."""

    name: str
    episodes: int = 1000  # to generate, if the data are generated; as many as the published files have
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
    def spec(self) -> TaskSpec:
        horizon = gymnasium.spec(self.env_id).max_episode_steps
        assert horizon is not None
        return TaskSpec(*widths(self.env_id), horizon)

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """A simulator. Success ends the episode and is reported as `info["success"]` of the step that reaches it."""
        return self._env(self.success_timing)

    def make_online_env(self) -> gymnasium.Env[Any, Any]:
        """A simulator whose rewards and ends judge the state acted in, as the data's do; success shows a step late."""
        return self._env("pre")

    def _env(self, success_timing: str) -> gymnasium.Env[Any, Any]:
        physics.load()
        env = gymnasium.make(self.env_id, success_timing=success_timing, disable_env_checker=True)
        return SharedModel(env) if is_manipulation(self.env_id) else env

    def _ready_env(self) -> gymnasium.Env[Any, Any]:
        """A simulator after a reset. Raises `BadInput` where this machine cannot build it."""
        try:
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

    def load(self, data: str = "auto") -> Dataset:
        """The training transitions, rewarded for this task (see the head of this file).

        `data` "download": OGBench's file, from its host or a mirror, kept in `data_folder()`. "generate":
        `self.episodes` episodes by the benchmark's oracles (play datasets only). "auto": whichever is there; else
        a download; else, where no host answers, generated. Otherwise a path to an NPZ file of OGBench's format.

        Raises:
          BadInput: one line that names what is missing or wrong, and what to do.
        """
        path, origin, details = self._file(data)
        with data_files.within_memory(path):
            transitions = self._transitions(path)
            check_transitions(transitions, self.spec, str(path))
            transitions["actions"], outside = actions.clipped(transitions["actions"], str(path))
        digest = download.sha256(path)  # last: it pins the file, and only a sound one should be
        details = {"success_timing": self.success_timing, "rewards": "judge the state acted in", **details}
        if outside:
            details["actions_outside"] = outside._asdict()
            say_once(actions.told(outside, str(path)))
        if recipe := recipe_of(path):
            details["recipe"] = recipe
            if origin == "downloaded":  # lies where a download would, and says itself that it is none
                origin = "generated"
                say(f"{path} was generated, not downloaded: {recipe['episodes']} episodes")
        return Dataset(transitions, Provenance(self.dataset, digest, origin, str(path), details))

    def sized(self, episodes: int) -> OGBenchTask:
        return replace(self, episodes=episodes)

    @property
    def _kept(self) -> tuple[Path, Path]:
        """Where the downloaded and the generated file are kept."""
        generated = data_folder() / "generated" / f"{self.dataset}-{self.episodes}-episodes.npz"
        return data_folder() / f"{self.dataset}.npz", generated

    def data_location(self, data: str = "auto") -> DataLocation:
        """What `load(data)` would read, fetch or make; see `tasks.core.Task`."""
        downloaded, generated = self._kept
        if data in ("auto", "download") and data_files.exists(downloaded):
            return DataLocation(f"downloaded: {downloaded}", True)
        if data in ("auto", "generate") and data_files.exists(generated):
            return DataLocation(f"generated: {generated}", True)
        if data == "generate":
            self._check_can_generate()
            return DataLocation(f"to generate: {self.episodes} episodes{self._others()}", False)
        if data in ("auto", "download"):
            return DataLocation(f"to download from {HOSTS[0]}{self._others()}", False)
        self._given(data)
        return DataLocation(f"given: {data}", True)

    def _others(self) -> str:
        """A word on generated files of other sizes, where there are any."""
        folder, sizes = self._kept[1].parent, re.compile(rf"{re.escape(self.dataset)}-(\d+)-episodes\.npz")
        found = sorted(int(match[1]) for path in folder.glob("*.npz") if (match := sizes.fullmatch(path.name)))
        return f" (generated earlier: {', '.join(map(str, found))} episodes)" if found else ""

    def ready(self, data: str = "auto") -> Path:
        """Downloads or generates the file that `load(data)` reads; see `tasks.core.Task`. One that is there already is
        read to its end and compared with what it was when it was first used."""
        path, _, _ = self._file(data)
        download.check_npz(path)
        download.sha256(path)
        return path

    def _check_can_generate(self) -> None:
        if self.dataset not in collect.DATASETS:
            raise BadInput(f"{self.dataset} cannot be generated (its behaviour is not scripted in the package); "
                           "use --data download or --data PATH")  # fmt: skip

    @staticmethod
    def _given(data: str) -> Path:
        return data_files.given(data, "auto, download, generate or an NPZ file")

    def _file(self, data: str) -> tuple[Path, str, dict[str, Any]]:
        """Path, origin and further details of the file that `data` asks for, once it is there."""
        downloaded, generated = self._kept
        can_generate = self.dataset in collect.DATASETS
        choice = data
        if data == "auto":
            choice, why = "download", "neither downloaded nor generated yet: trying to download it"
            if data_files.exists(downloaded):
                why = f"downloaded earlier: using {downloaded}"
            elif data_files.exists(generated):
                choice, why = "generate", f"not downloaded, but generated earlier: using {generated}"
            say(f"{self.dataset}: {why}")
        if choice == "download":
            try:
                if not data_files.exists(downloaded):
                    download.fetch([f"{host}/{downloaded.name}" for host in HOSTS], downloaded)
                return downloaded, "downloaded", {"url": download.had_from(downloaded)}
            except download.MissingDownload as error:
                advice = "use --data generate or --data PATH" if can_generate else "use --data PATH"
                if data != "auto" or not can_generate:
                    raise download.MissingDownload(f"{error}; {advice}") from error
                say(f"{error}; generating {self.episodes} episodes instead")
                choice = "generate"
        if choice == "generate":
            self._check_can_generate()
            collect.collect(self.dataset, self.episodes, 0, None, generated)
            return generated, "generated", {}
        return self._given(data), "given", {}

    def _transitions(self, path: Path) -> dict[str, np.ndarray]:
        """Cuts a file's episodes into transitions, and rewards them.

        file     observations  s0 s1 s2 | s0 s1 ...     the last state of an episode has no successor,
                 actions       a0 a1 a2 | a0 a1 ...     and its action, here a2, leads nowhere
                 terminals      0  0  1 |  0  1 ...
        here     (s0 a0 s1) (s1 a1 s2 terminal) | (s0 a0 s1 terminal) ...
        """
        env = self._ready_env()
        file = _read(path, _expected(env, self.spec))
        last = file["terminals"] > 0.5
        if not last[-1:].all():
            raise BadInput(f"{path} breaks off within an episode: its last terminal is 0")
        start = np.flatnonzero(~last)
        columns = {column: values[start] for column, values in file.items()}
        relabel_dataset(self.env_id, env, columns)  # adds rewards and masks
        env.close()
        return {
            "observations": columns["observations"],
            "actions": columns["actions"],
            "rewards": columns["rewards"],
            "masks": columns["masks"],
            "next_observations": file["observations"][start + 1],
            "terminals": last[start + 1].astype(np.float32),
        }


def data_folder() -> Path:
    """Where datasets are kept: OGBench's own folder, or what `OGBENCH_DATA_DIR` says."""
    return data_files.folder("OGBENCH_DATA_DIR")


def _expected(env: gymnasium.Env[Any, Any], spec: TaskSpec) -> dict[str, tuple[int, ...]]:
    """Column of an OGBench file -> shape of a row. `qvel` is in the files, too, but nothing here needs it."""
    base: Any = env.unwrapped
    shapes: dict[str, tuple[int, ...]] = {"observations": (spec.obs_dim,), "actions": (spec.action_dim,),
                                          "terminals": (), "qpos": (base.model.nq,)}  # fmt: skip
    if hasattr(base, "_num_buttons"):
        shapes["button_states"] = (base._num_buttons,)
    return shapes


def _read(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The columns of an NPZ file, float32 but for the button states, of the shapes `[t, *expected]`."""
    columns = data_files.npz(path, expected)
    if missing := [column for column in expected if column not in columns]:
        raise BadInput(f"{path}: column {missing[0]!r} is missing")
    rows = len(columns["observations"]) if columns["observations"].ndim else 0
    for column, width in expected.items():
        values = columns[column]
        if values.dtype.kind not in "biuf":
            raise BadInput(f"{path}: {column} holds no numbers")
        if values.shape != (rows, *width):
            raise BadInput(f"{path}: {column} has shape {values.shape}, expected {(rows, *width)}")
        narrow = data_files.float32(values, f"{path}: {column}")
        columns[column] = values if column == "button_states" else narrow
    actions.check_scale(columns["actions"], str(path))
    return columns
