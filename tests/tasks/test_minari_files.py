"""Where Minari's datasets are found, and what is said of those that cannot be read."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import tasks
from core.files import draft_folder, sweep
from methods.core import Absent, BadInput
from tasks import check, throughput
from tasks.d4rl import suite as d4rl
from tasks.minari import data as minari_data
from tasks.minari import files as minari_files
from tests.tasks.conftest import command, of_another_user
from tests.tasks.minari_sets import amended, stored

pytestmark = [pytest.mark.usefixtures("d4rl_folders"), pytest.mark.filterwarnings("ignore:.*")]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Another place, to which links lead."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


# ---- links ----


@pytest.mark.parametrize(
    "link", ["", "mujoco", "mujoco/hopper", "mujoco/hopper/medium-v0", "mujoco/hopper/medium-v0/data"]
)
def test_a_store_on_another_disk_is_found_through_a_link(disk, link):
    stored("mujoco/hopper/medium-v0", "Hopper-v5")
    there = minari_data.root() / link
    shutil.move(there, disk / "moved")
    there.symlink_to(disk / "moved")
    assert minari_data.ids() == ["mujoco/hopper/medium-v0"]
    (task,) = tasks.select("d4rl", ["mujoco/hopper/medium-v0"])
    assert len(task.load()) == 12


def test_links_that_lead_back_end_the_search():
    stored("mujoco/hopper/medium-v0", "Hopper-v5")
    (minari_data.root() / "mujoco" / "again").symlink_to(minari_data.root())
    (minari_data.root() / "mujoco" / "self").symlink_to("self")
    assert minari_data.ids() == ["mujoco/hopper/medium-v0"]


def test_a_dataset_under_two_names_is_two_tasks(disk):
    stored("mujoco/hopper/medium-v0", "Hopper-v5")
    (minari_data.root() / "mine").symlink_to(minari_data.root() / "mujoco")
    assert minari_data.ids() == ["mine/hopper/medium-v0", "mujoco/hopper/medium-v0"]


def test_names_that_steer_a_terminal_are_none_and_brackets_are_printed(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "a [bold]x[/nonsense]"))
    stored("own/pendulum-v0", "Pendulum-v1")
    shutil.copytree(minari_data.root() / "own", minari_data.root() / "\x1b[31mred")
    assert minari_data.ids() == ["own/pendulum-v0"]
    said = command(check.app, "d4rl", "--tasks", "own--*,hopper-medium-local")
    assert said.exit_code == 0 and "1 there and sound, 1 absent" in said.stdout and "/nonsense]" in said.stdout


def test_a_broken_link_is_named():
    stored("mujoco/hopper/medium-v0", "Hopper-v5")
    path = minari_data.file("mujoco/hopper/medium-v0")
    path.unlink()
    path.symlink_to("/unplugged/main_data.hdf5")
    with pytest.raises(BadInput, match=rf"{path} is a broken link \(to /unplugged/main_data.hdf5\)"):
        minari_data.read("mujoco/hopper/medium-v0")
    meta = path.with_name("metadata.json")
    meta.unlink()
    meta.symlink_to("metadata.json")
    with pytest.raises(BadInput, match=f"cannot read {meta}: Too many levels of symbolic links"):
        minari_data.read("mujoco/hopper/medium-v0")


# ---- formats ----


def test_all_of_minari_s_formats_hold_the_same(monkeypatch):
    pytest.importorskip("pyarrow")
    found = []
    for kind in ("hdf5", "arrow", "parquet"):
        loaded = minari_data.read(stored(f"own/{kind}-v0", "Pendulum-v1", kind))
        found.append(loaded.columns)
        task = d4rl.get(f"own/{kind}-v0")
        first = task.load().provenance
        assert first.sha256 == task.load().provenance.sha256 and Path(first.path).exists()
    for columns in found[1:]:
        for name, column in columns.items():
            np.testing.assert_array_equal(column, found[0][name], err_msg=name)


def test_numbers_in_many_files_are_pinned_too():
    pytest.importorskip("pyarrow")
    task = d4rl.get(stored("own/pendulum-v0", "Pendulum-v1", "arrow"))
    task.load()
    first, second = (minari_data.file("own/pendulum-v0") / number for number in "01")
    first.rename(first.with_name("_"))
    second.rename(first)
    first.with_name("_").rename(second)
    with pytest.raises(BadInput, match="changed since its first use"):
        task.load()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda data: (data / "1" / "part-0.arrow").write_bytes(b"nonsense"), "its arrow files cannot be read"),
        (lambda data: shutil.rmtree(data / "1"), "its arrow files cannot be read"),
        (
            lambda data: amended("own/pendulum-v0", total_steps=13),
            "2 episodes with 12 steps; its metadata say 2 with 13",
        ),
        (lambda data: amended("own/pendulum-v0", data_format="zarr"), "kept as 'zarr'; read are hdf5, arrow, parquet"),
        (lambda data: amended("own/pendulum-v0", data_format="hdf5"), r"main_data\.hdf5: no such file"),
    ],
)
def test_damage_to_other_formats_is_told(spoil, line):
    pytest.importorskip("pyarrow")
    data = minari_data.folder(stored("own/pendulum-v0", "Pendulum-v1", "arrow")) / "data"
    spoil(data)
    with pytest.raises(BadInput, match=line) as caught:
        minari_data.read("own/pendulum-v0")
    assert str(data) in str(caught.value) and "\n" not in str(caught.value)


def test_arrow_without_pyarrow_says_what_is_missing(monkeypatch):
    pytest.importorskip("pyarrow")
    stored("own/pendulum-v0", "Pendulum-v1", "arrow")
    monkeypatch.delitem(sys.modules, "minari.dataset._storages.arrow_storage")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match="kept as arrow, which needs pyarrow: pip install pyarrow"):
        minari_data.read("own/pendulum-v0")


def test_the_layout_before_0_5_is_called_what_it_is():
    """Its metadata are attributes of the HDF5 file, and its ids have no namespace."""
    identity = stored("pen-human-v1", "Pendulum-v1")
    meta = minari_data.folder(identity) / "data" / "metadata.json"
    meta.unlink()
    with h5py.File(minari_data.folder(identity) / "data" / minari_files.FILE, "a") as file:
        file.attrs.update({"total_episodes": 2, "total_steps": 12, "minari_version": "0.4.3", "dataset_id": identity})
    for name in ("pen-human-v1", "./pen-human-v1"):
        with pytest.raises(Absent, match=r"pen-human-v1/data is a dataset of Minari before 0\.5.*minari download"):
            tasks.select("d4rl", [name])
    for name in ("pen-humn-v1", "../pen-human-v1", "a\0b", "x" * 5000):
        with pytest.raises(BadInput, match=r"no d4rl task matches|no Minari dataset"):
            tasks.select("d4rl", [name])


# ---- permissions, simulators, sizes ----


def test_a_file_of_another_user_is_named():
    stored("own/pendulum-v0", "Pendulum-v1")
    path = minari_data.file("own/pendulum-v0")
    task = d4rl.get("own/pendulum-v0")
    assert task.spec
    with of_another_user(path), pytest.raises(BadInput, match=r"cannot read .*: Permission denied$"):
        task.load()


def test_a_simulator_that_cannot_be_built_fails_alone(monkeypatch):
    """FrankaKitchen's model does not compile in today's MuJoCo: an AssertionError, without a word."""
    stored("own/hopper-v0", "Hopper-v5")
    kitchen = json.dumps({
        "id": "FrankaKitchen-v1", "entry_point": "gymnasium_robotics.envs.franka_kitchen:KitchenEnv",
        "reward_threshold": None, "nondeterministic": True, "max_episode_steps": 280, "order_enforce": True,
        "disable_env_checker": False, "kwargs": {}, "additional_wrappers": [], "vector_entry_point": None})  # fmt: skip
    amended(stored("own/kitchen-v0", "Hopper-v5"), env_spec=kitchen)
    amended(stored("own/novel-v0", "Hopper-v5"), env_spec=kitchen.replace("FrankaKitchen-v1", "Novel-v0").replace(
        "gymnasium_robotics", "no_such_package"))  # fmt: skip
    assert {"own--hopper-v0", "own--kitchen-v0", "own--novel-v0"} <= set(tasks.listed("d4rl")[0])
    said = command(check.app, "d4rl", "--tasks", "own--*")
    assert said.exit_code == 1 and "3 tasks: 1 there and sound, 0 absent, 2 wrong" in said.stdout
    for words in ("REFUSED:", "its simulator cannot be made: AssertionError", "no_such_package"):
        assert words in " ".join(said.stdout.replace("│", " ").split()) or words in said.stdout.replace("\n", "")
    monkeypatch.setattr(throughput, "memory", lambda task, rows: throughput.Memory(9.0, 1.5))
    names = "own--kitchen-v0,hopper-medium-v2"
    said = command(throughput.app, "--tasks", names, "--rows", "2", "--steps", "2", "--turns", "1")
    assert said.exit_code == 2 and "hopper-medium-v2" in said.stdout and said.stderr.count("error: ") == 1
    assert "error: own--kitchen-v0: own/kitchen-v0: its simulator cannot be made: AssertionError" in said.stderr


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"env_spec": "[" * 100_000}, "it cannot be used: RecursionError"),
        ({"env_spec": "3"}, "it cannot be used"),
        ({"action_space": "{}"}, "it cannot be used: KeyError: no 'type'"),
        ({"minari_version": "9.9"}, "does not support the dataset generated by Minari 9.9"),
        ({"env_spec": None}, "its simulator cannot be made: ValueError: Environment cannot be recovered"),
    ],
)
def test_metadata_that_say_nothing_usable_become_one_line(changes, line):
    task = d4rl.get(amended(stored("own/hopper-v0", "Hopper-v5"), **changes))
    with pytest.raises(BadInput, match=line) as caught:
        task.load()
    assert "\n" not in str(caught.value)


def test_an_episode_of_more_steps_than_memory_holds_is_refused():
    path = minari_data.file(stored("own/hopper-v0", "Hopper-v5"))
    with h5py.File(path, "a") as file:
        del file["episode_1/observations"]
        file["episode_1"].create_dataset("observations", (10**12, 11), "f4", chunks=(1000, 11))
    assert path.stat().st_size < 200_000
    with pytest.raises(BadInput, match=r"its numbers would take 44 TB; [\d,.]+ GB of memory are free"):
        d4rl.get("own/hopper-v0").load()


def test_without_a_home_names_are_listed_and_loading_says_what_to_set(monkeypatch):
    import pwd

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "OGBENCH_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert tasks.listed("d4rl")[0] == d4rl.PAPER_TASKS
    line = "~/.minari/datasets: no home directory is known for that; set MINARI_DATASETS_PATH to a folder for datasets"
    with pytest.raises(BadInput, match=line):
        d4rl.get("hopper-medium-v2").load()
    with pytest.raises(BadInput, match=r"~/.ogbench/data: no home directory is known for that; set OGBENCH_DATA_DIR"):
        tasks.suite("ogbench").get("cube-single-play-singletask-v0").load("download")


# ---- drafts ----


def test_a_draft_folder_appears_whole_or_not_at_all(tmp_path):
    before = os.umask(0o027)
    try:
        with draft_folder(tmp_path / "made") as draft:
            (draft / "a").mkdir()
            (draft / "a" / "b").write_text("c")
            assert not (tmp_path / "made").exists()
    finally:
        os.umask(before)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o750 and (tmp_path / "made" / "a" / "b").read_text() == "c"
    with pytest.raises(KeyboardInterrupt), draft_folder(tmp_path / "other"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_import_left_is_swept_at_the_next(tmp_path):
    left = minari_data.folder("own/hopper-v0").parent / ".hopper-v0.0123456789abcdef.tmp"
    (left / "data").mkdir(parents=True)
    os.utime(left, (0, 0))
    with draft_folder(left.parent / "alive") as alive:
        os.utime(alive, (0, 0))
        sweep(left.parent)
        assert alive.exists() and not left.exists()
