"""The files of claims (`harness.claims`), `claims/<name>/<generation>`: in a folder that several processes share, or at
a URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from core.files import read_plain, write_text
from core.remote import Remote

_SHARE = 0.25  # of the silence: so long is asked at most, so that a beat is not late for the next
_LONGEST_S = 30.0


class ClaimFiles(Protocol):
    """Raises `OSError` or `BadInput` where the storage does not answer."""

    def brief(self, silence: float) -> ClaimFiles:
        """The same for an owner's beats, which cannot wait for long."""

    def generations(self, name: str) -> list[int]:
        """Those that are there, in order."""

    def read(self, name: str, generation: int) -> bytes:
        """Raises also: FileNotFoundError."""

    def create(self, name: str, generation: int, text: str) -> bool:
        """Whether this process made the file: whole, and nobody else did. `text` is its own."""

    def write(self, name: str, generation: int, text: str) -> None: ...

    def remove(self, name: str, generation: int) -> None: ...


class InFolder:
    """In a folder of results. A new file is a link to a draft, which fails where the name is taken, also on file
    systems of a network."""

    def __init__(self, results: Path) -> None:
        self.results = results

    def brief(self, silence: float) -> InFolder:
        del silence
        return self

    def path(self, name: str, generation: int) -> Path:
        return self.results / "claims" / name / str(generation)

    def generations(self, name: str) -> list[int]:
        try:
            names = os.listdir(self.results / "claims" / name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(one) for one in names if one.isdecimal())

    def read(self, name: str, generation: int) -> bytes:
        return read_plain(self.path(name, generation))

    def create(self, name: str, generation: int, text: str) -> bool:
        path = self.path(name, generation)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid4().hex}")
        try:
            draft.write_text(text)
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def write(self, name: str, generation: int, text: str) -> None:
        write_text(self.path(name, generation), text)

    def remove(self, name: str, generation: int) -> None:
        self.path(name, generation).unlink(missing_ok=True)


class AtUrl:
    """At a URL, whose storage writes a file only where there is none, if it is asked to."""

    def __init__(self, files: Remote) -> None:
        self.files = files

    def brief(self, silence: float) -> AtUrl:
        return AtUrl(Remote(self.files.url, patience=min(_LONGEST_S, _SHARE * silence), stop=self.files.stop))

    def _name(self, name: str, generation: int) -> str:
        return f"claims/{name}/{generation}"

    def generations(self, name: str) -> list[int]:
        return sorted(int(one) for one in self.files.names(f"claims/{name}") if one.isdecimal())

    def read(self, name: str, generation: int) -> bytes:
        if (found := self.files.read(self._name(name, generation))) is None:
            raise FileNotFoundError(self._name(name, generation))
        return found

    def create(self, name: str, generation: int, text: str) -> bool:
        return self.files.create(self._name(name, generation), text.encode())

    def write(self, name: str, generation: int, text: str) -> None:
        self.files.write(self._name(name, generation), text.encode())

    def remove(self, name: str, generation: int) -> None:
        self.files.remove(self._name(name, generation))
