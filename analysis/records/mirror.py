"""Records at a URL: copied to this machine, as far as they differ from what was copied before, then read as any others.

A seed's note is copied before its tables, which are written before it: so the tables hold what the note says. Parts of
methods stay where they are.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import Progress

from core.errors import BadInput
from core.files import read_plain, write_json, write_text
from core.remote import Remote, is_url, local_place

_FOLDERS = ("runs", "tasks", "external")
INDEX = "mirror.json"
"""In a folder that was made of something else: of what."""
_OWNER = "owner"
_OF_A_MACHINE = frozenset({_OWNER, "lock", "remote.json"})  # where somebody copied a folder of results there
_AT_ONCE = 16  # files on their way


def mirrored(url: str) -> Path:
    """The folder of this machine that holds what the records at a URL are now.

    Raises:
      BadInput: the storage does not answer or refuses, or there are no records.
    """
    console = Console(stderr=True)
    remote = Remote(url, say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    remote.check_there()
    folder = local_place(remote.url) / "mirror"
    there = {f"{name}/{file}": f"{about.size} {about.version}" for name in _FOLDERS
             for file, about in remote.below(name).items() if file.rpartition("/")[2] not in _OF_A_MACHINE}  # fmt: skip
    if not any(name.startswith("runs/") for name in there):
        raise BadInput(f"{remote.url}: there are no records (nothing below runs/)")
    with FileLock(folder.with_name("mirror.lock")):
        _copy(remote, there, folder, console)
    return folder


def _copy(remote: Remote, there: Mapping[str, str], folder: Path, console: Console) -> None:
    """Makes the folder hold these files (name -> version), and no others."""
    here = _known(folder)
    wanted = [name for name in there if here.get(name) != there[name] or not (folder / name).is_file()]
    wanted.sort(key=lambda name: not name.endswith("/run.json"))
    first = sum(name.endswith("/run.json") for name in wanted)
    with Progress(console=console, transient=True, disable=len(wanted) < 20) as progress:
        bar = progress.add_task(f"{remote.url}: {len(wanted)} files", total=len(wanted))
        for names in (wanted[:first], wanted[first:]):
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for name, found in zip(names, pool.map(lambda name: _copied(remote, name, folder), names), strict=True):
                    here.pop(name, None)
                    here |= {name: there[name]} if found else {}
                    progress.advance(bar)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        name = path.relative_to(folder).as_posix()
        notes = name.rpartition("/")[0] + "/run.json"
        if name not in there and name != INDEX and not (path.name == _OWNER and notes in there):
            path.unlink(missing_ok=True)
    for name in wanted:
        if name.endswith("/run.json"):
            dated(folder / name)
    write_json(folder / INDEX, {"url": remote.url, "files": {name: here[name] for name in here.keys() & there.keys()}})


def dated(note: Path) -> None:
    """Gives a seed's files the time at which its note was written, instead of that of the copy."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        when = datetime.fromisoformat(json.loads(read_plain(note))["updated"]).timestamp()
        for path in note.parent.iterdir():
            os.utime(path, (when, when))


def default_out(results: Path, name: str) -> Path:
    """Where a command that reads `results` writes, if nobody says: in it; of a URL, in a folder called as its end."""
    place = spoken(results)
    return Path(place.rpartition("/")[2] if is_url(place) else place) / name


def spoken(results: Path) -> str:
    """Where records are, as the user named it."""
    return origin(results) or str(results)


def origin(results: Path) -> str:
    """The URL, or the folder of a release, that the folder was made of; "" of records as runs wrote them."""
    return str(_index(results).get("url") or "")


def _copied(remote: Remote, name: str, folder: Path) -> bool:
    """Whether the file was still there. Whether somebody writes a seed's record cannot be seen from here."""
    found = remote.get(name, folder / name)
    if found and name.endswith("/run.json"):
        owned(folder / name, remote.url)
    return found


def owned(note: Path, place: str) -> None:
    """Says beside a seed's note that it was copied from a place: whether somebody writes it cannot be seen here."""
    write_text(note.with_name(_OWNER), f"0 {place}\n")


def _index(folder: Path) -> Mapping[str, object]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(read_plain(folder / INDEX))
        return found if isinstance(found, dict) else {}
    return {}


def _known(folder: Path) -> dict[str, str]:
    """Files that were copied, and which version of each."""
    files = _index(folder).get("files")
    return {str(name): str(version) for name, version in files.items()} if isinstance(files, dict) else {}
