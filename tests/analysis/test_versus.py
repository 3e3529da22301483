"""Methods against each other over tasks: forests, ranks, sample efficiency, seeds that are needed; by hand."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analysis.figures import budgets, curves, efficiency, forest, needed, ranks
from analysis.figures.material import Material
from analysis.figures.page import Page
from analysis.query import Query
from analysis.records.load import load
from analysis.statistics.ranks import average_ranks, critical_difference, ranked
from analysis.statistics.seeds import power, seeds_needed
from analysis.statistics.significance import Sample, detectable, welch
from analysis.tuning import budget
from tests.analysis.synthetic import write_run
from tests.analysis.test_figures import values

CUBES = ("cube-single-play-singletask-task1-v0", "cube-single-play-singletask-task2-v0")
SCENE = "scene-play-singletask-task1-v0"


def material(root: Path, baseline: str = "", **query: str) -> Material:
    asked = Query.of(**query)  # type: ignore[arg-type]
    return Material(asked.load(root), asked, baseline)


def test_ranks_by_hand() -> None:
    scores = np.array([[50.0, 10.0], [40.0, 20.0], [40.0, 30.0]])  # two tie on the first task
    assert average_ranks(scores).tolist() == [2.0, 2.25, 1.75]
    assert average_ranks(np.array([[0.1 + 0.2], [0.3]])).tolist() == [1.5, 1.5]  # a tie but for the last bit
    methods = [[np.array([50.0, 50.0]), np.array([10.0, 10.0])], [np.array([0.0, 90.0]), np.array([0.0, 5.0])]]
    found = ranked(methods, np.random.default_rng(0))
    # on the first task the second method's mean is 0, 45 or 90, and then the better one: one resample in four
    assert found.value.tolist() == [1.0, 2.0] and found.low.tolist() == [1.0, 1.5] and found.high.tolist() == [1.5, 2.0]


def test_the_critical_difference_is_demsar_s() -> None:
    """Demšar 2006, Table 5 (q of 2, 4 and 10 methods), and his example of 4 methods on 14 data sets: 1.25."""
    for methods, q in ((2, 1.960), (4, 2.569), (10, 3.164)):
        assert critical_difference(methods, 6) == pytest.approx(q * math.sqrt(methods * (methods + 1) / 36), rel=5e-4)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 17), (0.8, 26), (0.5, 64), (0.2, 394)])
def test_seeds_needed_are_those_of_the_tables(effect: float, seeds: int) -> None:
    """Two samples at 5%, power 0.8, as in Cohen 1988, Table 2.4.1, and G*Power; and as `detectable` has it."""
    assert seeds_needed(effect, [1.0, 1.0]) == seeds and seeds_needed(-10 * effect, [100.0, 100.0]) == seeds
    finds = [detectable(welch(Sample(0.0, 1.0, n), Sample(0.0, 1.0, n))) for n in (seeds, seeds - 1)]
    assert finds[0] <= effect < finds[1]


def test_seeds_that_nobody_can_name() -> None:
    assert power(1.0, [1.0, 1.0], 17) == pytest.approx(0.807, abs=5e-4)  # G*Power
    assert seeds_needed(0.0, [1.0, 1.0]) == math.inf and seeds_needed(0.001, [1.0, 1.0]) == math.inf
    assert math.isnan(seeds_needed(1.0, [math.nan, 1.0])) and math.isnan(seeds_needed(math.nan, [1.0]))
    assert seeds_needed(1.0, [0.0, 0.0]) == 2 and seeds_needed(0.0, [0.0, 0.0]) == math.inf


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """VGF 10 and 30 points above FQL on two tasks, 10 below on a third; BC on one."""
    for task, gain in zip((*CUBES, SCENE), (10, 30, -10), strict=True):
        for method, shift in (("fql", 0), ("vgf", gain)):
            values(tmp_path, method, task, 10 + shift, 20 + shift, 30 + shift)
    values(tmp_path, "bc", SCENE, 5, 5, 5)
    return tmp_path


def test_a_forest_by_hand(three: Path) -> None:
    points = forest.versus(material(three)).set_index(["label", "over", "place"])
    assert set(points["baseline"]) == {"fql"}
    one = points.loc[("vgf", "task", CUBES[0])]
    # Welch: std 10 on both sides, so an error of sqrt(200 / 3) with 4 degrees of freedom, t = 2.776
    assert one["difference"] == 10 and one["high"] - 10 == pytest.approx(2.776445 * math.sqrt(200 / 3))
    assert one["improvement"] == (1.5 + 2.5 + 3) / 9  # of 20, 30, 40 over 10, 20, 30, ties half
    cubes = points.loc[("vgf", "environment", "cube-single-play")]
    assert cubes["difference"] == 20 and cubes["tasks"] == 2  # error halved and doubled in squares, 8 degrees
    assert cubes["high"] - 20 == pytest.approx(2.306004 * math.sqrt(2 * 200 / 3 / 4))
    every = points.loc[("vgf", "all", "")]
    assert every["difference"] == 10 and every["tasks"] == 3
    # 40, 50, 60 beat 10, 20, 30 always; of 0, 10, 20 against them 10 ties once and 20 beats one and ties once
    assert every["improvement"] == pytest.approx((7 / 9 + 1 + 2 / 9) / 3)
    assert ("vgf", "environment", "scene-play") not in points.index  # its one task says it
    assert points.loc[("bc", "task", SCENE), "difference"] == -15 and ("bc", "all", "") not in points.index
    figure = forest.draw(forest.versus(material(three)), Page())
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "all tasks" and len(names) == 4 and figure.axes[0].get_title() == "bc"
    drawn = sorted(float(line.get_xdata()[0]) for line in figure.axes[1].lines if len(line.get_xdata()) == 1)
    assert drawn == [-10, 10, 10, 30]
    plt.close(figure)


def test_the_forest_of_one_task_has_a_row_a_method(tmp_path: Path) -> None:
    for method, mean in (("fql", 20), ("vgf", 50), ("iql", 10), ("bc", 15)):
        values(tmp_path, method, SCENE, mean - 1, mean, mean + 1)
    figure = forest.draw(forest.versus(material(tmp_path)), Page())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["vgf", "bc", "iql"]
    drawn = {float(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) < 2}
    assert [drawn[at] for at in sorted(drawn)] == [30, -5, -10] and axes.yaxis_inverted()
    plt.close(figure)


def test_who_others_are_compared_with(three: Path) -> None:
    against = forest.versus(material(three, baseline="vgf"))
    assert set(against["baseline"]) == {"vgf"} and set(against["label"]) == {"bc", "fql"}
    assert forest.versus(material(three, methods="vgf,bc"))["baseline"].unique().tolist() == ["bc"]
    alone = material(three, methods="vgf")
    assert forest.versus(alone).empty and alone.notes == []


def test_many_tasks_are_shown_by_environment() -> None:
    tasks = [f"cube-{size}-play-singletask-task{i}-v0" for size in ("single", "double", "triple") for i in range(1, 6)]
    rows = [{"label": "vgf", "over": "task", "place": task} for task in [*tasks, SCENE]]
    rows += [{"label": "vgf", "over": "environment", "place": f"cube-{size}-play"} for size in ("single", "double")]
    rows += [{"label": "vgf", "over": "all", "place": ""}]
    places, shown = forest.rows_of(pd.DataFrame(rows))
    assert places == ["", "cube-double-play", "cube-single-play", "cube-triple-play", "scene-play"]
    assert shown.duplicated(["label", "place"]).sum() == 0


def test_seeds_of_records(three: Path) -> None:
    points = needed.needed(material(three)).set_index(["label", "task"])
    assert points.loc[("vgf", CUBES[0]), "needed"] == 17 and points.loc[("vgf", CUBES[0]), "std"] == 10  # one std
    assert points.loc[("vgf", CUBES[1]), "needed"] == 4  # three stds: t of 3 seeds has too few degrees of freedom
    # over three tasks: 1.22 sqrt(n) errors with 6 (n - 1) degrees of freedom: power 0.75 at 5, 0.83 at 6
    assert points.loc[("vgf", ""), "needed"] == 6 and points.loc[("vgf", ""), "difference"] == 10


def test_ranks_of_records(three: Path) -> None:
    ((name, frame),) = ranks.of_suite(material(three, methods="fql,vgf"), "s")
    assert name == "ranks" and frame["label"].tolist() == ["vgf", "fql"]
    assert frame["rank"].tolist() == pytest.approx([4 / 3, 5 / 3]) and frame["tasks"].tolist() == [3, 3]
    assert frame["critical"].iloc[0] == pytest.approx(1.960 / math.sqrt(3), rel=1e-3)
    assert (frame["low"] <= frame["rank"]).all() and (frame["rank"] <= frame["high"]).all()


@pytest.fixture
def rising(tmp_path: Path) -> Path:
    """Three tasks in two environments that end at 0, 20 and 100, halfway at the half; FQL goes on online on them."""
    for task, level in zip((*CUBES, SCENE), (0, 20, 100), strict=True):
        exact = {"seed_std": 0, "episode_std": 0, "seeds": 4, "episodes": 4}
        rise = {"effect": lambda t, s, level=level: level * t}
        write_run(tmp_path, "fql", "ogbench", task, f"a{level:03d}" * 3, evaluations=2, **exact, **rise)  # type: ignore[arg-type]
        write_run(tmp_path, "fql", "ogbench", task, f"b{level:03d}" * 3, evaluations=4, offline=2, **exact, **rise)  # type: ignore[arg-type]
    write_run(tmp_path, "bc", "ogbench", SCENE, evaluations=2, effect=lambda t, s: 30.0 * t)
    return tmp_path


def test_sample_efficiency_by_hand(rising: Path) -> None:
    of = material(rising)
    (name, over), (online, went_on) = efficiency.of_suite(of, "ogbench")
    assert (name, online) == ("sample-efficiency", "sample-efficiency-online")
    table = over.set_index(["label", "statistic", "step"])["value"]
    # of 12 runs, 4 at each of 0, 10 and 50, the IQM leaves out three at either end: (0 + 4 x 10 + 50) / 6
    assert table["fql", "IQM", 1000] == pytest.approx(15) and table["fql", "mean", 1000] == pytest.approx(20)
    assert table["fql", "IQM", 2000] == pytest.approx(30) and table["fql", "mean", 2000] == pytest.approx(40)
    assert set(over["label"]) == {"fql"} and set(over["tasks"]) == {3}  # BC has one task of three
    means = went_on[went_on["statistic"] == "mean"]
    assert means["step"].tolist() == [1000, 2000, 3000, 4000] and means["value"].tolist() == pytest.approx(
        [10, 20, 30, 40]
    )
    assert means["phase"].tolist() == ["offline", "offline", "online", "final"]
    (_, each), (_, _) = efficiency.of_environments(of, "ogbench")
    by = each[each["statistic"] == "mean"].set_index(["environment", "label", "step"])["value"]
    assert by["cube-single-play", "fql", 2000] == pytest.approx(10) and by["scene-play", "fql", 2000] == pytest.approx(
        100
    )
    assert ("scene-play", "bc", 2000) in by.index
    figure = efficiency.draw(went_on, Page())
    (grey,) = [patch for patch in figure.axes[0].patches if patch.get_facecolor()[:3] == (0.9, 0.9, 0.9)]
    assert grey.get_x() + grey.get_width() == 2000
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [
        went_on.loc[went_on["statistic"] == "IQM", "value"].tolist()
    ]
    plt.close(figure)


def test_bands_are_the_stratified_bootstrap(tmp_path: Path) -> None:
    for task in CUBES:
        values(tmp_path, "fql", task, 0, 100)
    of = material(tmp_path)
    assert not list(efficiency.of_suite(of, "s"))  # of one evaluation there is no curve
    over = efficiency.curves(of)
    row = over[over["statistic"] == "mean"].iloc[0]
    # of two seeds a task each mean is 0, 50 or 100 with 1/4, 1/2, 1/4: both at an end with 1/16, above 2.5%
    assert (row["value"], row["low"], row["high"]) == (50, 0, 100)


def test_a_sheet_has_a_reference(rising: Path) -> None:
    ((_, points),) = list(curves.of_suite(material(rising), "ogbench"))
    assert set(points["label"]) == {"bc", "fql"}  # not what went on online
    figure = curves.draw_sheet(points, Page())
    scene = next(axes for axes in figure.axes if "scene" in axes.get_title())
    levels = [line.get_ydata()[0] for line in scene.lines if len(set(line.get_ydata())) == 1]
    mine = points[(points["label"] == "bc") & (points["step"] == 2000)]
    assert levels == [mine["mean"].iloc[0]] and len({axes.get_ylim() for axes in figure.axes[:3]}) == 1
    plt.close(figure)


def test_the_budget_s_figure_shows_its_curves(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        "vgf",
        knobs={"L_test": [0, 1, 2]},
        episodes=10,
        evaluations=1,
        effect=lambda t, s: 30 + 5 * s["L_test"],
    )
    write_run(tmp_path, "fql", episodes=10, evaluations=1)
    ((name, frame),) = budgets.of_task(material(tmp_path), "toy", "toy")
    assert name == "budget"
    pd.testing.assert_frame_equal(frame, budget.curves(load(tmp_path)))
    figure = budgets.draw(frame, Page())
    drawn = [list(line.get_ydata()) for line in figure.axes[0].lines]
    for _, line in frame[frame["policy"] != "none"].groupby("policy"):
        assert line["mean"].tolist() in drawn
    assert [4 * [frame.loc[frame["policy"] == "none", "mean"].iloc[0]]] == [one for one in drawn if len(set(one)) == 1]
    plt.close(figure)


def test_the_endpoint_is_the_one_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, "fql", evaluations=4, seed_std=0, episode_std=0, effect=lambda t, s: 40 * t)
    write_run(tmp_path, "bc", evaluations=4, seed_std=0, episode_std=0, effect=lambda t, s: 20 * t)
    at = forest.versus(material(tmp_path, endpoint="steps=1k,3k"))
    assert at["difference"].tolist() == pytest.approx([-10]) and set(at["label"]) == {"bc"}  # 10 against 20
