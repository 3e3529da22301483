"""The two commands: what they print, write and refuse; and that a figure's CSV holds the numbers it shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analysis import plots, tables
from analysis.figures import curves, knobs, landscape
from analysis.figures.looks import KNOWN, looks, shade
from analysis.figures.page import COLUMN, Page
from analysis.output import short
from analysis.records.load import load
from analysis.select import scores
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import MODES, both, write_candidates, write_landscape, write_run, write_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    write_suite(root)
    return root


def test_tables(suite: Path, tmp_path: Path) -> None:
    result = invoke(tables.app, str(suite), "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "Nothing was left out." in result.stdout and "(oracle)" not in result.stdout
    assert max(map(len, result.stdout.splitlines()[:-7])) <= 100
    csv, page = pd.read_csv(tmp_path / "scores.csv"), (tmp_path / "scores.md").read_text()
    for _, row in csv.iterrows():
        assert tables.cell(row)[0] in page and tables.cell(row)[1] in result.stdout
    iql = next(line for line in page.splitlines() if line.startswith("| iql"))
    assert "n=1" in iql and iql.endswith("| \N{EM DASH} |")  # one seed on one task, missing on the other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.md", "scores.tex"]


def test_data_that_are_not_the_published_are_told(suite: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(suite, results)
    for number, path in enumerate(sorted(results.glob("runs/*/*/*/*/run.json"))):
        record = json.loads(path.read_text())
        record["dataset"] |= {
            "path": "a.npz",
            "origin": "given" if number else "downloaded",
            "transitions": 1234 + number // 9,
        }
        path.write_text(json.dumps(record))
    result = invoke(tables.app, str(results), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0 and ": given data, 1,234 transitions" in result.stdout, result.output
    assert "given data" in (tmp_path / "out" / "scores.md").read_text() and "downloaded data" not in result.stdout


def test_oracle_is_labelled(suite: Path, tmp_path: Path) -> None:
    result = invoke(tables.app, str(suite), "--out", str(tmp_path), "--oracle", "--budget")
    assert "vgf (oracle)" in result.stdout and "biased upward" in result.stdout
    csv = pd.read_csv(tmp_path / "scores.csv").set_index("row")
    assert csv.loc["vgf (oracle)", "bias"].notna().all() and (csv.loc["fql", "bias"] == 0).all()
    budget = pd.read_csv(tmp_path / "budget.csv")
    assert set(budget.loc[budget["label"] == "vgf", "policy"]) == {"uniform", "halving"}


def test_unfinished_run_is_marked_and_named(tmp_path: Path) -> None:
    write_run(tmp_path, "fql", status="failed", error="nan loss", evaluations=2)
    result = invoke(tables.app, str(tmp_path))
    assert result.exit_code == 0 and "failed: nan loss" in result.stdout and "\N{DAGGER}" in result.stdout
    assert "failed: nan loss" in (tmp_path / "tables" / "scores.md").read_text()


@pytest.mark.parametrize("module", ["tables", "plots"])
def test_bad_input_is_one_line_and_exit_2(module: str, tmp_path: Path) -> None:
    empty, absent = tmp_path / "empty", tmp_path / "absent"
    empty.mkdir()
    app = {"tables": tables.app, "plots": plots.app}[module]
    for folder, named in ((empty, "no runs under"), (absent, f"no folder {absent}")):
        result = invoke(app, str(folder))
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.count("\n") == 1 and named in result.stderr
    done = subprocess.run([sys.executable, "-m", f"analysis.{module}", "--nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr.count("\n") == 1 and "--nonsense" in done.stderr
    assert not absent.exists() and not list(empty.iterdir())


@pytest.mark.parametrize("app", [tables.app, plots.app])
def test_runs_without_rows_write_nothing(app: object, tmp_path: Path) -> None:
    (write_run(tmp_path, status="running") / "episodes.csv").write_text("")
    result = invoke(app, str(tmp_path))  # type: ignore[arg-type]
    assert result.exit_code == 2 and "was killed" in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_many_tasks_are_wrapped_by_environment() -> None:
    names = [f"cube-single-play-singletask-task{i}-v0" for i in range(1, 6)] + ["hopper-v2", "walker2d-v2", "ant-v2"]
    cells = pd.DataFrame({"suite": "s", "task": names})
    blocks = [list(map(short, tasks)) for _, tasks in tables.blocks(cells)]
    cube = [f"cube-single-play-task{i}" for i in range(1, 6)]
    assert blocks == [["ant"], cube[:3], [*cube[3:], "hopper"], ["walker2d"]]


@pytest.mark.slow
def test_figures_exist_and_say_where(suite: Path, tmp_path: Path) -> None:
    for part in ("runs", "tasks"):  # the toy alone: a figure takes half a second
        shutil.copytree(suite / part / "toy", tmp_path / "results" / part / "toy")
    result = invoke(plots.app, str(tmp_path / "results"), "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    toy = tmp_path / "toy" / "toy"
    drawn = ("learning", "knob-L_test", "knob-N", "landscape", "wall-clock", "gradients", "transport")
    over = ("profiles", "aggregates", "improvement", "scaling-L_test")
    for stem in (*drawn, *(f"../{name}" for name in over)):
        assert f"{Path(os.path.normpath(toy / stem))}.png" in result.stdout
        assert all((toy / f"{stem}.{kind}").stat().st_size > 900 for kind in ("png", "svg", "pdf"))
        assert len(pd.read_csv(toy / f"{stem}.csv")) > 1
        pixels = plt.imread(toy / f"{stem}.png")[..., :3]
        assert 0.02 < (pixels < 0.9).any(-1).mean() < 0.9  # something is drawn, and it is no black sheet
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    shown, table = pd.read_csv(toy / "knob-L_test.csv"), scores(load(suite))[0]
    table = table[table["suite"] == "toy"].set_index("row")
    numbers = ["mean", "low", "high"]
    expected = table.loc[shown["row"], numbers].to_numpy(float)
    np.testing.assert_allclose(shown[numbers].to_numpy(float), expected, rtol=1e-6)
    assert set(shown.loc[shown["L_test"].isna(), "line"]) == {"bc", "fql", "best_of_n"}


def test_drawn_lines_are_the_frame(suite: Path) -> None:
    records = load(suite)
    points = curves.learning(records)
    points = points[points["suite"] == "toy"]
    lines = curves.draw(points, Page()).axes[0].lines
    expected = {tuple(np.round(run["mean"], 6)) for _, run in points.groupby(["label", "setting"], observed=True)}
    assert {tuple(np.round(np.array(line.get_ydata(), float), 6)) for line in lines} == expected and len(lines) == len(
        expected
    )
    cells, picked = (rows[rows["suite"] == "toy"] for rows in both(records))
    curve = knobs.knob_curve(cells, picked, "N", records.knobs)
    axes = knobs.draw(curve, Page(COLUMN)).axes[0]
    assert axes.get_xscale() == "log" and [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "20", "64"]
    assert any(np.allclose(line.get_ydata(), curve.loc[curve["N"].notna(), "mean"]) for line in axes.lines[:1])
    plt.close("all")


def test_landscape_shows_paths_up_to_the_setting_picked(tmp_path: Path) -> None:
    write_landscape(tmp_path)
    knobs = {"L_test": [0, 1, 5]}
    run = write_run(tmp_path, "vgf", knobs=knobs, evaluations=1, effect=lambda _, at: 10 * at["L_test"])
    write_candidates(run, knobs, pull=0.5)
    write_run(tmp_path, "fql", evaluations=1)
    records = load(tmp_path)
    shown = landscape.shown(records, "toy", "toy", *both(records))
    assert shown is not None
    points, notes = shown
    assert len(notes) == 1 and "fql" in notes[0] and "no candidates.npz" in notes[0]
    vgf = points[points["panel"] == "vgf"]
    title = vgf["title"].iloc[0]
    assert title.startswith("vgf L_test=5\n") and title.endswith("]")
    path = vgf[vgf["kind"] == "path"].sort_values(["trace", "step"])
    assert path.groupby("trace")["step"].apply(list).map(lambda steps: steps == [0, 1, 5]).all()
    ends = path[path["step"] == 5][["x", "y"]].to_numpy()
    assert np.linalg.norm(ends[:, None] - MODES, axis=-1).min(1).max() < 0.05  # halfway five times
    figure = landscape.draw(points, Page())
    assert [axes.get_title() for axes in figure.axes[:2]] == [points["title"].iloc[0], title]
    plt.close(figure)


def test_a_landscape_of_methods_without_particles(tmp_path: Path) -> None:
    write_landscape(tmp_path)
    write_candidates(write_run(tmp_path, "fql", evaluations=1), {}, pull=0.5)
    records = load(tmp_path)
    points, notes = landscape.shown(records, "toy", "toy", *both(records)) or (None, None)
    assert notes == [] and set(points["kind"]) == {"true_reward", "data", "mode", "action"}
    figure = landscape.draw(points, Page())
    assert [axes.get_title().partition("\n")[0] for axes in figure.axes[:2]] == ["data", "fql"]
    plt.close(figure)


def test_bad_landscape_and_candidates_are_notes(tmp_path: Path) -> None:
    png = ("--format", "png")  # saving is what takes time
    write_landscape(tmp_path)
    folder = write_run(tmp_path, "fql", evaluations=1)
    (folder / "candidates.npz").write_bytes(b"PK\x03\x04 cut short")
    result = invoke(plots.app, str(tmp_path), *png)
    assert result.exit_code == 0 and f"{folder / 'candidates.npz'}: cannot be read" in result.stdout
    assert "no run has two evaluations, so no learning curve" in result.stdout
    np.savez(tmp_path / "tasks" / "toy" / "toy.npz", grid_x=np.zeros(3))
    result = invoke(plots.app, str(tmp_path), *png, "--only", "landscape")
    assert result.exit_code == 0 and "no landscape" in result.stdout and "grid_y is missing" in result.stdout


def test_looks_are_fixed_and_distinct() -> None:
    alone, together = looks({"zeta": "zeta"}), looks({name: name for name in [*KNOWN, "zeta", "eta"]})
    assert alone["zeta"] == together["zeta"] and len(set(together.values())) == len(KNOWN) + 2
    twins = looks({"vgf (a)": "vgf", "vgf (b)": "vgf"})
    assert twins["vgf (a)"].color == twins["vgf (b)"].color and twins["vgf (a)"].line != twins["vgf (b)"].line
    grey = [float(np.mean(shade(together["vgf"].color, i, 5))) for i in range(5)]
    assert (np.diff(grey) < -0.03).all()  # shades darken, in print too


def test_learning_curves_stay_legible(tmp_path: Path) -> None:
    grid: dict[str, list[float]] = {"w": [0, 0.01, 0.02, 0.1], "N": [1, 4]}
    write_run(tmp_path, "qgf", knobs=grid, episodes=2, evaluations=2)
    records = load(tmp_path)
    points, notes = curves.legible(curves.learning(records))
    shown = points["setting"].drop_duplicates().tolist()
    assert len(shown) == 5 and notes == [f"toy: of 8 settings of qgf the learning curve shows {', '.join(shown)}"]
    curve = knobs.knob_curve(*both(records), "w", records.knobs)
    assert curve["line"].drop_duplicates().tolist() == ["qgf N=1", "qgf N=4"]
    assert curve.groupby("line")["w"].apply(list).tolist() == [grid["w"]] * 2


@pytest.mark.slow
def test_offline_to_online(tmp_path: Path) -> None:
    """One curve through both phases, the offline part on grey; the offline runs keep a figure and rows of their own."""
    knobs = {"L_test": [0, 1]}
    for method, names in (("vgf", knobs), ("fql", {})):
        write_run(tmp_path, method, knobs=names, evaluations=4, effect=lambda t, s: 40 * t)
        write_run(tmp_path, method, fingerprint="0a1b2c3d4e5f", knobs=names, evaluations=9, offline=4)
    records = load(tmp_path)
    assert records.notes == [] and {run.label for run in records.runs} == {"fql", "fql online", "vgf", "vgf online"}
    result = invoke(plots.app, str(tmp_path), "--out", str(tmp_path / "figures"))
    assert result.exit_code == 0, result.output
    toy = tmp_path / "figures" / "toy" / "toy"
    assert all((toy / f"online.{kind}").stat().st_size > 900 for kind in ("png", "svg", "pdf", "csv"))
    shown, offline = pd.read_csv(toy / "online.csv"), pd.read_csv(toy / "learning.csv")
    assert set(shown["label"]) == {"fql online", "vgf online"} and set(offline["label"]) == {"fql", "vgf"}
    assert shown.groupby(["label", "setting"], dropna=False)["step"].apply(list).tolist() == [
        list(range(1000, 10000, 1000))] * 3  # fmt: skip
    points = curves.learning(records)
    points = points[points["label"].isin(["fql online", "vgf online"])]
    assert curves.handover(points) == 4000
    axes = curves.draw_online(points, Page()).axes[0]
    (grey,) = [patch for patch in axes.patches if patch.get_facecolor()[:3] == (0.9, 0.9, 0.9)]
    assert grey.get_x() == axes.get_xlim()[0] < 1000 and grey.get_x() + grey.get_width() == 4000
    for line in axes.lines:  # one piece, so that it goes on where the offline part ends
        assert list(line.get_xdata()) == list(range(1000, 10000, 1000))
    plt.close("all")


def test_an_online_phase_without_an_evaluation_is_a_note(tmp_path: Path) -> None:
    write_run(tmp_path, "fql", evaluations=3, offline=3, status="running")
    result = invoke(plots.app, str(tmp_path), "--only", "online")
    assert result.exit_code == 0 and "toy/toy fql online: no evaluation in the online phase yet" in result.stdout


def test_online_runs_with_other_settings_are_told_apart(tmp_path: Path) -> None:
    for fingerprint, warmup in (("aaaaaaaaaaaa", 10), ("bbbbbbbbbbbb", 20)):
        went_on = {"continues": "0" * 12, "from_step": 3000, "steps": 7000}
        write_run(tmp_path, "fql", fingerprint=fingerprint, offline=3, online=went_on | {"warmup": warmup})
    records = load(tmp_path)
    assert [run.label for run in records.runs] == ["fql online online.warmup=10", "fql online online.warmup=20"]
    assert records.notes == ["toy: runs of fql online on toy are told apart by online.warmup 10 / 20"]


def test_other_intervals_when_asked_for(tmp_path: Path) -> None:
    """Seeds at 0, 5 and 10: t is 5 -+ 4.30 x 5 / sqrt(3), the percentile bootstrap ends at the seeds."""
    folder = write_run(tmp_path, "fql", seeds=3, evaluations=1, episodes=2, seed_std=0.0, episode_std=1.0)
    lines = (folder / "episodes.csv").read_text().splitlines()
    for i, line in enumerate(lines[1:], start=1):
        seed = int(line.split(",")[0])
        lines[i] = line.rsplit(",", 1)[0] + f",{5 * seed + (1 if i % 2 else -1)}"
    (folder / "episodes.csv").write_text("\n".join(lines) + "\n")
    ends = {}
    for name in ("t", "percentile", "bca"):
        shown = invoke(tables.app, tmp_path, "--out", tmp_path / name, "--interval", name)
        assert shown.exit_code == 0 and tables.WORDS[name] in shown.stdout
        assert ("too narrow: those of 3 cover about 75%" in shown.stdout) == (name != "t")
        (row,) = pd.read_csv(tmp_path / name / "scores.csv").to_dict("records")
        ends[name] = row["low"], row["high"]
    assert ends["t"] == (pytest.approx(-7.42, abs=0.01), pytest.approx(17.42, abs=0.01))
    assert ends["percentile"] == (0, 10) and -0.1 <= ends["bca"][0] < ends["bca"][1] <= 10.1
    assert "--interval normal" in refused(tables.app, tmp_path, "--interval", "normal")
