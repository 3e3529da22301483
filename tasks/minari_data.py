"""Minari datasets: where they lie, how one is written whole, and how its episodes become transitions.

Everything that is not OGBench's is kept as a Minari dataset in Minari's own folder (`MINARI_DATASETS_PATH`, by default
`~/.minari/datasets`), so that `minari list local`, `minari show` and other people's code see it too. Ids:

  d4rl_v2/hopper-medium-v2       imported from D4RL's original file
  given/hopper-medium-<sha>-v0   imported from a file that the user gave
  local/hopper-medium-local-v0   made by `python -m tasks.collect`
  mujoco/..., D4RL/...           Minari's own, which are other data than D4RL v2
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from methods.core import BadInput, TaskSpec
from tasks import fetch, scores
from tasks.core import LARGEST_ACTION, Dataset, Provenance, RewardTransform, check_transitions

OURS = ("d4rl_v2", "given", "local")  # namespaces; all others are Minari's
FILE = "main_data.hdf5"  # Minari's name for the numbers
BATCH = 500  # episodes written at once: each call opens the file and rewrites its metadata


class Episode(NamedTuple):
    """A span of steps that follow one another, `t` of them."""

    observations: np.ndarray  # [t + 1, o]
    actions: np.ndarray  # [t, a]
    rewards: np.ndarray  # [t], the simulator's own
    terminations: np.ndarray  # bool [t]: whether nothing is to come
    truncated: bool  # whether it was broken off at its end


@dataclass(frozen=True)
class Loaded:
    """A dataset read: columns of transitions, rewards not yet transformed, with all that is known of it."""

    columns: Mapping[str, np.ndarray]
    returns: np.ndarray  # float64 [episodes], undiscounted
    metadata: Mapping[str, Any]
    file: Path


def root() -> Path:
    """Minari's folder of datasets; it is not created."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def folder(dataset_id: str) -> Path:
    """Where the dataset of that id lies, or would."""
    return root() / dataset_id


def file(dataset_id: str) -> Path:
    """Where the numbers of the dataset of that id lie, or would."""
    return folder(dataset_id) / "data" / FILE


def metadata_of(dataset_id: str) -> dict[str, Any] | None:
    """Its metadata, or None where there is no such dataset (a folder that a crash left behind is none)."""
    try:
        found = json.loads((folder(dataset_id) / "data" / "metadata.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def ids() -> list[str]:
    """Every dataset in Minari's folder."""
    found = (path.parent.parent.relative_to(root()).as_posix() for path in root().glob("**/data/metadata.json"))
    return sorted(found for found in found if not any(part.startswith(".") for part in found.split("/")))


def write(dataset_id: str, episodes: Iterable[Episode], env_id: str | None, metadata: Mapping[str, Any]) -> Path:
    """Writes a dataset, all or nothing; its folder. Actions live in [-1, 1], numbers are kept as float32.

    Args:
      env_id: the gymnasium environment that the data are from, where Minari could make it again.
      metadata: kept with it, besides what Minari needs.

    Raises:
      BadInput: it cannot be written.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    place = folder(dataset_id)
    if place.is_dir() and any(place.iterdir()):
        raise BadInput(f"{place} holds something else, or a damaged dataset; delete it first")
    stream, temporary = iter(episodes), None
    first = next(stream)
    spaces = {
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, first.observations.shape[1:], np.float32),
        "action_space": gymnasium.spaces.Box(-1.0, 1.0, first.actions.shape[1:], np.float32),
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        spec = gymnasium.spec(env_id) if env_id else None
        storage = MinariStorage.new(temporary / "data", env_spec=spec, data_format="hdf5", **spaces)
        storage.update_metadata(
            {"dataset_id": dataset_id, "minari_version": minari.__version__, "author": {"vgf-bench"},
             "author_email": set(), "code_permalink": "", **metadata}
        )  # fmt: skip
        for batch in _batches(first, stream):
            storage.update_episodes(
                EpisodeBuffer(
                    observations=episode.observations.astype(np.float32), actions=episode.actions.astype(np.float32),
                    rewards=episode.rewards.astype(np.float32), terminations=episode.terminations,
                    truncations=np.arange(len(episode.rewards)) + 1 == len(episode.rewards) * episode.truncated,
                )
                for episode in batch
            )  # fmt: skip
        os.chmod(temporary, 0o755)  # temporary folders are private
        os.replace(temporary, place)
    except OSError as error:
        raise fetch.unwritable(place, error) from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return place


def _batches(first: Episode, rest: Iterator[Episode]) -> Iterator[list[Episode]]:
    batch = [first]
    for episode in rest:
        if len(batch) == BATCH:
            yield batch
            batch = []
        batch.append(episode)
    yield batch


def read(dataset_id: str) -> Loaded:
    """The dataset's transitions: every stored step, as each has a successor. A goal-conditioned observation is the
    position reached and then the rest, as D4RL has it.

    `masks` are 0 where a step terminated; `terminals` are 1 there and at each stored episode's last step.

    Raises:
      BadInput: there is none of that id, or it is truncated, damaged or without episodes.
    """
    from minari import MinariDataset

    metadata, path = metadata_of(dataset_id), file(dataset_id)
    if metadata is None:
        raise BadInput(f"no Minari dataset {dataset_id} in {root()}")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    returns = []
    try:
        if path.stat().st_size == 0:
            raise BadInput(f"{path} is empty")
        for episode in MinariDataset(folder(dataset_id) / "data"):
            obs, rewards = _flat(episode.observations), np.asarray(episode.rewards, np.float32)
            if not len(rewards) or len(obs) != len(rewards) + 1:
                raise BadInput(f"{path}: episode {episode.id} has {len(obs)} observations and {len(rewards)} rewards")
            ended = np.asarray(episode.terminations, bool)
            last = np.arange(len(ended)) == len(ended) - 1
            values = (obs[:-1], episode.actions, rewards, ~ended, obs[1:], ended | last)
            for name, column in zip(_COLUMNS, values, strict=True):
                parts[name].append(np.asarray(column, np.float32))
            returns.append(float(rewards.sum(dtype=np.float64)))
        if not returns:
            raise BadInput(f"{path}: no episodes")
        columns = {name: np.concatenate(spans) for name, spans in parts.items()}
    except (OSError, KeyError, ValueError, AssertionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} is no Minari dataset of numbers, or it is truncated or damaged") from error
    return Loaded(columns, np.array(returns), metadata, path)


_RECORDED = ("source", "recipe", "medium_step", "expert_step")  # of a dataset's metadata, with every run
_COLUMNS = ("observations", "actions", "rewards", "masks", "next_observations", "terminals")


def _flat(observations: Any) -> np.ndarray:
    if isinstance(observations, dict):
        return np.concatenate([observations["achieved_goal"], observations["observation"]], axis=-1)
    return np.asarray(observations)


def as_dataset(
    name: str, spec: TaskSpec, loaded: Loaded, origin: str, goal: bool, reference: scores.Reference
) -> Dataset:
    """The dataset that learners see: actions clipped to what a squashed policy can express, rewards transformed.

    Args:
      goal: whether rewards are 1 at a goal, else 0.

    Raises:
      BadInput: columns that a learner would choke on; a file that changed since its first use.
    """
    columns, returns = dict(loaded.columns), loaded.returns
    check_transitions(columns, spec, str(loaded.file))
    reward = RewardTransform(shift=-1.0)
    if not goal:
        scale = return_scale(columns["rewards"], columns["masks"] == 0.0, returns, str(loaded.file))
        reward = RewardTransform(scale=scale)
    columns["rewards"] = reward(columns["rewards"])
    columns["actions"] = columns["actions"].clip(-LARGEST_ACTION, LARGEST_ACTION)
    digest = fetch.sha256(loaded.file)  # last: it pins the file, and only a sound one should be
    known = {key: value for key, value in loaded.metadata.items() if key in _RECORDED}
    details = {
        "minari": loaded.metadata["dataset_id"], **known, "reward": asdict(reward), "reference": asdict(reference),
        "episodes": len(returns), "return_mean": float(returns.mean()), "return_max": float(returns.max()),
        "return_min": float(returns.min()),
        "score_mean": float(reference.score(returns.clip(max=1.0) if goal else returns).mean()),
    }  # fmt: skip
    # of an imported set its original's, which is the same wherever it was imported
    digest = loaded.metadata.get("source", {}).get("sha256", digest)
    return Dataset(columns, Provenance(name, digest, origin, str(loaded.file), details), reward)


def return_scale(rewards: np.ndarray, ended: np.ndarray, episodes: np.ndarray, name: str) -> float:
    """1000 / (largest - smallest return), the returns those of `span_returns`; where all of these are equal (a set too
    short for two of them) those of the episodes.

    Args:
      rewards, ended: as `span_returns` takes them; episodes: `[e]`, the episodes' returns.

    Raises:
      BadInput: all returns are equal.
    """
    for returns in (span_returns(rewards, ended), episodes):
        if len(returns) and (width := float(returns.max() - returns.min())) > 0.0:
            return 1000.0 / width
    raise BadInput(f"{name}: all episodes have the same return, so rewards cannot be scaled by their span")


SPAN = 1000  # rows; D4RL's time limit, of whose steps its data have one less


def span_returns(rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Returns, float64 `[n]`, of spans that end with a terminal or after 1000 rows, which may be those of two episodes:

      rows      ... a timed-out episode's 999 | the next episode's first, second ...
      spans     ... the 999 and that first            | from the second on ...

    What is left at the end is none. So VGF's public code measures (`return_range` in its envs/d4rl_utils.py; CORL's IQL
    likewise), where IQL's own takes the episodes.

    Args:
      rewards: `[t]`, the simulator's own; ended: bool `[t]`, whether nothing was to come.
    """
    edges = [0, *(np.flatnonzero(ended) + 1).tolist(), len(rewards)]
    stops = [stop for start, end in pairwise(edges) for stop in (*range(start + SPAN, end, SPAN), end) if end > start]
    starts = [0, *stops[:-1]]
    if not (ended[-1] or stops[-1] - starts[-1] == SPAN):
        del starts[-1], stops[-1]
    sums = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
    return sums[stops] - sums[starts]


def reference_of(dataset_id: str) -> scores.Reference:
    """The reference returns that a dataset's metadata state.

    Raises:
      BadInput: they state none.
    """
    metadata = metadata_of(dataset_id) or {}
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None or not float(low) < float(high):
        raise BadInput(f"{dataset_id} states no reference returns to score against")
    return scores.Reference(float(low), float(high), str(metadata.get("reference", "as its metadata state")))
