"""`python -m harness.diagnose`: asks finished runs, writes a table beside each seed's scores, and a figure shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.figures import diagnosis
from analysis.figures.material import Material
from analysis.figures.page import Page
from analysis.records.load import load
from analysis.statistics.estimates import student
from harness.diagnose_command import app
from tests.harness.command import TINY, invoke, over

QGF = (*TINY, "--methods", "qgf", "--set", "qgf.test_weights=0,0.5", "--set", "qgf.test_n=1",
       "--set", "qgf.flow_steps=10")  # fmt: skip


def ask(*arguments: str) -> Any:
    return CliRunner().invoke(app, over(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnosed")
    assert invoke(*QGF, "--results", str(folder)).exit_code == 0
    done = ask(*QGF, "--results", str(folder), "--states", "8")
    assert done.exit_code == 0 and "qgf on toy: seeds 0-1: " in done.stderr, done.stderr
    return folder


def tables(results: Path) -> list[Path]:
    return sorted(results.glob("runs/toy/toy/qgf/*/seed-*/diagnosis.csv"))


def test_each_seed_has_a_table_and_asking_again_gives_the_same(results: Path) -> None:
    first, second = tables(results)
    assert first.read_bytes() != second.read_bytes()
    before = first.read_bytes()
    assert ask(*QGF, "--results", str(results), "--states", "8").exit_code == 0
    assert first.read_bytes() == before
    rows = pd.read_csv(first, keep_default_na=False)
    counts = rows["quantity"].value_counts()
    assert counts["similarity"] == 4 * 4 * 4 and counts["guided_value"] == counts["to_data"] == 5 * 2
    assert (rows["states"] == 8).all() and np.isfinite(rows["mean"]).all() and (rows["std"] >= 0).all()
    assert rows.loc[rows["quantity"] == "similarity", "mean"].between(-1, 1).all()
    plain = rows[(rows["quantity"] == "to_data") & (rows["x"] == 0)]
    assert plain["mean"].nunique() == 1  # without a weight all ways are one


def test_the_figure_shows_means_over_seeds_with_their_intervals(results: Path) -> None:
    material = Material(load(results))
    frames = dict(diagnosis.of_task(material, "toy", "toy"))
    assert list(frames) == ["diagnosis-similarity", "diagnosis-over-w"]
    shown = frames["diagnosis-over-w"]
    own = [pd.read_csv(path, keep_default_na=False) for path in tables(results)]
    place = ("guided_value", "after", 0.5)
    means = np.array([float(one[(one["quantity"] == place[0]) & (one["line"] == place[1]) & (one["x"] == place[2])]
                            ["mean"].item()) for one in own])  # fmt: skip
    row = shown[(shown["quantity"] == place[0]) & (shown["line"] == place[1]) & (shown["x"] == place[2])].iloc[0]
    assert row["mean"] == pytest.approx(means.mean()) and row["seeds"] == 2 and row["states"] == 8
    assert (row["low"], row["high"]) == pytest.approx(student(means))
    figure = diagnosis.draw(shown, Page())
    assert len(figure.axes) == 3 and all(len(axes.lines) == 5 for axes in figure.axes)
    figure = diagnosis.draw(frames["diagnosis-similarity"], Page())
    assert [axes.get_title() for axes in figure.axes] == ["t = 0", "t = 0.3", "t = 0.6", "t = 0.9"]


def test_a_table_that_is_none_is_left_out_with_a_note(results: Path) -> None:
    path = tables(results)[1]
    before = path.read_bytes()
    try:
        path.write_text("quantity,x\nsimilarity,1\n")
        material = Material(load(results))
        shown = dict(diagnosis.of_task(material, "toy", "toy"))["diagnosis-over-w"]
        assert shown["seeds"].max() == 1 and shown["low"].isna().all()
        assert any("has no column meaning" in note for note in material.notes)
    finally:
        path.write_bytes(before)


def test_language_methods_declare_nothing(results: Path) -> None:
    pytest.importorskip("torch")
    done = ask("--suite", "tldr-synthetic", "--results", str(results))
    assert done.exit_code == 2 and "its methods declare nothing to ask" in done.stderr


def test_what_cannot_be_asked_is_one_line(results: Path, tmp_path: Path) -> None:
    done = ask(*QGF, "--results", str(tmp_path))
    assert done.exit_code == 2 and done.stderr == "error: qgf on toy: has not been run\n"
    done = ask(*QGF, "--set", "qgf.hidden_dims=4", "--results", str(results))
    assert done.exit_code == 2 and done.stderr == "error: qgf on toy: has not been run with these options\n"
    done = ask(*QGF, "--sweep", "qgf.gradient=denoised,noisy", "--results", str(results), "--states", "8")
    assert done.exit_code == 0, done.stderr  # the way of acting changes no part, and is asked of all ways at once
    assert "qgf on toy (gradient=noisy): of the same parts as qgf on toy (gradient=denoised), which was" in done.stderr
    done = ask(*TINY, "--methods", "bc,fql", "--results", str(results))
    assert done.exit_code == 2 and done.stderr == "error: --methods bc, fql: none of them declares anything to ask\n"
    (note,) = results.glob("runs/toy/toy/qgf/*/seed-1/stages")
    lane = note.read_text().split()[-1]
    stage = results / "artifacts" / lane / "stage.json"
    kept = stage.read_text()
    try:
        stage.write_text(kept.replace('"finished": true', '"finished": false'))
        done = ask(*QGF, "--results", str(results), "--states", "8")
        assert done.exit_code == 2 and "qgf on toy: seed 0: " in done.stderr
        assert "error: qgf on toy: seed 1 not finished" in done.stderr
    finally:
        stage.write_text(kept)


def test_ways_on_a_line_are_one_seed_s_and_shares_all_seeds(tmp_path: Path) -> None:
    """Six weights, as many lines as a bundle of ways might have: shares keep all seeds, with intervals."""
    words = (*TINY, "--tasks", "toy-line", "--methods", "qgf", "--set", "qgf.test_weights=0,0.1,0.2,0.3,0.5,1",
             "--results", str(tmp_path))  # fmt: skip
    assert invoke(*words).exit_code == 0
    done = ask(*words, "--states", "4")
    assert done.exit_code == 0, done.output
    frames = dict(diagnosis.of_task(Material(load(tmp_path)), "toy", "toy-line"))
    ways, shares = frames["diagnosis-path"], frames["diagnosis-share"]
    assert set(ways["seeds"]) == {1} and ways["low"].isna().all() and ways["line"].nunique() == 15
    assert set(shares["seeds"]) == {2} and shares["low"].notna().mean() > 0.5 and shares["line"].nunique() == 6
    assert (shares.groupby(["line", "panel"])["mean"].max() == 1).all()
    for frame in (ways, shares):
        assert diagnosis.draw(frame, Page()).axes
