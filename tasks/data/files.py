"""Data files that others wrote: where they are kept, whether they can be read, and if not why.

What is wrong with a file is told apart: a link that leads nowhere, a folder, nothing in it, no permission, another
process that is writing it, another format, a part that is missing, a compression that is not installed, and sizes that
no file or memory could hold. Sizes are looked at before anything is read.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadInput, cause, reason
from core.files import expanded
from core.memory import amount, available_memory
from core.options import filled

FOLDERS = {  # the variable that moves a folder of datasets -> where it is without it
    "OGBENCH_DATA_DIR": "~/.ogbench/data",
    "D4RL_DATASET_DIR": "~/.d4rl/datasets",
    "MINARI_DATASETS_PATH": "~/.minari/datasets",
    "VGF_BENCH_CACHE": "~/.cache/vgf-bench",
}
SOURCES = ("auto", "download", "generate")  # what `--data` takes beside a path
_MOST_DEFLATED = 1100  # zlib packs at most 1,032 bytes into one
_FORMATS = {  # a file's first bytes -> what it is
    b"version https://git-lfs": "a git-LFS pointer to it (git lfs pull fetches the file itself)",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip file",
    b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"\x93NUMPY": "a single NumPy array",
    b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"\x28\xb5\x2f\xfd": "a zstd file", b"\x80\x04": "a pickle",
}  # fmt: skip


# ---- places ----


def folder(variable: str) -> Path:
    """The folder of datasets that the variable moves; it is not created.

    Raises:
      BadInput: it is in a home, and this user has none.
    """
    try:
        return expanded(Path(os.environ.get(variable) or FOLDERS[variable]))
    except BadInput as error:
        raise BadInput(f"{error}; set {variable} to a folder for datasets") from None


def elsewhere(path: Path) -> str:
    """A word on the variable that moves the folder `path` is in; "" where there is none."""
    for variable in FOLDERS:
        with contextlib.suppress(BadInput):
            if path.is_relative_to(folder(variable)):
                return f"; {variable} names another folder"
    return ""


def given(data: str, wanted: str) -> Path:
    """The file that `--data` names. `wanted`: what `--data` takes, for the error line.

    Raises:
      BadInput: there is none, it leads nowhere, or it is a folder.
    """
    path = expanded(Path(filled("--data", data)))
    if not exists(path):
        raise BadInput(f"no such file: {data} (--data takes {wanted})")
    if path.is_dir():
        raise BadInput(f"{data} is a folder (--data takes {wanted})")
    return path


def given_folder(data: str) -> Path | None:
    """The folder that `--data` names; None where it names anything else.

    Raises:
      BadInput: there is no NPZ file in it.
    """
    path = expanded(Path(filled("--data", data)))
    try:
        if data in SOURCES or not path.is_dir():
            return None
        if any(path.glob("*.npz")):
            return path
    except (OSError, ValueError):  # whoever reads it says why not
        return None
    raise BadInput(f"{data} is a folder, and there is no NPZ file in it")


def exists(path: Path) -> bool:
    """Whether anything is there, links followed.

    Raises:
      BadInput: a link on the way leads nowhere or to itself, or a folder may not be looked into.
    """
    try:
        path.stat()
        return True
    except (FileNotFoundError, NotADirectoryError):
        for part in (path, *path.parents):
            if part.is_symlink() and not part.exists():
                raise BadInput(f"{part} is a broken link (to {os.readlink(part)})") from None
        return False
    except ValueError:  # a null byte
        return False
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> BadInput:
    """The one line for a file or folder that the system does not let us read."""
    return BadInput(f"cannot read {path}: {cause(error)}")


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, names of folders in it, of files) of `root` and all below, links to folders followed, but for those that
    lead back. Names that are taken out of the first list are passed over, as with `os.walk`."""
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if any(real == os.path.realpath(parent) for parent in Path(place).parents):
            folders.clear()
            continue
        folders.sort()
        yield Path(place), folders, sorted(names)


def check_file(path: Path) -> None:
    """Refuses what is no readable file with something in it.

    Raises:
      BadInput: says what it is instead.
    """
    if not exists(path):
        raise BadInput(f"{path}: no such file")
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadInput(f"{path} is {'a folder' if path.is_dir() else 'a pipe or a device'}, not a file")
    if not _head(path):
        raise BadInput(f"{path} is empty")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise unreadable(path, error) from error


def other_format(path: Path) -> str:
    """What the file is by its first bytes; "" where they say nothing."""
    head = _head(path)
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return "an HTML or XML page"
    return next((name for start, name in _FORMATS.items() if head.startswith(start)), "")


# ---- memory ----


def check_memory(path: Path, size: int) -> None:
    """Refuses numbers of `size` bytes that no memory here can hold.

    Raises:
      BadInput: says how much they are and how much there is.
    """
    free = available_memory()
    if free is not None and size > free:
        raise BadInput(f"{path}: its numbers would take {amount(size)}; {amount(free)} of memory are free")


@contextlib.contextmanager
def within_memory(path: Path) -> Iterator[None]:
    """Has it said which data were too large, where memory runs out inside.

    Raises:
      BadInput: it did.
    """
    try:
        yield
    except MemoryError as error:
        raise too_large(path) from error


def too_large(path: Path) -> BadInput:
    """The one line for a dataset at which memory ran out."""
    size = sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size
    free = available_memory()
    have = "" if free is None else f" ({amount(free)} of memory are free)"
    return BadInput(f"{path}: out of memory loading it; it has {amount(size)} on disk{have}")


# ---- numbers ----


def float32(values: np.ndarray, name: str) -> np.ndarray:
    """A column as float32. `name`: what is said of it, for the error line.

    Raises:
      BadInput: it holds no numbers, or one that is not finite or too large.
    """
    if values.dtype.kind not in "biuf":
        raise BadInput(f"{name} holds no numbers")
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32, copy=False)
    if not (finite := np.isfinite(narrow)).all():
        place = tuple(np.argwhere(~finite)[0])
        value = values[place]
        what = f"{value:g}, too large for float32," if np.isfinite(value) else "a non-finite value"
        raise BadInput(f"{name} holds {what} in row {int(place[0])}")
    return narrow


# ---- HDF5 ----


@contextlib.contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading.

    Raises:
      BadInput: it cannot be opened, or what is done inside cannot be read; says why.
    """
    import h5py

    check_file(path)
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")  # where it is installed, its compressions are read
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BadInput:
        raise
    except MemoryError as error:
        raise too_large(path) from error
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"{path} {_why_not_hdf5(path, error)}") from error


def _why_not_hdf5(path: Path, error: Exception) -> str:
    words = reason(error) if not isinstance(error, OSError) else " ".join(str(error).split())
    if "unable to lock file" in words:
        if getattr(error, "errno", None) in (11, 35):
            return "is being written by another process; try again when that has closed it"
        return f"cannot be locked on its file system; set HDF5_USE_FILE_LOCKING=FALSE ({words})"
    if "already open for write" in words or "consistency flags" in words:
        return "was not closed by the process that wrote it (h5clear --status makes it readable)"
    if "signature not found" in words:
        return f"is not an HDF5 file of numbers{but(other_format(path))}"
    if match := re.search(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", words):
        return f"is truncated: it has {int(match[1]):,} of {int(match[2]):,} bytes"
    if "superblock version" in words:
        import h5py

        return f"is damaged, or written by an HDF5 newer than {h5py.version.hdf5_version}, which reads it here"
    if "filter" in words or "plugin" in words:
        return f"uses a compression that is not installed{_missing_filters(path)}; pip install hdf5plugin has most"
    return f"is not an HDF5 file of numbers, or it is truncated or damaged ({words[:160]})"


def _missing_filters(path: Path) -> str:
    import h5py

    missing: set[str] = set()

    def look(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            steps = found.id.get_create_plist()
            filters = [steps.get_filter(number) for number in range(steps.get_nfilters())]
            missing.update(f"{code} {words.decode(errors='replace')}".strip()
                           for code, _, _, words in filters if not h5py.h5z.filter_avail(code))  # fmt: skip

    with contextlib.suppress(OSError, RuntimeError, KeyError), h5py.File(path, "r") as file:
        file.visititems(look)
    return f" (HDF5 filter {', '.join(sorted(missing))})" if missing else ""


def but(kind: str) -> str:
    """ " but an HTML page", of a format that is known."""
    return f" but {kind}" if kind else ""


# ---- NPZ ----


def npz(path: Path, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Those columns of an NPZ file that are there, or all.

    Raises:
      BadInput: it is no NPZ file or a damaged one, or says that it holds more than it does or than memory can.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:  # np.load takes other kinds of files for other kinds of data
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            found = [name for name in (members if wanted is None else wanted) if name in members]
            check_memory(path, sum(_declared(archive, members[name], path) for name in found))
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in found}
    except BadInput:
        raise
    except MemoryError as error:
        raise too_large(path) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadInput(f"{path} {why_not_npz(path)}") from error


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Column of an NPZ file -> its shape, by the headers alone.

    Raises:
      BadInput: as `npz`.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): _header(archive, info)[0] for info in archive.infolist()}
    except OSError as error:
        raise unreadable(path, error) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadInput(f"{path} {why_not_npz(path)}") from error


def why_not_npz(path: Path) -> str:
    """What to say of a file that cannot be read as NPZ."""
    kind = other_format(path)
    if kind == "a zip archive":
        return "is not an NPZ file of numbers, or it is truncated or damaged"
    return f"is not an NPZ file{but(kind)}"


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, type, bytes before the numbers) of a member's array."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        return shape, dtype, file.tell()


def _declared(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> int:
    """Bytes of a member's array by its header, if the member holds as many."""
    name = info.filename.removesuffix(".npy")
    shape, dtype, start = _header(archive, info)
    if dtype.hasobject:
        raise BadInput(f"{path}: {name} holds no numbers")
    size = dtype.itemsize
    for length in shape:
        size *= length
    packed = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else _MOST_DEFLATED)
    holds = min(info.file_size - start, packed, path.stat().st_size * _MOST_DEFLATED)
    if size > holds:
        raise BadInput(f"{path}: {name} is said to be of shape {shape}, {amount(size)}; the file holds "
                       f"{amount(max(0, holds))} of it")  # fmt: skip
    return size
