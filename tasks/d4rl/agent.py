"""The online agent whose episodes make datasets of D4RL's kind: SAC, in a folder from which its training goes on."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadInput, reason
from core.extras import install
from tasks.d4rl.simulators import SIMULATORS
from tasks.data import files as data_files
from tasks.data.download import atomic_write
from tasks.data.recipes import begin, save
from tasks.minari.data import Episode
from tasks.progress import bar

SNAPSHOT_EVERY = 10_000  # steps
RANDOM_STEPS = 5_000  # before SAC learns
# What costs is one core's time, and most of it is gradient steps: fewer of them a step of the simulator, on smaller
# networks and batches than Stable-Baselines3's (256), but larger ones (3e-4, 0.005).
ABREAST, WIDTH, BATCH, LEARNING_RATE, TAU = 4, 128, 128, 7.3e-4, 0.01

Act = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """All that an agent is a function of."""

    environment: str
    seed: int
    snapshot_every: int  # steps; each snapshot is evaluated, and a kill costs no more than what follows the last
    abreast: int  # simulators, stepped together, to one gradient step
    width: int
    batch_size: int
    learning_rate: float
    tau: float
    gymnasium: str
    mujoco: str
    stable_baselines3: str
    torch: str

    @staticmethod
    def of(environment: str, seed: int, snapshot_every: int = SNAPSHOT_EVERY) -> Recipe:
        """Raises `BadInput` where the packages are missing."""
        try:
            found = [version(name) for name in ("gymnasium", "mujoco", "stable-baselines3", "torch")]
        except PackageNotFoundError as error:
            raise BadInput(f"{error.name} is not installed; collecting needs {install('collect')}") from error
        every = -(-snapshot_every // ABREAST) * ABREAST
        return Recipe(environment, seed, every, ABREAST, WIDTH, BATCH, LEARNING_RATE, TAU, *found)


class Agent:
    """Stable-Baselines3's SAC with its usual settings, in a folder from which its training goes on."""

    def __init__(self, recipe: Recipe, place: Path, steps: int) -> None:
        """`steps`: of the agent whose datasets are wanted; what was trained beyond is left out of account."""
        import stable_baselines3
        import torch
        from stable_baselines3.common.vec_env import DummyVecEnv

        torch.set_num_threads(1)  # such small networks gain nothing from more
        self.recipe, self.place, self.steps = recipe, place, steps
        self.step = 0
        self._resumed: list[int] = []  # steps at which a new session began an episode
        begin(place, asdict(recipe), "holds an agent trained with", "delete it or use another --seed")
        if data_files.exists(place / "agent.pt"):
            with self._reading("agent.pt"):
                stored = torch.load(place / "agent.pt", weights_only=True)
                self.step = int(stored["step"])
        every = recipe.snapshot_every
        simulators: list[Any] = [SIMULATORS[recipe.environment].make] * recipe.abreast
        self.sac: Any = stable_baselines3.SAC(
            "MlpPolicy", DummyVecEnv(simulators), device="cpu",
            buffer_size=max(-(-steps // every) * every, self.step),  # all that is ever seen
            learning_starts=RANDOM_STEPS, batch_size=recipe.batch_size, learning_rate=recipe.learning_rate,
            tau=recipe.tau, policy_kwargs={"net_arch": [recipe.width, recipe.width]},
            seed=int(np.random.SeedSequence((recipe.seed, self.step)).generate_state(1)[0] // 2),
        )  # fmt: skip
        if self.step:
            with self._reading("agent.pt or buffer.npz"):
                self._restore(stored)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Whatever cannot be read of what was stored becomes one line."""
        try:
            yield
        except (OSError, EOFError, KeyError, ValueError, RuntimeError, AttributeError, pickle.UnpicklingError,
                zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
            raise BadInput(f"{self.place}: {name} cannot be read ({reason(error)[:160]}); delete the folder to train "
                           "anew") from error  # fmt: skip

    def train(self, progress: bool) -> None:
        """To its end, snapshot by snapshot."""
        from stable_baselines3.common.callbacks import BaseCallback

        class Tick(BaseCallback):
            def _on_step(self) -> bool:
                advance(recipe.abreast)
                return True

        recipe = self.recipe
        label = f"SAC on {SIMULATORS[recipe.environment].env_id}"
        with bar(label, self.steps, min(self.step, self.steps), "steps", progress) as advance:
            while self.step < self.steps:
                span = recipe.snapshot_every - self.step % recipe.snapshot_every
                self.sac.learn(span, callback=Tick(), log_interval=None, reset_num_timesteps=False)
                self.step += span
                self._save()

    def policy(self, step: int) -> Act:
        """The stochastic policy of a snapshot: observations `[b, o]` to actions `[b, a]`, as D4RL sampled it."""
        import torch

        weights = {name: torch.as_tensor(one) for name, one in data_files.npz(self.place / f"{step:08d}.npz").items()}
        self.sac.actor.load_state_dict(weights)
        torch.manual_seed(self.recipe.seed + step)
        return lambda obs: self.sac.predict(obs, deterministic=False)[0]

    def snapshots(self) -> list[int]:
        """Steps of which there is a snapshot, to the last that is wanted."""
        found = (int(path.stem) for path in self.place.glob("[0-9]*.npz"))
        return sorted(step for step in found if step <= self.steps)

    def seen(self, step: int) -> list[Episode]:
        """All episodes of the first `step` steps of training; one that the end or a resumed session broke off counts
        as truncated."""
        rows = step // self.recipe.abreast
        with self._reading("buffer.npz"), np.load(self.place / "buffer.npz") as file:
            seen = {name: file[name][:rows] for name in _BUFFER}
            breaks = np.isin(np.arange(rows) + 1, [*(file["resumed"] // self.recipe.abreast), rows])
        episodes = []
        for simulator in range(self.recipe.abreast):
            column = {name: values[:, simulator] for name, values in seen.items()}
            ends = np.flatnonzero((column["dones"] > 0) | breaks) + 1
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                span, last = slice(start, end), slice(end - 1, end)
                observations = np.concatenate([column["observations"][span], column["next_observations"][last]])
                terminated = (column["dones"][span] > 0) & (column["timeouts"][span] == 0)
                left = (column["actions"][span], column["rewards"][span], terminated)
                episodes.append(Episode(observations, *left, truncated=not terminated[-1]))
        return episodes

    def _save(self) -> None:
        """Snapshot, then buffer, then agent: each can be ahead of the next after a kill, none behind."""
        import torch

        weights = {name: value.numpy() for name, value in self.sac.actor.state_dict().items()}
        save(self.place / f"{self.step:08d}.npz", weights)
        rows = self.step // self.recipe.abreast
        buffer = {name: getattr(self.sac.replay_buffer, name)[:rows] for name in _BUFFER}
        save(self.place / "buffer.npz", {**buffer, "resumed": np.array(self._resumed, np.int64)})
        state = {"step": self.step, "parameters": self.sac.get_parameters(), "log_ent_coef": self.sac.log_ent_coef.data}
        with atomic_write(self.place / "agent.pt") as file:
            torch.save(state, file)

    def _restore(self, stored: dict[str, Any]) -> None:
        self.sac.set_parameters(stored["parameters"])
        self.sac.log_ent_coef.data.copy_(stored["log_ent_coef"])
        self.sac.num_timesteps = self.step
        rows = self.step // self.recipe.abreast
        with np.load(self.place / "buffer.npz") as file:
            for name in _BUFFER:
                getattr(self.sac.replay_buffer, name)[:rows] = file[name][:rows]
            self._resumed = [*(int(step) for step in file["resumed"] if step < self.step), self.step]
        self.sac.replay_buffer.pos = rows % self.sac.replay_buffer.buffer_size
        self.sac.replay_buffer.full = self.sac.replay_buffer.pos == 0


_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
