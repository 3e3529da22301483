"""Resumable state of a stage, and its finished parts, in `results/artifacts/<fingerprint>/` (Orbax).

A stage's folder holds one Orbax checkpoint, `state/<step>`, and `stage.json`, which says what the stage is, which step
counts, what its files hold (`harness.artifact`) and, once the stage is finished, that it is. A checkpoint is written
beside the last, noted, and only then takes its place, so a crash leaves one or the other whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from core.errors import reason
from core.files import digests
from harness.artifact import Artifact, Author
from methods.core import BadInput, State

_INDEX = ("_CHECKPOINT_METADATA", "default/_METADATA", "default/manifest.ocdbt")  # without which nothing is found


class StageStore(Artifact):
    """Saves and restores the parts that one stage trains."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], author: Author = Author("")) -> None:  # noqa: B008
        """See `Artifact`."""
        super().__init__(folder.resolve(), identity, author)
        self._manager: ocp.CheckpointManager | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> StageStore:
        self.state.mkdir(parents=True, exist_ok=True)
        self.sweep()
        if self.files is not None:
            for left in _numbered(self.state) - {self.step}:  # of a process that was killed before it was noted
                shutil.rmtree(self.state / str(left))
        way = self._open.enter_context(_plain_way(self.state))
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(way, options=options)
        self._open.callback(self._manager.close)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    @property
    def manager(self) -> ocp.CheckpointManager:
        assert self._manager is not None, "use StageStore as a context manager"
        return self._manager

    @property
    def finished(self) -> bool:
        """Whether the stage has run to its end, and its parts are there."""
        note = self.note
        return bool(note and note["finished"] and self.step)

    @property
    def step(self) -> int:
        """The step of the state on disk; 0 where there is none."""
        note, there = self.note, _numbered(self.state)
        if note and "files" not in note:  # before the note decided
            return max(there, default=0)
        return note["step"] if note and note["step"] in there else 0

    def save(self, step: int, parts: State, *, finished: bool = False, seconds: float = 0.0) -> None:
        """Writes the parts as they are after `step`; when it returns they are on disk.

        Raises:
          BadInput: the library left out some of it.
          OSError: the disk is full, ...
        """
        before = self.step
        if step != before or not step:
            with self._library():
                self.manager.save(step, args=ocp.args.StandardSave(parts))
                self.manager.wait_until_finished()
        files = self._stored(step)
        if finished:
            self._read_back(step, parts)
        self.write(step=step, finished=finished, seconds=seconds, files=files)
        for old in _numbered(self.state) - {step}:
            with self._library():
                self.manager.delete(old)

    def _stored(self, step: int) -> dict[str, str]:
        """Digests of the files of a step, by their paths under `state/`."""
        folder = self.state / str(step)
        files = digests(folder) if folder.is_dir() else {}
        if missing := [name for name in _INDEX if name not in files]:
            raise BadInput(f"{folder}: was saved, but {missing[0]} is not there")
        return {f"{step}/{name}": one for name, one in files.items()}

    def _read_back(self, step: int, parts: State) -> None:
        """Raises `BadInput`: what is on disk is not what was saved."""
        on_host = jax.tree.map(lambda part: np.empty(part.shape, part.dtype), parts)  # no second copy on the device
        found = self._restore(step, on_host)
        same = jax.tree.map(lambda one, two: np.asarray(one).tobytes() == np.asarray(two).tobytes(), found, parts)
        if not all(jax.tree.leaves(same)):
            raise BadInput(f"{self.state / str(step)}: was saved, but reads as something else")

    def restore(self, like: State) -> State:
        """The parts on disk, in the shapes and types of `like`.

        Raises:
          BadInput: what is on disk is something else, or damaged; says what.
        """
        self.check_identity()
        self.verify()
        return self._restore(self.step, like)

    def _restore(self, step: int, like: State) -> State:
        try:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return self.manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (jax.errors.JaxRuntimeError, MemoryError):  # no fault of the files, whose digests are right
            raise
        except Exception as error:  # whatever Orbax and TensorStore make of files that are not as they should be
            raise BadInput(
                f"{self.folder}: the stored state cannot be read ({_first_line(error)}); use --fresh"
            ) from error

    @contextlib.contextmanager
    def _library(self) -> Iterator[None]:
        """What Orbax and TensorStore raise for the disk's trouble, as `OSError`."""
        try:
            yield
        except (OSError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            full = "RESOURCE_EXHAUSTED" in str(error) or "No space left" in str(error)
            what = os.strerror(errno.ENOSPC) if full else f"the state cannot be saved ({_first_line(error)})"
            raise OSError(errno.ENOSPC if full else errno.EIO, what, str(self.folder)) from error


def _numbered(state: Path) -> set[int]:
    """Steps of the checkpoints that are there."""
    names = [path.name for path in state.iterdir()] if state.is_dir() else []
    return {int(name) for name in names if re.fullmatch("[0-9]{1,18}", name)}


@contextlib.contextmanager
def _plain_way(folder: Path) -> Iterator[Path]:
    """A path to `folder` without signs that the library takes for something else: it finds files by patterns, in which
    brackets are no names, and writes to "a/b" what is meant for "a\\b"."""
    if re.fullmatch(r"[A-Za-z0-9_./+=@,-]+", str(folder)):
        yield folder
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        way = Path(f"/proc/self/fd/{handle}")
        if way.is_dir():
            yield way
            return
        with tempfile.TemporaryDirectory(prefix="vgf-") as scratch:  # systems other than Linux
            (link := Path(scratch) / "state").symlink_to(folder)
            yield link
    finally:
        os.close(handle)


def _first_line(error: BaseException) -> str:
    return reason(error)[:300]
