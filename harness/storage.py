"""Where results stay: in the folder of results itself, or at a URL, for which a folder of this machine stands in while
work is done.

In remote storage nothing is locked and nothing is written twice at a time: whoever carries a lane out has the claim on
it (`harness.claims`). A lane or a seed is published whole-then-marker: its tables and states first, then the note that
counts them (stage.json, run.json), and only then what the note no longer names is removed. It is read the other way
round. So whatever breaks off, what the note says is there.

Whoever has lost a claim writes nothing more: before every attempt to write it is asked whether the claim was renewed
within half of its silence, and an attempt takes less than the other half.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, RLock
from typing import Any, Protocol

from filelock import FileLock, Timeout

from core.errors import BadInput
from core.extras import SCHEMES
from core.files import digest, is_draft, write_atomically
from core.remote import Remote, Unreachable, Withheld, checked_url, is_url, local_place
from harness import partial
from harness.claim_files import AtUrl, ClaimFiles, InFolder
from harness.partial import Partial

_OWN = frozenset({"lock", "owner", partial.NAME})  # of this machine, never published
_AT_ONCE = 8  # files on their way
_LOOK_S = 0.2


class Storage(Protocol):
    """What a session asks of the place where results stay. Folders are those of lanes and of seeds, below the folder of
    results."""

    remote: bool

    def refresh(self, folders: Iterable[Path]) -> None:
        """Makes the notes of folders here those that are there."""

    def heed(self, stop: Callable[[], bool], lost: Callable[[], bool], sure: Callable[[], bool]) -> None:
        """What to ask while the storage does not answer, and before anything is written: whether the user wants to
        stop, whether the work is another process's by now, and whether it is surely not (`Claims.sure`)."""

    def in_hand(self, own: Sequence[Path], read: Sequence[Path] = ()) -> Any:
        """A context in which these folders are here, whole. What is in `own` is published at its end."""

    def publish(self, folders: Iterable[Path]) -> None:
        """Makes folders there what they are here, as long as the work is this process's."""

    def publish_file(self, path: Path) -> None:
        """One that belongs to no lane and no seed."""

    def delete(self, folders: Iterable[Path]) -> None: ...

    def names(self, folder: Path) -> list[str]:
        """Of what is in a folder there."""

    def claims(self, results: Path) -> ClaimFiles:
        """Where claims on lanes are."""


class LocalStorage:
    """The folder of results is all there is."""

    remote = False

    def heed(self, stop: Callable[[], bool], lost: Callable[[], bool], sure: Callable[[], bool]) -> None: ...

    def refresh(self, folders: Iterable[Path]) -> None: ...

    @contextlib.contextmanager
    def in_hand(self, own: Sequence[Path], read: Sequence[Path] = ()) -> Iterator[None]:
        del own, read
        yield

    def publish(self, folders: Iterable[Path]) -> None: ...

    def publish_file(self, path: Path) -> None: ...

    def delete(self, folders: Iterable[Path]) -> None: ...

    def names(self, folder: Path) -> list[str]:
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def claims(self, results: Path) -> ClaimFiles:
        return InFolder(results)


class RemoteStorage:
    """At a URL. `results`: the folder that stands in for it, which no other process uses."""

    remote = True

    def __init__(self, files: Remote, results: Path) -> None:
        self.files, self.results = files, results
        self._held: Counter[Path] = Counter()
        self._sent: dict[Path, tuple[int, int]] = {}  # size and time of change of what is there as it is here
        self._there: dict[Path, set[str]] = {}  # what else is there than the note, by folder
        self._guard, self._fetching = RLock(), Lock()
        self._lost: Callable[[], bool] = lambda: False
        self._sure: Callable[[], bool] = lambda: True

    def heed(self, stop: Callable[[], bool], lost: Callable[[], bool], sure: Callable[[], bool]) -> None:
        self.files.stop, self._lost, self._sure = stop, lost, sure

    def _withheld(self) -> bool:
        return self._lost() or not self._sure()

    # notes

    def refresh(self, folders: Iterable[Path]) -> None:
        """See `Storage`. Folders in hand are newer here than there, and left alone."""
        with self._guard:
            asked = [folder for folder in dict.fromkeys(folders) if not self._held[folder]]
            self._note(asked)

    def _note(self, folders: Sequence[Path]) -> None:
        wanted = {self._name(folder / _note(folder)): folder for folder in folders}
        failures = {self._name(folder / "failed"): folder for folder in folders if _is_lane(folder)}
        found = self.files.read_all([*wanted, *failures])
        for name, folder in wanted.items():
            self._noted(folder, found.get(name))
        for name, folder in failures.items():
            if name in found:
                write_atomically(folder / "failed", _writer(found[name]))

    def _noted(self, folder: Path, note: bytes | None) -> None:
        before = partial.read(folder)
        if note is None:
            if before:  # somebody deleted it
                shutil.rmtree(folder, ignore_errors=True)
            return
        sha256 = hashlib.sha256(note).hexdigest()
        if before and before.note == sha256:
            return  # what is here may be ahead of it: that could not be published
        self._there.pop(folder, None)
        there = tuple(_states(note) or self.files.names(self._name(folder / "state"))) if _is_lane(folder) else ()
        partial.write(folder, Partial("", False, there))  # if this is broken off, it is looked at once more
        write_atomically(folder / _note(folder), _writer(note))
        partial.write(folder, Partial(sha256, False, there))

    # whole folders

    @contextlib.contextmanager
    def in_hand(self, own: Sequence[Path], read: Sequence[Path] = ()) -> Iterator[None]:
        every = list(dict.fromkeys([*own, *read]))
        with self._guard:
            self._note([folder for folder in every if not self._held[folder]])
            self._held.update(every)
        try:
            with self._fetching:  # two may need the same
                self._fetch(every)
            try:
                yield
            except Unreachable:
                raise
            except BaseException:
                with contextlib.suppress(Unreachable, OSError):
                    self._publish_at_last(own)
                raise
            self._publish_at_last(own)
        finally:
            with self._guard:
                self._held.subtract(every)
                for folder in every:
                    if not self._held[folder] and _is_lane(folder):
                        self._let_go(folder)

    def _fetch(self, folders: Sequence[Path]) -> None:
        """Copies what is not here yet, or no longer: of a temporary folder files may be cleared away one by one."""
        if lacking := [folder for folder in folders if _lacks(folder)]:
            for folder in lacking:
                partial.write(folder, Partial("", False))
            self._note(lacking)
        _each(self._fetch_one, [folder for folder in folders if (about := partial.read(folder)) and not about.whole])

    def _fetch_one(self, folder: Path) -> None:
        about = partial.read(folder)
        if about is None or about.whole:
            return
        digests, damaged = _digests(folder) if _is_lane(folder) else {}, False
        there = [name for name in self.files.below(self._name(folder)) if _published(name) and name != _note(folder)]
        for name in there:
            path = folder / name
            expected = digests.get(name)
            if name.startswith("state/") and (expected is None or (path.is_file() and digest(path) == expected)):
                continue  # one that no note names counts for nothing
            # one that is damaged there is left for whoever loads it to say so
            damaged |= bool(self.files.get(self._name(path), path) and expected and digest(path) != expected)
            if path.is_file():
                self._sent[path] = _stamp(path)
        for path in _files(folder):
            if str(path.relative_to(folder)) not in {*there, _note(folder)}:
                path.unlink(missing_ok=True)
        tables = tuple(name for name in there if not name.startswith("state/"))
        partial.write(folder, about if damaged else Partial(about.note, True, (), tables))

    def publish(self, folders: Iterable[Path]) -> None:
        """See `Storage`."""
        with contextlib.suppress(Withheld):
            self._publish(folders)

    def _publish_at_last(self, folders: Sequence[Path]) -> None:
        """Also where that has to wait: until the claim is renewed, or is another process's."""
        while not self._lost():
            try:
                self._publish(folders)
                return
            except Withheld:
                time.sleep(_LOOK_S)

    def _publish(self, folders: Iterable[Path]) -> None:
        each = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        each.sort(key=_is_lane, reverse=True)  # parts come before the records that speak of them
        files = {folder: _files(folder) for folder in each}
        _each(self._send, [path for paths in files.values() for path in paths])
        for folder in each:
            note = folder / _note(folder)
            with contextlib.suppress(FileNotFoundError):
                content = note.read_bytes()
                if self._sent.get(note) != (stamp := _stamp(note)):
                    self.files.write(self._name(note), content, self._withheld)
                    self._sent[note] = stamp
                names = [path.relative_to(folder).as_posix() for path in files[folder]]
                tables = tuple(name for name in names if not name.startswith("state/"))
                partial.write(folder, Partial(hashlib.sha256(content).hexdigest(), True, (), tables))
        for folder in each:
            here = {path.relative_to(folder).as_posix() for path in files[folder]}
            for name in self._known(folder) - here:
                self.files.remove(self._name(folder / name), self._withheld)
                self._sent.pop(folder / name, None)
            self._there[folder] = here

    def _known(self, folder: Path) -> set[str]:
        """What is there beside the note; also what somebody left who was killed."""
        if folder not in self._there:
            self._there[folder] = set(self.files.below(self._name(folder))) - {_note(folder)}
        return self._there[folder]

    def publish_file(self, path: Path) -> None:
        self.files.put(path, self._name(path))

    def _send(self, path: Path) -> None:
        try:
            stamp = _stamp(path)
            if self._sent.get(path) != stamp:
                self.files.put(path, self._name(path), self._withheld)
                self._sent[path] = stamp
        except FileNotFoundError:  # it went away meanwhile
            return

    def _let_go(self, folder: Path) -> None:
        """Removes the states of a finished lane, which are there: as many as a plan has would fill this machine."""
        about = partial.read(folder)
        note = _read(folder / "stage.json")
        if not (about and about.whole and note) or hashlib.sha256(note).hexdigest() != about.note:
            return
        if names := _states(note):
            partial.write(folder, Partial(about.note, False, tuple(names)))
            for path in (folder / "state").iterdir() if (folder / "state").is_dir() else ():
                self._sent.pop(path, None)
                path.unlink(missing_ok=True)
            self._there.pop(folder, None)

    def delete(self, folders: Iterable[Path]) -> None:
        """Of each folder the note first: what is left of a deletion that is broken off counts for nothing."""
        each = list(folders)
        for folder in each:
            self.files.remove(self._name(folder / _note(folder)))
        for folder in each:
            for name in self.files.below(self._name(folder)):
                self.files.remove(self._name(folder / name))
            self._there.pop(folder, None)
            self._sent = {path: stamp for path, stamp in self._sent.items() if not path.is_relative_to(folder)}

    def names(self, folder: Path) -> list[str]:
        return self.files.names(self._name(folder))

    def claims(self, results: Path) -> ClaimFiles:
        del results
        return AtUrl(self.files)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.results).as_posix()


@contextlib.contextmanager
def opened(
    url: str, results: Path, say: Callable[[str], object], *, write: bool = True
) -> Iterator[tuple[Path, Storage]]:
    """(folder of results, storage): of a folder itself where the URL is "", else one below it that no other process
    uses, which stands in for the URL.

    Args:
      write: whether anything is to be written there, which is tried first.

    Raises:
      BadInput: the storage does not answer, or refuses, or would let two processes take the same work.
    """
    if not url:
        yield results, LocalStorage()
        return
    files = Remote(url, say=say)
    if write:
        files.check_exclusive()
    else:
        files.check_there()
    with _slot(local_place(files.url)) as folder:  # a worker of a cluster may have another than who sent it
        yield folder, RemoteStorage(files, folder)


def place(text: str) -> tuple[str, Path]:
    """(URL, folder that stands in for it) of what --results says; ("", folder) where that is a folder.

    Raises:
      BadInput: it is no URL of a kind that is known.
    """
    if not is_url(text):
        if scheme := next((one for one in SCHEMES if text.startswith(f"{one}:")), ""):
            raise BadInput(f"{text}: did you mean {scheme}://{text.removeprefix(f'{scheme}:').lstrip('/')}?")
        return "", Path(text)
    url = checked_url(text)
    return url, local_place(url)


@contextlib.contextmanager
def _slot(base: Path) -> Iterator[Path]:
    """The first of the folders 0, 1, ... below `base` that no other process uses."""
    base.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        lock = FileLock(base / f"{number}.lock")
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            number += 1
    try:
        folder = base / str(number)
        folder.mkdir(exist_ok=True)
        yield folder
    finally:
        lock.release()


def _each(do: Callable[[Path], object], paths: Sequence[Path]) -> None:
    """For all of these, some at once; after the first that fails no other is begun."""
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for done in [pool.submit(do, path) for path in paths]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _lacks(folder: Path) -> bool:
    """Whether something is gone of a folder that was copied whole: a table, or the state that its note counts."""
    about = partial.read(folder)
    if not about or not about.whole:
        return False
    note = _parsed(_read(folder / _note(folder)))
    name = f"{note.get('step')}.safetensors"
    state = [f"state/{name}"] if _is_lane(folder) and name in note.get("files", {}) else []
    return not note or not all((folder / one).is_file() for one in (*about.tables, *state))


def _is_lane(folder: Path) -> bool:
    return folder.parent.name == "artifacts"


def _note(folder: Path) -> str:
    return "stage.json" if _is_lane(folder) else "run.json"


def _published(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last not in _OWN and not is_draft(last)


def _files(folder: Path) -> list[Path]:
    """What a folder holds beside its note and what is of this machine alone."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in sorted(paths)
            if _published(path.name) and path.relative_to(folder).as_posix() != _note(folder)]  # fmt: skip


def _states(note: bytes) -> list[str]:
    """The one state that a finished lane's note names; [] of another."""
    found = _parsed(note)
    name = f"{found.get('step')}.safetensors"
    return [name] if found.get("finished") is True and name in found.get("files", {}) else []


def _digests(folder: Path) -> dict[str, str]:
    files = _parsed(_read(folder / "stage.json")).get("files")
    return {f"state/{name}": str(sha256) for name, sha256 in files.items()} if isinstance(files, dict) else {}


def _parsed(note: bytes) -> Mapping[str, Any]:
    """What a note says; nothing, if it is damaged: who reads it in earnest will say so."""
    with contextlib.suppress(ValueError):
        found = json.loads(note)
        if isinstance(found, dict) and isinstance(found.get("files", {}), dict):
            return found
    return {}


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def _writer(content: bytes) -> Callable[[Any], object]:
    return lambda file: file.write(content)
