"""Collected datasets: their form, and that they are the same however they were made."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from methods.core import BadInput
from tasks.ogbench import collect
from tests.tasks.conftest import CUBE


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def validation(path: Path) -> Path:
    return path.with_name(f"{path.stem}-val.npz")


def test_file_has_the_benchmarks_form(cube_file):
    file = read(cube_file)
    rows = 12 * 61
    assert {name: (column.shape, column.dtype.name) for name, column in file.items() if name != "recipe"} == {
        "observations": ((rows, 28), "float32"),
        "actions": ((rows, 5), "float32"),
        "terminals": ((rows,), "bool"),
        "qpos": ((rows, 21), "float32"),
        "qvel": ((rows, 20), "float32"),
    }
    assert np.flatnonzero(file["terminals"]).tolist() == [61 * i + 60 for i in range(12)]
    assert len(read(validation(cube_file))["terminals"]) == 61  # a tenth, at least one
    assert collect.recipe_of(cube_file).items() >= CUBE.items()
    # qpos is that of the observed state: the arm's joints are the observation's first six entries
    np.testing.assert_array_equal(file["qpos"][:, :6], file["observations"][:, :6])


def test_episodes_differ_and_move_the_cube(cube_file):
    cube = read(cube_file)["qpos"].reshape(12, 61, -1)[:, :, 14:17]
    assert len(np.unique(cube[:, 0], axis=0)) == 12
    assert (np.ptp(cube, axis=1).max(axis=-1) > 0.05).any()  # metres
    assert not np.array_equal(cube[0, 0], read(validation(cube_file))["qpos"][0, 14:17])


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_file(tmp_path):
    """On scenes, where an episode leaves locks behind in the simulator that the next one in that worker gets."""
    files = [collect.collect("scene-play-v0", 6, 0, workers, tmp_path / f"{workers}.npz", progress=False, steps=61)
             for workers in (1, 2)]  # fmt: skip
    assert files[0].read_bytes() == files[1].read_bytes()
    assert validation(files[0]).read_bytes() == validation(files[1]).read_bytes()
    buttons = read(files[0])["button_states"].reshape(6, 61, 2)
    assert (buttons[:, 0] != buttons[:, -1]).any(axis=-1)[:5].any(), "no lock was ever worked: choose another seed"


@pytest.mark.slow
def test_a_share_of_the_episodes_is_poor(cube_file, tmp_path):
    """Two of four, evenly among the others, which are those of a file without any."""
    recipe = collect.Recipe("cube-single-play-v0", 10, 0, poor=0.9)
    assert [recipe.is_poor(i) for i in range(10)] == [False] + 9 * [True] and recipe.record["poor"] == 0.9
    assert "poor" not in collect.recipe_of(cube_file)
    file = read(collect.collect(CUBE["dataset"], 4, CUBE["seed"], 1, tmp_path / "a.npz", progress=False,
                                steps=CUBE["steps"], poor=0.5))  # fmt: skip
    mixed, play = (of["actions"].reshape(-1, CUBE["steps"], 5) for of in (file, read(cube_file)))
    np.testing.assert_array_equal(mixed[[0, 2]], play[[0, 2]])
    random = mixed[[1, 3]]
    assert abs(random.mean()) < 0.05 and abs(random.std() - 1 / np.sqrt(3)) < 0.02
    with pytest.raises(BadInput, match="poor must be at least 0 and below 1, not 1"):
        collect.collect(CUBE["dataset"], 4, 0, 1, tmp_path / "b.npz", poor=1)


# A job in the background, as CI's may be, ignores Ctrl-C, and so would its children.
HEEDING = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("tasks.collect", run_name="__main__", alter_sys=True)
"""
LONG = {**CUBE, "episodes": 1000}  # starts with the shared dataset's episodes; no test waits for its end


def start(out: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """The command line, collecting `LONG` with one worker, once it has made one more shard."""
    command = [sys.executable, "-c", HEEDING, LONG["dataset"], "--out", str(out), "--workers", "1"]
    for option in ("episodes", "seed", "steps"):
        command += [f"--{option}", str(LONG[option])]
    before = len(shards_of(out))
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(shards_of(out)) == before:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.005)
    return run, psutil.Process(run.pid).children(recursive=True)


def shards_of(out: Path) -> dict[Path, int]:
    """Every finished shard with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in Path(f"{out}.parts").glob("train-*.npz")}


@pytest.mark.slow
def test_stopped_and_killed_collections_continue(cube_file, tmp_path):
    out = tmp_path / "long.npz"
    run, children = start(out)
    run.send_signal(signal.SIGINT)
    message = run.communicate(timeout=60)[1]
    assert not psutil.wait_procs(children, timeout=60)[1]
    assert run.returncode == 130
    assert "Traceback" not in message
    assert "stopped; the same command continues" in message
    stopped = shards_of(out)

    run, children = start(out)
    run.kill()
    assert not psutil.wait_procs(children, timeout=60)[1]
    run.wait()
    kept = shards_of(out)
    assert len(kept) > len(stopped)
    assert stopped.items() <= kept.items()  # nothing was made twice
    with pytest.raises(BadInput, match=r"unfinished collection with seed 3, not 4"):
        collect.collect(**{**LONG, "seed": 4}, workers=1, out=out, progress=False)
    assert shards_of(out) == kept

    # finishing it: the same shards, as if they were left by a collection of twelve episodes
    recipe = Path(f"{out}.parts") / "recipe.json"
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "episodes": CUBE["episodes"]}))
    for path in kept:
        if path.name >= "train-000010":
            path.unlink()
    collect.collect(**CUBE, workers=1, out=out, progress=False)
    assert out.read_bytes() == cube_file.read_bytes()
    assert validation(out).read_bytes() == validation(cube_file).read_bytes()
    assert not Path(f"{out}.parts").exists()


def test_a_complete_file_is_kept_and_another_recipe_refused(cube_file):
    before = cube_file.stat().st_mtime_ns
    collect.collect(**CUBE, workers=1, out=cube_file, progress=False)
    assert cube_file.stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="was made otherwise"):
        collect.collect(**{**CUBE, "episodes": 13}, workers=1, out=cube_file, progress=False)


@pytest.mark.parametrize("text", ["[]", "null", "3", "[" * 100_000, "9" * 5000, "{", '{"dataset": 3}'])
def test_an_unreadable_recipe_of_an_unfinished_collection_is_named(tmp_path, text):
    settings = tmp_path / "a.npz.parts" / "recipe.json"
    settings.parent.mkdir()
    settings.write_text(text)
    with pytest.raises(BadInput, match=r"a\.npz\.parts(/recipe\.json| holds .* dataset 3, not cube)") as caught:
        collect.collect(**CUBE, workers=1, out=tmp_path / "a.npz", progress=False)
    assert "\n" not in str(caught.value) and settings.read_text() == text


@pytest.mark.parametrize(
    "recipe", ["[]", "3", "{", "{}", '{"dataset": "a", "episodes": "2", "seed": 0}', "[" * 100_000]
)
def test_a_file_whose_recipe_is_none_is_named(tmp_path, recipe):
    collect.save(tmp_path / "a.npz", {"recipe": np.array(recipe)})
    with pytest.raises(BadInput, match=r"a\.npz: recipe") as caught:
        collect.recipe_of(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)
    collect.save(tmp_path / "b.npz", {"observations": np.zeros(3)})
    assert collect.recipe_of(tmp_path / "b.npz") == {}


def test_a_damaged_shard_is_named(tmp_path):
    parts = tmp_path / "a.npz.parts"
    parts.mkdir()
    for name, _ in collect.Recipe(**CUBE).shards():
        (parts / name).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BadInput, match=r"val-000000\.npz is not an NPZ file of numbers, or it is truncated or damaged"):
        collect.collect(**CUBE, workers=1, out=tmp_path / "a.npz", progress=False)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"dataset": "cube-singel-play-v0"}, "did you mean 'cube-single-play-v0'"),
        ({"dataset": "antmaze-large-navigate-v0"}, "cannot generate 'antmaze-large-navigate-v0'"),
        ({"episodes": 0}, "episodes must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"steps": 1}, "steps must be at least 2, not 1"),
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"out": "data.hdf5"}, "must end in .npz"),
    ],
)
def test_bad_arguments_are_named(tmp_path, change, line):
    arguments = {**CUBE, "workers": 1, "out": "data.npz", **change}
    with pytest.raises(BadInput, match=line):
        collect.collect(**{**arguments, "out": tmp_path / arguments["out"]})
    assert not list(tmp_path.iterdir())


def test_command_line_names_what_is_unknown_before_what_is_missing():
    for arguments, line in ((["cube-singl-play-v0"], "did you mean 'cube-single-play-v0'"),
                            (["cube-single-play-v0"], "needs --out PATH.npz"),
                            (["d4rl/hopper-medium-v2"], "did you mean 'd4rl/hopper-medium'")):  # fmt: skip
        run = subprocess.run([sys.executable, "-m", "tasks.collect", *arguments], capture_output=True, text=True)
        assert run.returncode == 2 and line in " ".join(run.stderr.split()), run.stderr


def test_command_line_names_the_place_it_cannot_write(tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "tasks.collect", "cube-single-play-v0", "--out", str(tmp_path / "file/a.npz")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert str(tmp_path / "file/a.npz") in run.stderr


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"cannot write .*a\.npz: No space left on device"):
        collect.save(tmp_path / "a.npz", {"observations": np.zeros(3)})
    assert not list(tmp_path.iterdir())


def test_scene_health_check():
    fine, right, left, drawer = (0.4, 0.0, 0.02), (0.4, 0.29, 0.02), (0.4, -0.3, 0.05), (0.33, -0.36, 0.066)
    for positions, visible in (([fine, drawer], True), ([fine, right], False), ([left, fine], False)):
        assert collect._cube_stays_visible(np.array(positions)) == visible


@pytest.mark.slow
@pytest.mark.parametrize("dataset", collect.DATASETS)
def test_every_dataset_can_be_made(dataset, tmp_path):
    file = read(collect.collect(dataset, 2, 0, 2, tmp_path / "a.npz", progress=False, steps=151))
    assert len(file["terminals"]) == 2 * 151
    assert np.abs(np.diff(file["observations"].reshape(2, 151, -1), axis=1)).max(axis=(1, 2)).min() > 0
