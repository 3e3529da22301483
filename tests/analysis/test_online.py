"""Runs that go on online are methods of their own: final scores, and the area under what they scored on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from analysis import stats, tables, tune
from analysis.compare import Terms, measured_by_name
from analysis.endpoint import Endpoint, area, own
from analysis.pairs import matchups, over_tasks
from analysis.records.load import load
from analysis.select import Rule, scores
from tests.analysis.command import invoke
from tests.analysis.synthetic import Effect, split, write_run

AREA = Endpoint(area=True)
TASKS = [f"{name}-play-singletask-task1-v0" for name in ("cube-single", "scene")]
PATH = [10.0, 20.0, 30.0, 40.0, 60.0, 60.0, 100.0]
"""Scores at 1000, 2000, ...: four evaluations offline, three online. The area online is that from 4000 on:
((40 + 60) / 2 + 60 + (60 + 100) / 2) / 3 = 190 / 3; offline it is (15 + 25 + 35) / 3 = 25."""
EXACT = {"seeds": 3, "episodes": 4, "seed_std": 0.0, "episode_std": 0.0}


def on(path: list[float], gain: float = 0.0) -> Effect:
    """The scores of `path`, one an evaluation; more by `gain` for each step of L_test."""
    return lambda t, s: path[round(t * len(path)) - 1] + gain * s.get("L_test", 0.0)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """vgf and fql on two tasks, offline and from there online: vgf ends at 100; fql rises late, to 90."""
    late = [*PATH[:4], 40.0, 40.0, 90.0]
    for task in TASKS:
        for name, path in (("vgf", PATH), ("fql", late)):
            size = {"seeds": 4, "episodes": 6, "seed_std": 2.0, "episode_std": 3.0}
            write_run(tmp_path, name, "ogbench", task, "a" * 12, effect=on(path[:4]), evaluations=4, **size)  # type: ignore[arg-type]
            write_run(tmp_path, name, "ogbench", task, "b" * 12, effect=on(path), evaluations=7, offline=4, **size)  # type: ignore[arg-type]
    return tmp_path


def means(root: Path, endpoint: str) -> dict[str, float]:
    frame, notes = scores(load(root), endpoint=Endpoint.parse(endpoint))
    assert not notes
    return {row["row"]: row["mean"] for row in frame.to_dict("records")}


def test_the_area_by_hand() -> None:
    """Steps 1000, 2000, 5000: episode 0 has (1000 x 15 + 3000 x 35) / 4000 = 30, episode 1 (0 + 3000 x 20) / 4000 = 15.
    Seed 1 lacks an evaluation and is not in it; of seed 2 episode 1 does."""
    table = {0: [10.0, 20.0, 50.0], 1: [0.0, 0.0, 40.0]}
    rows = [(seed, step, "", episode, score)
            for seed in (0, 1, 2) for episode, path in table.items()
            for step, score in zip((1000, 2000, 5000), path, strict=True)
            if (seed, step) != (1, 2000) and (seed, step, episode) != (2, 1000, 1)]  # fmt: skip
    found, missing = area(pd.DataFrame(rows, columns=["seed", "step", "setting", "episode", "score"]))
    assert missing == "" and found["step"].eq(5000).all()
    assert found[["seed", "episode", "score"]].to_numpy().tolist() == [[0, 0, 30], [0, 1, 15], [2, 0, 30]]


def test_an_area_is_the_mean_over_even_steps_but_for_half_of_the_ends(tmp_path: Path) -> None:
    write_run(tmp_path, effect=lambda t, s: 7.0, evaluations=5, **EXACT)  # type: ignore[arg-type]
    assert means(tmp_path, "area") == pytest.approx({"fql": 7.0})


def test_phases_have_areas_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, "vgf", "toy", "toy", "a" * 12, effect=on(PATH[:4]), evaluations=4, **EXACT)  # type: ignore[arg-type]
    write_run(tmp_path, "vgf", "toy", "toy", "b" * 12, effect=on(PATH), evaluations=7, offline=4, **EXACT)  # type: ignore[arg-type]
    assert means(tmp_path, "last") == pytest.approx({"vgf": 40.0, "vgf online": 100.0})
    assert means(tmp_path, "last-3") == pytest.approx({"vgf": 30.0, "vgf online": 220 / 3})
    assert means(tmp_path, "area") == pytest.approx({"vgf": 25.0, "vgf online": 190 / 3})
    frame, notes = scores(load(tmp_path), endpoint=Endpoint.parse("last-4"))
    assert frame.set_index("row")["mean"]["vgf online"] == pytest.approx(220 / 3)  # not of the offline run
    assert notes == ["toy/toy vgf online: 3 of the last 4 evaluations"]
    run, rows = list(load(tmp_path).each())[1]
    assert own(run, rows)["step"].unique().tolist() == [5000, 6000, 7000]
    assert own(run, rows, handover=True)["step"].min() == 4000
    out = tmp_path / "o"
    done = invoke(tables.app, tmp_path, "--endpoint", "area", "--out", out)
    assert done.exit_code == 0 and "63.3" in done.stdout and "the trapezoid mean of a seed's score" in done.stdout
    assert "the trapezoid mean" in (out / "scores.md").read_text()


def test_what_an_area_lacks_is_told(tmp_path: Path) -> None:
    """Seed 1 stopped after two evaluations of four; a run that was evaluated once has none."""
    seeds = split(write_run(tmp_path, "vgf", evaluations=4, **EXACT), seed1={"status": "failed", "error": "nan"})  # type: ignore[arg-type]
    path = seeds[1] / "episodes.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if ",final," not in line))
    write_run(tmp_path, "fql", evaluations=1, **EXACT)  # type: ignore[arg-type]
    write_run(tmp_path, "bc", evaluations=6, **EXACT)  # type: ignore[arg-type]
    frame, notes = scores(load(tmp_path), endpoint=AREA)
    told = "n = 2 of 3 (seed 1 failed: nan)"
    assert frame.set_index("row")["seeds"].to_dict() == {"vgf": 2, "bc": 3}
    assert frame.set_index("row")["told"]["vgf"] == told
    assert notes == [
        "toy/toy: areas over other steps are not alike: 1000-6000 of bc; 1000-4000 of vgf",
        "toy/toy fql: one evaluation, an area takes two", f"toy/toy vgf: {told}"]  # fmt: skip
    done = invoke(stats.app, tmp_path, "--compare", "vgf,bc", "--endpoint", "area", "--out", tmp_path / "o")
    assert done.exit_code == 0 and "areas over other steps are not alike" in done.stdout and told in done.stdout


def test_knobs_are_chosen_by_the_area(tmp_path: Path) -> None:
    """L_test = 1 is better at the end, L_test = 0 on the way: each endpoint picks its own."""
    path = {0: [50.0, 50.0, 50.0], 1: [0.0, 0.0, 60.0]}
    write_run(tmp_path, "vgf", knobs={"L_test": [0, 1]}, evaluations=3, **EXACT,  # type: ignore[arg-type]
              effect=lambda t, s: path[int(s["L_test"])][round(3 * t) - 1])  # fmt: skip
    last, whole = means(tmp_path, "last"), means(tmp_path, "area")
    chosen = f"vgf ({Rule().name})"
    assert [last[row] for row in ("vgf L_test=0", "vgf L_test=1", chosen)] == pytest.approx([50, 60, 60])
    assert [whole[row] for row in ("vgf L_test=0", "vgf L_test=1", chosen)] == pytest.approx([50, 15, 50])


def test_online_runs_are_tested_beside_offline_ones(results: Path) -> None:
    """Final scores and areas, by task and over tasks; the numbers are scipy's of the seeds' own."""
    for endpoint, difference in (("last", 10.0), ("area", 190 / 3 - (40 + 40 + 65) / 3)):
        out = results / endpoint
        done = invoke(stats.app, results, "--compare", "vgf online,fql online", "--endpoint", endpoint, "--out", out)
        assert done.exit_code == 0 and "over 2 tasks" in done.stdout and "several runs" not in done.stdout, done
        rows = pd.read_csv(out / "compare-vgf online-fql online.csv")
        assert rows["difference"].to_numpy() == pytest.approx([difference] * 2, abs=6)
        for row in rows.to_dict("records"):
            a, b = (by_seed(results, row["task"], method, endpoint) for method in ("vgf", "fql"))
            welch = reference.ttest_ind(a, b, equal_var=False)
            assert row["difference"] == pytest.approx(a.mean() - b.mean(), rel=1e-5)
            assert row["p_welch"] == pytest.approx(welch.pvalue, rel=1e-4)
            assert row["p_rank"] == pytest.approx(reference.mannwhitneyu(a, b, method="exact").pvalue, rel=1e-6)
            assert row["starts"] == 6 and row["p_paired"] < 1
    done = invoke(stats.app, results, "--compare", "vgf online,vgf", "--out", results / "phases")
    rows = pd.read_csv(results / "phases" / "compare-vgf online-vgf.csv")
    assert done.exit_code == 0 and rows["difference"].to_numpy() == pytest.approx([60.0] * 2, abs=6)
    cells = measured_by_name(load(results), ["vgf online", "fql online"], Terms(AREA))
    found, notes = matchups(cells, "vgf online", "fql online")
    ((_, over),) = over_tasks(found)
    assert notes == [] and float(over.seeds.difference) == pytest.approx(15.0, abs=3)


def by_seed(root: Path, task: str, method: str, endpoint: str) -> np.ndarray:
    rows = pd.read_csv(root / "runs" / "ogbench" / task / method / ("b" * 12) / "episodes.csv")
    table = rows.groupby(["seed", "step"])["score"].mean().unstack()
    if endpoint == "last":
        return table[7000].to_numpy()
    return np.trapezoid(table[[4000, 5000, 6000, 7000]].to_numpy(), dx=1000, axis=1) / 3000


def test_an_online_run_without_an_evaluation_of_its_own_has_no_score(tmp_path: Path) -> None:
    write_run(tmp_path, "vgf", evaluations=3, offline=3, status="running", **EXACT)  # type: ignore[arg-type]
    write_run(tmp_path, "fql", evaluations=3, **EXACT)  # type: ignore[arg-type]
    frame, notes = scores(load(tmp_path))
    assert frame["row"].tolist() == ["fql"]
    assert "toy/toy vgf online: no evaluation in the online phase yet" in notes
    done = invoke(stats.app, tmp_path, "--compare", "vgf online,fql", "--out", tmp_path / "o")
    assert done.exit_code == 2 and "vgf online: no evaluation in the online phase yet" in done.stderr


def test_settings_are_compared_by_the_area(tmp_path: Path) -> None:
    for alpha, path in ((1.0, [40.0, 40.0, 40.0]), (3.0, [0.0, 0.0, 90.0])):
        write_run(tmp_path, "fql", fingerprint=f"{alpha:012.0f}", settings={"alpha": alpha}, evaluations=3,
                  effect=on(path), **EXACT)  # type: ignore[arg-type]  # fmt: skip
    for endpoint, best in (("last", "alpha=3.0"), ("area", "alpha=1.0")):
        done = invoke(tune.app, tmp_path, "--rule", "heldout-seeds", "--endpoint", endpoint)
        assert done.exit_code == 0 and f"picked: {best} (the best over all)" in done.stdout, done
