"""Runs with a folder a seed: what becomes of each seed is said, and none takes the others down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.records.load import load
from analysis.records.runs import Run, named
from analysis.select import Endpoint, scores
from tests.analysis.synthetic import split, split_all, write_candidates, write_run
from tests.analysis.test_load import note, rewrite

KNOBS = {"L_test": [0, 1]}


def only(root: Path) -> Run:
    (run,) = load(root).runs
    return run


def test_a_run_is_the_union_of_its_seeds(tmp_path: Path) -> None:
    """The same records in either layout: the same frame, but for the order of rows, and the same scores."""
    folder = write_run(tmp_path, "vgf", knobs=KNOBS, seeds=11, episodes=4, evaluations=2)
    write_candidates(folder, KNOBS)
    before = load(tmp_path)
    order = ["seed", "step", "setting", "episode"]
    rows, arrays = before.episodes.sort_values(order, ignore_index=True), before.runs[0].candidates([])
    cells = scores(before)[0]
    split(folder)
    after = load(tmp_path)
    assert after.notes == [] and not after.runs[0].old and after.runs[0].seeds == tuple(range(11))
    assert after.episodes["seed"].is_monotonic_increasing  # seed-10 comes after seed-9
    pd.testing.assert_frame_equal(after.episodes.sort_values(order, ignore_index=True), rows)
    pd.testing.assert_frame_equal(scores(after)[0], cells)
    assert len(after.runs[0].train([])) == 11
    mine = after.runs[0].candidates([])
    assert arrays is not None and mine is not None
    for name, array in arrays.items():
        np.testing.assert_array_equal(mine[name], array)


def test_seeds_that_are_not_there_are_told(tmp_path: Path) -> None:
    """Of seven seeds two are whole; each of the others says why not, and the numbers are those of the two."""
    folder = write_run(tmp_path, seeds=7, episodes=4, evaluations=2)
    cut = {"status": "failed", "error": "Traceback\nFloatingPointError: critic is nan"}
    seeds = split(folder, seed1=cut, seed2={"status": "interrupted"}, seed3={"status": "running"})
    for seed in (1, 2, 3):  # they got as far as the first evaluation
        path = seeds[seed] / "episodes.csv"
        path.write_text("".join(line for line in path.read_text().splitlines(True) if ",final," not in line))
    (seeds[4] / "run.json").write_text("{\n1")
    (seeds[5] / "run.json").unlink()
    records = load(tmp_path)
    (run,) = records.runs
    whole = "n = 2 of 7 (seed 1 failed: FloatingPointError: critic is nan; seed 2 interrupted; seed 3 killed; seed 4 "
    whole += "cannot be read: run.json:2: Expecting property name enclosed in double quotes; seed 5 cannot be read: "
    whole += "has no run.json)"
    assert run.told([0, 6]) == whole and run.status == "partly finished" and run.meant == tuple(range(7))
    cells, notes = scores(records)
    assert cells["told"].tolist() == [whole] and f"toy/toy fql: {whole}" in notes
    assert cells[["seeds", "meant", "status", "step"]].values.tolist() == [[2, 7, "finished", 2000]]
    mine = records.episodes[records.episodes["seed"].isin([0, 6]) & (records.episodes["step"] == 2000)]
    assert cells["mean"].iloc[0] == pytest.approx(mine.groupby("seed")["score"].mean().mean())
    note(records.notes, f"left out: {seeds[4] / 'run.json'}:2:")
    note(records.notes, f"left out: {seeds[5]} has no run.json")
    note(records.notes, "seed 1 failed: FloatingPointError: critic is nan; evaluated up to step 1000")
    line = note(records.notes, "its seeds differ in evaluations")
    assert "2 up to step 2000 (seeds 0, 6), 1 up to step 1000 (seeds 1-3)" in line
    early, _ = scores(records, endpoint=Endpoint(steps=(1000,)))
    assert early["seeds"].tolist() == [5] and "seeds 1" not in early["told"].iloc[0]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda folder: (folder / "run.json").write_text('{"seed": '), "run.json:1: "),
        (lambda folder: rewrite(folder, seed=0), "says it is toy/toy/fql/3f9a12c0ffee, seed 0, its folder says"),
        (lambda folder: rewrite(folder, fingerprint="copied"), "its folder says otherwise"),
        (lambda folder: rewrite(folder, format=3), "format: Input should be 2 (it is 3)"),
        (lambda folder: rewrite(folder, knobs=["N"]), "episodes.csv:1: the header is seed,phase,step,episode"),
        (lambda folder: (folder / "episodes.csv").write_text("seed,score\n"), "episodes.csv:1: the header is seed,sco"),
        (lambda folder: (folder / "run.json").write_text(json.dumps({"schema": 1})), "suite: Field required"),
    ],
)  # fmt: skip
def test_a_damaged_seed_is_lost_alone(tmp_path: Path, change: object, line: str) -> None:
    seeds = split(write_run(tmp_path, seeds=3, episodes=4, evaluations=1))
    change(seeds[1])  # type: ignore[operator]
    records = load(tmp_path)
    note(records.notes, "left out: ", str(seeds[1]), line)
    assert sorted(set(records.episodes["seed"])) == [0, 2] and records.runs[0].lost.keys() == {1}
    assert records.runs[0].told([0, 2]).startswith("n = 2 of 3 (seed 1 cannot be read: ")


def test_a_seed_with_other_knobs_is_of_no_run(tmp_path: Path) -> None:
    seeds = split(write_run(tmp_path, "vgf", knobs=KNOBS, seeds=3, episodes=4, evaluations=1))
    path = seeds[0] / "episodes.csv"
    rewrite(seeds[0], knobs=["N"])
    path.write_text(path.read_text().replace("L_test", "N"))
    records = load(tmp_path)
    note(records.notes, "left out: toy/toy/vgf/3f9a12c0ffee seed 0: its knobs are N, those of other seeds L_test")
    assert sorted(set(records.episodes["seed"])) == [1, 2] and records.knobs == ("L_test",)


def test_rows_of_another_seed_are_not_counted(tmp_path: Path) -> None:
    seeds = split(write_run(tmp_path, seeds=2, episodes=4, evaluations=1))
    path = seeds[1] / "episodes.csv"
    path.write_text(path.read_text() + (seeds[0] / "episodes.csv").read_text().partition("\n")[2])
    records = load(tmp_path)
    note(records.notes, f"{path}: 4 rows of seed 0, which its run.json does not have, left out")
    assert records.episodes["seed"].value_counts().to_dict() == {0: 4, 1: 4}


def test_a_run_under_way_is_shown_as_far_as_all_its_seeds_are(tmp_path: Path) -> None:
    """A seed that failed early holds nobody up; one that has no evaluation yet neither."""
    folder = write_run(tmp_path, seeds=4, episodes=4, evaluations=3, status="interrupted")
    seeds = split(folder, seed1={"status": "failed"})
    for seed, last in ((0, 2000), (1, 1000), (2, 3000), (3, 0)):
        path = seeds[seed] / "episodes.csv"
        header, *lines = path.read_text().splitlines(True)
        path.write_text(header + "".join(line for line in lines if int(line.split(",")[2]) <= last))
    records = load(tmp_path)
    note(
        records.notes, "is shown up to step 2000, which all its seeds that may go on have reached; one is at step 3000"
    )
    cells, _ = scores(records)
    told = "n = 2 of 4 (seed 1 failed; seed 3 interrupted)"
    assert cells[["seeds", "step", "told", "status"]].values.tolist() == [[2, 2000, told, "interrupted"]]


def test_a_seed_counts_only_where_it_has_all_evaluations_that_count(tmp_path: Path) -> None:
    """Its mean would else be one over other steps: here seed 1 has one of the last two."""
    folder = write_run(
        tmp_path, seeds=3, episodes=4, evaluations=3, effect=lambda t, s: 60 * t, seed_std=0, episode_std=0
    )
    seeds = split(folder, seed1={"status": "interrupted"})
    path = seeds[1] / "episodes.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if ",final," not in line))
    for endpoint in (Endpoint(last=2), Endpoint(steps=(2000, 3000))):
        cells, _ = scores(load(tmp_path), endpoint=endpoint)
        assert cells["mean"].tolist() == pytest.approx([50]) and cells["seeds"].tolist() == [2]
        assert cells["told"].tolist() == ["n = 2 of 3 (seed 1 interrupted)"]


def test_what_seeds_differ_in_is_one_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path, seeds=4, episodes=4, evaluations=1, settings={"alpha": 3.0})
    config = json.loads((folder / "run.json").read_text())["config"]
    code, gpu = (
        {"methods/iql.py": "aa", "methods/core.py": "cc"},
        {"platform": "gpu", "kind": "NVIDIA H200", "count": 1},
    )
    stages = [{"name": "actor", "fingerprint": "ab", "steps": 5, "code": {"methods/iql.py": "aa"}}]
    usual = {"code": code, "versions": {"jax": "0.10"}, "stages": stages}
    odd = {"device": gpu, "versions": {"jax": "0.11"}, "config": config | {"alpha": {"value": 10.0, "origin": "--set"}}}
    odd |= {"code": code | {"methods/iql.py": "bb"}, "stages": [{**stages[0], "code": {"methods/iql.py": "dd"}}]}
    split(folder, seed0=usual, seed1=usual, seed2=usual, seed3=odd)
    (line,) = load(tmp_path).notes
    assert line == (
        "toy/toy/fql/3f9a12c0ffee: its seeds differ in device: cpu (seeds 0-2), NVIDIA H200 (seed 3); code: "
        "methods/iql.py, methods/iql.py (of stage actor) (seeds 0-2 | seed 3); versions: jax (seeds 0-2 | seed 3); "
        "settings: alpha (seeds 0-2 | seed 3)"
    )
    assert only(tmp_path).meta["device"] == {"kind": "cpu / NVIDIA H200"}


def test_times_of_seeds_are_added_up(tmp_path: Path) -> None:
    folder = write_run(tmp_path, seeds=3, episodes=4, evaluations=1)  # of its stage a minute each
    late = {"updated": "2026-03-01T00:00:00Z", "status": "failed"}
    split(folder, seed1={"created": "2025-12-01T00:00:00Z"}, seed2=late)
    run = only(tmp_path)
    assert run.meta["seeds"] == [0, 1, 2] and run.meta["stages"][0]["seconds"] == 180
    assert run.meta["wall_clock_s"] == {"train": 3.0}
    assert (run.meta["created"][:7], run.meta["updated"][:7]) == ("2025-12", "2026-03")


@pytest.mark.parametrize("beside", [True, False])
def test_an_old_run_is_another_run(tmp_path: Path, beside: bool) -> None:
    """In a folder of its own or beside the seeds of a new one: shown apart, and said."""
    split(write_run(tmp_path, seeds=3, episodes=4, evaluations=1))
    if beside:
        write_run(tmp_path, fingerprint="dead00000000", seeds=2, episodes=4, evaluations=1)
    else:
        aside = write_run(tmp_path / "aside", seeds=2, episodes=4, evaluations=1)
        for path in aside.iterdir():
            path.rename(tmp_path / "runs/toy/toy/fql/3f9a12c0ffee" / path.name)
    records = load(tmp_path)
    old = "fql (dead00)" if beside else "fql (3f9a12, old layout)"
    assert records.episodes.groupby("label", observed=True)["seed"].nunique().to_dict() == {"fql (3f9a12)": 3, old: 2}
    note(records.notes, "toy: runs of fql on toy have equal settings", f"{old} of the old layout", "never pooled")


def test_folders_that_are_no_seeds_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, seeds=1, episodes=4, evaluations=1)
    split(folder)
    for name in ("seed-01", "seed-x", "notes"):
        (folder / name).mkdir()
    records = load(tmp_path)
    note(records.notes, f"left out: {folder / 'seed-01'} is no seed's folder")
    note(records.notes, f"left out: {folder / 'seed-x'} is no seed's folder")
    assert len(records.notes) == 2 and records.runs[0].meant == (0,)


def test_candidates_of_a_seed_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "vgf", knobs=KNOBS, seeds=5, episodes=4, evaluations=1)
    write_candidates(folder, KNOBS)
    seeds = split(folder)
    (seeds[1] / "candidates.npz").write_bytes(b"PK\x03\x04 cut short")
    (seeds[2] / "candidates.npz").unlink()
    arrays = dict(np.load(seeds[3] / "candidates.npz"))
    np.savez(seeds[3] / "candidates.npz", **arrays | {"actions": arrays["actions"][:, :1]})
    notes: list[str] = []
    found = only(tmp_path).candidates(notes)
    assert found is not None and found["actions"].shape[0] == found["candidates"].shape[0] == 2
    note(notes, f"left out: {seeds[1] / 'candidates.npz'}: cannot be read")
    note(notes, "1 of 3 seeds have candidates of other shapes, left out")


def test_names_of_seeds() -> None:
    assert (
        named([3]) == "seed 3" and named([0, 1]) == "seeds 0, 1" and named([0, 1, 2, 4, 7, 8]) == "seeds 0-2, 4, 7, 8"
    )


def test_every_run_of_a_folder_splits(tmp_path: Path) -> None:
    """The builder for the other tests leaves nothing of the old layout."""
    write_run(tmp_path, "vgf", knobs=KNOBS, seeds=2, episodes=4, evaluations=1)
    write_run(tmp_path, "fql", seeds=2, episodes=4, evaluations=1)
    split_all(tmp_path)
    assert not list(tmp_path.glob("runs/*/*/*/*/run.json")) and not any(run.old for run in load(tmp_path).runs)


@pytest.mark.parametrize("row", ["1,final,1000,0,0.5,1,1,fifty", "1,final,1000,0,1,1", ""])
def test_a_corrupt_row_is_named_with_its_seed_s_file(tmp_path: Path, row: str) -> None:
    """Tables of one header are parsed at once, which must not move a row from one seed to another."""
    seeds = split(write_run(tmp_path, seeds=3, episodes=4, evaluations=1))
    path = seeds[1] / "episodes.csv"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], row, *lines[3:]]))
    records = load(tmp_path)
    note(records.notes, f"{path}:3: ", "left out")
    note(records.notes, "seed 1: the final evaluation at step 1000 has 3 of 4 episodes")
    assert records.episodes["seed"].tolist() == [0] * 4 + [1] * 3 + [2] * 4


def test_seeds_with_other_columns_are_read_apart(tmp_path: Path) -> None:
    """A column that one seed lacks is unknown of it."""
    seeds = split(write_run(tmp_path, seeds=2, episodes=2, evaluations=1))
    path = seeds[1] / "episodes.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},gold", *(f"{line},{i}" for i, line in enumerate(lines))]) + "\n")
    records = load(tmp_path)
    np.testing.assert_array_equal(records.measured(records.runs[0])["gold"], [np.nan, np.nan, 0, 1])


def test_an_old_run_without_seeds_has_no_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path, seeds=1, episodes=2, evaluations=1)
    rewrite(folder, seeds=[])
    records = load(tmp_path)
    note(records.notes, f"{folder / 'episodes.csv'}: 2 rows of seed 0, which its run.json does not have, left out")
    assert len(records.episodes) == 0 and records.runs[0].meant == ()
