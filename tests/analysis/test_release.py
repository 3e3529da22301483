"""A release: what pandas reads in one line, and records that every command reads again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import published_command, release, tables
from analysis.output import of_records
from analysis.records import packed
from analysis.records.load import load
from tests.analysis.command import invoke
from tests.analysis.synthetic import split_all, write_candidates, write_landscape, write_run

SCENE = "scene-play-singletask-task1-v0"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders a seed, knobs, candidates, a landscape, an unfinished run, scores of another code base."""
    monkeypatch.setenv("VGF_SCRATCH", str(tmp_path / "scratch"))
    root = tmp_path / "results"
    knobs = {"L_test": [0, 1]}
    write_candidates(write_run(root, "vgf", knobs=knobs, evaluations=2, seeds=3, episodes=4), knobs)
    data = {"name": SCENE, "sha256": "5a" * 32, "origin": "given", "path": "/home/somebody/data/scene.npz"}
    write_run(root, "fql", "ogbench", SCENE, evaluations=2, seeds=2, episodes=4, protocol="fql", dataset=data)
    write_run(root, "fql", "ogbench", SCENE, "0" * 12, evaluations=2, seeds=2, episodes=4, protocol="qam",
              status="failed", error="no room")  # fmt: skip
    split_all(root)
    write_landscape(root)
    table = tmp_path / "theirs.csv"
    table.write_text(f"method,task,seed,score\nT,{SCENE},0,50\nT,{SCENE},1,60\n")
    assert invoke(published_command.app, "import", str(table), "--results", str(root)).exit_code == 0
    return root


def released(results: Path, *options: str) -> Path:
    out = results.parent / "out"
    done = invoke(release.app, str(results), "--out", str(out), *options)
    assert done.exit_code == 0, done.output
    return out


def test_pandas_reads_every_table_in_one_line(results: Path) -> None:
    out = released(results)
    episodes = pd.read_parquet(out / "episodes.parquet")
    own = load(results, protocol="*")
    ours = own.episodes[~own.episodes["method"].astype(str).str.contains("theirs")]
    assert len(episodes) == len(ours) == 3 * 2 * 2 * 4 + 2 * (2 * 2 * 4)
    for name in ("task", "seed", "step", "setting", "episode", "score", "return"):
        assert episodes[name].astype(object).tolist() == pytest.approx(ours[name].astype(object).tolist()), name
    assert set(episodes["protocol"]) == {"", "fql", "qam"}
    curves = pd.read_parquet(out / "curves.parquet")
    assert len(curves) == 3 * 2 * 2 + 2 * (2 * 2) and set(curves["episodes"]) == {4}
    first = curves[(curves["method"] == "vgf") & (curves["setting"] == "L_test=1")].iloc[0]
    same = (episodes["method"] == "vgf") & (episodes["setting"] == "L_test=1")
    same &= (episodes["seed"] == first["seed"]) & (episodes["step"] == first["step"])
    assert first["score"] == pytest.approx(np.mean(episodes[same]["score"]), rel=1e-6)
    runs = pd.read_parquet(out / "runs.parquet").set_index(["method", "protocol"])
    assert runs.loc[("vgf", ""), "seeds"] == "0 1 2" and runs.loc[("fql", "qam"), "status"] == "failed"
    assert {one["origin"] for one in json.loads(runs.loc[("fql", "fql"), "config"]).values()} == {"default"}
    assert runs.loc[("fql", "qam"), "command"].endswith("--protocol qam --seeds 2")


def test_hashes_and_card(results: Path) -> None:
    out = released(results, "--title", "Ours | all", "--licence", "cc-by-4.0")
    sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in out.iterdir()} - {"SHA256SUMS"}
    for name, value in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == value
    card = (out / "README.md").read_text()
    assert card.startswith('---\npretty_name: "Ours | all"\nlicense: "cc-by-4.0"\n')
    assert "# Ours \\| all" in card and "| ogbench | qam |" in card and "no room" in card
    assert "theirs" not in card
    again = released(results, "--title", "Ours | all", "--licence", "cc-by-4.0")
    assert dict(reversed(line.split("  ")) for line in (again / "SHA256SUMS").read_text().splitlines()) == sums


def test_commands_read_a_release_in_the_place_of_results(results: Path) -> None:
    out = released(results)
    read, own = load(of_records(out), protocol="*"), load(results, protocol="*")
    mine = [run for run in own.runs if not run.elsewhere]
    assert [(run.name, run.status, run.config) for run in read.runs] == [
        (run.name, run.status, run.config) for run in mine
    ]
    pd.testing.assert_frame_equal(
        read.episodes.astype({"method": str, "label": str}).reset_index(drop=True),
        own.episodes[~own.episodes["method"].astype(str).str.contains("theirs")]
        .astype({"method": str, "label": str})
        .reset_index(drop=True),
        check_categorical=False,
    )
    assert read.landscape("toy", "toy") is not None
    done = invoke(tables.app, str(out), "--protocol", "fql", "--out", str(results.parent / "tables"))
    assert done.exit_code == 0 and "fql" in done.stdout, done.output
    assert list(out.iterdir()) and not (out / "runs").exists()


def test_no_place_of_this_machine_is_in_it(results: Path) -> None:
    out = released(results)
    for content in pq.read_table(out / packed.NAME)["content"].to_pylist():
        assert b"/home/somebody" not in content and str(results).encode() not in content
    assert "/home/somebody" not in (out / "README.md").read_text()


def test_what_is_too_large_stays_behind_and_is_named(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "LARGEST", 20_000)
    (results / "tasks" / "toy" / "more.npz").write_bytes(bytes(20_001))
    done = invoke(release.app, str(results), "--out", str(results.parent / "out"))
    assert done.exit_code == 0 and "tasks/toy/more.npz: larger than" in done.stdout


@pytest.mark.parametrize("path", ["../evil.json", "/evil.json", "runs/../../evil.json", "elsewhere/run.json", ""])
def test_names_that_lead_elsewhere(path: str, results: Path) -> None:
    out = released(results)
    pq.write_table(pa.table([[path], [b"{}"]], schema=packed.SCHEMA), out / packed.NAME)
    done = invoke(tables.app, str(out))
    assert done.exit_code == 2 and packed.NAME in done.output, done.output
    assert not list(results.parent.rglob("evil.json"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_a_damaged_file_is_one_line(content: bytes, results: Path) -> None:
    out = released(results)
    (out / packed.NAME).write_bytes(content)
    done = invoke(tables.app, str(out))
    assert done.exit_code == 2 and "is not the records of a release" in done.output


def test_other_files_are_left_alone(results: Path) -> None:
    out = results.parent / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    done = invoke(release.app, str(results), "--out", str(out))
    assert (
        done.exit_code == 2 and "other things" in done.output and [one.name for one in out.iterdir()] == ["thesis.txt"]
    )


def test_without_room_nothing_says_that_it_is_whole(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second release over the first, for which the disk has no room: no hashes, and the line names the place."""
    out = released(results)

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.packed, "pack", full)
    done = invoke(release.app, str(results), "--out", str(out))
    assert done.exit_code == 2 and "No space left" in done.output and not (out / "SHA256SUMS").exists()
    monkeypatch.undo()


def test_only_results_of_others(tmp_path: Path) -> None:
    table, root = tmp_path / "theirs.csv", tmp_path / "results"
    table.write_text(f"method,task,seed,score\nT,{SCENE},0,50\nT,{SCENE},1,60\n")
    assert invoke(published_command.app, "import", str(table), "--results", str(root)).exit_code == 0
    done = invoke(release.app, str(root), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2 and "no runs of our own" in done.output
