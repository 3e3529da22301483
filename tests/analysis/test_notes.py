"""Notes: one line a kind, with its count and an example; all of them in a file; errors name a few."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from analysis import plots, report, stats, tables, tune
from analysis.notes import brief, grouped, kind, tell
from analysis.records.load import load
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import write_run

TASKS = [f"{name}-play-singletask-task{i}-v0" for name in ("cube-single", "scene", "puzzle-3x3") for i in range(1, 6)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on 15 tasks, all runs interrupted at their own step, fql without a score of one seed."""
    root = tmp_path_factory.mktemp("results")
    for i, task in enumerate(TASKS):
        for j, method in enumerate(("vgf", "fql")):
            write_run(root, method, "ogbench", task, f"{i:03d}{j}".ljust(12, "e"), status="interrupted", seeds=2,
                      episodes=4, evaluations=2, steps=2000 + 100 * i)  # fmt: skip
    return root


def lines(said: str) -> list[str]:
    """The notes that a command printed."""
    return [line for line in said[re.search(r"\d+ notes?\b|Nothing was", said).start() :].splitlines()  # type: ignore[union-attr]
            if line.startswith("- ")]  # fmt: skip


def test_what_is_of_one_kind() -> None:
    same = {kind(note) for note in (
        "ogbench/a-task1-v0 vgf: no final evaluation, the offline one at step 2000 stands in",
        "toy/toy avgf k=1 (3f9a12): no final evaluation, the offline one at step 31000 stands in",
    )}  # fmt: skip
    assert same == {"@: no final evaluation, the offline one at step # stands in"}
    assert kind("/tmp/x/runs/a/b/c/d/episodes.csv:7: 3 fields instead of 8, left out") == (
        kind("/else/episodes.csv:12: 4 fields instead of 8, left out"))  # fmt: skip
    assert kind("a/b is not compared; vgf: no run") != kind("a/b is not compared; fql: no run")
    killed = "{} was killed (or stopped) before its end, last written {}"
    assert kind(killed.format("toy/toy/fql/3f9a12c0ffee", "2026-01-01 12:00 UTC")) == (
        kind(killed.format("a/b-2/vgf/0a0a0a0a0a0a", "2025-12-31 23:59 UTC")))  # fmt: skip
    assert kind("gold 0.1 / 0.2") == "gold # / #"  # a slash alone is no path


def test_few_stand_as_they_are_and_many_are_counted() -> None:
    notes = [f"s/t{i} m: {i} episodes stand twice" for i in range(2)]
    assert grouped([*notes, *notes, "else"]) == [*notes, "else"]  # each once
    notes += [f"s/t{i} n: {i} episodes stand twice" for i in range(2)]
    assert grouped(["first", *notes, "else"]) == ["first", f"4 times, on 2 tasks, for example: {notes[0]}", "else"]
    files = [f"left out: /tmp/{i}/run.json has no seed" for i in range(3)]
    assert grouped(files) == [f"3 times, for example: {files[0]}"]
    assert brief(files + list("abc")) == f"3 times, for example: {files[0]}; a; b; and 1 more notes"
    assert grouped([]) == [] and brief([]) == ""


def test_names_of_tasks_are_places(results: Path) -> None:
    notes = [
        f"ogbench: {task.replace('-singletask', '').removesuffix('-v0')}: of 8 settings of qgf 5 are shown"
        for task in TASKS
    ]
    assert len(grouped(notes)) == 3  # numbers alone are left open
    assert grouped(notes, load(results)) == [f"15 times, on 15 tasks, for example: {notes[0]}"]


def test_all_of_them_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, many = tmp_path / "notes.csv", [f"a/t{i}: what" for i in range(4)]
    tell(["one"], path=path)
    assert capsys.readouterr().out == "\n1 note:\n- one\n" and not path.exists()
    tell(many, path=path)
    assert capsys.readouterr().out == (
        f"\n1 note (all 4: {path}):\n- 4 times, on 4 tasks, for example: a/t0: what\n")  # fmt: skip
    assert pd.read_csv(path)["note"].tolist() == many
    tell(["one"], path=path)  # what an earlier command left there is no longer true
    assert pd.read_csv(path)["note"].tolist() == ["one"]
    capsys.readouterr()
    tell([])
    assert capsys.readouterr().out == "\nNothing was left out.\n"


@pytest.mark.slow
def test_every_command_says_a_kind_once(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 runs were interrupted: 30 lines of that, and 30 of what stands in, are one line each."""
    monkeypatch.setattr("analysis.figures.style.FORMATS", ())
    monkeypatch.setattr("analysis.plots.planned", lambda *_, **__: iter(()))
    monkeypatch.setattr("analysis.report.figures", lambda *_, **__: iter(()))
    done = invoke(tables.app, results, "--out", tmp_path / "t")
    assert done.exit_code == 0
    interrupted, stands_in = lines(done.stdout)
    assert interrupted.startswith(
        "- 30 times, on 15 tasks, for example: ogbench/cube-single-play-singletask-task1-v0/fql/"
    )
    assert stands_in.startswith(
        "- 30 times, on 15 tasks, for example: ogbench/cube-single-play-singletask-task1-v0 fql: no fin"
    )
    every = pd.read_csv(tmp_path / "t" / "scores-notes.csv")["note"]
    assert len(every) == every.nunique() == 60 and every.str.contains("was interrupted").sum() == 30
    page = (tmp_path / "t" / "scores.md").read_text()
    assert page.count("was interrupted") == 1 and page.count("stands in") == 1
    for app, count, more in (
        (stats.app, 2, ["--compare", "vgf,fql"]), (plots.app, 1, []), (report.app, 6, []),
        (tables.app, 6, ["--paper", "table7"]), (tune.app, None, []),
    ):  # fmt: skip
        if app is tune.app:
            line = refused(app, results)
            assert line.count("was interrupted") == 1 and len(line) < 600
            continue
        done = invoke(app, results, "--out", tmp_path / "o", *more)
        assert done.exit_code == 0 and done.stdout.count("was interrupted; ") == 1, done
        assert len(lines(done.stdout)) <= (count or 0), done.stdout
    text = (tmp_path / "o" / "index.html").read_text()
    assert text.count("30 times, on 15 tasks") == 1
    (data,) = re.findall(r'download="notes.csv" href="data:text/csv;base64,([^"]*)"', text)
    assert base64.b64decode(unquote(data)).decode().count("was interrupted; ") == 30


def test_an_error_names_a_few(results: Path, tmp_path: Path) -> None:
    line = refused(stats.app, results, "--compare", "vgf,iql", "--out", tmp_path / "o")
    assert line.startswith("no run of iql under") and len(line) < 400
    for folder in results.glob("runs/*/*/*/*"):
        place = tmp_path / "empty" / folder.relative_to(results)
        place.mkdir(parents=True)
        (place / "run.json").write_text((folder / "run.json").read_text())
    line = refused(tables.app, tmp_path / "empty", "--out", tmp_path / "o")
    assert line.startswith("no episodes to show under") and "30 times, on 15 tasks" in line and len(line) < 700
