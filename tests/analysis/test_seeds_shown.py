"""What the commands say of runs of which not every seed is there: `n = 4 of 5 (seed 3 failed: ...)`, everywhere."""

from __future__ import annotations

import html
import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats as reference

from analysis import plots, report, stats, tables, verdicts
from analysis.compare import OPEN, REPRODUCED, Terms, compare
from analysis.figures.style import plt, theme
from analysis.missing import gaps
from analysis.published import read
from analysis.records.load import load
from tests.analysis.command import invoke
from tests.analysis.synthetic import split, split_all, write_run
from tests.analysis.synthetic_language import plain, write_language
from tests.analysis.test_verdicts import sealed

CUBE = "cube-single-play-singletask-task2-v0"
NAN = {"status": "failed", "error": "FloatingPointError: critic is nan"}
TOLD = "n = 4 of 5 (seed 3 failed: FloatingPointError: critic is nan)"


def lacking(folder: Path) -> dict[int, Path]:
    """A run of five seeds, of which seed 3 failed before its last evaluation."""
    seeds = split(folder, seed3=NAN)
    path = seeds[3] / "episodes.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if ",final," not in line))
    return seeds


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vgf without seed 3, fql with seeds 0-2, and a run of the old layout."""
    root = tmp_path_factory.mktemp("results")
    size = {"episodes": 4, "evaluations": 2, "steps": 1_000_000}
    lacking(write_run(root, "vgf", "ogbench", CUBE, knobs={"L_test": [0, 1]}, effect=lambda t, s: 84 * t, **size))  # type: ignore[arg-type]
    split(write_run(root, "fql", "ogbench", CUBE, seeds=3, effect=lambda t, s: 60 * t, **size))  # type: ignore[arg-type]
    write_run(root, "iql", "ogbench", CUBE, effect=lambda t, s: 83 * t, **size)  # type: ignore[arg-type]
    return root


def test_tables(results: Path, tmp_path: Path) -> None:
    shown = invoke(tables.app, results, "--out", tmp_path)
    cells = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False).set_index("row")
    assert shown.exit_code == 0 and "n=4 of 5" in shown.output and f"vgf: {TOLD}" in shown.output
    assert cells.loc["vgf L_test=1", ["seeds", "meant", "told", "status"]].tolist() == [4, 5, TOLD, "finished"]
    assert cells.loc["fql", ["seeds", "meant", "told"]].tolist() == [3, 3, ""]
    page = (tmp_path / "scores.md").read_text()
    assert page.count("n=4 of 5") == 4 + 1 and "\N{DAGGER}" not in page  # two settings, new-seeds, held-out; the legend


def test_tests_of_unequal_seeds(results: Path, tmp_path: Path) -> None:
    """Welch over the seeds that are there, whichever they are; the paired test over starts that all of them share."""
    shown = invoke(stats.app, results, "--compare", "fql,vgf", "--select", "fixed:1", "--out", tmp_path)
    assert shown.exit_code == 0 and "n=4 of 5" in shown.stdout and f"vgf: {TOLD}" in shown.stdout
    row = pd.read_csv(tmp_path / "compare-fql-vgf.csv").iloc[0]
    a, b = (_means(results, method) for method in ("fql", "vgf"))
    assert (len(a), len(b)) == (3, 4) == (row["first_seeds"], row["second_seeds"]) and row["second_told"] == TOLD
    assert row["p_welch"] == pytest.approx(reference.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-4)
    assert row["difference"] == pytest.approx(a.mean() - b.mean(), rel=1e-5) and row["starts"] == 4
    assert row["paired_difference"] == pytest.approx(row["difference"], rel=1e-5)


def _means(results: Path, method: str) -> pd.Series:
    """Of the seeds with a final evaluation, at L_test=1 where there is one."""
    rows = pd.concat([pd.read_csv(path) for path in results.glob(f"runs/*/*/{method}/*/seed-*/episodes.csv")])
    rows = rows[rows["phase"] == "final"]
    return (rows[rows["L_test"] == 1] if "L_test" in rows else rows).groupby("seed")["score"].mean()


def test_verdicts_on_print_stand_on_the_seeds_that_are_there(tmp_path: Path) -> None:
    """Beside VGF's 84: four exact seeds reproduce it; of a run that only has unfinished seeds nothing is judged."""
    published, _ = read()
    rows = published[(published["table"] == "table7") & (published["task"] == CUBE) & (published["method"] == "VGF")]
    level = float(rows["mean"].iloc[0])
    size = {"episodes": 4, "evaluations": 2, "seed_std": 0.1, "episode_std": 0.1, "steps": 1_000_000}
    folder = write_run(tmp_path, "vgf", "ogbench", CUBE, effect=lambda t, s: level, **size)  # type: ignore[arg-type]
    seeds = lacking(folder)
    (row,) = compare(load(tmp_path), rows, Terms())[0].to_dict("records")
    assert row["seeds"] == 4 and row["why"] == TOLD and row["verdict"] == REPRODUCED
    for seed, place in seeds.items():
        record = json.loads((place / "run.json").read_text())
        (place / "run.json").write_text(json.dumps(record | {"status": "failed" if seed == 3 else "interrupted"}))
    (row,) = compare(load(tmp_path), rows, Terms())[0].to_dict("records")
    assert row["verdict"] == OPEN and row["why"] == f"{TOLD}; the run was interrupted, at step 1000000"


def test_an_environment_s_mean_is_over_seeds_that_all_tasks_have(tmp_path: Path) -> None:
    published, _ = read()
    rows = published[(published["table"] == "table2") & (published["method"] == "FQL")]
    rows = rows[rows["environment"].str.contains("cube-single")]
    for i in range(1, 6):
        task, effect = CUBE.replace("2", str(i), 1), {"effect": lambda t, s, i=i: 10.0 * i}
        folder = write_run(tmp_path, "fql", "ogbench", task, episodes=4, evaluations=2, **effect)  # type: ignore[arg-type]
        lacking(folder) if i == 4 else split(folder)
    frame, notes = compare(load(tmp_path), rows, Terms())
    (row,) = frame.to_dict("records")
    assert row["seeds"] == 4 and "without seeds 3, which not all its tasks have" in row["remark"]
    assert f"cube-single-play-task4: {TOLD}" in row["remark"] and any(f"task4-v0/fql: {TOLD}" in note for note in notes)


def test_captions(results: Path) -> None:
    """Below every figure of the task, and with the task's name below those of the suite; none is cut off."""
    found: dict[str, str] = {}

    def keep(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
        figure.draw_without_rendering()
        captions = [text for text in figure.texts if text.get_gid() == "caption"]
        found[str(stem)] = " ".join(text.get_text() for text in captions)
        for text in captions:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1, stem
            for axes in figure.axes:
                assert axes.get_tightbbox().y0 >= box.y1, (stem, "the caption lies over the axes")
        plt.close(figure)
        return [stem]

    theme()
    list(plots.figures(load(results), Path(), [], keep))
    assert {f"ogbench/{CUBE}/learning", f"ogbench/{CUBE}/knob-L_test", "ogbench/profiles"} <= set(found)
    for stem, said in found.items():
        start = "cube-single-play-task2, vgf" if stem.count("/") == 1 else "vgf"
        assert " ".join(said.split()) == f"{start}: {TOLD}", stem


def test_no_caption_where_all_seeds_are_there(tmp_path: Path) -> None:
    split(write_run(tmp_path, "fql", seeds=2, episodes=4, evaluations=2))
    texts: list[str] = []

    def keep(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
        texts.extend(text.get_text() for text in figure.texts if text.get_gid() == "caption")
        plt.close(figure)
        return [stem]

    assert list(plots.figures(load(tmp_path), Path(), [], keep)) and texts == []


def test_the_report(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.picture", lambda figure, frame, name: report.Picture(name, "", "", 1, 1))
    assert invoke(report.app, results, "--out", tmp_path).exit_code == 0
    page = html.unescape((tmp_path / "index.html").read_text())
    assert "4 of 5" in page and TOLD in page and "1 partly finished" in page and "2 finished" in page
    assert "partly finished: seed 3 failed: FloatingPointError: critic is nan" in page and "0, 1, 2, 3, 4" in page


def test_what_would_run_what_is_missing(results: Path, tmp_path: Path) -> None:
    found = {gap.what: gap for gap in gaps(load(results), read()[0])}
    gap = found[f"ogbench/{CUBE}/vgf/3f9a12c0ffee"]
    assert gap.why == "seed 3 failed: FloatingPointError: critic is nan"
    assert shlex.split(gap.command)[9:11] == ["--seeds", "5"]
    seeds = split(write_run(tmp_path, seeds=5, episodes=4, evaluations=1), seed4={"status": "interrupted"})
    for seed in (1, 3):
        for path in seeds[seed].iterdir():
            path.unlink()
        seeds[seed].rmdir()
    (gap,) = (one for one in gaps(load(tmp_path), read()[0]) if one.what.endswith("3f9a12c0ffee"))
    assert gap.why == "seed 4 interrupted" and shlex.split(gap.command)[9:11] == ["--seeds", "0,2,4"]


# language


def test_win_rates_unite_seeds(tmp_path: Path) -> None:
    """The recorded and a judge's, who has not judged seed 2 yet: as those of the same records in one folder."""
    for name in ("one", "many"):
        write_language(tmp_path / name, "sft", lambda _: plain(1.0), seeds=3, prompts=6)
    before, _, _ = verdicts.tabulate(load(tmp_path / "one"))
    split_all(tmp_path / "many")
    after, _, notes = verdicts.tabulate(load(tmp_path / "many"))
    pd.testing.assert_frame_equal(after, before)
    assert notes == []
    run = next((tmp_path / "many" / "runs").glob("*/*/*/*"))
    for seed in (0, 1):
        rows = [f"{seed},{e},{'win' if e < 2 + seed else 'loss'},1,0.5" for e in range(6)]
        sealed(run / f"seed-{seed}", "j", "\n".join(["seed,episode,verdict,swap_consistent,cost", *rows]) + "\n")
    table, _, notes = verdicts.tabulate(load(tmp_path / "many"), "j")
    told = "n = 2 of 3 (seed 2 without its verdicts)"
    row = table.iloc[0]
    assert row[["verdicts", "prompts", "seeds", "meant", "cost", "told"]].tolist() == [12, 6, 2, 3, 6.0, told]
    assert row["win_rate"] == pytest.approx(5 / 12) and any(note.endswith(f", j: {told}") for note in notes)
    shown = invoke(verdicts.app, tmp_path / "many", "--judge", "j")
    assert shown.exit_code == 0 and "6 x 2 of 3" in shown.stdout and told in shown.stdout


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("post 0", "another post"), "answers other prompts than the seeds before it"),
        (('"seed": 1', '"seed": 0'), "has responses of other seeds than its run.json"),
        (("}\n", "\n"), "responses.jsonl:1: "),
    ],
)
def test_texts_of_a_seed_that_do_not_fit(tmp_path: Path, change: tuple[str, str], line: str) -> None:
    """Neither its recorded scores nor its verdicts count; the other seed's do."""
    seeds = split(write_language(tmp_path, "sft", lambda _: plain(2.0), seeds=2, prompts=4))
    path = seeds[1] / "responses.jsonl"
    path.write_text(path.read_text().replace(*change))
    table, _, notes = verdicts.tabulate(load(tmp_path))
    assert table["seeds"].tolist() == [1] and table["verdicts"].tolist() == [4]
    assert sum(str(path) in note and line in note for note in notes) == 1 and len(notes) == 2
    assert "n = 1 of 2 (seed 1 without its verdicts)" in notes[-1]
