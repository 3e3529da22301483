"""Files that appear whole or not at all, and digests of what they hold.

A file is written under a name of its own beside its place, opened exclusively (a link that lies there is not
followed), flushed to disk and renamed. Permissions follow the user's umask. A process that is killed leaves its draft
behind; `sweep` removes those whose writer is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

_DRAFT = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.[^.]+)?")
_YOUNG_S = 60.0  # a draft of that age may be between its creation and its lock


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A new, empty file beside `path`, with its suffix, for a library that writes by name. It takes the place of `path`
    at the end, and is gone after an error.

    Raises:
      OSError: the folder cannot be written, the disk is full, a device or a folder lies there, ...
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, "is not a plain file", str(path))
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


def sweep(folder: Path) -> None:
    """Removes the drafts directly in `folder` whose writer is gone."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _DRAFT.fullmatch(path.name):
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError):
        if time.time() - path.lstat().st_mtime < _YOUNG_S:
            return
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its writer holds it as long as it lives
            path.unlink()
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


def digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's contents. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Hexadecimal SHA-256 of every file below `folder`, by its path there ("a/b.bin"), in order.

    Raises:
      OSError: something below is neither a plain file nor a folder (a link, a pipe), or cannot be read.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        name = path.name
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise OSError(None, "is neither a file nor a folder", str(path))
        found |= {f"{name}/{below}": one for below, one in digests(path).items()} if path.is_dir() else {
            name: digest(path)
        }  # fmt: skip
    return found
