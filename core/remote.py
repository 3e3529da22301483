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
import time
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
_CONNECT_S, _ANSWER_S = 10.0, 20.0  # of one attempt, at most
_LISTEN_S = 0.2
_WHEN_STOPPED_S = 10.0  # patience with one question after a wish to stop
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SECRET = re.compile(r"(?i)\b(AWS_)?(secret|token|signature|password|credential)\w*\s*[=:]\s*\S+")
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError",
                "DefaultCredentialsError", "InvalidRegionError"}  # fmt: skip
"""Errors of the libraries beneath that asking again does not mend, by name: none of them need be installed."""
T = TypeVar("T")


class Unreachable(BadInput):
    """The storage does not answer, or refuses."""


class Withheld(Unreachable):
    """What was to be written is no longer this process's to write."""


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
        if not os.environ.get(SCRATCH) and (base.is_symlink() or base.stat().st_uid != os.getuid()):
            raise BadInput(f"{base}: is not this user's own folder; {SCRATCH} names one to use instead")
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
    if scheme not in SCHEMES:
        raise BadInput(f"{scheme}://...: expected a folder, or one of {', '.join(f'{one}://' for one in SCHEMES)}")
    if "@" in rest.partition("/")[0]:
        raise BadInput(f"{scheme}://...@...: a URL may hold no credentials; they are taken from the environment")
    if re.search(r"[?#*\[\]\s\x00-\x1f]", rest) or not all(map(_plain, rest.split("/"))):
        raise BadInput(f"{scheme}://{rest.partition('?')[0][:200]!r}: expected {scheme}://BUCKET/FOLDER")
    if found[2].startswith("/") or "/" not in rest:
        raise BadInput(f"{text}: expected {scheme}://BUCKET/FOLDER")
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
    stop: Callable[[], bool] = lambda: False
    """Whether to ask no more, as the user wants to stop."""
    _quiet: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raises: BadInput: the URL is none, or what reads it is not installed."""
        import fsspec

        self.url = checked_url(self.url)
        scheme = self.url.partition("://")[0]
        try:
            # each process has its own: connections do not survive a fork, and a listing is never an old one
            self.files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False,
                                                           skip_instance_cache=True, **_alone(scheme))  # fmt: skip
            self.files.retries = 1  # of s3fs: asking again is ours, so that it has an end
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

    def write(self, name: str, content: bytes, unless: Callable[[], bool] = lambda: False) -> None:
        """`unless`: is asked before each attempt. Raises also: Withheld: it said so."""
        self._asked(lambda: self.files.pipe_file(self._at(name), content), unless)

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

    def put(self, path: Path, name: str, unless: Callable[[], bool] = lambda: False) -> None:
        """Copies a local file there. Raises also: OSError: it cannot be read; Withheld, see `write`."""
        path.stat()  # what is wrong here is not the storage's fault
        self._asked(lambda: self.files.put_file(str(path), self._at(name)), unless)

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

    def remove(self, name: str, unless: Callable[[], bool] = lambda: False) -> None:
        """Removes a file, if it is there. Raises also: Withheld, see `write`."""

        def ask() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.files.rm_file(self._at(name))

        self._asked(ask, unless)

    # folders

    def below(self, name: str = "") -> dict[str, Stat]:
        """Every file below a folder, by its name there. A key that would lead elsewhere as a path is none of ours."""

        def ask() -> dict[str, Any]:
            try:
                found: dict[str, Any] = self.files.find(self._at(name), detail=True)
            except FileNotFoundError:
                return {}
            return found

        start = len(self._at(name)) + 1
        found = {place[start:]: about for place, about in self._asked(ask).items()}
        return {one: _stat(about) for one, about in found.items() if all(map(_plain, one.split("/")))}

    def names(self, name: str = "") -> list[str]:
        """What is directly in a folder."""

        def ask() -> list[str]:
            try:
                return [str(one) for one in self.files.ls(self._at(name), detail=False)]
            except FileNotFoundError:
                return []

        return sorted(filter(_plain, {place.rstrip("/").rpartition("/")[2] for place in self._asked(ask)}))

    def check_there(self) -> None:
        """Raises `Unreachable`: there is no such bucket."""

        def ask() -> None:
            with contextlib.suppress(PermissionError):  # who may read a folder need not see what else there is
                self.files.ls(self._root.partition("/")[0], detail=False)

        self._asked(ask)

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
        finally:
            with contextlib.suppress(Exception):  # one try, as it may be what does not answer
                self.files.rm_file(self._at(name))

    def _asked(self, call: Callable[[], T], unless: Callable[[], bool] = lambda: False) -> T:
        """The answer; what passes, such as a connection that is refused or cut off, is tried again."""

        def attempt() -> T:
            if unless():
                raise Withheld(f"{self.url}: the work is another process's by now")
            return call()

        asking = tenacity.Retrying(
            stop=lambda state: (state.seconds_since_start or 0.0) > self._patience(),
            sleep=self._sleep,
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=_LONGEST_PAUSE_S),
            retry=tenacity.retry_if_exception(_passes),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            found = asking(attempt)
        except _FINAL[:2] as error:
            # of a bucket, or a key that somebody removed meanwhile: whoever asks for what may be absent says so itself
            raise Unreachable(f"{self.url}: {_words(error)}") from None
        except Exception as error:
            if isinstance(error, BadInput) or (isinstance(error, OSError) and error.filename and error.errno):
                raise
            raise Unreachable(f"{self.url}: {_words(error)}") from None
        self._quiet = False
        return found

    def _patience(self) -> float:
        """Seconds, as long as nobody wants to stop."""
        return min(self.patience, _WHEN_STOPPED_S) if self.stop() else self.patience

    def _sleep(self, seconds: float) -> None:
        began = time.monotonic()
        while (spent := time.monotonic() - began) < (min(seconds, 1.0) if self.stop() else seconds):
            time.sleep(min(seconds - spent, _LISTEN_S))

    def _tell(self, state: tenacity.RetryCallState) -> None:
        if not self._quiet and state.outcome and (error := state.outcome.exception()):
            self._quiet = True  # until it answers
            self.say(f"{self.url}: {_words(error)}; asking again")


def _plain(part: str) -> bool:
    """Whether that may be one piece of a path."""
    return part not in ("", ".", "..") and not re.search(r"[\\\x00]", part)


def _alone(scheme: str) -> dict[str, Any]:
    """Options by which a library neither asks again itself nor waits for long."""
    if scheme != "s3":
        return {}
    times = {"connect_timeout": _CONNECT_S, "read_timeout": _ANSWER_S}
    return {"config_kwargs": {**times, "retries": {"total_max_attempts": 1}}}


class _Absent(Exception):
    """There is no such file."""


def _passes(error: BaseException) -> bool:
    if not isinstance(error, Exception) or isinstance(error, (*_FINAL, ValueError, ImportError, TypeError)):
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
