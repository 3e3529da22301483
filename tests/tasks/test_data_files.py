"""Files of data that cannot be read: each is told by its real reason, in one line that names it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from core import memory
from methods.core import BadInput
from tasks import check
from tasks.d4rl import suite as d4rl
from tasks.data import download
from tasks.minari import data as minari_data
from tasks.ogbench import suite as ogbench
from tests.tasks.conftest import command, of_another_user
from tests.tasks.d4rl_file import d4rl_file
from tests.tasks.test_ogbench_files import ANT, ant_file

HOPPER = d4rl.get("hopper-medium-v2")
pytestmark = pytest.mark.usefixtures("d4rl_folders")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(load: Callable[[], Any], line: str) -> None:
    """In one line, and nothing is kept."""
    with pytest.raises(BadInput, match=line) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert minari_data.ids() == []


# ---- places ----


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path.mkdir(), "mine.npz is a folder"),
        (lambda path: path.symlink_to("gone/away.npz"), r"mine.npz is a broken link \(to gone/away.npz\)"),
        (lambda path: path.symlink_to(path.name), "cannot read .*mine.npz: Too many levels of symbolic links"),
        (lambda path: None, "no such file: .*mine.npz"),
        (lambda path: path.touch(), "mine.npz is empty"),
        (os.mkfifo, "mine.npz is a pipe or a device, not a file"),
    ],
)
def test_what_is_no_file_is_called_what_it_is(tmp_path, make, line):
    make(tmp_path / "mine.npz")
    for task in (HOPPER, ANT):
        refused(lambda task=task: task.load(str(tmp_path / "mine.npz")), line)


@pytest.mark.parametrize("data", ["a\0b", "x" * 5000, "~nosuchuserhere/file", "/dev/null/file"])
def test_names_that_no_file_can_have(data):
    for task in (HOPPER, ANT):
        refused(lambda task=task: task.load(data), "no such file|File name too long|no home directory is known")
    said = command(check.app, "d4rl", "--data", data)
    assert said.exit_code == 2 and said.stderr.count("\n") == 1 and said.stderr.startswith("error: ")


def test_links_to_files_and_folders_are_followed(tmp_path, cache):
    d4rl_file(tmp_path / "disk" / "real.hdf5")
    (tmp_path / "mine.hdf5").symlink_to("disk/real.hdf5")
    assert HOPPER.load(str(tmp_path / "mine.hdf5")).provenance.origin == "given"
    ant_file(tmp_path / "disk" / "antmaze-medium-navigate-v0.npz")
    cache.symlink_to("disk")
    assert ANT.data_location("download").there and len(ANT.load("download")) == 9


def test_a_data_folder_or_file_behind_a_broken_link_is_not_downloaded_over(cache, monkeypatch):
    def downloads(*_: Any) -> str:
        raise AssertionError("downloaded")

    monkeypatch.setattr(download, "fetch", downloads)
    cache.symlink_to("/unplugged")
    d4rl.data_folder().symlink_to("/unplugged")
    for task, data in ((ANT, "auto"), (ANT, "download"), (HOPPER, "auto")):
        for ask in (task.data_location, task.load):
            refused(lambda ask=ask, data=data: ask(data), r"is a broken link \(to /unplugged\)")


def test_a_file_of_another_user_is_told(tmp_path):
    made = [(HOPPER, d4rl_file(tmp_path / "a.hdf5")), (ANT, ant_file(tmp_path / "a.npz"))]
    for task, path in made:
        with of_another_user(path):
            refused(lambda task=task, path=path: task.load(str(path)), "cannot read .*: Permission denied$")


def test_a_folder_that_cannot_be_written_is_named_with_what_moves_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "file" / "data"))
    place = f"{tmp_path}/file/data/antmaze-medium-navigate-v0.npz"
    refused(lambda: ANT.load("download"), f"cannot write {place}: Not a directory; OGBENCH_DATA_DIR names another")
    path = d4rl_file(tmp_path / "mine.hdf5")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    refused(lambda: HOPPER.load(str(path)), "cannot write .*/file/given/hopper-medium-.*; MINARI_DATASETS_PATH names")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "file"))
    refused(lambda: HOPPER.load("download"), r"cannot write .*/file/hopper_medium-v2\.hdf5: .*; D4RL_DATASET_DIR names")


# ---- formats ----


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "but a git-LFS pointer to it"),
        (b"\n<!DOCTYPE html><html>down</html>", "but an HTML or XML page"),
        (b"\x1f\x8b\x08nonsense", "but a gzip file"),
        (b"\x93NUMPY\x01\x00nonsense", "but a single NumPy array"),
        (b"words", "is not an (HDF5|NPZ) file"),
    ],
)
def test_other_formats_are_called_what_they_are(tmp_path, content, line):
    (tmp_path / "mine").write_bytes(content)
    for task, wanted in ((HOPPER, "is not an HDF5 file of numbers"), (ANT, "is not an NPZ file")):
        refused(lambda task=task: task.load(str(tmp_path / "mine")), line)
        refused(lambda task=task: task.load(str(tmp_path / "mine")), wanted)
    refused(lambda: HOPPER.load(str(ant_file(tmp_path / "a.npz"))), "not an HDF5 file of numbers but a zip archive")
    refused(lambda: ANT.load(str(d4rl_file(tmp_path / "a.hdf5"))), "not an NPZ file but an HDF5 file")


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path):
    path = d4rl_file(tmp_path / "a.hdf5")
    code = "import sys, h5py; file = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout and writer.stdout.readline() == b"open\n"
    refused(lambda: HOPPER.load(str(path)), "a.hdf5 is being written by another process; try again when")
    writer.communicate()
    assert len(HOPPER.load(str(path))) == 7


def test_a_newer_hdf5_and_a_missing_compression_are_told(tmp_path):
    path = d4rl_file(tmp_path / "newer.hdf5")
    content = bytearray(path.read_bytes())
    content[8] = 9  # the superblock's version
    path.write_bytes(content)
    refused(lambda: HOPPER.load(str(path)), r"is damaged, or written by an HDF5 newer than \d+\.\d+\.\d+")
    path = d4rl_file(tmp_path / "zstd.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        steps = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        steps.set_chunk((10,))
        steps.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, (3,))  # nobody's
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.NATIVE_FLOAT, space, steps).write_direct_chunk((0,), b"packed")
    refused(lambda: HOPPER.load(str(path)), r"uses a compression that is not installed \(HDF5 filter 32099\); pip")


def test_columns_that_are_elsewhere_or_no_columns(tmp_path):
    path = d4rl_file(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.ExternalLink("gone.hdf5", "/rewards")
    refused(lambda: HOPPER.load(str(path)), "not an HDF5 file of numbers, or it is truncated or damaged")
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file.create_group("rewards")
    refused(lambda: HOPPER.load(str(path)), "rewards holds no numbers")


# ---- sizes ----


def test_hdf5_that_says_it_has_a_million_million_rows(tmp_path):
    path, rows = tmp_path / "a.hdf5", 10**12
    with h5py.File(path, "w") as file:
        for name, width in (("observations", (11,)), ("actions", (3,)), ("rewards", ()), ("terminals", ()),
                            ("timeouts", ())):  # fmt: skip
            file.create_dataset(name, (rows, *width), "f4", chunks=(1000, *width))
    assert path.stat().st_size < 20_000
    refused(lambda: HOPPER.load(str(path)), r"its numbers would take 68 TB; [\d,.]+ GB of memory are free")


def lying(path: Path, rows: int, claimed: int) -> None:
    """An NPZ file in which the header of the observations claims more rows than follow."""
    ant_file(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    claim = np.lib.format.header_data_from_array_1_0(np.zeros((rows, 29), np.float32)) | {"shape": (claimed, 29)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            with archive.open(name, "w") as file:
                if name == "observations.npy":
                    np.lib.format.write_array_header_1_0(file, claim)
                    content = bytes(rows * 29 * 4)
                file.write(content)


@pytest.mark.parametrize("claimed", [13, 10**7, 10**12])
def test_npz_whose_header_says_more_than_the_file_holds(tmp_path, claimed):
    lying(tmp_path / "a.npz", 12, claimed)
    line = rf"observations is said to be of shape \({claimed}, 29\), [\d,.]+ \wB; the file holds [\d.]+ \w+ of it"
    refused(lambda: ANT.load(str(tmp_path / "a.npz")), line)


def test_memory_that_runs_out_becomes_one_line(tmp_path, monkeypatch):
    """What looking at sizes cannot foresee."""

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    path = d4rl_file(tmp_path / "a.hdf5")
    with monkeypatch.context() as patch:
        patch.setattr(np, "concatenate", full)
        refused(lambda: HOPPER.load(str(path)), r"a\.hdf5: out of memory loading it; it has [\d.]+ kB on disk")
    npz = ant_file(tmp_path / "a.npz")
    with monkeypatch.context() as patch:
        patch.setattr(ogbench, "relabel_dataset", full)
        refused(lambda: ANT.load(str(npz)), r"a\.npz: out of memory loading it; it has [\d.]+ kB on disk")
    HOPPER.ready(str(path))
    for module, name in ((minari_data.actions, "clipped"), (np, "concatenate")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(BadInput, match=r"main_data\.hdf5: out of memory loading it; it has [\d.]+ kB on disk"):
                HOPPER.load(str(path))


def test_memory_is_what_the_system_and_the_container_leave():
    free = memory.available_memory()
    assert free is None or 10**8 < free < 10**14


# ---- numbers ----


@pytest.mark.parametrize(
    ("column", "values"),
    [("rewards", np.arange(10) * 3), ("observations", np.arange(110, dtype=np.int64).reshape(10, 11)),
     ("actions", np.zeros((10, 3), np.float16)), ("terminals", np.isin(np.arange(10), [2, 3]).astype(np.int32))],
)  # fmt: skip
def test_numbers_of_other_kinds_are_read(tmp_path, column, values):
    data = HOPPER.load(str(d4rl_file(tmp_path / "a.hdf5", **{column: values})))
    assert len(data) == 7 and all(one.dtype == np.float32 for one in data.transitions.values())


def test_rewards_whose_sum_alone_is_too_large_for_float32_are_scaled(tmp_path):
    rewards = np.full(10, 3e38)
    rewards[3] = 0.0
    data = HOPPER.load(str(d4rl_file(tmp_path / "a.hdf5", rewards=rewards)))
    assert np.isfinite(data.transitions["rewards"]).all() and 0 < data.reward.scale < 1e-30
