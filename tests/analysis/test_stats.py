"""Two methods against each other: the numbers are scipy's, the sentences follow from them, nothing is a traceback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from analysis import stats
from analysis.compare import Terms, measured
from analysis.pairs import matchups, over_tasks
from analysis.records.load import load
from tests.analysis.command import invoke
from tests.analysis.synthetic import write_run

TASKS = [f"{name}-play-singletask-task{i}-v0" for name in ("cube-single", "scene") for i in (1, 2)]


def command(root: Path, methods: str = "vgf,fql", *more: str) -> tuple[int, str, str]:
    result = invoke(stats.app, str(root), "--compare", methods, *more)
    return result.exit_code, " ".join(result.stdout.split()), result.stderr


def seed_means(run_folder: Path) -> np.ndarray:
    return pd.read_csv(run_folder / "episodes.csv").groupby("seed")["score"].mean().to_numpy()


def test_known_effects_and_scipy(tmp_path: Path) -> None:
    """vgf 20 points above fql on three tasks, equal on the fourth."""
    folders = {}
    for i, task in enumerate(TASKS):
        for method, level in (("vgf", 50 if i == 3 else 70), ("fql", 50)):
            folders[task, method] = write_run(
                tmp_path,
                method,
                "ogbench",
                task,
                f"{i}{method}".ljust(12, "0"),
                effect=lambda t, s, level=level: level,
                evaluations=1,
            )
    code, said, _ = command(tmp_path)
    assert code == 0 and "vgf is better on 3 of 4 tested, fql on 0; on 1 no difference is shown" in said
    assert "with new seeds on these tasks: vgf scores" in said and "nor on other environments" in said
    assert "5 seeds against 5: the smallest two-sided Mann-Whitney p is 0.0079" in said
    rows = pd.read_csv(tmp_path / "tables" / "compare-vgf-fql.csv").set_index("task")
    for task in TASKS:
        a, b = (seed_means(folders[task, method]) for method in ("vgf", "fql"))
        welch = reference.ttest_ind(a, b, equal_var=False)  # by chance a spread may lie below that of the episodes
        assert rows.loc[task, "p_welch"] == pytest.approx(welch.pvalue, rel=0.02)
        exact = reference.mannwhitneyu(a, b, method="exact")
        assert rows.loc[task, "p_rank"] == pytest.approx(exact.pvalue, rel=1e-6)
        assert rows.loc[task, "improvement"] == pytest.approx(exact.statistic / 25)
        assert rows.loc[task, "starts"] == 50
    np.testing.assert_allclose(rows["p_rank_holm"].to_numpy()[:3], 4 * 2 / 252, rtol=1e-5)  # all three at the smallest
    np.testing.assert_allclose(rows["p_rank_bh"].to_numpy()[:3], 4 / 3 * 2 / 252, rtol=1e-5)
    found, notes = matchups(measured(load(tmp_path), Terms()), "vgf", "fql")
    ((suite, over),) = over_tasks(found)
    differences = rows.loc[[matchup.task for matchup in found], "difference"].to_numpy()
    assert notes == [] and suite == "ogbench" and over.environments == 2
    assert over.seeds.difference == pytest.approx(differences.mean(), abs=1e-4)
    assert over.units.wilcoxon_tasks == pytest.approx(reference.wilcoxon(differences).pvalue)
    assert over.units.tasks.p == pytest.approx(reference.ttest_1samp(differences, 0).pvalue, rel=1e-3)


def test_several_methods_share_a_family(tmp_path: Path) -> None:
    for method in ("vgf", "fql", "iql"):
        write_run(tmp_path, method, evaluations=1, fingerprint=method.encode().hex().zfill(12))
    code, said, _ = command(tmp_path, "vgf,fql,iql", "--out", str(tmp_path / "o"))
    rows = pd.read_csv(tmp_path / "o" / "compare-vgf-fql-iql.csv")
    assert code == 0 and rows["second"].tolist() == ["fql", "iql"] and "over 2 comparisons" in said
    assert "nothing. On none of 1 tested is a difference shown" in said and "takes two tasks" in said


def test_seeds_and_tasks_that_differ(tmp_path: Path) -> None:
    """One seed against five allows no test; five against three do; a task without one method is named."""
    write_run(tmp_path, "vgf", "a", "one-v0", seeds=5)
    write_run(tmp_path, "fql", "a", "one-v0", seeds=1)
    code, said, _ = command(tmp_path)
    assert code == 0 and "none of 1 has two seeds of both" in said and "no test over seeds is possible" in said
    assert "\N{EM DASH}" in said
    write_run(tmp_path, "vgf", "a", "two-v0", seeds=5)
    write_run(tmp_path, "fql", "a", "two-v0", seeds=3)
    write_run(tmp_path, "fql", "a", "three-v0")
    code, said, _ = command(tmp_path)
    assert code == 0 and "a/three-v0 is not compared; vgf: no run" in said
    assert "one seed gives its bootstrap intervals no width" in said and "at the fewest. 5 seeds against 1" in said


def test_several_runs_are_not_pooled(tmp_path: Path) -> None:
    for fingerprint in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        write_run(tmp_path, "vgf", fingerprint=fingerprint)
    write_run(tmp_path, "fql")
    code, _, error = command(tmp_path)
    told = "2 runs (vgf (aaaaaa), vgf (bbbbbb)): name one, or --run does"
    assert code == 2 and told in error and error.count("\n") == 1
    assert command(tmp_path, "vgf,fql", "--run", "aaaa", "--run", "3f9a")[0] == 0
    assert command(tmp_path, "vgf (bbbbbb),fql")[0] == command(tmp_path, "vgf (aaaaaa),vgf (bbbbbb)")[0] == 0


def test_unfinished_corrupt_and_absent_are_named(tmp_path: Path) -> None:
    assert command(tmp_path)[0] == 2  # an empty folder
    write_run(tmp_path, "vgf", knobs={"L_test": [0, 1]}, status="running", evaluations=3)
    code, _, error = command(tmp_path)
    assert code == 2 and "no run of fql" in error and error.count("\n") == 1
    bad = write_run(tmp_path, "fql") / "episodes.csv"
    lines = bad.read_text().splitlines()
    bad.write_text("")
    code, _, error = command(tmp_path)
    assert code == 2 and "no run of fql" in error and "has no evaluation yet" in error and error.count("\n") == 1
    bad.write_text("\n".join([*lines[:6], "0,final,what", *lines[7:]]) + "\n")
    code, said, _ = command(tmp_path)
    assert (
        code == 0
        and f"{bad}:7: 3 fields" in said
        and "toy/toy: the run was killed (or stopped) before its end, at step 3000" in said
    )
    for wrong in ("vgf", "", "vgf,vgf"):
        code, _, error = command(tmp_path, wrong)
        assert code == 2 and "name two methods or more" in error
