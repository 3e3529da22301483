"""Records in one file of a release (`python -m analysis.release`): written, and unpacked to be read as any others.

The file is a Parquet table of a row a file: `path` below the folder of results, and its `content`. `SHA256SUMS` beside
it, written last, says that a release is whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from analysis.records.files import RecordError, content, shown
from analysis.records.mirror import INDEX, dated, owned
from analysis.records.runs import Run
from core.errors import BadInput, reason
from core.files import digest, draft, draft_folder, is_draft, plain_files, read_plain, write_json
from core.records import RELEASED as NAME
from core.records import file_name
from core.remote import local_place

SUMS = "SHA256SUMS"
SUFFIXES = frozenset({".json", ".jsonl", ".csv", ".npz"})
LARGEST = 16 << 20
"""Bytes of a file; what is larger stays behind."""
SCHEMA = pa.schema([("path", pa.string()), ("content", pa.binary())])
_TOGETHER = 64  # files in memory
_PLACE = re.compile(r"(?<![\w.:/~\\-])/(?:[^\s/'\"`,;:()\[\]{}<>|]+/)+([^\s/'\"`,;:()\[\]{}<>|]*)")
"""An absolute path of two names or more within a text; the rest of a URL is none."""


def without_places(text: str) -> str:
    """The text with the last name alone of every absolute path in it."""
    return _PLACE.sub(lambda found: found[1] or "...", text)


def pack(root: Path, runs: Iterable[Run], path: Path) -> list[str]:
    """Writes the records of runs below `root`, and what their tasks have, into one file; the names of files that were
    too large. JSON is without the places of this machine (`without_places`).

    Raises: RecordError: a file cannot be read.
    """
    large = list[str]()
    with draft(path) as target, pq.ParquetWriter(target, SCHEMA, compression="zstd", compression_level=9) as writer:
        rows: list[tuple[str, bytes]] = []
        for row in _rows(root, sorted({file for run in runs for file in _files(root, run)}), large):
            rows.append(row)
            if len(rows) == _TOGETHER:
                writer.write_table(_table(rows))
                rows = []
        writer.write_table(_table(rows))
    return large


def _table(rows: list[tuple[str, bytes]]) -> pa.Table:
    return pa.table([[name for name, _ in rows], [held for _, held in rows]], schema=SCHEMA)


def _files(root: Path, run: Run) -> Iterator[Path]:
    """Of all its seeds, those that cannot be read among them, and its task's."""
    yield root / "tasks" / run.suite / f"{run.task}.npz"
    try:
        if run.old:  # a folder may hold a run of either layout
            yield from (path for path in run.folder.iterdir() if path.is_file())
        else:
            for folder in run.folder.glob("seed-*"):
                yield from (folder / name for name in plain_files(folder))
    except OSError as error:
        raise RecordError(f"{run.folder}: {shown(reason(error), quote=False)}") from None


def _rows(root: Path, files: Iterable[Path], large: list[str]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        if file.suffix not in SUFFIXES or any(map(is_draft, file.parts)):
            continue
        name = file.relative_to(root).as_posix()
        try:
            if not file.is_file():
                continue
            if file.stat().st_size > LARGEST:
                large.append(name)
                continue
            held = read_plain(file)
        except OSError as error:
            raise RecordError(f"{file}: {shown(reason(error), quote=False)}") from None
        yield name, _cleaned(held) if file.suffix == ".json" else held


def _cleaned(held: bytes) -> bytes:
    """JSON without places; a damaged one as text."""
    try:
        return json.dumps(_named(json.loads(held)), indent=1).encode("utf-8", "backslashreplace")
    except ValueError:
        return without_places(held.decode(errors="replace")).encode()


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    if isinstance(value, str):
        whole = PurePosixPath(value)  # one with blanks in it
        return whole.name if whole.is_absolute() and whole.name and "\n" not in value else without_places(value)
    return value


def is_packed(folder: Path) -> bool:
    """Whether that is the folder of a release."""
    return (folder / NAME).is_file()


def unpacked(folder: Path) -> Path:
    """The folder of this machine that holds a release's records as runs wrote them.

    Raises: BadInput: the release is not whole, its file is not of that form, or there is no room.
    """
    path = folder / NAME
    try:
        known = digest(path)
    except OSError as error:
        raise BadInput(f"{path}: {shown(reason(error), quote=False)}") from None
    sums = (content(folder / SUMS) or b"").decode(errors="replace").splitlines()
    if f"{known}  {NAME}" not in sums:
        raise BadInput(f"{folder}: is no whole release: {SUMS} does not tell of this {NAME}; release it again")
    place = local_place(f"{folder.resolve()} {known}") / "records"
    with FileLock(place.with_name("records.lock")):
        if not (place / INDEX).is_file():
            _unpack(path, place, folder)
    return place


def _unpack(path: Path, place: Path, folder: Path) -> None:
    try:
        with pq.ParquetFile(path) as table, draft_folder(place) as target:
            if table.schema_arrow.names != SCHEMA.names:
                raise BadInput(f"{path}: is not the records of a release")
            for batch in table.iter_batches(_TOGETHER):
                for row in batch.to_pylist():
                    file = target.joinpath(*_safe(str(row["path"]), path))
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(row["content"] or b"")
            for note in target.rglob("run.json"):
                owned(note, str(folder))
                dated(note)
            write_json(target / INDEX, {"url": str(folder)})
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: cannot be unpacked into {place} ({shown(reason(error), quote=False)})") from None


def _safe(name: str, path: Path) -> tuple[str, ...]:
    """The pieces of a file's name. Raises: BadInput: it would lead elsewhere."""
    pieces = PurePosixPath(name).parts
    try:
        for piece in pieces:
            file_name(piece)
    except ValueError as error:
        raise BadInput(f"{path}: holds a file {shown(name)}, which {error}") from None
    if not pieces or pieces[0] not in ("runs", "tasks"):
        raise BadInput(f"{path}: holds a file {shown(name)}, which is no record")
    return pieces
