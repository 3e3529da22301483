"""Reading records: nothing is lost in silence, and what is wrong is named with its file and line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from analysis.records.files import RecordError
from analysis.records.load import load
from tests.analysis import load_speed
from tests.analysis.synthetic import LAYOUTS, write_run

KNOBS = {"L_test": [0, 1]}


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def note(notes: list[str], *parts: str) -> str:
    """The only note that has all the parts."""
    found = [line for line in notes if all(part in line for part in parts)]
    assert len(found) == 1, (parts, notes)
    assert "\n" not in found[0]
    return found[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_frame_over_runs(tmp_path: Path, layout: str) -> None:
    write_run(tmp_path, "vgf", knobs=KNOBS, seeds=3, episodes=4, evaluations=2)
    write_run(tmp_path, "fql", seeds=2, episodes=4, evaluations=2)
    write_run(tmp_path, "bc", "d4rl", "hopper", seeds=2, episodes=4, evaluations=1)
    LAYOUTS[layout](tmp_path)
    records = load(tmp_path)
    rows = records.episodes
    assert not records.notes
    assert len(rows) == 2 * 3 * 2 * 4 + 2 * 2 * 4 + 2 * 4
    assert records.knobs == ("L_test",) and {run.method for run in records.runs} == {"vgf", "fql", "bc"}
    assert set(rows["setting"]) == {"", "L_test=0", "L_test=1"}
    assert rows.loc[rows["method"] != "vgf", "L_test"].isna().all()
    assert rows["score"].dtype == np.float32 and rows["complete"].all()
    assert rows["suite"].dtype == "category" and rows["setting"].dtype == "category"
    assert set(rows.loc[rows["step"] == 2000, "phase"]) == {"final"}
    assert len(records.runs[0].train([])) > 0 and records.runs[0].candidates([]) is None


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no runs under .*runs"):
        load(tmp_path)


def test_nothing_yet_is_allowed_when_asked_for(tmp_path: Path) -> None:
    records = load(tmp_path, empty=True)
    note(records.notes, "no runs under")
    assert records.runs == () and len(records.episodes) == 0 and list(records.each()) == []
    assert {"task", "step", "setting", "score", "complete"} < set(records.episodes)


def test_each_run_has_its_own_rows(tmp_path: Path) -> None:
    write_run(tmp_path, "vgf", knobs=KNOBS, seeds=2, episodes=3, evaluations=2, effect=lambda t, s: 7.0)
    write_run(tmp_path, "bc", seeds=1, episodes=3, evaluations=2, status="running")
    path = next(tmp_path.glob("runs/*/*/bc/*")) / "episodes.csv"
    path.write_text("\n".join(path.read_text().split("\n")[:-2]) + "\n")  # without its last row
    found = {run.method: rows for run, rows in load(tmp_path).each()}
    assert list(found) == ["bc", "vgf"] and len(found["bc"]) == 3 and len(found["vgf"]) == 24
    for method, rows in found.items():
        assert set(rows["method"]) == {method} and rows["complete"].all()


def test_half_written_last_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path, seeds=2, episodes=5, evaluations=2, status="running")
    path = folder / "episodes.csv"
    path.write_text(path.read_text()[:-4])  # the number reads as a whole one, but its line has not ended
    records = load(tmp_path)
    note(records.notes, str(path), "half-written")
    note(records.notes, "toy/toy/fql", "step 2000 has 9 of 10", "left out")
    note(records.notes, "was killed (or stopped) before its end, last written 20", "UTC; shown as of step 1000")
    assert len(records.episodes) == 19
    assert records.episodes.loc[records.episodes["complete"], "step"].unique().tolist() == [1000]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0,final,1000,0,0.5,1,1", "7 fields instead of 8"),
        ("0,final,1000,0,0.5,1,1,50,9", "9 fields instead of 8"),
        ("0,final,1000,0,0.5,1,1,fifty", "score is 'fifty'"),
        ("0,final,1000,0,0.5,1,1,nan", "score is 'nan'"),
        ("0,final,1000,0,inf,1,1,50", "return is 'inf'"),
        ("0,final,1000,0.5,0.5,1,1,50", "episode is '0.5'"),
        ("0,finale,1000,0,0.5,1,1,50", "phase is 'finale'"),
        (",final,1000,0,0.5,1,1,50", "seed is ''"),
        ("", "1 fields instead of 8"),
    ],
)
def test_corrupt_row_is_named(tmp_path: Path, row: str, reason: str) -> None:
    path = write_run(tmp_path, seeds=2, episodes=3, evaluations=1) / "episodes.csv"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:3], row, *lines[4:]]))
    records = load(tmp_path)
    note(records.notes, f"{path}:4: {reason}, left out")
    note(records.notes, "5 of 6 episodes")
    assert len(records.episodes) == 5 and np.isfinite(records.episodes["score"]).all()
    assert records.episodes["complete"].all()  # the run is finished: the rest of it counts


def test_success_may_be_empty_or_a_word(tmp_path: Path) -> None:
    path = write_run(tmp_path, seeds=1, episodes=2, evaluations=1) / "episodes.csv"
    header = path.read_text().split("\n")[0]
    for success, expected in (("", np.nan), ("True", 1.0)):
        path.write_text(f"{header}\n0,final,1000,0,1,1,{success},50\n0,final,1000,1,1,1,{success},50\n")
        records = load(tmp_path)
        assert not records.notes
        np.testing.assert_array_equal(records.episodes["success"], [expected] * 2)


def test_repeated_episodes_count_once(tmp_path: Path) -> None:
    path = write_run(tmp_path, seeds=1, episodes=2, evaluations=1) / "episodes.csv"
    path.write_text(path.read_text() + "0,final,1000,1,1,1,1,77\n")
    records = load(tmp_path)
    note(records.notes, str(path), "1 episodes stand twice")
    assert records.episodes["score"].iloc[-1] == 77 and len(records.episodes) == 2


def test_unfinished_runs_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "fql", status="failed", error="Traceback\nValueError: nan loss", seeds=2, evaluations=2)
    write_run(tmp_path, "bc", status="interrupted", seeds=2, evaluations=1)
    empty = write_run(tmp_path, "vgf", status="running")
    (empty / "episodes.csv").write_text("")
    records = load(tmp_path)
    note(records.notes, "toy/toy/fql", "failed: ValueError: nan loss", "as of step 2000")
    note(records.notes, "toy/toy/bc", "was interrupted")
    note(records.notes, "toy/toy/vgf", "no evaluation yet")
    note(records.notes, "toy/toy/vgf", "was killed", "; nothing to show")
    assert set(records.episodes["method"]) == {"fql", "bc"} and len(records.runs) == 3


def test_bad_run_json_is_named_and_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "fql")
    broken = write_run(tmp_path, "a") / "run.json"
    broken.write_text('{"schema": 1,\n "suite" "toy"}')
    rewrite(write_run(tmp_path, "b"), schema=2)
    rewrite(write_run(tmp_path, "c"), status="done")
    rewrite(write_run(tmp_path, "d"), seeds=None)
    rewrite(write_run(tmp_path, "e"), fingerprint="copied")
    (write_run(tmp_path, "f") / "run.json").unlink()
    header = write_run(tmp_path, "g") / "episodes.csv"
    header.write_text("seed,score\n0,1\n")
    records = load(tmp_path)
    note(records.notes, f"left out: {broken}:2:")
    note(records.notes, "schema: Input should be 1 (it is 2)")
    note(records.notes, "status: Input should be", "(it is 'done')")
    note(records.notes, "seeds: ", "(it is None)")
    note(records.notes, "its folder says otherwise")
    note(records.notes, "has no run.json")
    note(records.notes, f"{header}:1: the header is seed,score")
    assert set(records.episodes["method"]) == {"fql"}


def test_several_fingerprints_stand_apart(tmp_path: Path) -> None:
    for fingerprint, size in (("3f9a12aa00", 0.1), ("3f9a12bb00", 0.2)):
        write_run(tmp_path, "vgf", fingerprint=fingerprint, config={"step_size": {"value": size, "origin": "set"}})
    write_run(tmp_path, "fql")
    failed = write_run(tmp_path, "fql", fingerprint="dead00000000", status="failed", error="no memory")
    (failed / "episodes.csv").unlink()
    records = load(tmp_path)
    # a run without rows makes nobody ambiguous
    assert set(records.episodes["label"]) == {"vgf step_size=0.1", "vgf step_size=0.2", "fql"}
    note(records.notes, "toy: runs of vgf on toy are told apart by step_size 0.1 / 0.2")


def with_extras(folder: Path, *columns: list[str]) -> Path:
    """Adds columns, each its name and its fields, to the table of a run."""
    path = folder / "episodes.csv"
    lines = path.read_text().split("\n")[:-1]
    path.write_text("".join(f"{','.join([line, *more])}\n" for line, *more in zip(lines, *columns, strict=True)))
    return path


def test_columns_of_a_suite_come_after_those_of_all(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "vgf", "tldr", seeds=1, episodes=3, evaluations=1, knobs={"L_test": [0]})
    path = with_extras(folder, ["gold", "1.5", "", "-2"], ["kl", "", "", ""])
    write_run(tmp_path, "fql")
    records = load(tmp_path)
    assert not records.notes and "gold" not in records.episodes
    run = next(run for run in records.runs if run.method == "vgf")
    rows = records.measured(run)
    np.testing.assert_array_equal(rows["gold"], [1.5, np.nan, -2])
    assert rows["kl"].isna().all() and rows["gold"].dtype == np.float32 and len(rows) == 3
    assert list(rows["episode"]) == [0, 1, 2]
    assert "gold" not in records.measured(next(run for run in records.runs if run.method == "fql"))
    path.write_text(path.read_text().replace(",1.5,", ",inf,").replace(",-2,", ",much,"))
    records = load(tmp_path)
    note(records.notes, f"{path}:2: gold is 'inf', left out")
    note(records.notes, f"{path}:4: gold is 'much', left out")
    rows = records.measured(next(run for run in records.runs if run.method == "vgf"))
    assert len(rows) == 1 and rows["gold"].isna().all()


def test_repeated_rows_take_their_extra_columns_with_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path, seeds=1, episodes=2, evaluations=1)
    path = with_extras(folder, ["gold", "1", "2"])
    path.write_text(path.read_text() + "0,final,1000,0,1,1,1,77,3\n")
    records = load(tmp_path)
    note(records.notes, "1 episodes stand twice")
    rows = records.measured(records.runs[0])
    assert dict(zip(rows["episode"], rows["gold"], strict=True)) == {0: 3, 1: 2}
    path.write_text(path.read_text().replace("score,gold", "score,score"))
    note(load(tmp_path).notes, f"{path}:1: the header is seed")


def test_the_measurement_of_loading_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """22 runs of 5 seeds x 10 evaluations x 4 settings x 1 episode; from any folder; and a failure says what it was."""
    monkeypatch.chdir("/")
    load_speed.main(["--runs", "22", "--episodes", "1"])
    header, row = capsys.readouterr().out.splitlines()
    found = dict(zip(header.split(","), next(csv.reader([row])), strict=True))
    assert found["runs"] == "22" and found["rows"] == str(22 * 5 * 10 * 4)
    assert found["command"] == "python -m tests.analysis.load_speed --runs 22 --episodes 1"
    monkeypatch.setattr(load_speed, "LOAD", "raise OSError('no room')")
    with pytest.raises(SystemExit, match="OSError: no room"):
        load_speed.measured(Path())
