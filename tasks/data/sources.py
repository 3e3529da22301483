"""Where a suite's files can be had, and what they are: its `sources.csv`, a line a file.

    file      as it is kept here
    urls      with spaces between them, in the order in which they are asked
    bytes     of the file; empty where nobody has told
    sha256    of the file, or how it begins (12 digits at least); empty where nobody has told
    licence   of the data

Plain HTTP, which anybody on the way can change, is asked where the hash is known, and nowhere else.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from core.errors import BadInput
from core.files import digest
from tasks.data import download
from tasks.screen import say

COLUMNS = ("task", "file", "urls", "bytes", "sha256", "licence")
_HASH = re.compile(r"[0-9a-f]{12,64}|")


class Source(NamedTuple):
    """One file."""

    task: str
    file: str
    urls: tuple[str, ...]
    bytes: int | None
    sha256: str  # its beginning; "" where it is not known
    licence: str

    @property
    def usable(self) -> tuple[str, ...]:
        """Its addresses without those of plain HTTP, where what they deliver cannot be checked."""
        return tuple(url for url in self.urls if self.sha256 or not url.startswith("http://"))

    @property
    def host(self) -> str:
        """The folder at the first of them."""
        return self.usable[0].rpartition("/")[0]

    def check(self, path: Path) -> None:
        """Raises `BadInput`: the file is another."""
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            raise BadInput(f"{self.file} has {size} bytes, expected {self.bytes}")
        if self.sha256 and not (found := digest(path)).startswith(self.sha256):
            raise BadInput(f"{self.file} has SHA-256 {found}, expected {self.sha256}")


def read(path: Path) -> Mapping[str, Source]:
    """A suite's sources by file. Raises: BadInput: the table is wrong; names the line."""
    found: dict[str, Source] = {}
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise BadInput(f"{path}:1: expected the columns {', '.join(COLUMNS)}")
        for row in table:
            where = f"{path}:{table.line_num}"
            urls = tuple(row["urls"].split())
            if not row["file"] or row["file"] in found or not urls:
                raise BadInput(f"{where}: expected a file that stands in no other line, and an address")
            if not _HASH.fullmatch(row["sha256"]) or not (row["bytes"] or "0").isdecimal():
                raise BadInput(f"{where}: expected bytes as a whole number, and a SHA-256 or its beginning")
            size = int(row["bytes"]) if row["bytes"] else None
            found[row["file"]] = Source(row["task"], row["file"], urls, size, row["sha256"], row["licence"])
    return found


def fetch(source: Source, path: Path, check: Callable[[Path], None]) -> str:
    """Downloads a file to `path` from the first of its addresses that delivers what it should be; that address. Of a
    file whose hash nobody has told, it is said.

    Raises:
      MissingDownload, BadInput: see `download.fetch`.
    """

    def whole(part: Path) -> None:
        source.check(part)
        check(part)

    url = download.fetch(source.usable, path, check=whole, plain=bool(source.sha256))
    if len(source.sha256) < 64:
        known = f"only the beginning of its SHA-256 is known ({source.sha256})" if source.sha256 else "no hash is known"
        say(f"{source.file}: {known}; what came from {url} has {digest(path)}. python -m tasks.fetch --manifest prints "
            "a line of it to report, for sources.csv")  # fmt: skip
    return url


def manifest(sources: Iterable[Source], kept: Callable[[str], Path]) -> Iterator[tuple[str, ...]]:
    """Of files that are here (`kept`: where), a row each of `COLUMNS`, with what they are. Raises: OSError."""
    for source in sources:
        path = kept(source.file)
        if path.is_file():
            yield (source.task, source.file, " ".join(source.urls), str(path.stat().st_size), digest(path),
                   source.licence)  # fmt: skip
