"""Records in one file of a release (`python -m analysis.release`): written, and unpacked to be read as any others.

The file is a Parquet table of a row a file: `path` below the folder of results, and its `content`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from analysis.records.files import RecordError, shown
from analysis.records.mirror import INDEX
from core.errors import BadInput, reason
from core.files import digest, draft, draft_folder, is_draft, plain_files, read_plain, write_json
from core.records import file_name
from core.remote import local_place

NAME = "records.parquet"
SUFFIXES = frozenset({".json", ".jsonl", ".csv", ".npz"})
LARGEST = 16 << 20
"""Bytes of a file; what is larger stays behind."""
SCHEMA = pa.schema([("path", pa.string()), ("content", pa.binary())])


def pack(root: Path, folders: Iterable[Path], path: Path) -> list[str]:
    """Writes the files of some folders below `root` into one; the names of those that were too large.

    Where a run.json names a place of this machine, the last name of it is left.

    Raises: RecordError: a file cannot be read.
    """
    large = list[str]()
    with draft(path) as target, pq.ParquetWriter(target, SCHEMA, compression="zstd", compression_level=9) as writer:
        rows = list(_files(root, folders, large))
        columns = [list(column) for column in zip(*rows, strict=True)] or [[], []]
        writer.write_table(pa.table(columns, schema=SCHEMA))
    return large


def _files(root: Path, folders: Iterable[Path], large: list[str]) -> Iterator[tuple[str, bytes]]:
    for folder in sorted(set(folders)):
        try:
            names = plain_files(folder)
            for name in names:
                file = folder / name
                if file.suffix not in SUFFIXES or any(map(is_draft, file.parts)):
                    continue
                there = file.relative_to(root).as_posix()
                if file.stat().st_size > LARGEST:
                    large.append(there)
                    continue
                content = read_plain(file)
                yield there, _without_places(content) if file.name == "run.json" else content
        except OSError as error:
            raise RecordError(f"{folder}: {shown(reason(error), quote=False)}") from None


def _without_places(content: bytes) -> bytes:
    return json.dumps(_named(json.loads(content)), indent=1).encode()


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    if isinstance(value, str):
        return os.path.basename(value) or value if os.path.isabs(value) else value.replace(str(Path.home()), "~")
    return value


def is_packed(folder: Path) -> bool:
    """Whether that is the folder of a release."""
    return (folder / NAME).is_file() and not (folder / "runs").exists()


def unpacked(folder: Path) -> Path:
    """The folder of this machine that holds a release's records as runs wrote them.

    Raises: BadInput: the file is not of that form, or there is no room.
    """
    path = folder / NAME
    try:
        known = digest(path)
    except OSError as error:
        raise BadInput(f"{path}: {shown(reason(error), quote=False)}") from None
    place = local_place(f"{folder.resolve()} {known}") / "records"
    with FileLock(place.with_name("records.lock")):
        if not (place / INDEX).is_file():
            _unpack(path, place, folder)
    return place


def _unpack(path: Path, place: Path, folder: Path) -> None:
    try:
        table = pq.read_table(path, schema=SCHEMA).to_pydict()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"{path}: is not the records of a release ({shown(reason(error), quote=False)})") from None
    try:
        with draft_folder(place) as target:
            for name, content in zip(table["path"], table["content"], strict=True):
                file = target.joinpath(*_safe(str(name), path))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content or b"")
            write_json(target / INDEX, {"url": str(folder)})
    except OSError as error:
        raise BadInput(f"{place}: {shown(reason(error), quote=False)}") from None


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
