"""What became of stored files between two sessions: nothing is trained on, skipped or overwritten without a line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.files import digests
from harness import execute
from tests.harness.command import TINY, invoke, refused
from tests.harness.test_resume import record_of, run_folder, snapshot

BC = (*TINY, "--methods", "bc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, in a folder whose name is a pattern. Not to be changed."""
    results = tmp_path_factory.mktemp("damage") / "br [x]"
    done = invoke(*BC, "--results", str(results))
    assert done.exit_code == 0, done.stderr
    return results


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "results [y]"))


def again(results: Path, *more: str) -> tuple[int, list[str]]:
    """Exit code and what was said, but for scores and the last line, by the same command."""
    done = invoke(*BC, "--results", str(results), *more)
    return done.exit_code, [line for line in done.stderr.splitlines()[:-1] if ": score " not in line]


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def stopped(results: Path) -> Path:
    """As if seed 1 had been stopped between its last evaluation and its end. Returns its folder."""
    folder = run_folder(results, "bc", 1)
    change(folder / "run.json", status="interrupted", updated="then")
    return folder


def artifact(results: Path) -> Path:
    """Of seed 1's only lane."""
    (name,) = (run_folder(results, "bc", 1) / "stages").read_text().split()
    return results / "artifacts" / name


def unshared(results: Path) -> Path:
    """Without the records, so that the next run shares the lanes. Returns the folder of seed 1's."""
    folder = artifact(results)
    shutil.rmtree(results / "runs")
    return folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def weights(folder: Path) -> Path:
    return folder / "state" / "20.safetensors"


def of_seed_1(results: Path) -> dict[str, Any]:
    return record_of(results, "bc", 1)


BEFORE = "bc on toy, seed 0: finished before ({})"
"""Said of the seed that nothing happened to."""


def others(results: Path) -> str:
    return BEFORE.format(run_folder(results, "bc").parent.name)


# ---- records ----


def test_what_earlier_sessions_put_on_record_stays(results: Path) -> None:
    before = of_seed_1(results)
    folder = stopped(results)
    (folder / f".run.{'0' * 16}.tmp.json").write_text("a draft of a process that was killed")
    assert again(results) == (0, [others(results)])
    after = of_seed_1(results)
    assert after["status"] == "finished" and after["evaluation_steps"] == [10, 20]
    assert after["wall_clock_s"] == before["wall_clock_s"] and after["created"] == before["created"]
    assert [stage["fingerprint"] for stage in after["stages"]] == [artifact(results).name]
    assert not list(results.rglob("*.tmp*"))


def test_a_damaged_record_is_said_kept_and_made_anew(results: Path) -> None:
    """From the stage and the tables, which are there."""
    path = run_folder(results, "bc", 1) / "run.json"
    path.write_text("[]")
    tables = {name: (path.parent / name).read_bytes() for name in ("episodes.csv", "train.csv")}
    code, (before, line) = again(results)
    assert code == 0 and before == others(results)
    assert line.startswith(f"bc on toy, seed 1: {path}: Input should be a valid dictionary (it is [])"), line
    assert line.endswith("; made anew, the old one is kept as run.json.kept")
    assert path.with_name("run.json.kept").read_text() == "[]"
    assert of_seed_1(results)["status"] == "finished" and of_seed_1(results)["evaluation_steps"] == [10, 20]
    assert {name: (path.parent / name).read_bytes() for name in tables} == tables


def test_rows_that_cannot_be_had_again_are_named(results: Path) -> None:
    """One row of the evaluation at step 10, where the state is at step 20; a torn last evaluation is done again."""
    path = stopped(results) / "episodes.csv"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:-1]))
    damaged = path.read_text()
    code, said = again(results)
    assert code == 0 and said == [
        others(results),
        "bc on toy, seed 1: episodes.csv lacks rows of the evaluation at step 10: left out (the table as it was: "
        "episodes.csv.kept), as the state is at step 20; --fresh redoes the run"]  # fmt: skip
    assert of_seed_1(results)["evaluation_steps"] == [20] and of_seed_1(results)["status"] == "finished"
    assert path.read_text() == "".join(line for line in lines if ",10," not in line)
    assert path.with_name("episodes.csv.kept").read_text() == damaged
    path.unlink()
    stopped(results)
    assert again(results) == (
        0,
        [others(results)],
    )  # a table that is gone: the last evaluation is done again, no other was on record
    assert of_seed_1(results)["evaluation_steps"] == [20]


@pytest.mark.parametrize("name", ["episodes.csv", "train.csv"])
def test_a_damaged_table_ends_its_run_and_stays(results: Path, name: str) -> None:
    path = stopped(results) / name
    path.write_bytes(path.read_bytes().replace(b",10,", b",10.0,", 1))
    before = digests(results / "artifacts") | {name: path.read_bytes().hex()}
    code, said = again(results)
    line = f"{path}:2: step '10.0' is no whole number"
    assert code == 1 and said == [others(results), f"bc on toy, seed 1: failed: {line}"]
    assert of_seed_1(results)["status"] == "failed" and of_seed_1(results)["error"] == line
    assert digests(results / "artifacts") | {name: path.read_bytes().hex()} == before


# ---- parts ----


def test_damaged_parts_are_not_evaluated(results: Path) -> None:
    """The other seed's are."""
    folder = unshared(results)
    flip(weights(folder))
    before = digests(folder)
    code, said = again(results)
    line = f"{weights(folder)} is damaged (its SHA-256 is not the stored one); use --fresh to train anew"
    assert code == 1 and said == [f"bc on toy, seed 1: failed: {line}"]
    assert of_seed_1(results)["status"] == "failed" and of_seed_1(results)["error"] == line
    assert record_of(results, "bc", 0)["status"] == "finished"
    assert digests(folder) == before


def test_damaged_parts_are_not_gone_on_with(results: Path) -> None:
    """Of an unfinished lane, where they are read to train on."""
    folder = unshared(results)
    for lane in (results / "artifacts").iterdir():
        change(lane / "stage.json", finished=False)
    flip(weights(folder))
    code, said = again(results)
    line = f"{weights(folder)} is damaged (its SHA-256 is not the stored one); use --fresh to train anew"
    assert code == 1 and said == [f"bc on toy, seed 1: failed: {line}"]
    assert record_of(results, "bc", 0)["status"] == "finished" and of_seed_1(results)["error"] == line


OTHER = {"methods/behavior.py": "0" * 16, "methods/gone.py": "1" * 16}  # a method does not reach what is gone


def test_what_other_code_made_is_refused_reused_or_made_anew(results: Path) -> None:
    """A finished record, its lane, or one that was begun: never in silence."""
    folder, run = artifact(results), run_folder(results, "bc", 1)
    whole = {path: json.loads(path.read_text()) for path in (folder / "stage.json", run / "run.json")}
    said = "methods/behavior.py changed since bc on toy, seed 1 was trained"
    for path, note in whole.items():
        assert "methods/behavior.py" in note["code"]
        change(path, code=note["code"] | OTHER)
        before = snapshot(results)
        assert refused(*BC, "--results", str(results)) == (
            f"{said}; --stale redo makes it anew, --stale reuse takes what is there")  # fmt: skip
        code, lines = again(results, "--stale", "reuse")
        assert (code, lines) == (0, [f"{said}; reused", f"bc on toy: finished before ({run.parent.name})"])
        assert snapshot(results) == before
        path.write_text(json.dumps(note))
    change(folder / "stage.json", finished=False, code=whole[folder / "stage.json"]["code"] | OTHER)
    change(run / "run.json", status="interrupted")
    (folder / "mark").touch()
    assert refused(*BC, "--results", str(results)).startswith(said) and (folder / "mark").exists()
    assert again(results, "--stale", "redo") == (0, [f"{said}; made anew", others(results)])
    assert not (folder / "mark").exists() and of_seed_1(results)["stages"][0]["origin"] == "trained"
    assert json.loads((folder / "stage.json").read_text())["code"] == whole[folder / "stage.json"]["code"]
    assert again(results) == (0, [f"bc on toy: finished before ({run.parent.name})"])


# ---- adopted ----


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILT: dict[Callable[[Path], None], str] = {
    flip: "{} is damaged (its SHA-256 is not the stored one)", Path.unlink: "{} is missing",
    pipe: "{}: the stored parts cannot be read (is not a plain file: {})",
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
def test_spoilt_parts_are_not_adopted(results: Path, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = artifact(results)
    path = weights(folder)
    spoil(path)
    line = refused(*BC, "--results", str(tmp_path / "other"), "--adopt", str(folder))
    assert line.partition("; use --fresh")[0] == f"--adopt {folder}: " + SPOILT[spoil].format(path, path)
    assert not (tmp_path / "other").exists()


def test_what_is_adopted_is_verified_when_it_is_read(whole: Path, tmp_path: Path) -> None:
    before, other = snapshot(whole), tmp_path / "other"
    done = invoke(*BC, "--results", str(other), "--adopt", str(artifact(whole)))
    assert done.exit_code == 0 and snapshot(whole) == before, done.stderr
    assert of_seed_1(other)["stages"][0]["origin"] == "adopted"
    assert record_of(other, "bc", 0)["stages"][0]["origin"] == "trained"
    assert json.loads((artifact(other) / "stage.json").read_text())["files"]
    flip(weights(unshared(other)))
    assert again(other)[0] == 1


def test_stages_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    """A pipe is not waited for, and what is no fingerprint is no folder to delete."""
    stages = tmp_path / "stages"
    assert execute._stages(tmp_path) == []
    stages.write_text("0123456789ab\n../../x\n/x\nba9876543210\n")
    assert execute._stages(tmp_path) == ["0123456789ab", "ba9876543210"]
    stages.write_bytes(b"\xff")
    assert execute._stages(tmp_path) == []
    stages.unlink()
    os.mkfifo(stages)
    assert execute._stages(tmp_path) == []
