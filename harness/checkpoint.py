"""Resumable state of a stage, and its finished parts, in `results/artifacts/<fingerprint>/` (Orbax).

A stage's folder holds one Orbax checkpoint, named by its step, and `stage.json`, which says what the stage is and,
once it is finished, that it is. Orbax writes a checkpoint beside the last and renames it, so a crash leaves one or
the other whole.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from harness.record import git_state, read_stage, versions, write_json
from methods.core import BadInput, State


class StageStore:
    """Saves and restores the parts that one stage trains."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], maker: str = "") -> None:
        """`identity`: what the fingerprint was made of; kept beside the parts, for people and for `restore`.
        `maker`: the run that trains the parts, if they are not there yet."""
        self.folder, self.maker = folder.resolve(), maker
        self.identity = json.loads(json.dumps(identity))
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> StageStore:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder / "state", options=options)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._manager:
            self._manager.close()

    @property
    def manager(self) -> ocp.CheckpointManager:
        assert self._manager is not None, "use StageStore as a context manager"
        return self._manager

    @property
    def finished(self) -> bool:
        """Whether the stage has run to its end, and its parts are there."""
        return bool(self.step and self._note().get("finished"))

    @property
    def adopted(self) -> bool:
        """Whether the parts were taken from a folder that the user named."""
        return "adopted_from" in self._note()

    @property
    def step(self) -> int:
        """The step of the state on disk; 0 where there is none."""
        return self.manager.latest_step() or 0

    def save(self, step: int, parts: State, *, finished: bool = False, seconds: float = 0.0) -> None:
        """Writes the parts as they are after `step`; when it returns they are on disk."""
        if step != self.step or not self.step:
            try:
                self.manager.save(step, args=ocp.args.StandardSave(parts))
                self.manager.wait_until_finished()
            except ValueError as error:  # what tensorstore makes of a full disk
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)) from error
        total = self._note().get("seconds", 0.0) + seconds
        write_json(self.folder / "stage.json", {"finished": finished, "step": step, "seconds": round(total, 3),
                                                "maker": self.maker, "git": git_state(), "versions": versions(),
                                                "identity": self.identity})  # fmt: skip

    def provenance(self, asker: str) -> dict[str, Any]:
        """How the finished parts came to be: `origin` ("trained" by the run that asks, "shared" by another, or
        "adopted" from a folder that the user named), `seconds` of training, and the `git` state and package `versions`
        of the code that made them."""
        note = self._note()
        trained = note.get("maker") == asker
        # the same run in another folder of results has the same name, so adoption is looked at first
        origin = "adopted" if self.adopted else "trained" if trained else "shared"
        return {"origin": origin, **{key: note.get(key) for key in ("seconds", "git", "versions")}}

    def restore(self, like: State) -> State:
        """The parts on disk, in the shapes and types of `like`.

        Raises:
          BadInput: what is on disk is something else; says what differs.
        """
        stored = self._note().get("identity", self.identity)
        differing = sorted(key for key in {*stored, *self.identity} if stored.get(key) != self.identity.get(key))
        if differing:
            key = differing[0]
            raise BadInput(
                f"{self.folder}: {key} is {stored.get(key)!r} there and {self.identity.get(key)!r} here; "
                "use --fresh to train anew"
            )
        try:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return self.manager.restore(self.step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInput(f"{self.folder}: the stored state cannot be read ({reason}); use --fresh") from error

    def _note(self) -> dict[str, Any]:
        return read_stage(self.folder)
