"""Files that appear whole or not at all, and digests of what they hold.

A file is written under a name of its own beside its place, opened exclusively (a link that lies there is not
followed), flushed to disk and renamed. Permissions follow the user's umask. A process that is killed leaves its draft
behind; `sweep` removes those whose writer is gone. Only plain files are read: a pipe would be waited for without end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from core.errors import BadInput

_DRAFT = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.[^.]+)?")
_YOUNG_S = 60.0  # a younger draft may be between its creation and its lock


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A new, empty file beside `path`, with its suffix, for a library that writes by name. It takes the place of `path`
    at the end, and is gone after an error.

    Raises:
      OSError: the folder cannot be written, the disk is full, ...
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:150]}.{secrets.token_hex(8)}.tmp{path.suffix}")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder beside `path`, which is not there yet or empty. It takes the place of `path` at the end, with
    all that is in it on disk, and is gone after an error.

    Raises:
      OSError: as `draft`; also where something else has come to be at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:150]}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        for below in (*temporary.rglob("*"), temporary):
            _to_disk(below)
        temporary.rename(path)
        _to_disk(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write, which appears at `path` complete, on disk and all at once, or not at all.

    Raises:
      OSError: as `draft`.
    """
    with draft(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Has `write(binary file)` fill a new file, then puts it in the place of `path`: whole or not at all."""
    with atomic_file(path) as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """Atomically, as UTF-8; lone surrogates, which UTF-8 cannot hold, are escaped."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_json(path: Path, value: Any) -> None:
    """Atomically, with a line a key."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Atomically, one a line."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def is_draft(name: str) -> bool:
    """Whether that is the name of a file or folder that is being written."""
    return bool(_DRAFT.fullmatch(name))


def sweep(folder: Path, *, alone: bool = False) -> None:
    """Removes the drafts directly in `folder` whose writer is gone; with `alone` also the youngest, where the caller
    knows (by a lock of the folder) that nobody else is about to write there."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if is_draft(path.name):
                _remove_if_abandoned(path, 0.0 if alone else _YOUNG_S)


def _remove_if_abandoned(path: Path, age: float) -> None:
    with contextlib.suppress(OSError):
        if path.is_symlink():  # nobody's draft
            path.unlink()
            return
        if age and time.time() - path.lstat().st_mtime < age:
            return
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its writer holds it as long as it lives
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(handle)


def _to_disk(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():  # not every system can
            os.fsync(handle)
    finally:
        os.close(handle)


def expanded(path: Path) -> Path:
    """The path with "~" and "~user" spelled out.

    Raises:
      BadInput: nobody knows that home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise BadInput(f"{path}: no home directory is known for that") from None


def open_plain(path: Path) -> io.BufferedReader:
    """A plain file to read, or one that a link leads to.

    Raises:
      OSError: it is a folder, a pipe, a device, ..., or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would wait for its writer
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return open(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "is not a plain file", str(path))


def read_plain(path: Path) -> bytes:
    """What a plain file holds. Raises: OSError, as `open_plain`."""
    with open_plain(path) as file:
        return file.read()


def digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a plain file's contents. Raises: OSError, as `open_plain`."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_files(folder: Path) -> list[str]:
    """Paths, below `folder`, of every file there ("a/b.bin"), in order.

    Raises:
      OSError: something there is neither a plain file nor a folder (a link, a pipe), or cannot be looked at.
    """
    found, todo = list[str](), [""]
    while todo:
        below = todo.pop()
        for entry in os.scandir(folder / below):
            name = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                todo.append(f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                found.append(name)
            else:
                raise OSError(errno.EINVAL, "is neither a file nor a folder", str(folder / name))
    return sorted(found)


def digests(folder: Path) -> dict[str, str]:
    """Hexadecimal SHA-256 of every file below `folder`, by its path there. Raises: OSError, as `plain_files`."""
    return {name: digest(folder / name) for name in plain_files(folder)}


def keep_copy(path: Path) -> Path:
    """Copies a file that is about to be replaced to a free name beside it, "run.json.kept", "run.json.kept-2", ...;
    returns that. Raises: OSError."""
    names = (path.with_name(f"{path.name}.kept{f'-{number}' if number > 1 else ''}") for number in itertools.count(1))
    copy = next(name for name in names if not os.path.lexists(name))
    write_atomically(copy, lambda file: file.write(read_plain(path)))
    return copy
