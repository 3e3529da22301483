"""The stored parts of one lane, in `results/artifacts/<fingerprint>/`.

    stage.json                what the lane is, which step counts, and the SHA-256 of every file that does
    state/<step>.safetensors  its parts after that step
    train.csv                 its metrics, where no run is evaluated while it trains

The note decides what there is: a file that it does not name is what a killed process left, and one that differs from
its digest is damaged. So a new state is written first, then the note, and only then the old state goes. Lanes that
train side by side keep the old one until all of them have the new (`prune`): whenever they are killed, there is a step
of which every one of them has the state.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from safetensors import SafetensorError

from core import records
from core.errors import BadInput, reason
from core.files import digest, draft, sweep, write_json
from core.records import StageRecord
from harness import partial
from harness.provenance import git_state, versions

ANEW = "use --fresh to train anew"


class Format(Protocol):
    """How parts of one kind stand in a safetensors file."""

    def write(self, path: Path, parts: Mapping[str, Any]) -> None: ...

    def read(self, path: Path) -> dict[str, Any]:
        """The parts by name. Raises whatever the library does of a damaged file."""

    def same(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether two reads or writes hold the same bits."""


class Author(NamedTuple):
    """The run that trains a lane."""

    label: str  # "vgf on toy (fingerprint)"
    code: Mapping[str, str] = {}  # see `harness.provenance.code_of`
    device: Mapping[str, Any] = {}  # see `harness.engine.Engine.device`


class Artifact:
    """The folder of one lane, as it can be looked at."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """`identity`: what the fingerprint was made of."""
        self.folder = folder
        self.identity = json.loads(json.dumps(dict(identity)))
        self._note: StageRecord | None = None
        self._read = False  # whether `_note` is what stands in stage.json

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def path(self, step: int) -> Path:
        return self.state / _name(step)

    @property
    def note(self) -> StageRecord | None:
        """`stage.json`; None where there is none.

        Raises:
          BadInput: it is damaged, or says that the lane is finished before its end.
        """
        if not self._read:
            self._note, self._read = self._read_note(self.folder / "stage.json"), True
        return self._note

    def _read_note(self, path: Path) -> StageRecord | None:
        try:
            note = records.read(path, StageRecord)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except BadInput as error:
            raise BadInput(f"{error}; {ANEW}") from None
        last = note["identity"].get("steps", note["step"])
        if note["finished"] and str(note["step"]) != str(last):
            raise BadInput(f"{path}: finished at step {note['step']} of {last}, which cannot be; {ANEW}")
        return note

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of every file under `state/` that counts."""
        note = self.note
        return dict(note.get("files", {})) if note else {}

    @property
    def steps(self) -> list[int]:
        """Steps whose state is there, or can be had from remote storage, in order."""
        numbers = [int(name.partition(".")[0]) for name in self.files if re.fullmatch(r"\d{1,18}\.safetensors", name)]
        remote = partial.states(self.folder)
        return sorted(step for step in numbers if _name(step) in remote or self.path(step).is_file())

    @property
    def current(self) -> int | None:
        """The step that counts; None where there is none, or its state is gone."""
        note = self.note
        return note["step"] if note and note["step"] in self.steps else None

    @property
    def finished(self) -> bool:
        """Whether the lane was trained to its end, and its parts are there."""
        note = self.note
        return bool(note and note["finished"] and self.current is not None)

    @property
    def batch(self) -> list[str] | None:
        """Fingerprints of the lanes that were begun side by side with this one, in their order."""
        note = self.note
        return note.get("batch") if note else None

    @property
    def adopted(self) -> bool:
        """Whether the parts were taken from a folder that the user named."""
        return "adopted_from" in (self.note or {})

    def check_identity(self) -> None:
        """Raises `BadInput`: the parts there are of another lane; says what differs."""
        note = self.note
        there = note["identity"] if note else self.identity
        differing = sorted(key for key in {*there, *self.identity} if there.get(key) != self.identity.get(key))
        if differing:
            key = differing[0]
            raise BadInput(f"{self.folder}: {key} is {there.get(key)!r} there and {self.identity.get(key)!r} here; "
                           f"{ANEW}")  # fmt: skip

    def verify(self, name: str | None = None) -> None:
        """Reads a file under `state/` (by default all that the note names and that were not pruned), and compares it
        with its digest.

        Raises:
          BadInput: it is missing, is no plain file, or holds something else.
        """
        files = self.files
        for one in [_name(step) for step in self.steps] if name is None else [name]:
            path = self.state / one
            try:
                if digest(path) != files.get(one):
                    raise BadInput(f"{path} is damaged (its SHA-256 is not the stored one); {ANEW}")
            except FileNotFoundError:
                raise BadInput(f"{path} is missing; {ANEW}") from None
            except OSError as error:
                raise BadInput(f"{path}: the stored parts cannot be read ({reason(error)}); {ANEW}") from None

    def provenance(self, asker: str) -> dict[str, Any]:
        """How the finished parts came to be: `origin` ("trained" by the run that asks, "shared" by another, or
        "adopted" from a folder that the user named), `seconds` of training, how many lanes trained side by side
        (`batch`), and the `git` state, `code`, package `versions` and `device` that made them."""
        note: Mapping[str, Any] = self.note or {}
        # the same run in another folder of results has the same name, so adoption is looked at first
        origin = "adopted" if self.adopted else "trained" if note.get("trained_by") == asker else "shared"
        kept = {key: note.get(key) for key in ("seconds", "git", "code", "versions", "device")}
        kept |= {key: note[key] for key in ("code_later", "device_later") if key in note}
        return {"origin": origin, "batch": len(note.get("batch") or [0]), **kept}


class LaneStore(Artifact):
    """The folder of one lane, to read and write. Whoever writes there holds its lock."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], form: Format, author: Author = Author("")) -> None:  # noqa: B008
        """`author`: who trains the lane, if it is not there yet."""
        super().__init__(folder, identity)
        self.form, self.author = form, author

    def tidy(self) -> None:
        """Removes what processes that were killed left: drafts, states that were not noted, and of a finished lane
        those before its last.

        Raises:
          BadInput: the note is damaged.
          OSError: something there cannot be removed.
        """
        noted = self.files
        for folder in (self.folder, self.state):
            sweep(folder, alone=True)
        for path in self.state.iterdir() if self.state.is_dir() else ():
            if path.name not in noted and re.fullmatch(r"\d+\.safetensors", path.name):
                path.unlink()
        if self.finished:
            self.prune()

    def begin(self, batch: Sequence[str]) -> None:
        """Notes which lanes are begun side by side, before the first of them has a state."""
        if not self.note or (not self.steps and self.batch != list(batch)):
            self._write(0, {}, batch, finished=False, seconds=0.0)

    def save(
        self, step: int, parts: Mapping[str, Any], *, finished: bool = False, seconds: float = 0.0,
        batch: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Writes the parts as they are after `step`; when it returns they are on disk, beside those before.

        Args:
          seconds: of training since the last save; batch: see `batch`.

        Raises:
          BadInput: what is on disk is not what was saved.
          OSError: the disk is full, ...
        """
        there = {_name(one) for one in self.steps}
        files = {name: sha256 for name, sha256 in self.files.items() if name in there}
        name, path = _name(step), self.path(step)
        if name not in files:
            with draft(path) as temporary, _storage(path):
                self.form.write(temporary, parts)
                files[name] = digest(temporary)
        if finished and not self.form.same(self.form.read(path), parts):
            raise BadInput(f"{path}: was saved, but reads as something else")
        self._write(step, files, batch, finished=finished, seconds=seconds)

    def _write(
        self, step: int, files: Mapping[str, str], batch: Sequence[str], *, finished: bool, seconds: float
    ) -> None:
        """stage.json. Who began the lane, by which code and where, stays; what went on with it is noted beside."""
        before: Mapping[str, Any] = self.note or {}
        made_by = {"code": dict(self.author.code), "device": dict(self.author.device)}
        if before.get("files"):
            for key, now in list(made_by.items()):
                made_by[key] = begun = before.get(key) or now
                if later := {**(before.get(f"{key}_later") or {}), **(now if begun != now else {})}:
                    made_by[f"{key}_later"] = later
        total = before.get("seconds", 0.0) + seconds
        write_json(self.folder / "stage.json", {
            "finished": finished, "step": step, "seconds": round(total, 3),
            "trained_by": before.get("trained_by", self.author.label), "git": git_state(), **made_by,
            "versions": versions(), "files": dict(files),
            "batch": list(batch), "identity": self.identity})  # fmt: skip
        self._read = False

    def prune(self) -> None:
        """Removes the states of other steps than the one that counts. Raises: OSError."""
        current = self.current
        for step in self.steps:
            if step != current:
                self.path(step).unlink()

    def go_back(self, step: int) -> None:
        """Removes the states after `step`, from which another lane of the batch has to go on."""
        for later in self.steps:
            if later > step:
                self.path(later).unlink()

    def load(self, step: int | None = None) -> dict[str, Any]:
        """The parts after `step`, by default the last.

        Raises:
          BadInput: they are missing, damaged, or of another lane; says what.
        """
        self.check_identity()
        note = self.note
        path = self.path(note["step"] if note and step is None else step or 0)
        self.verify(path.name)
        try:
            return self.form.read(path)
        except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, KeyError) as error:
            raise BadInput(f"{path}: the stored parts cannot be read ({reason(error)[:300]}); {ANEW}") from error


def _name(step: int) -> str:
    return f"{step}.safetensors"


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    """What safetensors raises for the disk's trouble, as `OSError`."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else reason(error), str(path)) from error
