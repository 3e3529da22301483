"""What cannot be done is said in one line that names it; nothing is written, and what else can go on does."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from harness import record
from harness.arrays import ArrayFormat
from harness.store import LaneStore
from tasks.ogbench import suite as ogbench
from tests.harness.command import TINY, Command, invoke, refused

ANT = ("--suite", "ogbench", "--tasks", "antmaze-medium-navigate-singletask-v0", "--preset", "smoke")
CUBE = ("--suite", "ogbench", "--tasks", "cube-single-play-singletask-v0", "--preset", "smoke")


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("--methods vgf,fqll", "unknown method 'fqll'; did you mean 'fql'?"),
        ("--methods xyz", "unknown method 'xyz'; valid: avgf, bc, bc_gaussian, best_of_n, "),
        ("--suite ogbenhc", "unknown suite 'ogbenhc'; did you mean 'ogbench'?"),
        ("--list --suite ogbenhc", "unknown suite 'ogbenhc'; did you mean 'ogbench'?"),
        ("--tasks to", "no suite has a task that matches 'to'; did you mean 'toy'?"),
        ("--tasks cube-*,pong", "no suite has a task that matches 'pong'; python -m harness.run --list prints"),
        ("--tasks hopper-medium-v2,hopper-medim-v2", "no suite has a task that matches 'hopper-medim-v2'; did you "),
        (
            "--tasks hopper-medium-v2,toy",
            "'hopper-medium-v2' is of d4rl, 'toy' is of toy: a command takes tasks of one",
        ),
        (
            "--tasks *",
            "toy and ogbench and ogbench-goals and d4rl and tldr and hh and tldr-synthetic and hh-synthetic and "
            "tldr-local have tasks",
        ),
        ("--tasks ,", "--tasks ',' names no task"),
        ("--tasks mujoco--hopper--absent-v0", "no Minari dataset mujoco/hopper/absent-v0 in "),
        ("--suite d4rl --tasks mujoco/hopper/absent-v0", "no Minari dataset mujoco/hopper/absent-v0 in "),
        ("--suite toy --tasks to", "no toy task matches 'to'; did you mean 'toy'?"),
        ("--suite ogbench --tasks cube-*,pong-*", "no ogbench task matches 'pong-*'; "),
        ("--preset papre", "unknown preset 'papre' for suite toy; did you mean 'paper'?"),
        ("--set vgf.step_sise=1", "--set step_sise: no such setting in vgf; did you mean 'step_size'?"),
        ("--set n_particels=1", "--set n_particels: no such setting in any of vgf, "),
        ("--set vgff.alpha=1", "--set vgff.alpha: unknown method 'vgff'; did you mean 'vgf'?"),
        ("--set task.success_timing=pre", "task.success_timing: toy tasks have no such choice; it has none"),
        (
            "--suite ogbench --tasks cube-single-* --set task.success_timing=late",
            "task.success_timing=late: expected one of post, pre",
        ),
        ("--suite d4rl --tasks hopper-medum-local", "no d4rl task matches 'hopper-medum-local'; "),
        ("--suite d4rl --tasks hopper-medium-v2 --data generate", "hopper-medium-v2 is D4RL's own and cannot be "),
        ("--set fql.alpha=1 --methods vgf", "--set fql.alpha: fql is not among --methods vgf"),
        ("--set vgf.step_size=big", "--set: step_size=big is not a number"),
        ("--set vgf.step_size=-1", "--set: step_size=-1 is not positive"),
        ("--set sampler=flaw", "--set: sampler=flaw is not one of flow, gaussian, diffusion"),
        ("--set test_flow_steps=,", "--set: test_flow_steps=, is not a list of values"),
        ("--set vgf.step_size", "--set 'vgf.step_size': expected [METHOD.]KEY=VALUE"),
        ("--set behavior=joint --set bank=4 --methods vgf", "vgf.bank=4 needs behavior=pretrained"),
        ("--steps 0", "--steps: steps=0 is not positive"),
        ("--seeds 0", "--seeds 0: expected how many (5), a range (3-7) or a list (0,4,9)"),
        ("--evaluate-every -5", "--evaluate-every -5: expected at least 1"),
        ("--episodes 0", "--episodes 0: expected at least 1"),
        ("--data-episodes 0", "--data-episodes 0: expected at least 1"),
        ("--data nowhere.npz", "the toy task makes its own data"),
    ],
)
def test_one_line_and_nothing_written(arguments: str, line: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert refused(*arguments.split(), "--results", str(results)).startswith(line)
    assert not results.exists()


# ---- data ----


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of datasets, and hosts that nobody answers for."""
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "data"))
    for name, source in list(ogbench.SOURCES.items()):
        monkeypatch.setitem(ogbench.SOURCES, name, source._replace(urls=("https://127.0.0.1:9/a",)))
    return tmp_path / "data"


def test_data_that_are_not_there(data_folder: Path, tmp_path: Path) -> None:
    results = ("--results", str(tmp_path / "results"))
    line = refused(*ANT, *results, "--data", str(tmp_path / "no.npz"))
    assert line.startswith(f"no such file: {tmp_path}/no.npz")
    assert refused(*ANT, *results, "--data", "generate").startswith("antmaze-medium-navigate-v0 cannot be generated")
    line = refused(*ANT, *results, "--data", "download")
    assert line.startswith("missing download: antmaze-medium-navigate-v0.npz (127.0.0.1: ")
    assert line.endswith("; use --data PATH")
    line = refused(*CUBE, *results, "--data", "download")
    assert line.endswith("; use --data generate or --data PATH")
    assert not (tmp_path / "results").exists() and {path.suffix for path in data_folder.iterdir()} == {".lock"}


def test_data_that_are_damaged(data_folder: Path, tmp_path: Path) -> None:
    results, whole = ("--results", str(tmp_path / "results")), tmp_path / "whole.npz"
    np.savez(whole, observations=np.zeros((4, 29)), actions=np.zeros((4, 8)), terminals=[0, 0, 0, 1.0])
    cut, text, empty = (tmp_path / name for name in ("cut.npz", "text.npz", "empty.npz"))
    cut.write_bytes(whole.read_bytes()[:-300])
    text.write_text("observations")
    empty.touch()
    for path, complaint in ((cut, "truncated"), (text, "not an NPZ file"), (empty, "is empty"),
                            (whole, "column 'qpos' is missing")):  # fmt: skip
        line = refused(*ANT, *results, "--data", str(path))
        assert str(path) in line and complaint in line
    assert not (tmp_path / "results").exists()


# ---- where results go ----


def test_results_that_are_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text("mine")
    for results in (path, path / "below"):
        assert refused(*TINY, "--methods", "bc", "--results", str(results)).startswith(f"{results} is not a folder")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("number, complaint", [
    (errno.ENOSPC, "is full"), (errno.EROFS, "is read-only"), (errno.EACCES, "is not writable"),
    (errno.EDQUOT, "is over quota"),
])  # fmt: skip
def test_results_that_cannot_be_written(
    number: int, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(record.os, "fsync", fail)
    assert refused(*TINY, "--methods", "bc", "--results", str(tmp_path / "r")) == f"{tmp_path}/r {complaint}"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_other_failures_of_the_system_are_a_run_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if "/runs/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, "broken")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    done = invoke(*TINY, "--methods", "bc,bc_gaussian", "--results", str(tmp_path / "r"))
    assert done.exit_code == 1 and "0 of 2 runs finished" in done.stderr
    assert done.stderr.count("failed: OSError: broken") == 4  # two seeds each


def test_a_read_only_disk(command: Command, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o ro none {tmp_path} && "$@"'
    prefix = ("unshare", "-rm", "sh", "-c", script, "sh")
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    process = command.start(*TINY, "--methods", "bc", "--results", str(tmp_path / "r"), prefix=prefix)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and err.startswith(f"error: {tmp_path}/r is read-only") and err.count("\n") == 1, err


def test_a_disk_that_is_full_for_safetensors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library has errors of its own, which keep the system's number in their text alone."""

    class Full(ArrayFormat):
        def write(self, path: Path, parts: Any) -> None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError) as caught:
        LaneStore(tmp_path, {}, Full()).save(1, {"part": {"w": np.zeros(2)}})
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "state" / "1.safetensors")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ---- divergence ----


def test_a_run_that_diverges_says_where_and_the_others_go_on(tmp_path: Path) -> None:
    """A setting of the sweep, of one seed or of all, fails alone, though the other trains in the same program."""
    arguments = (*TINY, "--evaluate-every", "40", "--methods", "bc", "--sweep",
                 "bc.learning_rate=1e30,1e-3", "--results", str(tmp_path))  # fmt: skip
    done = invoke(*arguments)
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr
    found = {}
    for path in (tmp_path / "runs" / "toy" / "toy" / "bc").glob("*/*/run.json"):
        content = json.loads(path.read_text())
        found[content["config"]["learning_rate"]["value"], content["seed"]] = content["status"], content["error"]
    assert found == {(1e-3, seed): ("finished", None) for seed in (0, 1)} | {
        (1e30, seed): ("failed", f"stage behavior: behavior/loss not finite at step 2, seed {seed}")
        for seed in (0, 1)}  # fmt: skip
    for seed in (0, 1):
        assert f"bc on toy (learning_rate=1e30), seed {seed}: failed: {found[1e30, seed][1]}\n" in done.stderr
    notes = [json.loads(path.read_text()) for path in (tmp_path / "artifacts").glob("*/stage.json")]
    assert sorted(note["identity"]["seed"] for note in notes if note["finished"]) == [0, 1]
