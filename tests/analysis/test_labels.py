"""What runs are called: one setting has one label on all tasks, so that figures and tests over tasks find it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import stats, tables
from analysis.figures import aggregate
from analysis.figures.material import Material
from analysis.records.labels import labelled, natural, text_of
from analysis.records.load import load
from analysis.records.runs import Run
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import split, write_run

TASKS = [f"{name}-play-singletask-task{i}-v0" for name in ("cube-single", "scene") for i in (1, 2)]
EXACT = {"seeds": 3, "episodes": 4, "evaluations": 1, "episode_std": 0.0}


def run(task: str, fingerprint: str, method: str = "avgf", **settings: object) -> Run:
    return Run(
        Path(task, method, fingerprint), "s", task, method, fingerprint, method, (), settings, {}, sources=(NEW,)
    )


class _New:
    old = False


NEW: object = _New()  # type: ignore[no-redef]


def labels(*runs: Run) -> list[str]:
    found, _ = labelled(runs)
    return [found.get(one.key, one.label) for one in runs]


@pytest.fixture
def ablation(tmp_path: Path) -> Path:
    """Amortised VGF at L_train 2 and 10 on four tasks (a third setting on one of them), beside a method with one run;
    seeds are worth 0, 1, 2 points more. At L_train = 2 it scores 50 + 10 i on task i, at 10 it scores 2 less."""
    for i, task in enumerate(TASKS):
        for steps, less in ((2, 0.0), (10, 2.0), *(((5, 9.0),) if i == 0 else ())):
            write(tmp_path, task, f"{steps:06d}{i:06d}", 50.0 + 10 * i - less, {"train_flow_steps": steps})
        write(tmp_path, task, f"f{i:011d}", 40.0, {}, "fql")
    return tmp_path


def write(
    root: Path, task: str, fingerprint: str, level: float, settings: dict[str, object], method: str = "avgf"
) -> None:
    folder = write_run(root, method, "ogbench", task, fingerprint, settings=settings, seed_std=0.0,
                       effect=lambda t, s: level, **EXACT)  # type: ignore[arg-type]  # fmt: skip
    path = folder / "episodes.csv"
    header, *lines = path.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    path.write_text(
        "\n".join([header, *(",".join([*row[:-1], str(float(row[-1]) + int(row[0]))]) for row in rows)]) + "\n"
    )


def test_a_setting_has_one_label_on_all_tasks(ablation: Path) -> None:
    records = load(ablation)
    assert {run.label for run in records.runs} == {
        "avgf train_flow_steps=2", "avgf train_flow_steps=5", "avgf train_flow_steps=10", "fql"}  # fmt: skip
    assert records.notes == ["ogbench: runs of avgf on 4 tasks are told apart by train_flow_steps 2 / 5 / 10"]
    assert [one.label for one, _ in records.each()][:4] == [  # by size, not by letters
        "avgf train_flow_steps=2", "avgf train_flow_steps=5", "avgf train_flow_steps=10", "fql"]  # fmt: skip
    of = aggregate.seed_means(Material(records))["ogbench"]
    assert set(of["avgf train_flow_steps=10"][1]) == set(TASKS)
    every, tasks, _ = aggregate.complete(of, "ogbench")
    assert len(tasks) == 4 and set(every) == {"avgf train_flow_steps=2", "avgf train_flow_steps=10", "fql"}
    means = aggregate.aggregates(every, tasks, "ogbench").set_index(["label", "statistic"])["value"]
    assert means["avgf train_flow_steps=2", "mean"] == pytest.approx(66.0)  # 65, and 1 of the seeds
    assert means["avgf train_flow_steps=10", "mean"] == pytest.approx(64.0)


def test_two_settings_are_tested_against_each_other_over_tasks(ablation: Path) -> None:
    """The difference is 2 on every task, and of seeds 0, 1, 2 the std 1 on either side: t = 2 / sqrt(2/3) on each."""
    out = ablation / "o"
    done = invoke(stats.app, ablation, "--out", out, "--compare", "avgf train_flow_steps=2,avgf train_flow_steps=10")
    assert done.exit_code == 0 and "over 4 tasks in 2 environments" in done.stdout, done
    rows = pd.read_csv(out / "compare-avgf train_flow_steps=2-avgf train_flow_steps=10.csv")
    np.testing.assert_allclose(rows["difference"], 2.0, rtol=1e-5)
    np.testing.assert_allclose(rows["p_welch"], 0.0705, atol=1e-3)  # scipy: ttest_ind([2, 3, 4], [0, 1, 2]) has 0.0705
    assert sorted(rows["task"]) == sorted(TASKS)
    by_methods = invoke(stats.app, ablation, "--out", out / "m", "--methods", "avgf")  # its settings, in order
    assert by_methods.exit_code == 0, by_methods
    rows = pd.read_csv(next((out / "m").glob("compare-*.csv")))
    assert set(rows["first"]) == {"avgf train_flow_steps=2"}
    assert rows["second"].unique().tolist() == ["avgf train_flow_steps=5", "avgf train_flow_steps=10"]
    one = invoke(stats.app, ablation, "--out", out / "r", "--compare", "avgf,fql", "--run", "train_flow_steps=10")
    assert one.exit_code == 0, one
    rows = pd.read_csv(out / "r" / "compare-avgf-fql.csv")
    np.testing.assert_allclose(sorted(rows["difference"]), [8, 18, 28, 38], rtol=1e-5)


def test_a_name_that_several_runs_have_is_refused_by_their_labels(ablation: Path) -> None:
    line = refused(stats.app, ablation, "--compare", "avgf,fql", "--out", ablation / "o")
    assert "2 runs (avgf train_flow_steps=2, avgf train_flow_steps=10): name one, or --run does" in line
    assert not (ablation / "o").exists()


def test_rows_of_a_table_go_by_size(ablation: Path) -> None:
    done = invoke(tables.app, ablation, "--out", ablation / "o")
    page = (ablation / "o" / "scores.md").read_text()
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| avgf")]
    assert done.exit_code == 0 and rows[:3] == [f"| avgf train_flow_steps={steps}" for steps in (2, 5, 10)]
    assert page.count("told apart") == 1


def test_only_what_differs_within_a_task_is_named() -> None:
    """alpha has another value on every task, as its table of settings says: that is no other setting."""
    runs = [run("a", "1" * 9, alpha=1.0, tau=0.1), run("a", "2" * 9, alpha=1.0, tau=0.7),
            run("b", "3" * 9, alpha=9.0, tau=0.1), run("b", "4" * 9, alpha=9.0, tau=0.7),
            run("c", "5" * 9, alpha=5.0, tau=0.7)]  # fmt: skip
    assert labels(*runs) == ["avgf tau=0.1", "avgf tau=0.7"] * 2 + ["avgf tau=0.7"]
    assert labels(*runs[::2]) == ["avgf"] * 3  # one a task


def test_values_are_plain() -> None:
    assert [text_of(value) for value in (3, 3.0, 0.1, 1e-5, 0.1 + 0.2, True, False, [512, 512], "a,b", None)] == [
        "3", "3", "0.1", "1e-05", "0.3", "on", "off", "512/512", "a/b", "None"]  # fmt: skip
    pair = labels(run("a", "1", x=0.3), run("a", "2", x=0.1 + 0.2))
    assert pair == ["avgf x=0.3", "avgf x=0.30000000000000004"]  # in full where they would be alike
    assert labels(run("a", "1", x=1.0), run("a", "2", y=2)) == ["avgf x=1 y=-", "avgf x=- y=2"]
    assert sorted(["k=10", "k=2", "k=0.5", "j"], key=natural) == ["j", "k=0.5", "k=2", "k=10"]


def test_many_settings_stay_legible_and_unique() -> None:
    """Of five that differ three are named, those that tell most apart; the others are a digest, one for all tasks."""
    runs = [run(task, f"{task}{i}", a=i, b=i % 2, c=i % 3, d=i // 2, e=i // 7) for task in "pq" for i in range(8)]
    found = labels(*runs)
    assert found[:8] == found[8:] and len(set(found)) == 8 and max(map(len, found)) <= 40
    assert found[:2] == ["avgf a=0", "avgf a=1"]  # which says it all
    runs = [
        run("p", f"{i:05b}", **{key: int(bit) for key, bit in zip("abcde", f"{i:05b}", strict=True)}) for i in range(32)
    ]
    found = labels(*runs)
    assert len(set(found)) == 32 and max(map(len, found)) <= 40 and all(" #" in one for one in found)
    assert found[0].startswith("avgf a=0 b=0 c=0 #")
    (note,) = labelled(runs)[1]
    assert note == "s: runs of avgf on p are told apart by a 0 / 1, b 0 / 1, c 0 / 1, 2 more"


def test_long_values_are_cut_and_told_apart() -> None:
    found = labels(*(run("a", str(i), path="x" * 200 + str(i)) for i in range(2)))
    assert len(set(found)) == 2 and max(map(len, found)) < 100


def test_equal_settings_are_told_apart_by_fingerprints(tmp_path: Path) -> None:
    """Where one setting has a twin of other data, its label has both; and a run of the old layout is never pooled."""
    for fingerprint, alpha in (("3f9a12aa00", 1.0), ("3f9a12bb00", 1.0), ("3f9a12cc00", 2.0)):
        write_run(tmp_path, "fql", fingerprint=fingerprint, settings={"alpha": alpha}, **EXACT)  # type: ignore[arg-type]
    records = load(tmp_path)
    assert {one.label for one in records.runs} == {"fql alpha=1 (3f9a12a)", "fql alpha=1 (3f9a12b)", "fql alpha=2"}
    assert records.notes == [
        "toy: runs of fql on toy are told apart by alpha 1 / 2",
        "toy: runs of fql on toy have equal settings, so other data, seeds or code",
    ]
    folder = write_run(tmp_path, "bc", **EXACT)  # type: ignore[arg-type]
    seeds = split(folder)
    assert len(seeds) == 3
    other = write_run(tmp_path / "other", "bc", **EXACT)  # type: ignore[arg-type]
    for path in other.iterdir():
        path.rename(folder / path.name)
    records = load(tmp_path)
    assert {one.label for one in records.runs if one.method == "bc"} == {"bc (3f9a12)", "bc (3f9a12, old layout)"}
    (note,) = (note for note in records.notes if "bc" in note)
    assert note.endswith("bc (3f9a12, old layout) of the old layout of records, never pooled with seeds of the new one")
