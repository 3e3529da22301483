"""D4RL's original files: HDF5 with one row a step, and how its rows become episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadInput
from tasks.core import TaskSpec
from tasks.data import files as data_files
from tasks.minari.data import Episode


def read_hdf5(path: Path, spec: TaskSpec) -> dict[str, np.ndarray]:
    """The columns of D4RL's file that count, `[t, ...]`; `next_observations` where it has them.

    Raises:
      BadInput: not such a file, a truncated or empty one, a missing column or one of a wrong shape, a value that is
        not finite as float32.
    """
    widths: dict[str, tuple[int, ...]] = {
        "observations": (spec.obs_dim,), "actions": (spec.action_dim,), "rewards": (), "terminals": (), "timeouts": (),
    }  # fmt: skip
    with data_files.hdf5(path) as file:
        if "next_observations" in file:
            widths["next_observations"] = (spec.obs_dim,)
        if missing := [name for name in widths if name not in file]:
            raise BadInput(f"{path}: column {missing[0]!r} is missing")
        rows = _check_shapes(file, widths, path)
        data_files.check_memory(path, sum(file[name].dtype.itemsize * file[name].size for name in widths))
        columns = {name: np.asarray(file[name][()]) for name in widths}
    for name, width in widths.items():
        values = data_files.float32(columns[name].reshape(rows, *width), f"{path}: {name}")
        columns[name] = values > 0.5 if name in ("terminals", "timeouts") else values
    return columns


def _check_shapes(file: Any, widths: Mapping[str, tuple[int, ...]], path: Path) -> int:
    """Rows of a file whose columns fit; raises `BadInput` where they do not."""
    for name in widths:
        if not hasattr(file[name], "shape") or file[name].dtype.kind not in "biuf":
            raise BadInput(f"{path}: {name} holds no numbers")
    shape = file["observations"].shape
    if not shape or not shape[0]:
        raise BadInput(f"{path}: no transitions")
    rows = int(shape[0])
    for name, width in widths.items():
        shape = file[name].shape
        if shape != (rows, *width) and not (not width and shape == (rows, 1)):  # some files keep scalars so
            raise BadInput(f"{path}: {name} has shape {shape}, expected {(rows, *width)}")
    return rows


def cut_episodes(file: Mapping[str, np.ndarray], last: np.ndarray) -> Iterator[Episode]:
    """Cuts a file into spans of transitions that follow one another.

      file     observations  s0 s1 s2 | s0 s1 s2 |      rows of an episode; the state that its last action leads to
               actions       a0 a1 a2 | a0 a1 a2 |      is in the file only as a `next_observation`, if at all
      here     timed out     (s0 a0 s1) (s1 a1 s2)      the last row is dropped, terminal or not, as D4RL's
                                                         `qlearning_dataset` does
               terminal      (s0 a0 s1) (s1 a1 s2) (s2 a2 s3, mask 0); s3 the next observation, else s2: never used

    The file's own end breaks an episode off like a timeout. Spans without a transition are left out.

    Args:
      last: bool `[t]`, rows that end an episode.
    """
    rows = len(last)
    edges = np.flatnonzero(last) + 1
    if not rows or not last[-1]:
        edges = np.append(edges, rows)
    for start, end in zip([0, *edges[:-1]], edges, strict=True):
        ended = bool(file["terminals"][end - 1]) and not file["timeouts"][end - 1]
        stop = end if ended else end - 1
        if stop == start:
            continue
        observations = file["observations"][start:end]
        if ended:
            final = file.get("next_observations", file["observations"])[end - 1]
            observations = np.concatenate([observations, final[None]])
        span = slice(start, stop)
        yield Episode(observations, file["actions"][span], file["rewards"][span], file["terminals"][span], not ended)
