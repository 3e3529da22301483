"""Datasets of texts as the hub keeps them: found, fetched, checked, and read row by row.

Parquet is read by pyarrow and JSON lines by the standard library, not by `datasets`: that would copy every file into a
cache of its own first, and say of a broken one not where it is broken.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from core import strict_json
from core.errors import BadInput
from core.extras import install
from core.files import digest, expanded
from tasks.data.files import but, check_file, exists, other_format, walk
from tasks.language.core import half_character

SUFFIXES = ("parquet", "jsonl", "jsonl.gz", "json.gz")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


def locate(repository: str, data: str) -> Path:
    """The folder of a dataset. "auto", "download": fetched from the hub, if it is not in the hub's cache; a path: the
    folder <owner>/<name> or <name> below it, or itself, if it is called <name>.

    Raises: BadInput in one line that says what is missing.
    """
    if data in ("auto", "download"):
        return _fetched(repository)
    place = expanded(Path(data))
    if not place.is_dir():
        raise BadInput(f"--data {data} is no folder; {repository} is looked for below one")
    for folder in (place / repository, place / repository.split("/")[1]):
        if folder.is_dir():
            return folder
    if place.resolve().name == repository.split("/")[1]:
        return place
    raise BadInput(f"--data {data} has no folder {repository} or {repository.split('/')[1]}")


def cached(repository: str, splits: Sequence[str]) -> bool:
    """Whether those splits of a dataset are in the hub's cache. Asks no network."""
    try:
        folder = _fetched(repository, local=True)
        return all(files(folder, split) for split in splits)
    except BadInput:
        return False


def files(folder: Path, split: str) -> list[Path]:
    """The files of a split, wherever they lie below the folder: "train.jsonl.gz", "data/train-00000-of-00002.parquet".

    Raises: BadInput where there is none, naming the splits there are, a shard is missing, or the split is there twice:
    in two formats, whole and in shards, in shards of two totals, in a folder and in one below it, or with a file that
    is the copy of another.
    """
    below = sorted(place / name for place, _, names in walk(folder) for name in names)
    every = {path: _split_of(path) for path in below if exists(path)}
    found = [path for path, name in every.items() if name == split]
    if not found:
        there = ", ".join(sorted({name for name in every.values() if name})) or "no file of any"
        raise BadInput(f"{folder} has no split {split!r}; there is {there}")
    sets: dict[tuple[Path, str, str], list[Path]] = {}  # by folder, total of shards ("" if whole) and format
    for path in found:
        match = _SHARD.search(path.name)
        sets.setdefault((path.parent, match[2] if match else "", path.name.partition(".")[2]), []).append(path)
    kinds = {suffix for _, _, suffix in sets}
    for (parent, total, _), some in sets.items():
        numbers = {match[1] for path in some if (match := _SHARD.search(path.name))}
        twice = len(some) > max(len(numbers), 1) or len(kinds) > 1
        if twice or any(other == parent and of != total for other, of, _ in sets):
            shown = ", ".join(path.relative_to(folder).as_posix() for path in found[:4])
            raise BadInput(f"{folder} has split {split!r} more than once: {shown}")
        if len(numbers) < int(total or 0):
            raise BadInput(f"{parent} has {len(numbers)} of the {int(total)} files of split {split!r}")
    if copies := _copies(found):
        shown = " and ".join(path.relative_to(folder).as_posix() for path in copies)
        raise BadInput(f"{folder} has split {split!r} more than once: {shown}")
    return found


def _copies(paths: Sequence[Path]) -> tuple[Path, Path] | None:
    """Two of the files that would be read twice: one below the other's folder, or with the other's contents; else None.
    A split may well be spread over several folders, as that of Anthropic/hh-rlhf is."""
    seen: dict[tuple[int, str], Path] = {}
    sizes = Counter(path.stat().st_size for path in paths)
    for path in paths:
        if above := next((other for other in paths if other.parent in path.parent.parents), None):
            return above, path
        if sizes[size := path.stat().st_size] > 1 and (twin := seen.setdefault((size, digest(path)), path)) != path:
            return twin, path
    return None


def rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The texts of those columns, row by row.

    Raises: BadInput for a file that is empty, unreadable, truncated or something else, a column that is missing or
      holds no text. A lone surrogate, half a character that JSON can spell out ("\\ud83d"), is none.
    """
    check_file(path)
    found = _parquet(path, columns) if path.suffix == ".parquet" else _json_lines(path, columns)
    number = 0
    for number, (place, row) in enumerate(found, start=1):
        for name in columns:
            if not isinstance(row[name], str):
                raise BadInput(f"{path}{place}: {name} of row {number} is no text but {type(row[name]).__name__}")
            if half := half_character(row[name]):
                raise BadInput(f"{path}{place}: {name} of row {number} is no text: it holds half a character, {half}")
        yield row
    if not number:
        raise BadInput(f"{path} has no rows")


def _split_of(path: Path) -> str:
    """ "data/train-00000-of-00001-a1b2.parquet" -> "train"; "" for a file that is none of a split."""
    match = re.fullmatch(rf"([a-z_]+?)(?:-\d{{5}}-of-\d{{5}}.*)?\.(?:{'|'.join(map(re.escape, SUFFIXES))})", path.name)
    return match[1] if match else ""


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows, each behind where it stands in the file, which Parquet's have no name for."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise BadInput(f"{path} needs pyarrow: {install('rlhf')}") from error
    if (kind := other_format(path)) not in ("", "a Parquet file"):
        raise BadInput(f"{path} is not a Parquet file{but(kind)}")
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise BadInput(f"{path} has no column {missing[0]!r}; there is {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(columns=list(columns)):
                yield from (("", row) for row in batch.to_pylist())
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} holds a text that is not UTF-8") from error
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not a Parquet file, or it is truncated or damaged") from error


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows, each behind ":" and its line."""
    packed, kind, number = path.suffix == ".gz", other_format(path), 0
    if kind != ("a gzip file" if packed else ""):
        raise BadInput(f"{path} is not {'a gzip file' if packed else 'JSON lines'}{but(kind)}")
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f":{number}", _columns(line, columns, f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path} is truncated or damaged (after line {number})") from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def _columns(line: bytes, columns: Sequence[str], where: str) -> dict[str, str]:
    row = strict_json.parse_line(line, where)
    if not isinstance(row, dict):
        raise BadInput(f"{where}: no object with columns")
    if missing := [name for name in columns if name not in row]:
        raise BadInput(f"{where} has no column {missing[0]!r}; there is {', '.join(row)}")
    return {name: row[name] for name in columns}


def _fetched(repository: str, local: bool = False) -> Path:
    """The dataset's newest revision in the hub's cache, of those already there if `local`; the folder's name is the
    revision."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise BadInput(f"{repository} needs huggingface_hub: {install('rlhf')}, or --data PATH") from error
    try:
        patterns = [f"*.{suffix}" for suffix in SUFFIXES]
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=patterns, local_files_only=local))
    except Exception as error:  # of libraries that change under the hub's
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise BadInput(f"cannot fetch {repository} from the hub ({type(error).__name__}: {reason}); "
                       "--data PATH takes a folder with its files") from error  # fmt: skip
