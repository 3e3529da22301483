"""Records at a URL: copied to this machine, as far as they differ from what was copied before, then read as any others.

A seed's note is copied before its tables, which are written before it: so the tables hold what the note says. Parts of
methods stay where they are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from core.errors import BadInput
from core.files import read_plain, write_json, write_text
from core.remote import Remote, local_place

_FOLDERS = ("runs", "tasks")
_INDEX = "mirror.json"
_AT_ONCE = 16  # files on their way


def mirrored(url: str) -> Path:
    """The folder of this machine that holds what the records at a URL are now.

    Raises:
      BadInput: the storage does not answer or refuses, or there are no records.
    """
    console = Console(stderr=True)
    remote = Remote(url, say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    folder = local_place(remote.url) / "mirror"
    there = {f"{name}/{file}": f"{about.size} {about.version}"
             for name in _FOLDERS for file, about in remote.below(name).items()}  # fmt: skip
    if not any(name.startswith("runs/") for name in there):
        raise BadInput(f"{remote.url}: there are no records (nothing below runs/)")
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
    for name in here.keys() - there.keys():
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / _INDEX, {"url": remote.url, "files": {name: here[name] for name in here.keys() & there.keys()}})
    return folder


def default_out(results: Path, name: str) -> Path:
    """Where a command that reads `results` writes, if nobody says: in it; of a URL, in a folder called as its end."""
    return Path(url.rpartition("/")[2]) / name if (url := url_of(results)) else results / name


def spoken(results: Path) -> str:
    """Where records are, as the user named it."""
    return url_of(results) or str(results)


def url_of(results: Path) -> str:
    """Of a folder that `mirrored` made; "" of another."""
    return str(_index(results).get("url") or "")


def _copied(remote: Remote, name: str, folder: Path) -> bool:
    """Whether the file was still there. Whether somebody writes a seed's record cannot be seen from here."""
    found = remote.get(name, folder / name)
    if found and name.endswith("/run.json"):
        write_text((folder / name).with_name("owner"), f"0 {remote.url}\n")
    return found


def _index(folder: Path) -> Mapping[str, object]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(read_plain(folder / _INDEX))
        return found if isinstance(found, dict) else {}
    return {}


def _known(folder: Path) -> dict[str, str]:
    """Files that were copied, and which version of each."""
    files = _index(folder).get("files")
    return {str(name): str(version) for name, version in files.items()} if isinstance(files, dict) else {}
