"""What a run leaves behind stays whole: tables, files written at once, locks."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import write_atomically, write_json
from harness import record
from harness.record import Busy, TrialRecord, locked, write_arrays
from harness.table import Table, begin_with
from methods.core import BadInput
from tests.harness.command import held

PER_STEP = 3


def rows(step: int, count: int = PER_STEP) -> list[dict[str, Any]]:
    return [{"seed": i, "phase": "offline", "step": step, "return": step / 3 - i} for i in range(count)]


def filled(path: Path, steps: int = 3) -> Path:
    table = Table(path, 0)
    for number in range(1, steps + 1):
        table.append(rows(10 * number))
    return path


def steps_in(path: Path) -> list[int]:
    """The `step` of every row; fails where a row is not whole."""
    header, *lines = path.read_text().splitlines()
    assert header == "seed,phase,step,return" and path.read_text().endswith("\n")
    assert all(line.count(",") == 3 for line in lines)
    return [int(line.split(",")[2]) for line in lines]


# ---- tables ----


def test_rows_are_appended_and_found_again(tmp_path: Path) -> None:
    path = filled(tmp_path / "t.csv")
    before = path.read_bytes()
    table = Table(path, 30, rows_per_step=PER_STEP)
    assert table.steps == {10, 20, 30} and path.read_bytes() == before
    table.append(rows(40))
    assert table.steps == {10, 20, 30, 40} and path.read_bytes().startswith(before)
    assert steps_in(path) == [10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40]
    assert path.read_text().splitlines()[:3] == ["seed,phase,step,return", "0,offline,10,3.333333",
                                                 "1,offline,10,2.333333"]  # fmt: skip


def test_rows_past_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    path = filled(tmp_path / "t.csv")
    table = Table(path, 25)
    assert table.steps == {10, 20} and steps_in(path) == [10] * 3 + [20] * 3
    table.append(rows(30))
    assert steps_in(path) == [10] * 3 + [20] * 3 + [30] * 3
    assert Table(path, 0).steps == set() and not path.exists()  # nothing left to keep


def test_groups_with_too_few_rows_or_too_many_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table = Table(path, 0)
    for step, count in ((10, 3), (20, 2), (30, 4), (40, 3)):
        table.append(rows(step, count))
    assert Table(path, 40).steps == {10, 20, 30, 40}
    assert Table(path, 40, rows_per_step=3).steps == {10, 40} and steps_in(path) == [10] * 3 + [40] * 3


@given(cut=st.integers(0, 400), per_step=st.sampled_from([None, PER_STEP]))
def test_a_crash_at_any_byte_loses_incomplete_rows_alone(
    tmp_path_factory: pytest.TempPathFactory, cut: int, per_step: int | None
) -> None:
    path = filled(tmp_path_factory.mktemp("cut") / "t.csv")
    whole = path.read_text()
    os.truncate(path, min(cut, len(whole)))
    complete = whole[:cut].count("\n") - 1
    kept = max(complete if per_step is None else complete // per_step * per_step, 0)
    table = Table(path, 10**6, rows_per_step=per_step)
    lines = whole.splitlines(keepends=True)
    assert (path.read_text() if path.exists() else "") == ("".join(lines[: kept + 1]) if kept else "")
    table.append(rows(40))
    assert len(steps_in(path)) == kept + PER_STEP


DAMAGED = {
    b"seed,phase,step,return\n0,offline,10,\xff\n": ":2: is not UTF-8",
    b"seed,phase,return\n0,offline,1\n": ":1: no column 'step'",
    b"step,step\n1,1\n": ":1: two columns of one name",
    b"seed,phase,step,return\n0,offline,10.0,1\n": ":2: step '10.0' is no whole number",
    b"seed,phase,step,return\n0,offline,10,1\n0,offline,,1\n": ":3: step '' is no whole number",
    b"seed,phase,step,return\n0,offline," + b"1" * 10**6 + b",1\n": f":2: step '{'1' * 40}' is no whole number",
    b"seed,phase,step,return\n0,offline\n0,offline,10,1\n": ":2: 2 fields where the first line names 4 columns",
}


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_table_is_one_line_and_stays_as_it_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    for use in (lambda: Table(path, 10), lambda: begin_with(path, tmp_path / "other.csv")):
        with pytest.raises(BadInput) as caught:
            use()
        assert str(caught.value) == f"{path}{DAMAGED[data]}"
    assert path.read_bytes() == data and os.listdir(tmp_path) == ["t.csv"]


def test_a_table_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(OSError, match="is not a plain file"):
        Table(tmp_path / "t.csv", 10)


def test_rows_missing_below_the_resumed_step_are_told_and_the_file_kept(tmp_path: Path) -> None:
    """At the step itself they are a crash's, and the evaluation is done again."""
    path = filled(tmp_path / "t.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:-1]))
    before = path.read_bytes()
    table = Table(path, 30, rows_per_step=PER_STEP)
    assert table.steps == {20} and table.dropped == {10} and table.kept == tmp_path / "t.csv.kept"
    assert table.kept.read_bytes() == before and steps_in(path) == [20] * 3
    again = Table(path, 30, rows_per_step=PER_STEP)
    assert not again.dropped and again.kept is None


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "t.csv")
    before = path.read_bytes()
    for table in (Table(path, 30), Table(path, 30)):
        with pytest.raises(BadInput, match=r"t\.csv: columns .*'more'.* do not match .*--fresh"):
            table.append([row | {"more": 1} for row in rows(40)])
    assert path.read_bytes() == before


def test_cells(tmp_path: Path) -> None:
    row = {"step": 1, "a": np.float32(0.1), "b": np.float64(1 / 3), "c": np.int64(7), "d": 1e-12, "e": float("nan")}
    Table(tmp_path / "t.csv", 0).append([row])
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "1,0.1,0.3333333,7,1e-12,nan"


# ---- files written at once ----


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "f.json"
    write_json(path, {"a": 1})

    def fail(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            write_json(path, {"a": 2})
        with pytest.raises(OSError, match="No space"):
            write_arrays(path.with_name("x.npz"), {"a": np.zeros(3)})
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(path.parent) == ["f.json"]


KNOWN = {"suite": "toy", "task": "toy", "method": "bc", "fingerprint": "f", "config": {}, "seed": 3, "knobs": [],
         "episodes": 3, "evaluation_steps": []}  # fmt: skip


def test_a_record_outlives_its_sessions(tmp_path: Path) -> None:
    """Its time, evaluations, stages and the seeds beside it: what a later session has not come to yet stays."""
    first = TrialRecord(tmp_path, KNOWN)
    first.content["created"] = "long ago"
    first.add_seconds({"train": 1.5})
    stage = {"name": "behavior", "fingerprint": "s", "steps": 20}
    first.save(status="failed", error="why", evaluation_steps=[10, 20], stages=[stage], evaluated_with=[3, 4])
    assert record.status_of(tmp_path) == "failed"
    second = TrialRecord(tmp_path, KNOWN)
    second.add_seconds({"train": 2.0, "compile": 1.0})
    second.save()
    content = json.loads((tmp_path / "run.json").read_text())
    assert (content["status"], content["error"], content["created"]) == ("running", None, "long ago")
    assert content["wall_clock_s"] == {"train": 3.5, "compile": 1.0} and content["schema"] == 1
    assert (
        content["evaluation_steps"] == [10, 20] and content["stages"] == [stage] and content["evaluated_with"] == [3, 4]
    )
    assert content["seed"] == 3 and content["format"] == 2


@pytest.mark.parametrize(
    "text", ['{"status": "fini', "[]", "null", "3", '{"status": "finished"}', "[" * 10**5, '{"schema": ' + "9" * 5000,
             "\udcff"], ids=range(8),
)  # fmt: skip
def test_a_damaged_run_record_is_said_and_kept_and_made_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert record.status_of(tmp_path) is None and record.status_of(tmp_path / "none") is None
    with pytest.raises(BadInput, match=re.escape(str(path))):
        record.read_run(tmp_path)
    for name in ("run.json.kept", "run.json.kept-2"):
        damage = TrialRecord(tmp_path, KNOWN).damage
        assert damage and damage.startswith(str(path)) and damage.endswith(f"is kept as {name}") and "\n" not in damage
        assert (tmp_path / name).read_bytes() == path.with_name("run.json.kept").read_bytes()
        assert record.status_of(tmp_path) == "running" and TrialRecord(tmp_path, KNOWN).damage is None
        path.write_bytes((tmp_path / name).read_bytes())


def test_a_run_record_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(OSError, match="is not a plain file"):
        record.status_of(tmp_path)


# ---- locks ----


def test_a_second_process_is_told_who_is_at_it_until_that_one_dies(tmp_path: Path) -> None:
    asked = []

    class GivenUp(Exception):
        pass

    def wait(busy: Busy) -> None:
        asked.append(str(busy))
        if len(asked) == 2:
            raise GivenUp

    with held(tmp_path) as other:
        message = f"{tmp_path} is being written by process {other.pid}"
        with pytest.raises(Busy, match=f"{message}$"), locked(tmp_path):
            pytest.fail("two owners")
        with pytest.raises(GivenUp), locked(tmp_path, wait=wait):
            pytest.fail("two owners")
        assert asked == [message, message]
        other.kill()  # SIGKILL: it cannot tidy up
        other.wait()
        assert (tmp_path / "owner").read_text().split()[0] == str(other.pid)
        with locked(tmp_path):
            assert (tmp_path / "owner").read_text().split()[0] == str(os.getpid())
    assert not (tmp_path / "owner").exists()


def test_the_owners_name_follows_no_planted_link(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    (folder / "owner").symlink_to(victim)
    with locked(folder):
        assert (folder / "owner").read_text().split()[0] == str(os.getpid()) and not (folder / "owner").is_symlink()
    assert victim.read_text() == "precious"


def test_waiting_ends_with_the_lock(tmp_path: Path) -> None:
    asked = []
    with held(tmp_path) as other:

        def wait(busy: Busy) -> None:
            asked.append(busy)
            other.kill()

        with locked(tmp_path, wait=wait):
            assert asked


def test_a_lock_is_dropped_whatever_happens_inside(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path):
            raise ZeroDivisionError
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        pass
