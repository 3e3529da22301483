"""Files at a URL (s3://, gs://, ...), through fsspec.

Single files appear whole or not at all there, nothing is locked, and only what storage promises everywhere is relied
on: a file that was written is read as it was written. What does not answer is asked again for `patience` seconds.
Credentials are the libraries' business, which take them from the environment; a URL that holds some is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tenacity

from core.errors import BadInput, cause, reason
from core.extras import SCHEMES, install
from core.files import draft

SCRATCH = "VGF_SCRATCH"
PATIENCE_S = 180.0
_LONGEST_PAUSE_S = 20.0
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SECRET = re.compile(r"(?i)\b(AWS_)?(secret|token|signature|password|credential)\w*\s*[=:]\s*\S+")
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError",
                "DefaultCredentialsError", "InvalidRegionError"}  # fmt: skip
"""Errors of the libraries beneath that asking again does not mend, by name: none of them need be installed."""
T = TypeVar("T")


class Unreachable(BadInput):
    """The storage does not answer, or refuses."""


class Stat(NamedTuple):
    """What a listing says of a file."""

    size: int
    version: str  # differs where what it holds does


def local_place(url: str) -> Path:
    """The folder of this machine for what is at a URL; `VGF_SCRATCH` says below which one, else the temporary folder.

    Raises:
      BadInput: that is another user's, or cannot be written.
    """
    base = Path(os.environ.get(SCRATCH) or os.path.join(tempfile.gettempdir(), f"vgf-bench-{os.getuid()}"))
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if base.is_symlink() or base.stat().st_uid != os.getuid():
            raise BadInput(f"{base}: is another user's; {SCRATCH} names a folder to use instead")
        folder = base / hashlib.sha256(url.encode()).hexdigest()[:12]
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(f"{base}: {cause(error)}; {SCRATCH} names a folder to use instead") from None
    return folder


def is_url(text: str) -> bool:
    return bool(_URL.match(text))


def checked_url(text: str) -> str:
    """The URL of a folder without a slash at its end.

    Raises:
      BadInput: it holds credentials or a question, names no place, or is of a kind that nothing here reads.
    """
    found = _URL.match(text)
    if not found:
        raise BadInput(f"{text}: is no URL")
    scheme, rest = found[1].lower(), found[2].strip("/")
    if "@" in rest.partition("/")[0]:
        raise BadInput(f"{scheme}://...@...: a URL may hold no credentials; they are taken from the environment")
    if re.search(r"[?#\s\x00-\x1f]", rest) or ".." in rest.split("/"):
        raise BadInput(f"{scheme}://{rest.partition('?')[0][:200]!r}: expected {scheme}://BUCKET/FOLDER")
    if not rest:
        raise BadInput(f"{scheme}://: expected {scheme}://BUCKET/FOLDER")
    if scheme not in SCHEMES:
        raise BadInput(f"{scheme}://{rest}: expected a folder, or one of {', '.join(f'{one}://' for one in SCHEMES)}")
    return f"{scheme}://{rest}"


@dataclass
class Remote:
    """A folder at a URL. Names are relative to it, with slashes.

    Every method raises `Unreachable` where the storage does not answer for `patience` seconds, or refuses.
    """

    url: str
    patience: float = field(default_factory=lambda: PATIENCE_S)
    say: Callable[[str], object] = lambda line: None
    """Hears once in a while that something is asked again."""
    _quiet: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raises: BadInput: the URL is none, or what reads it is not installed."""
        import fsspec

        self.url = checked_url(self.url)
        scheme = self.url.partition("://")[0]
        try:
            # each process has its own: connections do not survive a fork, and a listing is never an old one
            self.files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False,
                                                           skip_instance_cache=True)  # fmt: skip
        except ImportError:
            raise BadInput(f"{self.url}: what reads {scheme}:// is not installed: {install(SCHEMES[scheme])}") from None
        except Exception as error:
            raise Unreachable(f"{self.url}: {_words(error)}") from None

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    # single files

    def read(self, name: str) -> bytes | None:
        """What a file holds; None where there is none."""
        return self.read_all([name]).get(name)

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """What small files hold, by name; those that are not there are left out."""
        places = {self._at(name): name for name in names}

        def ask() -> dict[str, bytes]:
            if not places:
                return {}
            found = self.files.cat(list(places), on_error="return")
            if isinstance(found, bytes):  # of one name
                found = dict.fromkeys(places, found)
            for value in found.values():
                if isinstance(value, Exception) and not isinstance(value, FileNotFoundError):
                    raise value
            return {places[place]: bytes(value) for place, value in found.items() if not isinstance(value, Exception)}

        return self._asked(ask)

    def write(self, name: str, content: bytes) -> None:
        self._asked(lambda: self.files.pipe_file(self._at(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file where there is none, and says whether it did: of several who try only one does. `content` has
        to be the caller's own, so that one whose first try was done, but not answered, knows it again."""

        def ask() -> bool:
            try:
                self.files.pipe_file(self._at(name), content, mode="create")
            except FileExistsError:
                return self.read(name) == content
            return True

        return self._asked(ask)

    def put(self, path: Path, name: str) -> None:
        """Copies a local file there. Raises also: OSError: it cannot be read."""
        path.stat()  # what is wrong here is not the storage's fault
        self._asked(lambda: self.files.put_file(str(path), self._at(name)))

    def get(self, name: str, path: Path) -> bool:
        """Copies a file to a local place, whole or not at all; False where there is none. Raises also: OSError: it
        cannot be written."""

        def ask(temporary: Path) -> bool:
            try:
                self.files.get_file(self._at(name), str(temporary))
            except FileNotFoundError:
                return False
            return True

        try:
            with draft(path) as temporary:
                if not self._asked(lambda: ask(temporary)):
                    raise _Absent
        except _Absent:
            return False
        return True

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""

        def ask() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.files.rm_file(self._at(name))

        self._asked(ask)

    # folders

    def below(self, name: str = "") -> dict[str, Stat]:
        """Every file below a folder, by its name there."""

        def ask() -> dict[str, Any]:
            try:
                found: dict[str, Any] = self.files.find(self._at(name), detail=True)
            except FileNotFoundError:
                return {}
            return found

        start = len(self._at(name)) + 1
        return {place[start:]: _stat(about) for place, about in self._asked(ask).items() if len(place) > start}

    def names(self, name: str = "") -> list[str]:
        """What is directly in a folder."""

        def ask() -> list[str]:
            try:
                return [str(one) for one in self.files.ls(self._at(name), detail=False)]
            except FileNotFoundError:
                return []

        return sorted({place.rstrip("/").rpartition("/")[2] for place in self._asked(ask)} - {""})

    def check_exclusive(self) -> None:
        """Writes and removes a file, to see that this can be done, and that nobody else can write it then.

        Raises:
          BadInput: the storage would let two write what only one may.
        """
        name, content = f".probe-{secrets.token_hex(8)}", secrets.token_hex(8)
        try:
            if not self.create(name, content.encode()):
                raise Unreachable(f"{self.url}: what was written there cannot be read")
            if self.create(name, secrets.token_bytes(8)):
                raise BadInput(f"{self.url}: two writers could have the same work there, as this storage does not "
                               "refuse to write what is there already")  # fmt: skip
        except FileNotFoundError:
            raise Unreachable(f"{self.url}: there is no such place") from None
        finally:
            with contextlib.suppress(Unreachable, OSError):
                self.remove(name)

    def _asked(self, call: Callable[[], T]) -> T:
        """The answer; what passes, such as a connection that is refused or cut off, is tried again."""
        asking = tenacity.Retrying(
            stop=tenacity.stop_after_delay(self.patience),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE_S),
            retry=tenacity.retry_if_exception(_passes),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            found = asking(call)
        except _FINAL[:2] as error:
            # of a bucket, or a key that somebody removed meanwhile: whoever asks for what may be absent says so itself
            raise Unreachable(f"{self.url}: {_words(error)}") from None
        except Exception as error:
            if isinstance(error, BadInput) or (isinstance(error, OSError) and error.filename and error.errno):
                raise
            raise Unreachable(f"{self.url}: {_words(error)}") from None
        self._quiet = False
        return found

    def _tell(self, state: tenacity.RetryCallState) -> None:
        if not self._quiet and state.outcome and (error := state.outcome.exception()):
            self._quiet = True  # until it answers
            self.say(f"{self.url}: {_words(error)}; asking again")


class _Absent(Exception):
    """There is no such file."""


def _passes(error: BaseException) -> bool:
    if not isinstance(error, Exception) or isinstance(error, (*_FINAL, BadInput, ImportError, TypeError)):
        return False
    if isinstance(error, OSError) and error.filename and error.errno:  # of a local file: a disk that is full
        return False
    return type(error).__name__ not in _FINAL_NAMES


def _words(error: BaseException) -> str:
    """What a library says, in a line without anything secret."""
    words = _SECRET.sub("...", reason(error))[:300]
    return f"refused ({words})" if isinstance(error, PermissionError) else words


def _stat(about: dict[str, Any]) -> Stat:
    """Storages name the version of a file differently."""
    names = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "created")
    version = next((str(about[name]) for name in names if about.get(name)), "")
    return Stat(int(about.get("size") or 0), version)
