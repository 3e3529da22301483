"""Stopped, killed, short of disk or started twice: the same command ends with the same results, bit by bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.harness.command import SMALL, TINY, Command, held, invoke

FINISHED_STEPS = {"behavior": 20, "critic": 40}


def run_folder(results: Path, method: str = "vgf", seed: int = 0) -> Path:
    """Of one seed."""
    (run,) = (results / "runs" / "toy" / "toy" / method).iterdir()
    return run / f"seed-{seed}"


def record_of(results: Path, method: str = "vgf", seed: int = 0) -> dict[str, Any]:
    return json.loads((run_folder(results, method, seed) / "run.json").read_text())


def statuses(results: Path) -> set[str]:
    """Those of all seeds' records; none while the parts that a run needs are still trained."""
    return {json.loads(path.read_text())["status"] for path in (results / "runs").rglob("run.json")}


def artifacts(results: Path, seed: int = 0) -> dict[str, Path]:
    """Folder of each finished lane of a seed, by its stage's name."""
    found = {}
    for folder in (results / "artifacts").iterdir():
        note = json.loads((folder / "stage.json").read_text())
        assert note["finished"] and note["step"] == FINISHED_STEPS[note["identity"]["stage"]]
        if note["identity"]["seed"] == seed:
            found[note["identity"]["stage"]] = folder
    return found


def parameters(folder: Path) -> dict[str, np.ndarray]:
    """Of a finished lane."""
    (path,) = (folder / "state").iterdir()
    return load_file(path)


def assert_same(results: Path, reference: Path) -> None:
    """Both hold the same finished work."""
    for seed in (0, 1):
        ours, theirs = artifacts(results, seed), artifacts(reference, seed)
        assert {name: folder.name for name, folder in ours.items()} == {
            name: folder.name for name, folder in theirs.items()
        }
        for name in theirs:
            assert snapshot(ours[name] / "state") == snapshot(theirs[name] / "state")
        assert (ours["behavior"] / "train.csv").read_text() == (theirs["behavior"] / "train.csv").read_text()
        one, two = run_folder(results, seed=seed), run_folder(reference, seed=seed)
        assert one.parent.name == two.parent.name and record_of(results, seed=seed)["status"] == "finished"
        for name in ("episodes.csv", "stages", "train.csv", "candidates.npz"):
            assert (one / name).read_bytes() == (two / name).read_bytes(), name


def snapshot(results: Path) -> dict[str, bytes]:
    return {str(path.relative_to(results)): path.read_bytes() for path in sorted(results.rglob("*")) if path.is_file()}


# ---- uninterrupted ----


@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_whole_run_leaves(reference: Path, seed: int) -> None:
    vgf = record_of(reference, seed=seed)
    assert [(stage["name"], stage["steps"], stage["origin"], stage["batch"]) for stage in vgf["stages"]] == [
        ("behavior", 20, "trained", 2), ("critic", 40, "trained", 2)]  # fmt: skip
    assert vgf["status"] == "finished" and vgf["error"] is None and vgf["evaluation_steps"] == [10, 20, 30, 40]
    assert vgf["seed"] == seed and vgf["format"] == 2 and vgf["evaluated_with"] == [0, 1]
    folder = run_folder(reference, seed=seed)
    assert [stage["fingerprint"] for stage in vgf["stages"]] == (folder / "stages").read_text().split()
    header, *rows = (folder / "episodes.csv").read_text().splitlines()
    assert header == "seed,phase,step,L_test,episode,return,length,success,score"
    cells = [row.split(",") for row in rows]
    assert [(int(row[2]), row[1]) for row in cells[:: 2 * 3]] == [
        (10, "offline"), (20, "offline"), (30, "offline"), (40, "final")]  # fmt: skip
    assert len(rows) == 4 * 2 * 3 and {row[0] for row in cells} == {str(seed)}
    train = (folder / "train.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in train[1:]] == [[str(seed), str(step)] for step in (10, 20, 30, 40)]
    assert not list(reference.rglob("*.tmp*")) and len(list((reference / "artifacts").iterdir())) == 4


def test_the_same_command_again_skips_and_changes_nothing(reference: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    before = snapshot(results)
    again = invoke(*SMALL, "--results", str(results))
    assert again.exit_code == 0 and again.stderr.count("finished before") == 1
    assert snapshot(results) == before


# ---- stopped and killed ----


@pytest.mark.parametrize(
    "accidents",
    [
        # halfway through the behaviour; at step 20, evaluated anew
        pytest.param(("harness.train:Trainer.run 1 after SIGTERM", "harness.evaluate:Evaluator.run 2 before SIGINT"),
                     marks=pytest.mark.slow),
        # step 40: trained to the end, but not evaluated
        pytest.param(("harness.train:Trainer.run 6 after SIGTERM",), marks=pytest.mark.slow),
    ],
    ids=["along", "at the end"],
)  # fmt: skip
def test_stopped_by_signals_and_continued(
    command: Command, reference: Path, tmp_path: Path, accidents: tuple[str, ...]
) -> None:
    arguments = (*SMALL, "--results", str(tmp_path))
    for accident in accidents:
        stopped = command.run(*arguments, accident=accident)
        assert stopped.returncode == 130, (accident, stopped.stderr)
        assert "the same command continues" in stopped.stderr
        assert statuses(tmp_path) == (set() if "Trainer.run 1 " in accident else {"interrupted"})
    finished = command.run(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert_same(tmp_path, reference)


EARLY = (
    "harness.train:Trainer.run 2 after SIGKILL",  # nothing of the behaviour is saved
    "harness.store:write_json 2 before SIGKILL",  # one lane is saved, the other not noted
    "harness.table:Table.append 10 after SIGKILL",  # step 20 is evaluated, the state on disk that of step 10
    "harness.control:write_arrays 2 before SIGKILL",  # all is done but one seed's candidates.npz
)
LATE = ("harness.store:LaneStore.save 4 before SIGKILL",)  # one critic is saved at step 10, the other not


@pytest.mark.parametrize("accidents", [LATE, pytest.param(EARLY, marks=pytest.mark.slow)], ids=["late", "early"])
def test_killed_and_continued(command: Command, reference: Path, tmp_path: Path, accidents: tuple[str, ...]) -> None:
    arguments = (*SMALL, "--results", str(tmp_path))
    for accident in accidents:
        killed = command.run(*arguments, accident=accident)
        assert killed.returncode == -signal.SIGKILL, (accident, killed.stderr)
        assert statuses(tmp_path) == (set() if accident in EARLY[:2] else {"running"})
        if "Table.append" in accident:
            episodes = run_folder(tmp_path) / "episodes.csv"
            os.truncate(episodes, episodes.stat().st_size - 9)  # as if the last row had been half-written
    finished = command.run(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert_same(tmp_path, reference)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_room_continues(command: Command, tmp_path: Path) -> None:
    """On a small disk of its own, filled just before the first state is saved, then freed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (f'mount -t tmpfs -o size=4m none {disk} && "$@"; echo code $?; rm {disk}/filler;'
              'python=$1; shift 4; "$python" -m harness.run "$@"; echo code $?')  # fmt: skip
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    arguments = (*TINY, "--methods", "bc", "--results", str(disk / "results"))
    accident = f"harness.store:LaneStore.save 1 before full:{disk}"
    process = command.start(*arguments, accident=accident, prefix=("unshare", "-rm", "sh", "-c", script, "sh"))
    out, err = process.communicate(timeout=300)
    assert out.split() == ["code", "2", "code", "0"], err
    (line,) = [line for line in err.splitlines() if "error" in line]
    assert line.startswith(f"error: {disk}/results is full ({disk}/results/artifacts/") and line.endswith(
        "/state/10.safetensors)"), err  # fmt: skip
    assert "1 of 1 runs finished" in err and "Traceback" not in err, err


# ---- --fresh, sharing, two at once ----


@pytest.mark.slow
def test_fresh_redoes_what_is_there_and_shared_work_once(reference: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    marks = [run_folder(results) / "mark", artifacts(results)["critic"] / "mark"]
    for mark in marks:
        mark.touch()
    again = invoke(*SMALL, "--results", str(results), "--fresh")
    assert again.exit_code == 0 and not any(mark.exists() for mark in marks)
    assert [stage["origin"] for stage in record_of(results)["stages"]] == ["trained", "trained"]
    assert_same(results, reference)


def curve(results: Path, method: str) -> list[int]:
    """Steps at which the run was evaluated, by its rows."""
    rows = (run_folder(results, method) / "episodes.csv").read_text().splitlines()[1:]
    return list(dict.fromkeys(int(row.split(",")[2]) for row in rows))


SHARING = ("ifql", "qgf", "bc")
SHARED = (*TINY, "--methods", ",".join(SHARING), "--set", "qgf.test_weights=0,1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runs that share stages leave."""
    results = tmp_path_factory.mktemp("shared")
    done = invoke(*SHARED, "--results", str(results))
    assert done.exit_code == 0, done.stderr
    return results


@pytest.mark.slow
def test_shared_stages_are_trained_once_and_cost_nobody_a_curve(whole: Path) -> None:
    """BC's only stage is IFQL's, too, which is named first; IFQL and QGF have one critic, which reads nothing: QGF's
    behaviour, which no lane reads, is trained before it, as QGF is evaluated along the critic."""
    names = SHARING
    origins = {name: [stage["origin"] for stage in record_of(whole, name)["stages"]] for name in names}
    assert origins == {"bc": ["shared"], "ifql": ["trained", "trained"], "qgf": ["trained", "shared"]}
    assert [curve(whole, name) for name in names] == [[10, 20, 30, 40]] * 2 + [[10, 20]]
    train = [(run_folder(whole, name) / "train.csv").read_text() for name in ("ifql", "qgf")]
    assert train[0] == train[1] and len(train[0].splitlines()) == 1 + 4


@pytest.mark.slow
def test_killed_while_stages_are_shared(command: Command, whole: Path, tmp_path: Path) -> None:
    """While IFQL is evaluated at its critic's step 20 and QGF is not yet: they continue as if nothing had been."""
    names, arguments, results = SHARING, SHARED, tmp_path
    # evaluations: BC's 2, then IFQL and QGF by turns
    accident = "harness.evaluate:Evaluator.run 6 before SIGKILL"
    killed = command.run(*arguments, "--results", str(results), accident=accident)
    assert killed.returncode == -signal.SIGKILL
    assert curve(results, "ifql") == [10, 20] and curve(results, "qgf") == [10]
    assert command.run(*arguments, "--results", str(results)).returncode == 0
    for name in names:
        for file in ("episodes.csv", "train.csv"):
            ours, theirs = ((run_folder(folder, name) / file).read_text() for folder in (results, whole))
            assert ours == theirs, (name, file)


@pytest.mark.slow
def test_runs_side_by_side_are_those_one_after_the_other(tmp_path: Path) -> None:
    names = ("bc", "bc_gaussian")
    for jobs in ("1", "2"):
        arguments = (*TINY, "--methods", ",".join(names), "--jobs", jobs, "--results", str(tmp_path / jobs))
        assert "2 of 2 runs finished" in invoke(*arguments).stderr
    for name in names:
        for file in ("episodes.csv", "train.csv", "stages"):
            one, two = ((run_folder(tmp_path / jobs, name) / file).read_text() for jobs in ("1", "2"))
            assert one == two, (name, file)


def test_other_test_time_settings_adopt_the_trained_critic(reference: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    shutil.rmtree(run_folder(results).parents[1])
    kept = snapshot(results / "artifacts")
    other = ("--methods", "vgf", "--set", "vgf.test_flow_steps=0,1", "--results", str(results))
    assert invoke(*SMALL, *other).exit_code == 0
    assert [stage["origin"] for stage in record_of(results)["stages"]] == ["shared", "shared"]
    rows = (run_folder(results) / "episodes.csv").read_text().splitlines()[1:]
    assert len(rows) == 2 * 3 and {row.split(",")[2] for row in rows} == {"40"}  # only its end can be evaluated
    assert snapshot(results / "artifacts") == kept


def test_a_seed_that_another_process_is_at_is_left_alone(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / run_folder(reference, seed=1).relative_to(reference)
    with held(folder) as other:
        line = f"{folder} is being written by process {other.pid}"
        done = invoke(*SMALL, "--results", str(tmp_path), "--fresh")
        assert done.exit_code == 1 and f"vgf on toy: skipped: {line}" in done.stderr
        assert not (tmp_path / "artifacts").exists() and not (folder / "run.json").exists()
        shutil.copytree(reference / "artifacts", tmp_path / "artifacts")
        done = invoke(*SMALL, "--results", str(tmp_path))  # the other seed is not kept waiting
        assert done.exit_code == 1 and f"vgf on toy, seed 1: skipped: {line}" in done.stderr
        assert "0 of 1 runs finished" in done.stderr
    assert record_of(tmp_path)["status"] == "finished" and not (folder / "run.json").exists()


@pytest.mark.slow
def test_waiting_for_a_shared_stage_can_be_stopped(command: Command, reference: Path, tmp_path: Path) -> None:
    with held(tmp_path / "artifacts" / artifacts(reference)["behavior"].name) as other:
        waiting = command.start(*TINY, "--methods", "bc", "--results", str(tmp_path))
        assert waiting.stderr
        line = waiting.stderr.readline()
        assert line.startswith("bc on toy: behavior, seed 0: waiting: ") and line.endswith(
            f"by process {other.pid}\n"
        ), line
        waiting.send_signal(signal.SIGTERM)
        _, rest = waiting.communicate(timeout=300)
        assert waiting.returncode == 130 and "the same command continues" in rest
