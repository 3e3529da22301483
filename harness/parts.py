"""Parts of language stages on disk: safetensors with a line of JSON in their header, a file a part and seed.

    results/artifacts/<fingerprint>/stage.json
                                   /train.csv
                                   /state/<steps>/<part>-<seed>.safetensors
                                   /state/unfinished-<seed>-<step>.safetensors     what an unfinished seed goes on from

Every file is written beside its place and renamed, and counts once `stage.json` names it (`harness.artifact`), so a
crash leaves the old state or the new one whole.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from core import strict_json
from core.errors import reason
from core.files import digest, digests, draft, open_plain, write_text
from harness.artifact import Artifact, Author
from harness.plan import StageNode
from harness.table import read_rows
from methods.core import BadInput
from methods.language.core import Part


def write_part(path: Path, part: Part) -> str:
    """Atomically; when it returns, it is on disk.

    Returns:
      SHA-256 of the file.

    Raises:
      OSError: the disk is full, ...
    """
    with draft(path) as temporary, _library(path):
        save_file(part.tensors, temporary, metadata={"about": json.dumps(part.about)})
        return digest(temporary)


def read_part(path: Path) -> Part:
    """Raises `BadInput`: it is missing or damaged."""
    try:
        open_plain(path).close()
        with safe_open(path, "pt") as file:
            about = strict_json.parse((file.metadata() or {}).get("about", "{}"), "its header")
        if not isinstance(about, dict):
            raise BadInput("its header is not as it should be")
        return Part(load_file(path), about)
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise BadInput(f"{path}: the stored part cannot be read ({reason(error)[:300]}); use --fresh") from error


@contextlib.contextmanager
def _library(path: Path) -> Iterator[None]:
    """What safetensors raises for the disk's trouble, as `OSError`."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else reason(error), str(path)) from error


class PartStore(Artifact):
    """What one stage made, seed by seed."""

    def __init__(self, folder: Path, node: StageNode, author: Author) -> None:
        """See `Artifact`."""
        super().__init__(folder, node.identity, author)
        self.node = node

    def __enter__(self) -> PartStore:
        self.check_identity()
        self.sweep()
        for path in self.state.glob("unfinished-*"):  # of one that was killed between noting and clearing up
            if path.name not in self._counted():
                path.unlink()
        return self

    def __exit__(self, *exception: object) -> None:
        del exception

    def path(self, part: str, seed: int) -> Path:
        return self.state / self._name(part, seed)

    def _name(self, part: str, seed: int) -> str:
        return f"{self.node.stage.steps}/{part}-{seed}.safetensors"

    def _counted(self) -> set[str]:
        """Paths under `state/` of the files that count: those noted, or all where the note names none."""
        files = self.files
        if files is not None:
            return set(files)
        return {str(path.relative_to(self.state)) for path in self.state.rglob("*.safetensors")}

    def has(self, seed: int) -> bool:
        """Whether the seed's work is done."""
        counted = self._counted()
        return all(
            self._name(part, seed) in counted and self.path(part, seed).exists() for part in self.node.stage.trains
        )

    def read(self, part: str, seed: int) -> Part:
        """Raises `BadInput`: see `read_part` and `Artifact.verify`."""
        self.verify([self._name(part, seed)])
        return read_part(self.path(part, seed))

    def keep(self, seed: int, parts: Mapping[str, Part], seconds: float) -> None:
        """A seed's finished parts, and the seconds since the last save."""
        self._replace(seed, {self._name(name, seed): part for name, part in parts.items()}, seconds)

    def pause(self, seed: int, step: int, kept: Part, seconds: float) -> None:
        """What to go on from after `step`."""
        self._replace(seed, {f"unfinished-{seed}-{step}.safetensors": Part(kept.tensors, {"step": step, **kept.about})},
                      seconds)  # fmt: skip

    def paused(self, seed: int) -> tuple[int, Part] | None:
        """(step, what was kept), if the seed was begun.

        Raises:
          BadInput: what was kept is missing or damaged.
        """
        names = self._unfinished(seed, self._counted())
        if not names:
            return None
        self.verify(names)
        part = read_part(self.state / names[-1])
        step = part.about.get("step")
        if type(step) is not int or step < 0:
            raise BadInput(f"{self.state / names[-1]}: the stored part cannot be read (no step in it); use --fresh")
        return step, part

    def _unfinished(self, seed: int, names: Iterable[str]) -> list[str]:
        """Those that keep an unfinished seed; older ones have no step in their names."""
        return sorted(name for name in names if re.fullmatch(rf"unfinished-{seed}(-\d+)?\.safetensors", name))

    def _replace(self, seed: int, parts: Mapping[str, Part], seconds: float) -> None:
        """Writes a seed's parts, notes them, and removes what the seed went on from."""
        files = self._noted()
        files |= {name: write_part(self.state / name, part) for name, part in parts.items()}
        old = [name for name in self._unfinished(seed, files) if name not in parts]
        self._note(finished=False, seconds=seconds, files={name: one for name, one in files.items() if name not in old})
        for name in old:
            (self.state / name).unlink(missing_ok=True)

    # the log

    def log(self) -> list[dict[str, str]]:
        """Rows of train.csv; `seed` and `step` are whole numbers.

        Raises:
          BadInput: it is damaged; names the line.
        """
        path = self.folder / "train.csv"
        if not (found := read_rows(path)):
            return []
        rows = [dict(zip(found.header, row, strict=True)) for row in found.rows]
        for number, row in enumerate(rows, 2):
            if not re.fullmatch("[0-9]{1,18}", row.get("seed", "")):
                raise BadInput(f"{path}:{number}: seed {row.get('seed', '')[:40]!r} is no whole number")
        return rows

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All of them anew: they are few."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names, restval="nan", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(self.folder / "train.csv", text.getvalue())

    # as `harness.watch.Store`

    @property
    def finished(self) -> bool:
        """Whether every seed is done, and its parts are there."""
        note = self.note
        return bool(note and note["finished"]) and all(map(self.has, self.node.identity["seeds"]))

    @property
    def step(self) -> int:
        return self.node.stage.steps if self.finished else 0

    def finish(self) -> None:
        """Notes that every seed is done."""
        self._note(finished=True, seconds=0.0, files=self._noted())

    def _noted(self) -> dict[str, str]:
        """Digests of what is there; taken now where the note has none."""
        files = self.files
        return digests(self.state) if files is None else files

    def _note(self, *, finished: bool, seconds: float, files: Mapping[str, str]) -> None:
        self.write(step=self.node.stage.steps, finished=finished, seconds=seconds, files=files)
