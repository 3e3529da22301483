"""What is noted of a stage's stored parts: `stage.json` in `results/artifacts/<fingerprint>/`, and the SHA-256 in it of
every file under `state/`.

The note decides what there is: a file that it does not name is what a killed process left, and one that differs from
its digest is damaged. So new files are written first, then the note, and only then the old files go.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core import records
from core.errors import BadInput, reason
from core.files import digest, plain_files, sweep, write_json
from core.records import StageRecord
from harness.provenance import git_state, versions

_ANEW = "use --fresh to train anew"


class Author(NamedTuple):
    """The run that carries a stage out."""

    label: str  # "vgf on toy (fingerprint)"
    code: Mapping[str, str] = {}  # see `harness.provenance.code_of`


class Artifact:
    """The folder of one stage's parts. Whoever writes there holds its lock."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], author: Author = Author("")) -> None:  # noqa: B008
        """`identity`: what the fingerprint was made of; `author`: who trains the parts, if they are not there yet."""
        self.folder, self.author = folder, author
        self.identity = json.loads(json.dumps(identity))

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def sweep(self) -> None:
        """Removes drafts of processes that were killed."""
        for folder in (self.folder, self.state, *(self.state.iterdir() if self.state.is_dir() else ())):
            sweep(folder, alone=True)

    @property
    def note(self) -> StageRecord | None:
        """`stage.json`; None where there is none.

        Raises:
          BadInput: it is damaged, or says that the stage is finished before its end.
        """
        path = self.folder / "stage.json"
        try:
            note = records.read(path, StageRecord)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except BadInput as error:
            raise BadInput(f"{error}; {_ANEW}") from None
        last = note["identity"].get("steps", note["step"])
        if note["finished"] and str(note["step"]) != str(last):
            raise BadInput(f"{path}: finished at step {note['step']} of {last}, which cannot be; {_ANEW}")
        return note

    @property
    def files(self) -> dict[str, str] | None:
        """SHA-256 of every file under `state/` that counts; None where the note was made before there were digests."""
        note = self.note
        return dict(note["files"]) if note and "files" in note else {} if note is None else None

    @property
    def unverified(self) -> bool:
        """Whether the parts were stored without digests, so that nobody can tell if they are whole."""
        return self.files is None

    @property
    def adopted(self) -> bool:
        """Whether the parts were taken from a folder that the user named."""
        return "adopted_from" in (self.note or {})

    def write(self, *, step: int, finished: bool, seconds: float, files: Mapping[str, str]) -> None:
        """Notes what is there now, and the seconds since the last time."""
        note = self.note
        total = (note.get("seconds", 0.0) if note else 0.0) + seconds
        write_json(self.folder / "stage.json", {
            "finished": finished, "step": step, "seconds": round(total, 3), "maker": self.author.label,
            "git": git_state(), "code": dict(self.author.code), "versions": versions(), "files": dict(files),
            "identity": self.identity})  # fmt: skip

    def provenance(self, asker: str) -> dict[str, Any]:
        """How the finished parts came to be: `origin` ("trained" by the run that asks, "shared" by another, or
        "adopted" from a folder that the user named), `seconds` of training, and the `git` state, `code` and package
        `versions` that made them."""
        note: Mapping[str, Any] = self.note or {}
        # the same run in another folder of results has the same name, so adoption is looked at first
        origin = "adopted" if self.adopted else "trained" if note.get("maker") == asker else "shared"
        return {"origin": origin, **{key: note.get(key) for key in ("seconds", "git", "code", "versions")}}

    def check_identity(self) -> None:
        """Raises `BadInput`: the parts there are of another stage; says what differs."""
        note = self.note
        there = note["identity"] if note else self.identity
        differing = sorted(key for key in {*there, *self.identity} if there.get(key) != self.identity.get(key))
        if differing:
            key = differing[0]
            raise BadInput(f"{self.folder}: {key} is {there.get(key)!r} there and {self.identity.get(key)!r} here; "
                           f"{_ANEW}")  # fmt: skip

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Reads files under `state/` (by default all that the note names) and compares them with their digests.

        Raises:
          BadInput: one is missing, is no plain file, or holds something else.
        """
        files = self.files
        if files is None:
            with self._damage():
                plain_files(self.state)
            return
        for name in sorted(files) if names is None else names:
            with self._damage(name):
                if digest(self.state / name) != files.get(name):
                    raise BadInput(f"{self.state / name} is damaged (its SHA-256 is not the stored one); {_ANEW}")

    @contextlib.contextmanager
    def _damage(self, name: str = "") -> Any:
        try:
            yield
        except FileNotFoundError:
            raise BadInput(f"{self.state / name} is missing; {_ANEW}") from None
        except OSError as error:
            raise BadInput(f"the stored state cannot be read ({reason(error)}); {_ANEW}") from None
