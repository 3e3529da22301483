"""Files from hosts that come and go: mirrors, resumed downloads, atomic writes, pinned checksums.

`python -m tasks.fetch ogbench --tasks 'cube-*'` readies data ahead of time, for machines without a network.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import filelock
import httpx
import tenacity
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from core import files
from core.errors import BadInput, cause, reason
from core.text import printable
from tasks.data import files as data_files
from tasks.data import network
from tasks.screen import console, say

TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # seconds
WAIT = tenacity.wait_exponential_jitter(initial=1, max=30)  # seconds between attempts at one host
ATTEMPTS = 4  # at one host


class MissingDownload(BadInput):
    """No host delivered the file."""


class _TryAgain(Exception):
    """A failure that may pass: a server error or a broken connection."""


class _NotHere(Exception):
    """A failure that another attempt at this host would repeat."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` complete, on disk and all at once, or not at all.

    Raises:
      BadInput: the folder is read-only, the disk full, ...
    """
    try:
        with files.atomic_file(path) as file:
            yield file
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> BadInput:
    """The one line for a full disk, a read-only folder, ..."""
    return BadInput(f"cannot write {path}: {cause(error)}{data_files.elsewhere(path)}")


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds a lock file beside `path`; says so when another process has it and this one waits. Drafts that a killed
    process left there are removed.

    Raises:
      BadInput: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"waiting for another process that is {what} {path.name}")
            lock.acquire()
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        files.sweep(path.parent)
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, or of the files in a folder. That of its first use is kept in `<path>.sha256`,
    where one can write.

    Raises:
      BadInput: the file is no longer the one first used, or cannot be read.
    """
    pin = Path(f"{path}.sha256")
    try:
        found = _folder_digest(path) if path.is_dir() else files.digest(path)
        noted = pin.read_text(errors="replace").split()[:1] if data_files.exists(pin) else None
    except OSError as error:
        raise BadInput(f"cannot read {error.filename or path}: {cause(error)}") from error
    if noted is None:
        with contextlib.suppress(BadInput), atomic_write(pin) as file:
            file.write(f"{found}  {path.name}\n".encode())
    elif noted != [found]:
        raise BadInput(f"{path} changed since its first use (its SHA-256 is not the one in {pin.name}); "
                       f"restore it, or delete {pin.name} to accept it")  # fmt: skip
    return found


def _folder_digest(folder: Path) -> str:
    """Of the numbers of a dataset in many files: what describes them, as `metadata.json`, may be added to."""
    numbers = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".arrow", ".parquet"))
    lines = "".join(f"{files.digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in numbers)
    return hashlib.sha256(lines.encode()).hexdigest()


def check_npz(path: Path) -> None:
    """Refuses a file that is not a complete NPZ archive, reading all of it.

    Raises:
      BadInput: it is empty, truncated, something else, or damaged.
    """
    data_files.check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadInput(f"{path} {data_files.why_not_npz(path)}") from error
    if damaged:
        raise BadInput(f"{path} is damaged: {damaged} fails its checksum")


def fetch(
    urls: Sequence[str],
    path: Path,
    check: Callable[[Path], None] = check_npz,
    client: httpx.Client | None = None,
    wait: tenacity.wait.wait_base = WAIT,
    plain: bool = True,
) -> str:
    """Downloads the first of `urls` that delivers to `path`; the address it came from, also kept in `<path>.url`.

    What arrives lies in `<path>.part` until it is complete and `check` has passed it; a later call goes on there.
    `plain`: whether plain HTTP may deliver it, also where another address leads there.

    Raises:
      MissingDownload: no host delivered it; the line names the file, the hosts and what each answered.
      BadInput: it cannot be written, or a variable that says how to reach the network is wrong.
    """
    part, source = Path(f"{path}.part"), Path(f"{path}.part.url")
    failures = []
    session = client or network.opened(lambda: httpx.Client(timeout=TIMEOUT, follow_redirects=True))
    with locked(path, "downloading"), session:
        if path.exists():  # another process was faster
            return had_from(path)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS), wait=wait,
            retry=tenacity.retry_if_exception_type(_TryAgain), reraise=True,
        )  # fmt: skip
        # The host that delivered the beginning comes first: its rest fits.
        begun = _noted(source)[0]
        for url in sorted(urls, key=lambda url: url != begun):
            try:
                retrying(_download, session, url, part, source, plain)
                check(part)
                os.replace(source, f"{path}.url")
                os.replace(part, path)
                return url
            except (_TryAgain, _NotHere) as error:
                failures.append(f"{httpx.URL(url).host}: {error}{network.through(url)}")
            except BadInput as error:  # complete, and wrong
                for leftover in (part, source):
                    leftover.unlink(missing_ok=True)
                failures.append(f"{httpx.URL(url).host}: {error}")
            except OSError as error:
                raise unwritable(path, error) from error
    raise MissingDownload(f"missing download: {path.name} ({'; '.join(failures)})")


def had_from(path: Path) -> str:
    """The address a file was downloaded from; empty if unknown."""
    return _noted(Path(f"{path}.url"))[0]


def _noted(source: Path) -> tuple[str, str]:
    """(address, version) that a note states; empty where it does not."""
    try:
        url, _, etag = source.read_text(errors="replace").partition("\n")
    except OSError:
        return "", ""
    return url, etag.strip()


def _download(session: httpx.Client, url: str, part: Path, source: Path, plain: bool) -> None:
    """One attempt at all of `url`, from where `part` ends if it began there. `source` notes address and version."""
    begun, version = _noted(source)
    have = part.stat().st_size if part.exists() and begun == url else 0
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges of the file itself
    if have:
        headers["Range"] = f"bytes={have}-"
        if version:
            headers["If-Range"] = version  # all of it, should it have changed
    try:
        with session.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:  # our part is longer than the file
                part.unlink(missing_ok=True)
                raise _TryAgain("the file changed there")
            if response.status_code == 429 or response.status_code >= 500:
                raise _TryAgain(f"HTTP {response.status_code}")
            if response.status_code not in (200, 206):
                there = f" from {response.url}" if response.history else ""
                raise _NotHere(f"HTTP {response.status_code}{there}")
            if response.url.scheme == "http" and not plain:
                raise _NotHere("it leads to plain HTTP, where what arrives could not be checked")
            if response.status_code == 200:
                have = 0
            total = have + int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
            etag = response.headers.get("ETag", "")
            files.write_text(source, f"{url}\n{'' if etag.startswith('W/') else etag}")
            _receive(response, part, have, total)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL,
            OverflowError, UnicodeError) as error:  # the last two of a port or a host that cannot be  # fmt: skip
        raise _NotHere(reason(error)) from error
    except httpx.HTTPError as error:
        raise _TryAgain(reason(error)) from error
    if total is not None and part.stat().st_size != total:
        raise _TryAgain(f"{part.stat().st_size} of {total} bytes arrived")


def _receive(response: httpx.Response, part: Path, have: int, total: int | None) -> None:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    begin = os.O_APPEND if have else os.O_TRUNC  # the name is always the same: a link that lies there is not followed
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | begin, 0o666)
    with open(handle, "wb") as file, Progress(*columns, console=console) as progress:
        bar = progress.add_task(printable(part.stem), total=total, completed=have)
        for chunk in response.iter_raw():  # as it arrives: a gathered chunk would be lost with the connection
            file.write(chunk)
            progress.advance(bar, len(chunk))
        file.flush()
        os.fsync(file.fileno())
