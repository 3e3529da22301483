"""Which model a folder holds, whatever it is called: by its files, its tensors, and the note beside them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import IO, Any

from core import records, strict_json
from core.errors import BadInput
from core.files import digest, open_plain, read_plain

NOTE = "checkpoint.json"  # what `harness.export` says of a checkpoint; no part of it
WHAT = ("*.safetensors", "*.json", "merges.txt", "vocab.txt", "*.model")  # weights, settings, tokenizers
_CHUNK = 1 << 22  # bytes; even, so that no number of two bytes is cut
_LARGEST = 100_000_000  # bytes of a header, as safetensors has it

Stamped = tuple[Path, int, int]
"""A file with its size and time of change."""


def files(folder: Path) -> list[Path]:
    """A checkpoint's files, without the note."""
    return sorted(file for pattern in WHAT for file in folder.glob(pattern) if file.name != NOTE and file.is_file())


def stamped(some: Iterable[Path]) -> tuple[Stamped, ...]:
    return tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in some)


@cache
def contents(some: tuple[Stamped, ...]) -> str:
    """SHA-256 of files with their names, read again if they changed."""
    found = hashlib.sha256()
    for file, *_ in some:
        found.update(f"{file.name}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(_CHUNK):
                found.update(block)
    return found.hexdigest()


def whole(folder: Path) -> str:
    """`contents` of a checkpoint's folder, as a stage that began as it is known by; "" where no weights lie in it."""
    found = files(folder)
    return contents(stamped(found)) if any(file.suffix == ".safetensors" for file in found) else ""


def weights(folder: Path) -> list[str]:
    """SHA-256 of each file of weights in a folder or below it."""
    return sorted({digest(file) for file in _weights(folder)})


def tensors(folder: Path) -> list[str]:
    """What the tensors are, in a folder or below it: a SHA-256 of each file's, and of those of each folder together.

    Neither what tensors are called nor their order is in it, nor whether numbers are stored in bfloat16 or float32. So
    a stage's state and the checkpoint that was exported of it have the same. Files that are no safetensors have none.
    """
    together: dict[Path, list[Path]] = defaultdict(list)
    for file in _weights(folder):
        together[file.parent].append(file)
    groups = [[file] for file in _weights(folder)] + list(together.values())
    return sorted({_tensors(stamped(group)) for group in groups} - {""})


def _weights(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.safetensors") if file.is_file())


def stage(folder: Path) -> str:
    """The fingerprint of the stage that made a checkpoint, as its note says; "" where there is no such note."""
    try:
        said = strict_json.parse(read_plain(folder / NOTE), NOTE)
    except (OSError, BadInput):  # another's file of that name
        return ""
    found = said.get("fingerprint") if isinstance(said, dict) else None
    return found if isinstance(found, str) else ""


def made(artifact: Path) -> set[str]:
    """What the model is known by that a stage made, or that was given in its place: the SHA-256 of files and of a given
    checkpoint, as stage.json has them, and what lies there of its weights."""
    try:
        record = records.read(artifact / "stage.json", records.StageRecord)
    except (OSError, BadInput):  # a release has none
        return {*weights(artifact), *tensors(artifact)}
    given = record["identity"].get("files")
    stored = {*(record.get("files") or {}).values()} or weights(artifact)
    return {*stored, *tensors(artifact), *map(str, given if isinstance(given, list) else ())}


@cache
def _tensors(some: tuple[Stamped, ...]) -> str:
    """A digest of all tensors in safetensors files; "" where there are none, or a file is damaged."""
    try:
        found = sorted(one for file, *_ in some for one in _each(file))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else ""


def _each(path: Path) -> list[str]:
    """A digest of each tensor that a file holds. Raises: ValueError and others: it is no safetensors."""
    with open_plain(path) as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > _LARGEST:
            raise ValueError("no header")
        header: dict[str, Any] = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        return [_one(stream, about, 8 + size) for about in header.values()]


def _one(stream: IO[bytes], about: dict[str, Any], start: int) -> str:
    first, end = about["data_offsets"]
    narrow = about["dtype"] == "BF16"
    shape = [int(count) for count in about["shape"]]
    found = hashlib.sha256(f"{'F32' if narrow else about['dtype']} {shape} {math.prod(shape)}\n".encode())
    stream.seek(start + first)
    left = end - first
    while left:
        block = stream.read(min(left, _CHUNK))
        if not block:
            raise ValueError("cut short")
        left -= len(block)
        found.update(_widened(block) if narrow else block)
    return found.hexdigest()


def _widened(block: bytes) -> bytes:
    """Numbers in bfloat16 as the same ones in float32, of which they are the upper two bytes."""
    wide = bytearray(2 * len(block))
    wide[2::4], wide[3::4] = block[::2], block[1::2]
    return bytes(wide)
