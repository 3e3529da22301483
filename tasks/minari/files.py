"""Minari's files: its metadata, checked at one door, and the episodes of its three formats."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import strict_json
from core.errors import BadInput, reason
from core.memory import available_memory
from tasks.data import files as data_files

FILE = "main_data.hdf5"  # Minari's name for the numbers
METADATA = "metadata.json"
FORMATS = ("hdf5", "arrow", "parquet")
OURS = ("d4rl_v2", "given", "local")  # namespaces; all others are Minari's


class Steps(NamedTuple):
    """An episode of `t` steps as the file has it."""

    observations: np.ndarray  # [t + 1, o]
    actions: np.ndarray  # [t, a]
    rewards: np.ndarray  # [t]
    terminations: np.ndarray  # [t]


def is_ours(dataset_id: str) -> bool:
    """Whether a dataset was imported or made by us."""
    return dataset_id.partition("/")[0] in OURS


def metadata(data: Path) -> Mapping[str, Any] | None:
    """The metadata of the dataset in a folder `data`; None where there are none, as in what a crash left behind.

    Raises:
      BadInput: they cannot be read, or are of another shape.
    """
    path = data / METADATA
    if not data_files.exists(path):
        return None
    from core.records import check
    from tasks.data.shapes import Metadata, OwnMetadata  # late: processes that only simulate need no pydantic

    try:
        found = check(strict_json.read(path), Metadata, str(path))
        return check(found, OwnMetadata, str(path)) if is_ours(found["dataset_id"]) else found
    except OSError as error:
        raise data_files.unreadable(path, error) from error


def is_old(data: Path) -> bool:
    """Whether a folder holds a dataset as Minari wrote it before 0.5: metadata in the HDF5 file itself."""
    if os.path.exists(data / METADATA) or not os.path.exists(data / FILE):
        return False
    with data_files.hdf5(data / FILE) as file:
        return "total_episodes" in file.attrs


def datasets(root: Path) -> list[str]:
    """The datasets below a folder, as paths in it. Links to folders are followed, but for those that lead back."""
    found = list[str]()
    for place, below, _ in data_files.walk(root):
        below[:] = [name for name in below if not name.startswith(".") and name.isprintable()]
        if "data" in below and (place / "data" / METADATA).exists():
            found.append(place.relative_to(root).as_posix())
            below.clear()  # of some formats a folder for each episode
    return sorted(found)


def numbers(data: Path, told: Mapping[str, Any]) -> Path:
    """Where the numbers of a dataset lie: a file, or the folder with those of each episode."""
    return data / FILE if told.get("data_format", "hdf5") == "hdf5" else data


def episodes(data: Path, told: Mapping[str, Any]) -> Iterator[Steps]:
    """The episodes of a dataset, in order.

    Args:
      told: its metadata.

    Raises:
      BadInput: a format that nobody here reads, or a file that cannot be read; says why.
    """
    kind = told.get("data_format", "hdf5")
    if kind not in FORMATS:
        raise BadInput(f"{data}: its numbers are kept as {kind!r}; read are {', '.join(FORMATS)}")
    return _of_hdf5(data / FILE, told["total_episodes"]) if kind == "hdf5" else _of_arrow(data, kind, told)


def _of_hdf5(path: Path, count: int) -> Iterator[Steps]:
    """Read here, not by Minari: sizes are looked at first, and what is not learned from is passed over."""
    free, needed = available_memory(), 0
    with data_files.hdf5(path) as file:
        for number in range(count):
            where = f"{path}: episode_{number}"
            if (group := file.get(f"episode_{number}")) is None:
                raise BadInput(f"{where} is missing; {count} episodes should be there")
            columns = _columns(group, where)
            needed += sum(4 * column.size for column in columns)
            if free is not None and needed > free:
                data_files.check_memory(path, needed)
            *pieces, actions, rewards, terminations = (column[()] for column in columns)
            observations = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)
            yield Steps(observations, actions, rewards, terminations)


def _columns(group: Any, where: str) -> list[Any]:
    """The parts of an episode that are learned from, unread: one or, of a goal's environment, two of observations
    (position reached, the rest), then actions, rewards, terminations."""
    observed = group.get("observations")
    named = {"observations": observed}
    if hasattr(observed, "keys"):
        named = {f"observations/{name}": observed.get(name) for name in ("achieved_goal", "observation")}
    named |= {name: group.get(name) for name in Steps._fields[1:]}
    for name, column in named.items():
        if column is None:
            raise BadInput(f"{where} has no {name}")
        if hasattr(column, "keys") or column.dtype.kind not in "biuf":
            raise BadInput(f"{where}: {name} holds no numbers")
    return list(named.values())


def _of_arrow(data: Path, kind: str, told: Mapping[str, Any]) -> Iterator[Steps]:
    try:
        from minari.dataset.minari_storage import MinariStorage

        storage = MinariStorage.read(data)
        for episode in storage.get_episodes(range(told["total_episodes"])):
            observed = episode["observations"]
            if isinstance(observed, dict):
                observed = np.concatenate([observed["achieved_goal"], observed["observation"]], axis=-1)
            yield Steps(*map(np.asarray, (observed, *(episode[name] for name in Steps._fields[1:]))))
    except ImportError as error:
        raise BadInput(f"{data}: its numbers are kept as {kind}, which needs pyarrow: pip install pyarrow") from error
    except MemoryError as error:
        raise data_files.too_large(data) from error
    except BadInput:
        raise
    except Exception as error:  # of pyarrow, with kinds of its own
        raise BadInput(f"{data}: its {kind} files cannot be read ({reason(error)[:200]})") from error
