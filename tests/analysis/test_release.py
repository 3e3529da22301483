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
from filelock import FileLock
from typer.testing import CliRunner

from analysis import published_command, release, tables
from analysis.missing import command
from analysis.output import of_records
from analysis.records import packed
from analysis.records.load import load
from harness.run_command import app as run_app
from tests.analysis.command import invoke
from tests.analysis.synthetic import split, split_all, write_candidates, write_landscape, write_run

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


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/somebody/data/scene.npz", "scene.npz"),
        ("--data=/mnt/somebody/d --set model=/scratch/somebody/qwen", "--data=d --set model=qwen"),
        ('File "/home/somebody/venv/lib/a.py", line 3', 'File "a.py", line 3'),
        ("https://example.org/a/b?c=/d, s3://bucket/results/x", "https://example.org/a/b?c=/d, s3://bucket/results/x"),
        ("results/runs/toy/toy, ~/data, and/or, 3 / 4", "results/runs/toy/toy, ~/data, and/or, 3 / 4"),
    ],
)
def test_places_in_texts(text: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")  # as in containers; the same records make the same files
    assert packed.without_places(text) == left


def test_no_place_of_this_machine_is_in_it(results: Path) -> None:
    """Of a setting, of data, of an error within a longer text; in no file."""
    secret = "/scratch/somebody/secret"
    told = {"status": "failed", "error": f"no room in {secret}/x.npz: full", "settings": {"model": f"{secret}/qwen"}}
    write_run(results, "iql", "ogbench", SCENE, "1" * 12, evaluations=2, seeds=2, episodes=4, protocol="fql", **told)
    out = released(results)
    held = [row for row in pq.read_table(out / packed.NAME)["content"].to_pylist()]
    held += [(out / "README.md").read_bytes()]
    held += [str(value).encode() for value in pd.read_parquet(out / "runs.parquet").to_numpy().ravel()]
    for content in held:
        assert b"somebody" not in content and str(results).encode() not in content
    assert any(b"no room in x.npz: full" in content for content in held)


def test_what_is_too_large_stays_behind_and_is_named(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (results / "tasks" / "toy" / "toy.npz").write_bytes(bytes(20_001))
    monkeypatch.setattr(packed, "LARGEST", 20_000)
    done = invoke(release.app, str(results), "--out", str(results.parent / "out"))
    assert done.exit_code == 0 and "tasks/toy/toy.npz: larger than" in done.stdout


def sealed(out: Path) -> None:
    """Hashes of what is there now, so that a damaged file is looked into."""
    names = [path.name for path in out.iterdir() if path.name != "SHA256SUMS"]
    lines = (f"{hashlib.sha256((out / name).read_bytes()).hexdigest()}  {name}" for name in sorted(names))
    (out / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("path", ["../evil.json", "/evil.json", "runs/../../evil.json", "elsewhere/run.json", ""])
def test_names_that_lead_elsewhere(path: str, results: Path) -> None:
    out = released(results)
    pq.write_table(pa.table([[path], [b"{}"]], schema=packed.SCHEMA), out / packed.NAME)
    sealed(out)
    done = invoke(tables.app, str(out))
    assert done.exit_code == 2 and packed.NAME in done.output, done.output
    assert not list(results.parent.rglob("evil.json"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_file_is_one_line(known: bool, content: bytes, results: Path) -> None:
    """Whether or not its hash is that of the damaged file."""
    out = released(results)
    (out / packed.NAME).write_bytes(content)
    if known:
        sealed(out)
    done = invoke(tables.app, str(out))
    assert done.exit_code == 2 and done.output.count("\n") == 1
    assert ("cannot be unpacked" if known else "is no whole release") in done.output


def test_a_run_that_goes_on_and_a_seed_that_is_lost_read_as_they_were(results: Path) -> None:
    """Nobody can see in a copy whether somebody writes; what cannot be read is lost there, too."""
    folders = split(write_run(results, "iql", "ogbench", SCENE, "1" * 12, evaluations=2, seeds=3, episodes=4,
                              protocol="fql", status="running"))  # fmt: skip
    (folders[1] / "episodes.csv").write_text("what is this\n")
    with FileLock(folders[0] / "lock"), FileLock(folders[2] / "lock"):
        out = released(results)
        own = load(results, protocol="*")
    read = load(of_records(out), protocol="*")
    mine, copied = (next(run for run in one.runs if run.method == "iql") for one in (own, read))
    assert mine.status == copied.status == "running" and mine.meant == copied.meant == (0, 1, 2)
    assert copied.seeds == mine.seeds == (0, 2)
    assert any("last written 2026-01-01" in note for note in read.notes if "iql" in note)


def test_names_of_others_are_nowhere_in_it(results: Path) -> None:
    out = released(results)
    for name in ("episodes.parquet", "curves.parquet", "runs.parquet", "README.md"):
        assert b"theirs" not in (out / name).read_bytes()
    assert "T (theirs)" not in pd.read_parquet(out / "episodes.parquet")["method"].cat.categories


def test_nothing_is_added_to_a_release(results: Path) -> None:
    out = released(results)
    table = results.parent / "theirs.csv"
    done = invoke(published_command.app, "import", str(table), "--results", str(out))
    assert done.exit_code == 2 and "is a release" in done.output
    run = CliRunner().invoke(run_app, ["--methods", "bc", "--preset", "smoke", "--results", str(out)])
    assert run.exit_code == 2 and "is a release" in run.stderr
    assert not (out / "runs").exists() and not (out / "external").exists()
    place = of_records(out)
    assert "--results" not in command(place, "toy", ["toy"], ["bc"])


def test_other_files_are_left_alone(results: Path) -> None:
    out = results.parent / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    done = invoke(release.app, str(results), "--out", str(out))
    assert (
        done.exit_code == 2
        and "holds thesis.txt" in done.output
        and [one.name for one in out.iterdir()] == ["thesis.txt"]
    )


@pytest.mark.parametrize("again", [False, True])
def test_without_room_it_is_not_whole_and_the_same_command_makes_it_so(
    again: bool, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full halfway, the first time or over an earlier release."""
    out = released(results) if again else results.parent / "out"

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(release.packed, "pack", full)
        done = invoke(release.app, str(results), "--out", str(out))
    assert done.exit_code == 2 and "No space left" in done.output and not (out / "SHA256SUMS").exists()
    if again:
        assert "is no whole release" in invoke(tables.app, str(out)).output
    assert (released(results) / "SHA256SUMS").exists()


def test_only_results_of_others(tmp_path: Path) -> None:
    table, root = tmp_path / "theirs.csv", tmp_path / "results"
    table.write_text(f"method,task,seed,score\nT,{SCENE},0,50\nT,{SCENE},1,60\n")
    assert invoke(published_command.app, "import", str(table), "--results", str(root)).exit_code == 0
    done = invoke(release.app, str(root), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2 and "no runs of our own" in done.output
