"""What a folder that stages start from holds, for their identity."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from methods.core import BadInput
from tasks import SHIPPED, shipped

_CHUNK = 1 << 22
_WHAT = ("*.safetensors", "*.json", "merges.txt", "vocab.txt", "*.model")  # weights, settings, tokenizers
NOTE = "checkpoint.json"  # what is said of a checkpoint; no part of it


def resolved(path: str) -> str:
    """Where a checkpoint lies: "shipped:NAME" beside the tasks, all else as it stands."""
    return str(shipped(path)) if path.startswith(SHIPPED) else path


def contents(path: str) -> str:
    """SHA-256 of a checkpoint's weights and settings, by name; of a name that is no folder here (a hub's), the name.
    Files are read again if they changed.

    Raises:
      BadInput: the folder holds no weights in safetensors, the one format that is read.
    """
    folder = Path(resolved(path))
    if not folder.exists() and not path.startswith(("/", ".", "~", SHIPPED)):
        return path
    files = sorted(file for pattern in _WHAT for file in folder.glob(pattern) if file.name != NOTE)
    if not any(file.suffix == ".safetensors" for file in files):
        raise BadInput(f"{path}: no such folder with a model in it (config.json, *.safetensors, tokenizer.json)")
    return _digest(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files with their sizes and times of change."""
    digest = hashlib.sha256()
    for file, *_ in files:
        digest.update(f"{file.name}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
    return digest.hexdigest()
