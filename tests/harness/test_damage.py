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


def again(results: Path) -> tuple[int, list[str]]:
    """Exit code and what was said, but for scores and the last line, by the same command."""
    done = invoke(*BC, "--results", str(results))
    return done.exit_code, [line for line in done.stderr.splitlines()[:-1] if ": score " not in line]


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def stopped(results: Path) -> Path:
    """As if the run had been stopped between its last evaluation and its end. Returns its folder."""
    folder = run_folder(results, "bc")
    change(folder / "run.json", status="interrupted", updated="then")
    return folder


def artifact(results: Path) -> Path:
    (folder,) = (results / "artifacts").iterdir()
    return folder


def unshared(results: Path) -> Path:
    """Without its run, so that the next one shares the stage. Returns the stage's folder."""
    shutil.rmtree(results / "runs")
    return artifact(results)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def weights(folder: Path) -> Path:
    return max((folder / "state" / "20" / "default" / "d").iterdir(), key=lambda path: path.stat().st_size)


# ---- records ----


def test_what_earlier_sessions_put_on_record_stays(results: Path) -> None:
    before = record_of(results, "bc")
    folder = stopped(results)
    (folder / f".run.{'0' * 16}.tmp.json").write_text("a draft of a process that was killed")
    assert again(results) == (0, [])
    after = record_of(results, "bc")
    assert after["status"] == "finished" and after["evaluation_steps"] == [10, 20]
    assert after["wall_clock_s"] == before["wall_clock_s"] and after["created"] == before["created"]
    assert [stage["fingerprint"] for stage in after["stages"]] == [artifact(results).name]
    assert not list(results.rglob("*.tmp*"))


def test_a_damaged_record_is_said_kept_and_made_anew(results: Path) -> None:
    """From the stage and the tables, which are there."""
    path = run_folder(results, "bc") / "run.json"
    path.write_text("[]")
    tables = {name: (path.parent / name).read_bytes() for name in ("episodes.csv", "train.csv")}
    code, (line,) = again(results)
    assert code == 0 and line.startswith(f"bc on toy: {path}: Input should be a valid dictionary (it is [])"), line
    assert line.endswith("; made anew, the old one is kept as run.json.kept")
    assert path.with_name("run.json.kept").read_text() == "[]"
    assert record_of(results, "bc")["status"] == "finished" and record_of(results, "bc")["evaluation_steps"] == [10, 20]
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
        "bc on toy: episodes.csv lacks rows of the evaluation at step 10: left out (the table as it was: "
        "episodes.csv.kept), as the state is at step 20; --fresh redoes the run"]  # fmt: skip
    assert record_of(results, "bc")["evaluation_steps"] == [20] and record_of(results, "bc")["status"] == "finished"
    assert path.read_text() == "".join(line for line in lines if ",10," not in line)
    assert path.with_name("episodes.csv.kept").read_text() == damaged
    path.unlink()
    stopped(results)
    assert again(results) == (0, [])  # a table that is gone: the last evaluation is done again, no other was on record
    assert record_of(results, "bc")["evaluation_steps"] == [20]


@pytest.mark.parametrize("name", ["episodes.csv", "train.csv"])
def test_a_damaged_table_ends_its_run_and_stays(results: Path, name: str) -> None:
    path = stopped(results) / name
    path.write_bytes(path.read_bytes().replace(b",10,", b",10.0,", 1))
    before = digests(results / "artifacts") | {name: path.read_bytes().hex()}
    code, said = again(results)
    line = f"{path}:2: step '10.0' is no whole number"
    assert code == 1 and said == [f"bc on toy: failed: {line}"]
    assert record_of(results, "bc")["status"] == "failed" and record_of(results, "bc")["error"] == line
    assert digests(results / "artifacts") | {name: path.read_bytes().hex()} == before


# ---- parts ----


def test_damaged_parts_are_not_evaluated(results: Path) -> None:
    folder = unshared(results)
    flip(weights(folder))
    before = digests(folder)
    code, said = again(results)
    line = f"{weights(folder)} is damaged (its SHA-256 is not the stored one); use --fresh to train anew"
    assert code == 1 and said == [f"bc on toy: failed: {line}"]
    assert record_of(results, "bc")["status"] == "failed"
    assert digests(folder) == before


def test_parts_of_other_code_are_used_with_a_line(results: Path) -> None:
    """So is a run that is skipped as finished; older ones know of the commit alone, and of no digests."""
    folder, run = artifact(results), run_folder(results, "bc")
    for path in (folder / "stage.json", run / "run.json"):
        code = json.loads(path.read_text())["code"]
        assert "methods/behavior.py" in code
        change(path, code=code | {"methods/behavior.py": "0" * 16, "methods/gone.py": "1" * 16})
    said = "made by other code (methods/behavior.py, methods/gone.py changed since); --fresh redoes it"
    assert again(results) == (0, [f"bc on toy: finished before ({run.name})", f"bc on toy: {said}"])
    note = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps({name: note[name] for name in note if name not in ("files", "code")}))
    change(folder / "stage.json", git={"sha": "x", "dirty": False})
    unshared(results)
    assert again(results) == (0, [
        "bc on toy: behavior: was stored without digests: whether it is whole cannot be verified",
        "bc on toy: behavior: made by other code (x); --fresh redoes it"])  # fmt: skip
    (stage,) = record_of(results, "bc")["stages"]
    assert stage["git"] == {"sha": "x", "dirty": False} and stage["code"] is None


def test_what_other_code_began_is_gone_on_with_and_said(results: Path) -> None:
    folder = unshared(results)
    code = json.loads((folder / "stage.json").read_text())["code"]
    change(folder / "stage.json", finished=False, code=code | {"harness/train.py": "0" * 16})
    said = "its first steps were made by other code (harness/train.py changed since); --fresh redoes it"
    assert again(results) == (0, [f"bc on toy: behavior: {said}"])
    assert json.loads((folder / "stage.json").read_text())["code"] == code


# ---- adopted ----


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


SPOILT: dict[Callable[[Path], None], str] = {
    flip: "{} is damaged (its SHA-256 is not the stored one)", Path.unlink: "{} is missing",
    pipe: "is neither a file nor a folder: {folder}/{}", link: "is neither a file nor a folder: {folder}/{}",
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
def test_spoilt_parts_are_not_adopted(results: Path, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = artifact(results)
    path = weights(folder)
    spoil(path)
    line = refused(*BC, "--results", str(tmp_path / "other"), "--adopt", str(folder))
    assert line == f"--adopt {folder}: " + SPOILT[spoil].format(path.relative_to(folder), folder=folder)
    assert not (tmp_path / "other").exists()


def test_what_is_adopted_is_verified_when_it_is_read(whole: Path, tmp_path: Path) -> None:
    before, other = snapshot(whole), tmp_path / "other"
    done = invoke(*BC, "--results", str(other), "--adopt", str(artifact(whole)))
    assert done.exit_code == 0 and snapshot(whole) == before, done.stderr
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
