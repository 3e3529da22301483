"""A dataset too large for memory: files of which one is in memory at a time, in a fixed order, round and round."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from core.errors import BadInput

EVERY = 1000  # updates until the next file (the loaders of QAM and QGF)


class Series:
    """Files in order; the one after the one that was asked for is read ahead."""

    def __init__(
        self, paths: Sequence[Path], read: Callable[[Path], Mapping[str, np.ndarray]], every: int = EVERY
    ) -> None:
        """`read`: a file's transitions; raises BadInput where it has none. `every`: updates until the next file."""
        self.paths, self.read, self.every = tuple(paths), read, every
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="next-file")
        self._ahead: tuple[int, Future[Mapping[str, np.ndarray]]] | None = None

    def place(self, step: int) -> int:
        """Which file the update after `step` of them learns from."""
        return step // self.every % len(self.paths)

    def transitions(self, place: int) -> Mapping[str, np.ndarray]:
        """Those of a file. Raises: BadInput."""
        known = self._ahead
        found = known[1].result() if known is not None and known[0] == place else self.read(self.paths[place])
        following = (place + 1) % len(self.paths)
        if following != place:
            self._ahead = following, self._reader.submit(self.read, self.paths[following])
        return found


def files_of(folder: Path) -> tuple[Path, ...]:
    """The NPZ files of a folder that are for training, in the order of the numbers in their names.

    Raises:
      BadInput: there is none.
    """
    found = [path for path in folder.glob("*.npz") if not path.stem.endswith("-val")]
    if not found:
        raise BadInput(f"{folder} has no NPZ file to train on")
    return tuple(sorted(found, key=lambda path: [(part.isdigit(), int(part) if part.isdigit() else 0, part)
                                                 for part in re.split(r"(\d+)", path.stem)]))  # fmt: skip
