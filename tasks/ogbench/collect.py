"""Makes OGBench's manipulation play datasets with the benchmark's own scripted oracles.

The recipe is OGBench's (`data_gen_scripts/generate_manipspace.py`, dataset type "play"): in a random scene the
oracle plans towards a random target, follows the plan with temporally correlated noise, and gets a new target
whenever it is done. Bits differ from the published files, whose random draws are not ours; the distribution does not.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import math
import multiprocessing as mp
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadInput
from core.processes import die_with_parent
from core.text import nearest
from tasks import sizes
from tasks.data import files as data_files
from tasks.data.download import locked
from tasks.data.recipes import begin, recipe_of, save
from tasks.progress import bar
from tasks.simulation.simulators import cores, lean_children

STATE = 280  # bytes, at least, of a state in a file: cube-single's
SHARD = 5  # episodes a shard: the unit of work, and what a kill can cost each worker
NOISE, NOISE_SMOOTHING = 0.1, 0.5  # of the oracle's plan: scale, and width (steps) of its Gaussian filter
P_STACK = {"single": (0.0, 0.0), "double": (0.0, 0.25), "triple": (0.05, 0.35), "quadruple": (0.1, 0.5)}
DATASETS = (
    *(f"cube-{size}-play-v0" for size in P_STACK),
    "scene-play-v0",
    *(f"puzzle-{size}-play-v0" for size in ("3x3", "4x4", "4x5", "4x6")),
)

Episode = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """All that a dataset is a function of. Stored in the file as its `recipe`."""

    dataset: str
    episodes: int  # of training; a tenth as many more, at least one, are for validation
    seed: int
    steps: int = 1001  # states an episode, one more than transitions
    ogbench: str = version("ogbench")
    mujoco: str = version("mujoco")
    poor: float = 0.0  # share of episodes whose actions are uniformly random

    @property
    def record(self) -> dict[str, Any]:
        """What files say of it; those made before `poor` was have no such word."""
        return {key: value for key, value in asdict(self).items() if key != "poor" or value}

    def is_poor(self, episode: int) -> bool:
        """Whether an episode is one of those; they stand evenly among the others."""
        return math.floor((episode + 1) * self.poor + 1e-9) > math.floor(episode * self.poor + 1e-9)

    def shards(self) -> Iterator[tuple[str, range]]:
        """(file name, episodes) of every shard, training first; validation episodes are counted from 0 too."""
        for split, episodes in (("train", self.episodes), ("val", max(1, self.episodes // 10))):
            for first in range(0, episodes, SHARD):
                yield f"{split}-{first:06d}.npz", range(first, min(first + SHARD, episodes))


class _Collector:
    """One simulator with its oracles."""

    def __init__(self, dataset: str, steps: int) -> None:
        import gymnasium
        import ogbench  # noqa: F401  (registers the environments)
        from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

        self.name = dataset.replace("-play", "")
        self.env: Any = gymnasium.make(self.name, mode="data_collection", terminate_at_goal=False,
                                       max_episode_steps=steps, disable_env_checker=True)  # fmt: skip
        self.base: Any = self.env.unwrapped
        self.base.reset(seed=0)  # compiles the model
        self.damping = self.env.get_wrapper_attr("model").dof_damping.copy()
        noise = {"noise": NOISE, "noise_smoothing": NOISE_SMOOTHING}
        always_closed = self.name.startswith("puzzle")
        self.oracles = {
            "cube": cube_plan.CubePlanOracle(env=self.env, **noise),
            "button": button_plan.ButtonPlanOracle(env=self.env, gripper_always_closed=always_closed, **noise),
            "drawer": drawer_plan.DrawerPlanOracle(env=self.env, **noise),
            "window": window_plan.WindowPlanOracle(env=self.env, **noise),
        }

    def episode(self, *key: int, poor: bool = False) -> Episode:
        """The episode that `key` (seed, split, number) stands for, whatever was simulated before; `poor`: of uniformly
        random actions in place of the oracle's."""
        for attempt in range(1000):
            seeds = np.random.SeedSequence((*key, attempt)).generate_state(2)
            episode = self._attempt(seeds[0], seeds[1], poor)
            if not self.name.startswith("scene") or _cube_stays_visible(episode["qpos"][:, 14:17]):
                return episode
        raise RuntimeError(f"{self.name}: no usable episode for {key}")

    def _attempt(self, env_seed: int, oracle_seed: int, poor: bool) -> Episode:
        np.random.seed(oracle_seed)  # the oracles draw from the global generator
        self.base.model.dof_damping[:] = self.damping  # scenes lock drawer and window by it: forget the last episode
        obs, info = self.env.reset(seed=int(env_seed))
        p_stack = np.random.uniform(*P_STACK.get(self.name.split("-")[1], (0.5, 0.5)))
        oracle = self._retarget(obs, info)
        rows = defaultdict(list)
        done = False
        while not done:
            action = self._random() if poor else np.clip(oracle.select_action(obs, info), -1, 1)
            rows["observations"].append(obs)
            rows["actions"].append(action)
            obs, _, terminated, truncated, info = self.env.step(action)
            done = terminated or truncated
            rows["terminals"].append(done)
            rows["qpos"].append(info["prev_qpos"])  # of the state that the action was taken in
            rows["qvel"].append(info["prev_qvel"])
            if "prev_button_states" in info:
                rows["button_states"].append(info["prev_button_states"])
            if oracle.done and not poor:
                oracle = self._retarget(*self.base.set_new_target(p_stack=p_stack))
        kinds = {"terminals": np.bool_, "button_states": np.int64}
        return {column: np.array(values, kinds.get(column, np.float32)) for column, values in rows.items()}

    def _random(self) -> np.ndarray:
        return np.random.uniform(-1.0, 1.0, self.env.action_space.shape)

    def _retarget(self, obs: np.ndarray, info: Mapping[str, Any]) -> Any:
        oracle = self.oracles[info["privileged/target_task"]]
        oracle.reset(obs, info)
        return oracle


def _cube_stays_visible(xyz: np.ndarray) -> bool:
    """Whether a scene's cube, at `xyz` `[t, 3]` in metres, is never out of view unless it lies in the drawer."""
    y, z = xyz[:, 1], xyz[:, 2]
    return not ((y >= 0.29) | (y <= -0.3) & ((z < 0.06) | (z > 0.08))).any()


_collector = functools.cache(_Collector)  # one a worker process: building costs as much as an episode


def _make_shard(recipe: Recipe, path: Path, episodes: range) -> int:
    """Runs in a worker; the number of episodes made."""
    collector = _collector(recipe.dataset, recipe.steps)
    split = int(path.name.startswith("val"))
    made = [collector.episode(recipe.seed, split, episode, poor=recipe.is_poor(episode)) for episode in episodes]
    save(path, {column: np.concatenate([episode[column] for episode in made]) for column in made[0]})
    return len(made)


def collect(
    dataset: str,
    episodes: int,
    seed: int,
    workers: int | None,
    out: Path,
    progress: bool = True,
    steps: int = Recipe.steps,
    poor: float = 0.0,
) -> Path:
    """Makes `out` and, beside it, `<out's stem>-val.npz` with a tenth as many episodes; does nothing if both exist.

    The result is the same, bit for bit, for any number of `workers` (default: one a core). Finished shards lie in
    `<out>.parts/` until all are there, so that the same call continues where an earlier one was stopped or killed.
    Columns: observations, actions, qpos, qvel (float32), terminals (bool), button_states (int64, scene and puzzle),
    recipe (JSON). `steps`: states an episode; OGBench's is 1001, anything less is for tests. `poor`: share of episodes
    of random actions, for data of which little is good.

    Raises:
      BadInput: an unknown dataset, a bad number, another recipe's files where these would lie, or a place that
        cannot be written.
      KeyboardInterrupt: stopped; what is finished stays.
    """
    check_known(dataset)
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("steps", steps, 2)):
        sizes.check_number(name, value, least)
    if workers is not None:
        sizes.check_workers("workers", workers)
    if out.suffix != ".npz":
        raise BadInput(f"--out must end in .npz: {out}")
    if not 0 <= poor < 1:
        raise BadInput(f"poor must be at least 0 and below 1, not {poor}")
    recipe = Recipe(dataset, episodes, seed, steps, poor=poor)
    parts, val = Path(f"{out}.parts"), out.with_name(f"{out.stem}-val.npz")
    if not (out.exists() and val.exists()):
        about, size = f"{episodes} episodes of {steps} states", float(STATE) * episodes * steps
        sizes.check_memory(about, size)
        sizes.check_disk(about, size, out.parent)
    with locked(out, "collecting"):
        if out.exists() and val.exists():
            if recipe_of(out) != recipe.record:
                raise BadInput(f"{out} exists and was made otherwise; delete it or choose another --out")
            return out
        begin(parts, recipe.record, "holds an unfinished collection with",
              "finish that one, delete it or choose another --out")  # fmt: skip
        _make_missing(recipe, parts, workers or cores(), progress)
        for split, path in (("val", val), ("train", out)):  # `out` last: where it is, all is
            shards = [data_files.npz(parts / name) for name, _ in recipe.shards() if name.startswith(split)]
            columns = {column: np.concatenate([shard[column] for shard in shards]) for column in shards[0]}
            Path(f"{path}.sha256").unlink(missing_ok=True)
            save(path, {**columns, "recipe": np.array(json.dumps(recipe.record))})
        shutil.rmtree(parts, ignore_errors=True)
    return out


def _make_missing(recipe: Recipe, parts: Path, workers: int, progress: bool) -> None:
    shards = {parts / name: episodes for name, episodes in recipe.shards()}
    missing = {path: episodes for path, episodes in shards.items() if not path.exists()}
    total, todo = (sum(map(len, some.values())) for some in (shards, missing))
    if not missing:
        return
    others = set(mp.active_children())
    executor = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(missing)), mp.get_context("spawn"), initializer=die_with_parent
    )
    try:
        with bar(recipe.dataset, total, total - todo, "episodes", progress) as advance:
            with lean_children():
                futures = [executor.submit(_make_shard, recipe, *shard) for shard in missing.items()]
            for future in concurrent.futures.as_completed(futures):
                advance(future.result())
        executor.shutdown()
    except BaseException as error:
        executor.shutdown(wait=False, cancel_futures=True)
        for worker in set(mp.active_children()) - others:
            worker.kill()  # shards are written whole or not at all
        if isinstance(error, concurrent.futures.process.BrokenProcessPool):
            raise RuntimeError(f"a worker died collecting {recipe.dataset}; the same command continues") from error
        raise


def check_known(dataset: str) -> None:
    """Raises `BadInput` for a dataset that the oracles do not make."""
    if dataset not in DATASETS:
        raise BadInput(f"cannot generate {dataset!r}; {nearest(dataset, list(DATASETS))}")
