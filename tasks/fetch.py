"""Files from hosts that come and go: mirrors, resumed downloads, atomic writes, pinned checksums.

`python -m tasks.fetch ogbench --tasks 'cube-*'` readies data ahead of time, for machines without a network.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import filelock
import httpx
import tenacity
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from methods.core import BadInput

console = Console(stderr=True, highlight=False, soft_wrap=True)
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
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # temporary files are private
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def unwritable(path: Path, error: OSError) -> BadInput:
    """The one line for a full disk, a read-only folder, ..."""
    return BadInput(f"cannot write {path}: {error.strerror or error}")


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds a lock file beside `path`; says so when another process has it and this one waits."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            console.print(f"waiting for another process that is {what} {path.name}")
            lock.acquire()
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file. That of its first use is kept in `<path>.sha256`, where one can write.

    Raises:
      BadInput: the file is no longer the one first used.
    """
    found, pin = digest(path), Path(f"{path}.sha256")
    if not pin.exists():
        with contextlib.suppress(BadInput), atomic_write(pin) as file:
            file.write(f"{found}  {path.name}\n".encode())
    elif pin.read_text().split()[:1] != [found]:
        raise BadInput(f"{path} changed since its first use (its SHA-256 is not the one in {pin.name}); "
                       f"restore it, or delete {pin.name} to accept it")  # fmt: skip
    return found


def check_npz(path: Path) -> None:
    """Refuses a file that is not a complete NPZ archive, reading all of it.

    Raises:
      BadInput: it is empty, truncated, something else, or damaged.
    """
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadInput(f"{path} is not an NPZ file, or a truncated one") from error
    if damaged:
        raise BadInput(f"{path} is damaged: {damaged} fails its checksum")


def fetch(
    urls: Sequence[str],
    path: Path,
    check: Callable[[Path], None] = check_npz,
    client: httpx.Client | None = None,
    wait: tenacity.wait.wait_base = WAIT,
) -> str:
    """Downloads the first of `urls` that delivers to `path`; the address it came from, also kept in `<path>.url`.

    What arrives lies in `<path>.part` until it is complete and `check` has passed it; a later call goes on there.

    Raises:
      MissingDownload: no host delivered it; the line names the file, the hosts and what each answered.
      BadInput: it cannot be written.
    """
    part, source = Path(f"{path}.part"), Path(f"{path}.part.url")
    failures = []
    with locked(path, "downloading"), client or httpx.Client(timeout=TIMEOUT, follow_redirects=True) as session:
        if path.exists():  # another process was faster
            return had_from(path)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS), wait=wait,
            retry=tenacity.retry_if_exception_type(_TryAgain), reraise=True,
        )  # fmt: skip
        # The host that delivered the beginning comes first: its rest fits.
        begun = source.read_text().partition("\n")[0] if source.exists() else ""
        for url in sorted(urls, key=lambda url: url != begun):
            try:
                retrying(_download, session, url, part, source)
                check(part)
                os.replace(source, f"{path}.url")
                os.replace(part, path)
                return url
            except (_TryAgain, _NotHere) as error:
                failures.append(f"{httpx.URL(url).host}: {error}")
            except BadInput as error:  # complete, and wrong
                for leftover in (part, source):
                    leftover.unlink(missing_ok=True)
                failures.append(f"{httpx.URL(url).host}: {error}")
            except OSError as error:
                raise unwritable(path, error) from error
    raise MissingDownload(f"missing download: {path.name} ({'; '.join(failures)})")


def had_from(path: Path) -> str:
    """The address a file was downloaded from; empty if unknown."""
    note = Path(f"{path}.url")
    return note.read_text().partition("\n")[0] if note.exists() else ""


def _download(session: httpx.Client, url: str, part: Path, source: Path) -> None:
    """One attempt at all of `url`, from where `part` ends if it began there. `source` notes address and version."""
    noted = source.read_text().split("\n") if source.exists() else []
    have = part.stat().st_size if part.exists() and noted[:1] == [url] else 0
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges of the file itself
    if have:
        headers["Range"] = f"bytes={have}-"
        if noted[1]:
            headers["If-Range"] = noted[1]  # all of it, should it have changed
    try:
        with session.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:  # our part is longer than the file
                part.unlink(missing_ok=True)
                raise _TryAgain("the file changed there")
            if response.status_code == 429 or response.status_code >= 500:
                raise _TryAgain(f"HTTP {response.status_code}")
            if response.status_code not in (200, 206):
                raise _NotHere(f"HTTP {response.status_code}")
            if response.status_code == 200:
                have = 0
            total = have + int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
            etag = response.headers.get("ETag", "")
            source.write_text(f"{url}\n{'' if etag.startswith('W/') else etag}")
            _receive(response, part, have, total)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
        raise _NotHere(_reason(error)) from error
    except httpx.HTTPError as error:
        raise _TryAgain(_reason(error)) from error
    if total is not None and part.stat().st_size != total:
        raise _TryAgain(f"{part.stat().st_size} of {total} bytes arrived")


def _receive(response: httpx.Response, part: Path, have: int, total: int | None) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with part.open("ab" if have else "wb") as file, Progress(*columns, console=console) as progress:
        bar = progress.add_task(part.stem, total=total, completed=have)
        for chunk in response.iter_raw():  # as it arrives: a gathered chunk would be lost with the connection
            file.write(chunk)
            progress.advance(bar, len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


if __name__ == "__main__":
    import typer

    from tasks.ready import main

    typer.run(main)
