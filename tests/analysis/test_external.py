"""Results of other code bases: what is read of them, what is refused, and that they stand beside our runs."""

from __future__ import annotations

import csv
import json
import os
import pickle
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import importing, published_command, report, stats, tables
from analysis.records import external
from analysis.records.files import RecordError
from analysis.records.load import load
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import split_all, write_run

CUBE = "cube-single-play-singletask-task1-v0"
HEAD = "method,task,seed,score,step\n"


def written(path: Path, *lines: str, head: str = HEAD) -> Path:
    path.write_text(head + "".join(f"{line}\n" for line in lines))
    return path


def take(path: Path, results: Path, *more: str) -> str:
    done = invoke(published_command.app, "import", path, "--results", results, *more)
    assert done.exit_code == 0, done.stderr
    return " ".join(done.stdout.split())


def twenty(folder: Path) -> Path:
    """Two methods, two tasks, five seeds."""
    return written(folder / "theirs.csv", *(
        f"{method},{task},{seed},{base + seed},1000"
        for method, base in (("FQL", 40), ("Ours", 60)) for task in (CUBE, CUBE.replace("task1", "task3"))
        for seed in range(5)
    ))  # fmt: skip


# beside our runs


def test_twenty_lines_stand_beside_our_runs(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_run(results, "vgf", "ogbench", CUBE)
    split_all(results)
    said = take(twenty(tmp_path), results, "--source", "our last paper", "--licence", "CC BY 4.0")
    assert "taken for protocol fql of ogbench" in said and "2 methods, 2 tasks, 4 pairs of them, 20 scores" in said
    done = invoke(tables.app, results)
    assert done.exit_code == 0
    rows = list(csv.DictReader((results / "tables" / "scores.csv").open()))
    of = {(row["label"], row["task"]): row for row in rows}
    mine = of["FQL (theirs)", CUBE]
    assert float(mine["mean"]) == 42.0 and float(mine["std"]) == pytest.approx(np.sqrt(2.5)) and mine["seeds"] == "5"
    assert {label for label, _ in of if "theirs" not in label}  # ours
    note = "theirs.csv: our last paper; CC BY 4.0: results of another code base; its seeds pair with nothing"
    assert note in " ".join(done.stdout.split())
    compared = invoke(stats.app, results, "--compare", "Ours (theirs),FQL (theirs)")
    assert compared.exit_code == 0 and "better on 2 of 2" in " ".join(compared.stdout.split())
    page = invoke(report.app, results, "--out", tmp_path / "report")
    assert page.exit_code == 0 and "FQL (theirs)" in (tmp_path / "report" / "index.html").read_text()


def test_protocols_are_compared_when_asked(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_run(results, "vgf", "ogbench", CUBE)
    split_all(results)
    take(twenty(tmp_path), results, "--protocol", "qam")
    assert "compared only when asked for" in refused(tables.app, results)
    done = invoke(tables.app, results, "--protocol", "fql,qam")
    assert "FQL (theirs) [qam]" in done.stdout


def test_an_online_phase_is_a_run_of_its_own(tmp_path: Path) -> None:
    lines = [f"QAM,{CUBE},{seed},{score},{step},{phase}" for seed in range(3)
             for score, step, phase in ((10, 100, "offline"), (20, 200, "offline"), (90, 300, "online"))]  # fmt: skip
    lines += [f"RLPD,{CUBE},{seed},70,100,online_only" for seed in range(3)]
    take(written(tmp_path / "qam.csv", *lines, head="method,task,seed,score,step,phase\n"), tmp_path / "results")
    found = {run.label: rows for run, rows in load(tmp_path / "results").each()}
    assert set(found) == {"QAM (qam)", "QAM (qam) online", "RLPD (qam) online"}
    assert list(found["QAM (qam)"]["phase"].unique()) == ["offline", "final"]
    online = found["QAM (qam) online"]
    assert online[online["phase"] == "final"]["score"].mean() == 90.0 and len(online) == 9


# what is refused


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method,task,seed\nA,t,0\n", ":1: no column score; expected method,task,seed,score[,step][,phase]"),
        ("method,task,seed,score,colour\nA,t,0,1,red\n", ":1: unknown column 'colour'"),
        (HEAD, "holds no score of a single seed"),
        (f"{HEAD}A,{CUBE},0,nan,1\n", ":2: score is 'nan', expected a number"),
        (f"{HEAD}A,{CUBE},0,50,1\nA,{CUBE},1,,1\n", ":3: score is '', expected a number"),
        (f"{HEAD}A,{CUBE},0,50,1\nA,{CUBE},1,1e9,1\n", ":3: score is '1e9', expected a number"),
        (f"{HEAD}A,{CUBE},0.5,50,1\n", ":2: seed is '0.5', expected a whole number from 0"),
        (f"{HEAD}A,{CUBE},0,50,-1\n", ":2: step is '-1', expected a whole number from 0"),
        (f"{HEAD}A,{CUBE},0,50,1\nA,{CUBE},1,50,1\nA,{CUBE},0,60,1\n",
         ":4: the same method, task, seed and step as in line 2"),
        (f"{HEAD}FQL,{CUBE},0,50,1\nfql,{CUBE},1,50,1\n", "methods 'FQL' and 'fql' differ in signs and case alone"),
        (f"{HEAD}A,{CUBE},0,0.5,1\nA,{CUBE},1,1,1\n", "all scores lie between 0 and 1; --scale share"),
        (f"{HEAD}A,pick-up-v9,0,50,1\n", "task 'pick-up-v9' tells no suite; --suite says which it is"),
        (f"{HEAD}../A,{CUBE},0,50,1\n", ":2: method '../A' cannot be part of a file's name"),
        (f"method,task,seed,score,phase\nA,{CUBE},0,50,later\n", ":2: phase is 'later', expected one of offline, "),
    ],
)  # fmt: skip
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert says in refused(published_command.app, "import", tmp_path / "x.csv", "--results", tmp_path / "results")
    assert not list((tmp_path / "results").glob("external/*"))


def test_shares_become_percent_when_that_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", f"A,{CUBE},0,0.25,1", f"A,{CUBE},1,1,1")
    take(path, tmp_path / "r", "--scale", "share")
    assert sorted(load(tmp_path / "r").episodes["score"]) == [25.0, 100.0]
    take(path, tmp_path / "r", "--scale", "percent")  # anew
    assert sorted(load(tmp_path / "r").episodes["score"]) == [0.25, 1.0]
    written(path, f"A,{CUBE},0,25,1")
    done = refused(published_command.app, "import", path, "--results", tmp_path / "r", "--scale", "share")
    assert ":2: score is 25, which is no share of one" in done
    assert sorted(load(tmp_path / "r").episodes["score"]) == [0.25, 1.0]  # what was there is left


def test_what_is_there_is_checked(tmp_path: Path) -> None:
    take(twenty(tmp_path), tmp_path, "--source", "x", "--licence", "MIT")
    good = invoke(published_command.app, "check", tmp_path)
    assert good.exit_code == 0 and "20 scores of 2 methods on 2 tasks" in good.stdout
    (tmp_path / "external" / "bad.csv").write_text("method,score\nA,1\n")
    take(twenty(tmp_path), tmp_path, "--name", "unsigned", "--source", "y")
    bad = invoke(published_command.app, "check", tmp_path)
    said = bad.stdout.splitlines()
    assert bad.exit_code == 2 and len(said) == 3
    assert "bad.csv:1: the columns are method,score, expected suite,task" in said[0]
    assert "unsigned.toml: says no source, or no licence" in said[2]
    notes = load(tmp_path).notes
    assert any("left out: " in note and "bad.csv:1" in note for note in notes)  # and the others are read


# pickles


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def pickled(path: Path, value: Any) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def test_a_pickle_carries_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value, named in (({("t", "m"): Harmful()}, "system"), ({"m": {"t": [Path("x")]}}, "PosixPath")):
        said = refused(published_command.app, "import", pickled(tmp_path / "x.pkl", value), "--results", tmp_path / "r")
        assert named in said and "only numbers are read" in said
    assert not (tmp_path / "harmed").exists() and not (tmp_path / "r").exists()
    (tmp_path / "x.pkl").write_bytes(b"not a pickle")
    assert "is no pickle of numbers" in refused(published_command.app, "import", tmp_path / "x.pkl")


def test_qam_s_file(tmp_path: Path) -> None:
    """Of each task and method an array [evaluation, seed] of shares; RLPD's begins online; domains are means."""
    scores = np.arange(30)[:, None] / 100 + np.arange(12) / 50
    found = {(CUBE, "QAM"): scores, (CUBE, "RLPD"): scores[:10], ("cube-single-play", "QAM"): scores,
             ("all", "QAM"): scores}  # fmt: skip
    said = take(pickled(tmp_path / "qam-exp-data.pkl", found), tmp_path, "--protocol", "qam")
    assert "left out: all, cube-single-play, which are means over tasks" in said
    rows = external.read(tmp_path / "external" / "qam-exp-data.csv")
    assert set(rows["protocol"]) == {"qam"} and len(rows) == 12 * 40
    mine = rows[(rows["method"] == "QAM") & (rows["seed"] == 3)]
    assert mine["step"].min() == 50_000
    rows_of = zip(mine["step"], mine["phase"], mine["score"], strict=True)
    at = {(int(step), phase): score for step, phase, score in rows_of}
    assert at[1_000_000, "offline"] == pytest.approx(19 + 6) and at[1_500_000, "online"] == pytest.approx(29 + 6)
    assert set(rows[rows["method"] == "RLPD"]["phase"]) == {"online_only"}


def test_dqc_s_file_and_qc_s(tmp_path: Path) -> None:
    task = "cube-triple-play-oraclerep-v0"
    values = np.full((4, 10), 0.5)
    assert "--suite says which" in refused(
        published_command.app, "import", pickled(tmp_path / "d.pkl", {(task, "DQC"): values}), "--results", tmp_path
    )
    take(tmp_path / "d.pkl", tmp_path, "--suite", "ogbench-goals")
    rows = external.read(tmp_path / "external" / "d.csv")
    assert sorted(set(rows["step"])) == [250_000, 500_000, 750_000, 1_000_000] and set(rows["score"]) == {50.0}
    means = {(CUBE, "QC"): {"steps": np.arange(3), "means": np.arange(3), "ci_lows": np.arange(3)}}
    said = refused(published_command.app, "import", pickled(tmp_path / "qc.pkl", means), "--results", tmp_path)
    assert "holds no score of a single seed" in said and "means with intervals, of no single seed" in said


def test_corl_s_file(tmp_path: Path) -> None:
    found = {"TD3+BC": {"hopper-medium-v2": [[10.0, 20.0], [30.0, 40.0]], "walker2d-medium-v2": []}}
    pickled(tmp_path / "offline_scores.pickle", found)
    assert "--every says how many" in refused(published_command.app, "import", tmp_path / "offline_scores.pickle")
    take(tmp_path / "offline_scores.pickle", tmp_path, "--every", "5000", "--name", "corl")
    rows = external.read(tmp_path / "external" / "corl.csv")
    assert set(rows["suite"]) == {"d4rl"} and list(rows["step"]) == [5000, 10000, 5000, 10000]
    assert list(rows["score"]) == [10.0, 20.0, 30.0, 40.0] and list(rows["seed"]) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, 2], "holds no mapping"), ({("t", "m"): np.zeros(3)}, "is no array [evaluation, seed]"),
        ({(CUBE, "m"): np.zeros((7, 2))}, "has 7 evaluations; --every says how many steps apart"),
    ],
)  # fmt: skip
def test_other_pickles_are_one_line(tmp_path: Path, value: Any, says: str) -> None:
    assert says in refused(published_command.app, "import", pickled(tmp_path / "x.pkl", value), "--results", tmp_path)


def test_every_protocol_of_pickles_is_read() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        value = {("t", "m"): np.arange(6.0).reshape(2, 3), "n": [np.float64(1.5), np.int64(2)]}
        found = importing.unpickled(pickle.dumps(value, protocol=protocol))
        assert np.array_equal(found["t", "m"], value["t", "m"]) and found["n"] == [1.5, 2]
    with pytest.raises(RecordError, match="only numbers are read"):
        importing.unpickled(pickle.dumps(np.array([Path("x")], dtype=object)))


# folders of runs


def test_a_folder_of_runs(tmp_path: Path) -> None:
    """As the codes of FQL, QC and QAM log them."""
    for seed in range(3):
        run = tmp_path / "exp" / "group" / f"sd00{seed}"
        run.mkdir(parents=True)
        flags = {"env_name": CUBE, "seed": seed, "offline_steps": 100, "agent": {"agent_name": "fql", "alpha": 10.0}}
        (run / "flags.json").write_text(json.dumps(flags))
        (run / "eval.csv").write_text(
            f"evaluation/success,evaluation/episode.return,step\n0.5,-3,100\n0.{seed},-1,200\n"
        )
    broken = tmp_path / "exp" / "group" / "sd009"
    broken.mkdir()
    (broken / "flags.json").write_text("{}")
    said = take(tmp_path / "exp", tmp_path / "r")
    assert "left out" in said and "does not say env_name, seed and agent" in said
    rows = external.read(tmp_path / "r" / "external" / "exp.csv")
    assert list(rows["score"]) == [50.0, 0.0, 50.0, 10.0, 50.0, 20.0]
    assert list(rows["phase"]) == ["offline", "online"] * 3 and set(rows["method"]) == {"fql"}
    (tmp_path / "empty").mkdir()
    assert "no folder below has flags.json" in refused(published_command.app, "import", tmp_path / "empty")


def test_whoever_compares_with_qam_is_told_what_it_is(tmp_path: Path) -> None:
    """Beside print, and of its file; QAM-E is QAM on some domains, and columns are no seeds."""
    results = tmp_path / "results"
    write_run(results, "fql", "ogbench", CUBE, protocol="qam")
    assert invoke(tables.app, results, "--paper", "qam").exit_code == 0
    for kind in ("md", "tex"):
        assert "QAM-E is QAM on scene" in (results / "tables" / "paper" / f"qam.{kind}").read_text()
    rows = [f"{method},{CUBE},{seed},5{seed},1000" for method in ("QAM", "QAM-E") for seed in range(3)]
    take(written(tmp_path / "mine.csv", *rows), results, "--protocol", "qam", "--licence", "MIT", "--source", "here")
    assert "QAM-E is QAM on scene" in invoke(tables.app, results).stdout.replace("\n", " ")
    about = tomllib.loads((results / "external" / "mine.toml").read_text())
    assert about["command"].endswith("mine.csv --protocol qam --source here --licence MIT")
    assert "takes the place of what" in take(tmp_path / "mine.csv", results, "--protocol", "qam")


def test_a_protocol_of_a_suite_that_has_none_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.csv", "A,toy,0,5,1000")
    done = invoke(published_command.app, "import", path, "--suite", "toy", "--protocol", "qam", "--results", tmp_path)
    assert done.exit_code == 2 and "--protocol qam: suite toy has no names for protocols" in done.stderr
    assert not (tmp_path / "external").exists()
