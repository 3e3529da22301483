"""Minari datasets: where they lie, how one is written whole, and how its episodes become transitions.

Everything that is not OGBench's is kept as a Minari dataset in Minari's own folder (`MINARI_DATASETS_PATH`, by default
`~/.minari/datasets`), so that `minari list local`, `minari show` and other people's code see it too. Ids:

  d4rl_v2/hopper-medium-v2       imported from D4RL's original file
  given/hopper-medium-<sha>-v0   imported from a file that the user gave
  local/hopper-medium-local-v0   made by `python -m tasks.collect`
  mujoco/..., D4RL/...           Minari's own, which are other data than D4RL v2
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import files
from core.errors import Absent, BadInput
from tasks import scores
from tasks.core import Dataset, Provenance, RewardTransform, TaskSpec, check_transitions
from tasks.data import actions, download
from tasks.data import files as data_files
from tasks.data.actions import Bounds
from tasks.minari import files as minari_files
from tasks.minari.files import FILE, is_ours
from tasks.screen import say_once

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
    """Minari's folder of datasets; it is not created.

    Raises:
      BadInput: it is in a home, and this user has none.
    """
    return data_files.folder("MINARI_DATASETS_PATH")


def folder(dataset_id: str) -> Path:
    """Where the dataset of that id lies, or would."""
    return root() / dataset_id


def file(dataset_id: str) -> Path:
    """Where the numbers of the dataset of that id lie, or would: a folder, where each episode has files of its own."""
    return minari_files.numbers(folder(dataset_id) / "data", metadata_of(dataset_id) or {})


def metadata_of(dataset_id: str) -> Mapping[str, Any] | None:
    """Its metadata, or None where there is no such dataset (a folder that a crash left behind is none).

    Raises:
      BadInput: they are there and cannot be read.
    """
    return minari_files.metadata(folder(dataset_id) / "data")


def there(dataset_id: str) -> bool:
    """Whether there is such a dataset, sound or not."""
    with contextlib.suppress(BadInput):
        return (folder(dataset_id) / "data" / minari_files.METADATA).exists()
    return False


def ids() -> list[str]:
    """Every dataset in Minari's folder, also through links; none where there is no such folder."""
    with contextlib.suppress(BadInput):
        return minari_files.datasets(root())
    return []


def refuse_old(name: str) -> None:
    """Says of a dataset that is kept as Minari kept them before 0.5 what it is.

    Raises:
      Absent: it is one.
    """
    old: Path | None = None
    if ".." in name.split("/") or name.startswith("/"):
        return
    with contextlib.suppress(BadInput, OSError, ValueError):  # a name that can be no folder's, or a damaged file
        data = folder(name) / "data"
        if minari_files.is_old(data):
            old = data
    if old:
        raise Absent(
            f"{old} is a dataset of Minari before 0.5, with its metadata in {FILE}, which Minari no longer reads "
            "either; minari list remote shows what it is called today, minari download fetches it"
        )


def write(dataset_id: str, episodes: Iterable[Episode], env_id: str | None, metadata: Mapping[str, Any]) -> Path:
    """Writes a dataset, all or nothing; its folder. Actions live in [-1, 1], numbers are kept as float32.

    Args:
      env_id: the gymnasium environment that the data are from, where Minari could make it again.
      metadata: kept with it, besides what Minari needs.

    Raises:
      BadInput: it cannot be written, or an episode holds a number that is not finite.
    """
    import gymnasium
    import minari
    from minari.dataset.minari_storage import MinariStorage

    place = folder(dataset_id)
    stream = iter(episodes)
    first = next(stream)
    spaces = {
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, first.observations.shape[1:], np.float32),
        "action_space": gymnasium.spaces.Box(-1.0, 1.0, first.actions.shape[1:], np.float32),
    }
    try:
        if place.is_dir() and any(place.iterdir()):
            raise BadInput(f"{place} holds something else, or a damaged dataset; delete it first")
        with files.draft_folder(place) as temporary:
            spec = gymnasium.spec(env_id) if env_id else None
            storage = MinariStorage.new(temporary / "data", env_spec=spec, data_format="hdf5", **spaces)
            storage.update_metadata(
                {"dataset_id": dataset_id, "minari_version": minari.__version__, "author": {"vgf-bench"},
                 "author_email": set(), "code_permalink": "", **metadata}
            )  # fmt: skip
            for batch in _batches(first, stream):
                storage.update_episodes(_buffer(episode, dataset_id) for episode in batch)
    except OSError as error:
        raise download.unwritable(place, error) from error
    return place


def _buffer(episode: Episode, dataset_id: str) -> Any:
    """The episode as Minari takes it."""
    from minari.data_collector import EpisodeBuffer

    steps, ended = len(episode.rewards), episode.terminations
    numbers = {name: data_files.float32(getattr(episode, name), f"{dataset_id}: {name}")
               for name in ("observations", "actions", "rewards")}  # fmt: skip
    return EpisodeBuffer(**numbers, terminations=ended, truncations=np.arange(steps) + 1 == steps * episode.truncated)


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
      BadInput: there is none of that id, or it cannot be read; says why.
    """
    told, data = metadata_of(dataset_id), folder(dataset_id) / "data"
    if told is None:
        raise BadInput(f"no Minari dataset {dataset_id} in {root()}")
    path = minari_files.numbers(data, told)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    returns, where = [], str(path)
    try:
        for number, episode in enumerate(minari_files.episodes(data, told)):
            where = f"{path}: episode {number}"
            obs, rewards = episode.observations, episode.rewards
            if not len(rewards) or len(obs) != len(rewards) + 1:
                raise BadInput(f"{where} has {len(obs)} observations and {len(rewards)} rewards")
            ended = np.asarray(episode.terminations, bool)
            last = np.arange(len(ended)) == len(ended) - 1
            values = (obs[:-1], episode.actions, rewards, ~ended, obs[1:], ended | last)
            with np.errstate(over="raise"):
                for name, column in zip(_COLUMNS, values, strict=True):
                    parts[name].append(np.asarray(column, np.float32))
            returns.append(float(parts["rewards"][-1].sum(dtype=np.float64)))
        if not returns:
            raise BadInput(f"{path}: no episodes")
        columns = {name: np.concatenate(spans) for name, spans in parts.items()}
    except FloatingPointError as error:
        raise BadInput(f"{where} holds a number too large for float32") from error
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: its episodes are of different widths, or hold something else than numbers") from error
    steps = len(columns["rewards"])
    if path.is_dir() and (len(returns), steps) != (told["total_episodes"], told["total_steps"]):
        raise BadInput(f"{path} holds {len(returns)} episodes with {steps:,} steps; its metadata say "
                       f"{told['total_episodes']} with {told['total_steps']:,}")  # fmt: skip
    return Loaded(columns, np.array(returns), told, path)


_RECORDED = ("source", "recipe", "medium_step", "expert_step")  # of a dataset's metadata, with every run
_COLUMNS = ("observations", "actions", "rewards", "masks", "next_observations", "terminals")


def as_dataset(
    name: str, spec: TaskSpec, loaded: Loaded, origin: str, goal: bool, reference: scores.Reference,
    bounds: Bounds | None = None,
) -> Dataset:  # fmt: skip
    """The dataset that learners see: actions in [-1, 1] and clipped to what a squashed policy can express, rewards
    transformed.

    Args:
      goal: whether rewards are 1 at a goal, else 0.
      bounds: of the data's actions; [-1, 1] if left out.

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
    if bounds and not bounds.unit:
        columns["actions"] = bounds.to_unit(columns["actions"])
    columns["actions"], outside = actions.clipped(columns["actions"], str(loaded.file))
    digest = download.sha256(loaded.file)  # last: it pins the file, and only a sound one should be
    own = loaded.metadata if is_ours(loaded.metadata["dataset_id"]) else {}
    known = {key: value for key, value in own.items() if key in _RECORDED}
    details = {
        "minari": loaded.metadata["dataset_id"], **known, "reward": reward.record, "reference": asdict(reference),
        "episodes": len(returns), "return_mean": float(returns.mean()), "return_max": float(returns.max()),
        "return_min": float(returns.min()),
        "score_mean": float(reference.score(returns.clip(max=1.0) if goal else returns).mean()),
    }  # fmt: skip
    # of an imported set its original's, which is the same wherever it was imported
    digest = own.get("source", {}).get("sha256", digest)
    if bounds and not bounds.unit:  # other numbers than the file's
        details["action_space"] = asdict(bounds)
        digest = hashlib.sha256(f"{digest}, actions of {bounds.low} to {bounds.high}".encode()).hexdigest()
    if outside:
        details["actions_outside"] = outside._asdict()
        say_once(actions.told(outside, str(loaded.file)))
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
