"""D4RL: its 15 v2 tasks, the sets of the same kind that were made here, and Minari's own.

  hopper-medium-v2            D4RL's original file, from its host, from D4RL's folder or from a path
  hopper-medium-local         made by `python -m tasks.collect d4rl/hopper-medium`; scored by what was measured here
  mujoco--hopper--medium-v0   Minari's mujoco/hopper/medium-v0, as `minari download` left it; other data than D4RL's

All are read from Minari datasets (`tasks.minari.data`); an original file is imported into one when it is first used.
Learners see transformed rewards, and `Dataset.reward` is the task's own transform, offline and online: locomotion's are
scaled by 1000 / (largest - smallest return) as in VGF's code (`minari_data.span_returns`), AntMaze's are r - 1 (as in
IQL's code and VGF's). A method's settings may ask for another (`methods.core.Rewards`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np

from core import files
from core.errors import Absent, BadInput
from core.text import nearest
from tasks.core import DataLocation, Dataset, TaskSpec
from tasks.d4rl.collect import DATASETS as COLLECTED
from tasks.d4rl.collect import dataset_id
from tasks.d4rl.files import cut_episodes, read_hdf5
from tasks.d4rl.simulators import SIMULATORS
from tasks.data import download, sources
from tasks.data import files as data_files
from tasks.data.actions import check_scale
from tasks.minari import data as minari_data
from tasks.minari import tasks as minari_tasks
from tasks.minari.data import Episode
from tasks.minari.tasks import MinariTask
from tasks.scores import Reference
from tasks.screen import say
from tasks.simulation import physics
from tasks.simulation.rules import MakeRules
from tasks.simulation.simulators import Clone

SOURCES = sources.read(Path(__file__).with_name("sources.csv"))
FILES = {source.task: source for source in SOURCES.values()}
PAPER_TASKS = tuple(FILES)
_INFOS = "D4RL, d4rl/infos.py (REF_MIN_SCORE, REF_MAX_SCORE)"
REFERENCES: dict[str, Reference] = {
    "halfcheetah": Reference(-280.178953, 12135.0, _INFOS),
    "hopper": Reference(-20.272305, 3234.3, _INFOS),
    "walker2d": Reference(1.629008, 4592.3, _INFOS),
    "antmaze": Reference(0.0, 1.0, _INFOS),  # the return is 1 for an episode that reaches the goal
}
LOCAL_TASKS = tuple(f"{dataset}-local" for dataset in COLLECTED)


def names() -> tuple[str, ...]:
    """D4RL's tasks, then those whose data are in Minari's folder."""
    local = (task for task in LOCAL_TASKS if minari_data.there(D4RLTask(task).dataset_id))
    return (*PAPER_TASKS, *local, *minari_tasks.names())


def listed() -> tuple[tuple[str, ...], str]:
    """What `--list` shows: every name, and how there can be more."""
    return names(), "more: python -m tasks.collect d4rl/hopper-medium makes hopper-medium-local; minari download"


def get(name: str) -> D4RLTask | MinariTask:
    """The task called `name`: one of D4RL's, a local one (also where its data are yet to be made), or a Minari id.

    Raises:
      BadInput: there is none of that name; `Absent` where it would be one of Minari's.
    """
    if name in FILES or name in LOCAL_TASKS:
        return D4RLTask(name)
    if name.replace("/", "--") in minari_tasks.names():
        return MinariTask(name.replace("/", "--"))
    wanted = name.replace("--", "/")
    minari_data.refuse_old(wanted)
    if "/" in wanted:
        raise Absent(f"no Minari dataset {wanted} in {minari_data.root()}; minari download {wanted}")
    raise BadInput(f"unknown D4RL task {name!r}; {nearest(name, [*names(), *LOCAL_TASKS], '--list')}")


@dataclass(frozen=True)
class D4RLTask:
    """A dataset of D4RL v2, or of its kind, with the simulator of its environment; see `tasks.core.Task`."""

    name: str

    suite: ClassVar[str] = "d4rl"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    cheap: ClassVar[bool] = False

    @property
    def environment(self) -> str:
        """ "hopper", "antmaze-umaze", ..."""
        first, second, *_ = self.name.split("-")
        return f"{first}-{second}" if first == "antmaze" else first

    @property
    def local(self) -> bool:
        """Whether its data were made here."""
        return self.name in LOCAL_TASKS

    @property
    def maze(self) -> bool:
        """Whether it is an AntMaze, rewarded at the goal alone."""
        return self.name.startswith("antmaze")

    @property
    def dataset_id(self) -> str:
        """Minari's id of its data."""
        return dataset_id(self.name.removesuffix("-local")) if self.local else f"d4rl_v2/{self.name}"

    @property
    def spec(self) -> TaskSpec:
        simulator = SIMULATORS[self.environment]
        return TaskSpec(simulator.obs_dim, simulator.action_dim, simulator.horizon)

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """A simulator; AntMaze reports `info["success"]` in the step that reaches the goal."""
        physics.load()
        return SIMULATORS[self.environment].make()

    def make_online_env(self) -> gymnasium.Env[Any, Any]:
        """As `make_env`: what a reward goes through before it is learned from is for the caller to apply."""
        return self.make_env()

    @property
    def clone(self) -> Clone | None:
        """See `tasks.core.Task`."""
        return SIMULATORS[self.environment].clone

    @property
    def rules(self) -> MakeRules:
        """See `tasks.core.Task`."""
        return SIMULATORS[self.environment].rules

    @property
    def reference(self) -> Reference:
        """What scores are measured against."""
        if self.local:
            return minari_data.reference_of(self.dataset_id)
        return REFERENCES[self.environment.partition("-")[0]]

    def score(self, episode_return: np.ndarray, success: np.ndarray) -> np.ndarray:
        """D4RL's normalised score of each episode; in AntMaze 100 for one that reached the goal."""
        del success
        return self.reference.score(episode_return)

    def landscape(self) -> None:
        return None

    def sized(self, episodes: int) -> D4RLTask:
        del episodes  # local sets are made by `tasks.collect`, which has its own sizes
        return self

    def data_location(self, data: str = "auto") -> DataLocation:
        """What `load(data)` would read or fetch; see `tasks.core.Task`."""
        if data not in ("auto", "download", "generate"):
            return DataLocation(f"given: {self._given(data)}", True)
        if self.local:
            if not minari_data.metadata_of(self.dataset_id):
                raise Absent(f"{self.name} was not made yet; {self._advice}")
            return DataLocation(f"generated: {minari_data.folder(self.dataset_id)}", True)
        if data == "generate":
            raise BadInput(f"{self.name} is D4RL's own and cannot be generated; {self._advice}")
        if minari_data.metadata_of(self.dataset_id):
            return DataLocation(f"imported: {minari_data.folder(self.dataset_id)}", True)
        kept = data_folder() / FILES[self.name].file
        there = data_files.exists(kept)
        todo = f"to import from {kept}" if there else f"to download from {FILES[self.name].usable[0]}"
        return DataLocation(todo, False)

    def load(self, data: str = "auto") -> Dataset:
        """The training transitions, rewards transformed (see the head of this file).

        `data` "auto" or "download": of a v2 task D4RL's own file, imported before, or in D4RL's folder
        (`D4RL_DATASET_DIR`, by default `~/.d4rl/datasets`), or downloaded there; of a local task what was collected.
        Otherwise a path to an HDF5 file of D4RL's format, which is imported under an id of its own.

        Raises:
          BadInput: one line that names what is missing or wrong, and what to do; nothing is kept then.
        """
        identity = self._imported(data)
        origin = "given" if identity.startswith("given/") else "generated" if self.local else "downloaded"
        with data_files.within_memory(minari_data.file(identity)):
            loaded = minari_data.read(identity)
            return minari_data.as_dataset(self.name, self.spec, loaded, origin, self.maze, self.reference)

    def ready(self, data: str = "auto") -> Path:
        """Downloads and imports what `load(data)` reads; see `tasks.core.Task`."""
        return minari_data.file(self._imported(data))

    def _imported(self, data: str) -> str:
        """Id of the Minari dataset that `data` asks for, once it is there."""
        self.data_location(data)
        if data not in ("auto", "download", "generate"):
            path = self._given(data)
            data_files.check_file(path)
            identity = f"given/{self.name.removesuffix('-v2')}-{files.digest(path)[:12]}-v0"
            self._import(path, identity, "given")
            download.sha256(path)  # refuses a file that was another when it was first used
            return identity
        if not self.local and not minari_data.metadata_of(self.dataset_id):
            self._import(self._fetched(), self.dataset_id, "downloaded")
        return self.dataset_id

    @property
    def _advice(self) -> str:
        made = self.name.removesuffix("-v2").removesuffix("-local")
        return f"python -m tasks.collect d4rl/{made} makes {made}-local" if made in COLLECTED else "use --data PATH"

    def _given(self, data: str) -> Path:
        path = data_files.given(data, "auto, download or an HDF5 file")
        if self.local:
            of = f"{self.name.removesuffix('-local')}-v2"
            raise BadInput(f"{self.name} is made here and takes no file{f'; {of} does' if of in FILES else ''}")
        return path

    def _fetched(self) -> Path:
        path = data_folder() / FILES[self.name].file
        if not data_files.exists(path):
            try:
                sources.fetch(FILES[self.name], path, self._check)
            except download.MissingDownload as error:
                raise download.MissingDownload(f"{error}; use --data PATH, or {self._advice}") from error
        return path

    def _check(self, path: Path) -> None:
        self._episodes(path)

    def _episodes(self, path: Path) -> tuple[list[Episode], int]:
        """An original file's episodes and its rows; raises `BadInput` for all that `load` would refuse."""
        file = read_hdf5(path, self.spec)
        # An AntMaze episode goes on after it was at the goal, until its time is up.
        last = file["timeouts"] if self.maze else file["timeouts"] | file["terminals"]
        episodes = list(cut_episodes(file, last))
        if not episodes:
            raise BadInput(f"{path}: no transitions")
        check_scale(np.concatenate([episode.actions for episode in episodes]), str(path))
        if not self.maze:
            rewards = np.concatenate([episode.rewards for episode in episodes])
            ended = np.concatenate([episode.terminations for episode in episodes])
            returns = np.array([episode.rewards.sum(dtype=np.float64) for episode in episodes])
            minari_data.return_scale(rewards, ended, returns, str(path))
        return episodes, len(last)

    def _import(self, path: Path, identity: str, origin: str) -> None:
        """Writes the Minari dataset of an original file, unless it is there."""
        with download.locked(minari_data.folder(identity), "importing"):
            if minari_data.metadata_of(identity):
                return
            with data_files.within_memory(path):
                episodes, rows = self._episodes(path)
            kept = sum(len(episode.rewards) for episode in episodes)
            say(f"{self.name}: importing {path} as {identity}, once")
            source = {"file": path.name, "sha256": files.digest(path), "origin": origin, "url": download.had_from(path)}
            minari_data.write(
                identity, episodes, None,
                {"source": {**source, "rows": rows, "dropped": rows - kept},
                 "ref_min_score": self.reference.low, "ref_max_score": self.reference.high,
                 "reference": self.reference.source,
                 "description": f"Imported from {path.name}; timed-out steps are dropped, terminals kept."},
            )  # fmt: skip
            download.sha256(path)  # last: it pins the file, and only one that was imported should be


def data_folder() -> Path:
    """Where D4RL's own package keeps the original files, and so do we: `D4RL_DATASET_DIR`, or `~/.d4rl/datasets`."""
    return data_files.folder("D4RL_DATASET_DIR")
