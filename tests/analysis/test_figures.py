"""What the figures over tasks, costs and transport show: hand-computed numbers, and records that are not whole."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import IdentityTransform, blended_transform_factory

from analysis import plots
from analysis.figures import aggregate, costs, knobs, page, scaling, style
from analysis.figures.fonts import FAMILY, WHOLE
from analysis.figures.material import Material, by_task, cells, progress
from analysis.figures.page import COLUMN, NAME, Page
from analysis.query import Query
from analysis.records.inference import axes_of, path_of
from analysis.records.load import load
from analysis.select import Rule, scores
from methods.particles import Flow, mmd2, transport_bound
from tests.analysis.synthetic import LAYOUTS, both, write_ablation, write_candidates, write_run

L_TEST = {"L_test": [0, 1, 3]}


def values(root: Path, method: str, task: str, *means: float, **more: object) -> Path:
    """A run of which each seed scores exactly its mean in every episode."""
    folder = write_run(root, method, "s", task, evaluations=1, seeds=len(means), episodes=4, seed_std=0, episode_std=0,
                       **more)  # type: ignore[arg-type]  # fmt: skip
    rows = pd.read_csv(folder / "episodes.csv")
    rows["score"] = np.array(means)[rows["seed"]]
    rows.to_csv(folder / "episodes.csv", index=False)
    return folder


def test_over_tasks_by_hand(tmp_path: Path) -> None:
    """Two tasks, four seeds: profile, IQM and probability of improvement as counted by hand."""
    for task, a, b in (("one", (10, 20, 30, 40), (15, 15, 15, 15)), ("two", (50, 60, 70, 80), (80, 90, 95, 100))):
        values(tmp_path, "fql", task, *a)
        values(tmp_path, "iql", task, *b)
    values(tmp_path, "bc", "one", 1, 2, 3, 4)
    of = aggregate.seed_means(material := Material(load(tmp_path)))
    every, tasks, left = aggregate.complete(of["s"], "s")
    assert material.notes == [] and tasks == ["one", "two"] and list(every) == ["fql", "iql"]
    assert left == ["s: profiles and aggregates are over 2 tasks, without bc (1)"]
    profile = aggregate.profiles(every, tasks, "s").set_index(["label", "threshold"])["share"]
    assert profile["fql", 0] == 1 and profile["fql", 30] == 5 / 8 and profile["iql", 80] == 3 / 8
    table = aggregate.aggregates(every, tasks, "s").set_index(["label", "statistic"])
    assert table.loc[("fql", "IQM"), "value"] == pytest.approx(np.mean([30, 40, 50, 60]))
    assert table.loc[("iql", "optimality gap"), "value"] == pytest.approx(100 - (15 + 91.25) / 2)
    pairs = aggregate.matrix(of["s"], "s").set_index(["label", "against"])
    assert pairs.loc[("fql", "iql"), "probability"] == (12 / 16 + 0.5 / 16) / 2  # 80 ties with 80
    assert pairs.loc[("iql", "bc"), "tasks"] == 1 and pairs.loc[("iql", "bc"), "probability"] == 1
    both = pairs["probability"] + pairs["probability"].swaplevel().reindex(pairs.index)
    np.testing.assert_allclose(both, 1)
    assert "of 4 seeds they cover 91%" in aggregate.covers(aggregate.aggregates(every, tasks, "s"))


def test_what_is_of_single_tasks_is_computed_when_they_are_asked_for(tmp_path: Path) -> None:
    """A task's rows without a look at another's; all together they are what one computation over all tasks gives, also
    where a knob is of one task alone."""
    for task, method, grid in (("one", "vgf", L_TEST), ("one", "fql", {}), ("two", "bc", {}), ("two", "iql", {})):
        write_run(tmp_path, method, "s", task, evaluations=2, seeds=3, episodes=4, knobs=grid)
    records, asked = load(tmp_path), list[str]()

    @by_task
    def counted(material: Material) -> pd.DataFrame:
        asked.append("+".join(dict.fromkeys(run.task for run in material.records.runs)))
        return cells(material)

    material = Material(records)
    assert set(material.here(counted, "s", "two")["label"]) == {"bc", "iql"} and asked == ["two"]
    whole = material.once(counted)
    assert asked == ["two", "one"] and material.here(counted, "s", "nowhere").empty
    pd.testing.assert_frame_equal(whole, scores(records)[0])
    every = [(step.run.task, step.run.label, step.step) for step in material.once(progress)]
    assert every == sorted(every) and len(every) == 8


def test_only_texts_with_rare_signs_look_for_a_second_font() -> None:
    style.theme()
    figure, axes = plt.subplots()
    axes.set_title("x ≥ μ²")
    axes.set_xlabel("方法")
    page.settle(figure)
    assert axes.title.get_fontfamily() == [FAMILY] and axes.xaxis.label.get_fontfamily() == [FAMILY, WHOLE]
    plt.close(figure)


def test_profiles_of_a_crowd_are_shown_a_few_at_a_time() -> None:
    """The best first, each panel with all others in grey; every method in colour once and in the legend."""
    of = {f"m{i}": (f"m{i}", {"one": np.array([9.0 * i, 9.0 * i + 3]), "two": np.array([5.0, 6.0])}) for i in range(9)}
    figure = aggregate.draw_profiles(aggregate.profiles(of, ["one", "two"], "s"), Page())
    assert len(figure.axes) == 2 and all(len(axes.lines) == 9 for axes in figure.axes)
    coloured = [[line for line in axes.lines if line.get_color() != "0.88"] for axes in figure.axes]
    assert [len(lines) for lines in coloured] == [6, 3]
    tops = [float(np.mean(lines[0].get_ydata())) for lines in coloured]
    assert tops[0] > tops[1] and [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["m8", "m7"]
    plt.close(figure)


def test_the_matrix_has_on_top_who_beats_most() -> None:
    of = {name: (name, {"t": np.array([mean, mean + 1.0])}) for name, mean in (("a", 10.0), ("b", 30.0), ("c", 20.0))}
    figure = aggregate.draw_matrix(aggregate.matrix(of, "s"), Page())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "c", "a"]
    plt.close(figure)


@pytest.mark.parametrize("draw", ["improvement", "panel"])
def test_names_of_axes_stay_where_layout_would_put_them(draw: str) -> None:
    """Placed once in `settle`, they are where drawing would have put them: a bar of colours among them."""
    figure, axes = page.panel(Page())
    axes.plot([0, 1], [0, 12345])
    axes.set(xlabel="steps", ylabel="score")
    if draw == "improvement":
        plt.close(figure)
        of = {name: (name, {"t": np.array([mean, mean + 1])}) for name, mean in (("a", 1.0), ("b", 3.0), ("c", 2.0))}
        figure = aggregate.draw_matrix(aggregate.matrix(of, "s"), Page())
    page.settle(figure)
    named = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.get_label_text()]
    renderer = figure._get_renderer()  # type: ignore[attr-defined]
    placed = [axis.label.get_window_extent(renderer).extents for axis in named]
    for axis in named:
        axis._autolabelpos = True  # type: ignore[attr-defined]
        centre = axis.label.get_position()[0 if axis.axis_name == "x" else 1]
        axis.label.set_transform(
            blended_transform_factory(axis.axes.transAxes, IdentityTransform()) if axis.axis_name == "x"
            else blended_transform_factory(IdentityTransform(), axis.axes.transAxes)
        )  # fmt: skip
        assert centre == pytest.approx(0.5, abs=1e-6)
    figure.draw_without_rendering()
    sought = [axis.label.get_window_extent(renderer).extents for axis in named]
    np.testing.assert_allclose(placed, sought, atol=1.0)  # pixels
    plt.close(figure)


@pytest.mark.parametrize(("shown", "limits"), [((0, 0), (-1, 1)), ((50, 50.5), (49.25, 51.25)), ((3, 9), (3, 9))])
def test_an_axis_of_scores_shows_a_point_at_least(shown: tuple[float, ...], limits: tuple[float, ...]) -> None:
    axes = plt.figure().add_subplot()
    axes.margins(0)
    axes.plot([0, 1], shown)
    style.at_least_a_point(axes)
    assert axes.get_ylim() == pytest.approx(limits)
    plt.close("all")


def test_aggregates_of_runs_that_never_succeed(tmp_path: Path) -> None:
    for method in ("fql", "iql"):
        values(tmp_path, method, "one", 0, 0, 0)
    every, tasks, _ = aggregate.complete(aggregate.seed_means(Material(load(tmp_path)))["s"], "s")
    figure = aggregate.draw_aggregates(aggregate.aggregates(every, tasks, "s"), Page())
    spans = [np.ptp(axes.get_xlim()) for axes in figure.axes]
    assert len(spans) == 4 and min(spans) >= 1
    plt.close("all")


def test_l_train_groups_what_differs_in_it_alone(tmp_path: Path) -> None:
    write_ablation(tmp_path, "one")
    other = {"train_flow_steps": 7, "alpha": 3.0}
    write_run(tmp_path, "avgf", "ogbench", "one", "7" * 12, {"L_test": [0, 1]}, settings=other)
    records = load(tmp_path)
    points = scaling.trained(records, *both(records))
    chosen = points[points["line"] == "avgf new-seeds L_test"]
    assert chosen["L_train"].tolist() == [0, 2, 5] and chosen["mean"].idxmax() == chosen.index[1]
    assert set(points["line"]) == {"avgf new-seeds L_test", *(f"avgf L_test={i}" for i in range(4))}
    axes = scaling.draw_trained(points, Page(COLUMN)).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines][-1] == chosen["mean"].tolist()
    plt.close("all")


@pytest.mark.parametrize("rule", ["new-seeds", "held-out", "oracle"])
def test_figures_of_a_task_show_what_the_rule_picks(tmp_path: Path, rule: str) -> None:
    write_run(tmp_path, "vgf", knobs=L_TEST, evaluations=1, seeds=3, episodes=6)
    write_run(tmp_path, "best_of_n", knobs={"N": [1, 4]}, evaluations=1, seeds=3, episodes=6)
    records = load(tmp_path)
    material = Material(records, Query(rule=Rule(rule)))
    asked = scores(records, rule=Rule(rule))[0].set_index("label")
    curve = dict(knobs.of_task(material, "toy", "toy"))["knob-L_test"]
    band = curve[curve["L_test"].isna()]
    assert band["line"].tolist() == ["best_of_n"] and band["row"].tolist() == [f"best_of_n ({rule})"]
    title = knobs.draw(curve, Page(COLUMN)).get_suptitle().replace("\n", " ")
    assert title.endswith(f"over L_test; others' settings by {rule}")
    assert band["mean"].tolist() == [asked.loc["best_of_n", "mean"]]
    ((_, paid),) = costs.of_gradients(material, "toy", "toy")
    assert paid.loc[paid["gradients"] == 0, "row"].tolist() == [f"best_of_n ({rule})", "vgf L_test=0"]


def test_normalised_by_hand(tmp_path: Path) -> None:
    for task, scale in (("one", 1.0), ("two", 10.0)):  # 1, 2, 3 and 10, 20, 30: the same curve
        write_run(tmp_path, "vgf", "s", task, knobs=L_TEST, seed_std=0, episode_std=0, evaluations=1,
                  effect=lambda t, s, scale=scale: scale * {0: 1, 1: 2, 3: 3}[int(s["L_test"])])  # fmt: skip
    write_run(tmp_path, "vgf", "s", "zero", knobs=L_TEST, seed_std=0, episode_std=0, effect=lambda t, s: 0.1)
    points, notes = scaling.normalised(load(tmp_path))
    assert notes == ["s/zero vgf: a mean of 0.1 has no scale, not normalised"]
    for _, line in points.groupby("task"):
        np.testing.assert_allclose(line["value"], [50, 100, 150], rtol=1e-6)
    assert set(points.loc[points["task"] == "", "tasks"]) == {2}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_transport_is_measured_and_bounded(tmp_path: Path, layout: str) -> None:
    folder = write_run(tmp_path, "vgf", knobs=L_TEST, evaluations=1)
    write_candidates(folder, L_TEST, particles=4, pull=0.1)
    particles = np.load(folder / "candidates.npz")["candidates"]
    LAYOUTS[layout](tmp_path)
    points, notes = scaling.carried(load(tmp_path))
    assert notes == [] and points["L_test"].tolist() == [0, 1, 3] and points["mean"].iloc[0] == 0
    assert points["mean"].iloc[2] == pytest.approx(mmd2(particles[:, 0], particles[:, 2], 1.0).mean())
    bounds = [transport_bound(Flow(), steps, 2, 1.0) for steps in (0, 1, 3)]
    np.testing.assert_allclose(points["bound"], bounds)
    assert (points["largest"] <= points["bound"]).all()
    sgd = write_run(tmp_path, "vgf", "s", "one", knobs=L_TEST, evaluations=1, settings={"particle_optimizer": "sgd"})
    write_candidates(sgd, L_TEST)
    write_run(tmp_path, "vgf", "s", "two", knobs=L_TEST)
    np.savez(tmp_path / "runs" / "s" / "two" / "vgf" / "3f9a12c0ffee" / "candidates.npz", L_test=[0, 1])
    points, notes = scaling.carried(load(tmp_path))
    assert points.loc[points["task"] == "one", "bound"].isna().iloc[1:].all() and len(notes) == 2
    assert any("Lipschitz" in note for note in notes) and any("no MMD of s/two" in note for note in notes)


KICKS = {"knobs": [{"name": "K", "label": "kicks of $5", "unit": "kicks", "path": True}],
         "costs": [{"setting": {"K": k}, "passes": 7 + k, "gradients": 2.5 * k} for k in (0, 1, 3)]}  # fmt: skip


def test_costs_and_names_are_those_declared(tmp_path: Path) -> None:
    """Of a method and a knob that nobody here has heard of, whatever its settings are called."""
    kicks = {"K": [0, 1, 3]}
    folder = write_run(tmp_path, "kicked", knobs=kicks, evaluations=2, seeds=2, episodes=4, inference=KICKS)
    write_candidates(folder, kicks)
    write_run(tmp_path, "fql", evaluations=2, seeds=2, episodes=4)
    records = load(tmp_path)
    paid = costs.over_gradients(records, *both(records))
    assert paid[["label", "passes", "gradients"]].to_numpy().tolist() == [
        ["fql", 33, 0], ["kicked", 7, 0], ["kicked", 8, 2.5], ["kicked", 10, 7.5]
    ]  # fmt: skip
    drawn: dict[str, str] = {}

    def keep(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
        figure.draw_without_rendering()
        below = [text.get_text() for text in figure.texts if text.get_gid() == NAME]  # of all panels
        drawn[stem.name] = (figure.axes[0].get_xlabel() or "".join(below)).replace("\n", " ")
        plt.close(figure)
        return [stem]

    list(plots.figures(records, tmp_path / "f", notes := [], keep))  # type: ignore[var-annotated]
    name = r"K, kicks of \$5 [kicks]"
    assert not notes and drawn["knob-K"] == drawn["transport"] == drawn["scaling-K"] == name


def test_records_that_declare_nothing_have_no_cost(tmp_path: Path) -> None:
    """Nor a unit; that candidates over L_test are paths stands in the schema, and holds of them all the same."""
    for method in ("vgf", "qgf"):
        write_run(tmp_path, method, knobs=L_TEST, evaluations=1, seeds=2, episodes=4, inference={})
    write_run(tmp_path, "fql", evaluations=1, seeds=2, episodes=4)
    records = load(tmp_path)
    assert costs.over_gradients(records, *both(records))["label"].tolist() == ["fql"]
    (note,) = costs.undeclared(records)
    assert note.startswith("records of qgf, vgf do not declare what an action costs")
    assert axes_of(records.runs) == {"L_test": "L_test"} and {path_of(run) for run in records.runs} == {"L_test", None}


def test_names_that_differ_stand_side_by_side(tmp_path: Path) -> None:
    other = {"knobs": [{"name": "L_test", "label": "laps", "unit": "-"}], "costs": []}
    write_run(tmp_path, "vgf", knobs=L_TEST, evaluations=1)
    write_run(tmp_path, "avgf", knobs=L_TEST, evaluations=1, inference=other)
    assert axes_of(load(tmp_path).runs) == {"L_test": "L_test, laps [-] / flow steps at test time [steps]"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wall_clock_counts_all_stages(tmp_path: Path, layout: str) -> None:
    """Those of all seeds: in the new layout each says its own."""
    share = 5 if layout == "a folder a seed" else 1
    stages = [{"name": "behavior", "fingerprint": "0a" * 6, "steps": 10, "seconds": 30.0 / share},
              {"name": "critic", "fingerprint": "0b" * 6, "steps": 4000, "seconds": 80.0 / share}]  # fmt: skip
    write_run(tmp_path, "vgf", knobs=L_TEST, evaluations=4, stages=stages, device={"platform": "gpu", "kind": "H200"})
    write_run(tmp_path, "fql", stages=[])
    LAYOUTS[layout](tmp_path)
    records = load(tmp_path)
    points = costs.clock(material := Material(records))
    assert points["seconds"].tolist() == [50, 70, 90, 110] and set(points["device"]) == {"H200"}
    assert material.notes == ["toy/toy fql: no seconds of its stages, not over wall-clock"]
    paid = costs.over_gradients(records, *both(records))
    assert paid["gradients"].tolist() == [0, 0, 3, 9] and paid["label"].tolist() == ["fql", "vgf", "vgf", "vgf"]


@pytest.mark.parametrize(
    "case", ["unequal", *(pytest.param(one, marks=pytest.mark.slow) for one in ("one seed", "running", "corrupt"))]
)
def test_records_that_are_not_whole(case: str, tmp_path: Path) -> None:
    """Every figure is drawn without an exception (saving is what takes time), and what is wrong is said."""

    def keep(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
        figure.draw_without_rendering()
        plt.close(figure)
        return [stem]

    seeds = {"one seed": 1, "unequal": 3}.get(case, 2)
    first = write_run(tmp_path, "vgf", knobs=L_TEST, seeds=seeds, episodes=6, evaluations=3)
    write_candidates(first, L_TEST)
    if case != "one seed":
        status = "running" if case == "running" else "finished"
        stages = {} if status == "finished" else {"stages": []}
        write_run(tmp_path, "fql", seeds=2, episodes=6, evaluations=2, status=status, **stages)  # type: ignore[arg-type]
        write_run(tmp_path, "fql", "s", "elsewhere", seeds=1, episodes=6)
    if case == "corrupt":
        with (first / "episodes.csv").open("a") as file:
            file.write("0,final,3000,0,nonsense\n")
    notes = list((records := load(tmp_path)).notes)
    drawn = {path[0].name for path in plots.figures(records, tmp_path / "f", notes, keep)}
    assert {"profiles", "aggregates", "scaling-L_test", "learning", "knob-L_test", "transport"} <= drawn
    if case in ("running", "corrupt"):
        assert any({"running": "was killed", "corrupt": "episodes.csv:110: 5 fields"}[case] in n for n in notes)
