"""What can be measured of a figure in print: width, size of type, legends, looks, and that nothing is cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import plots
from analysis.figures import page as on
from analysis.figures import registry
from analysis.figures.looks import KNOWN, looks
from analysis.figures.material import Material
from analysis.figures.page import COLUMN, TEXT, Page
from analysis.figures.registry import Job
from analysis.figures.style import save, theme
from analysis.records.inference import axes_of, units_of
from analysis.records.load import load
from methods import LANGUAGE, REGISTRY
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import write_ablation, write_contest, write_run
from tests.analysis.synthetic import write_suite as write_control
from tests.analysis.synthetic_language import write_suite as write_texts

TOY = ("learning", "knob", "landscape", "transport", "gradients", "wall-clock", "aggregates")
"""Figures of the small suite that those of the contest do not show already."""


def jobs(root: Path, width: float = 0.0, title: bool = True, only: tuple[str, ...] = ()) -> Iterator[Job]:
    records = load(root)
    page = Page(width, title, units_of(records.runs), axes_of(records.runs))
    return plots.planned(Material(records), Path(), only, page)


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 17 control methods on two tasks, three of them online, too."""
    theme()
    root = tmp_path_factory.mktemp("contest")
    write_contest(root, 34, episodes=4, evaluations=3, online=("fql", "vgf"))
    return root


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    theme()
    root = tmp_path_factory.mktemp("suite")
    write_control(root)
    write_ablation(root)
    write_texts(root, prompts=6)
    return root


def faults(job: Job) -> list[str]:
    """What is wrong with a figure in print."""
    figure = job.draw()
    on.settle(figure)
    figure.draw_without_rendering()
    found = []
    width, height = figure.get_size_inches()
    if not np.isclose(width, job.page.width):
        found.append(f"{width} inches wide")
    if height > on.TALLEST and job.page.width == TEXT:
        found.append(f"{height} inches high")
    canvas = figure.bbox
    for text in texts(figure):
        box = text.get_window_extent()
        if text.get_fontsize() < on.SMALL:
            found.append(f"{text.get_text()!r} has {text.get_fontsize()} pt")
        if box.x0 < canvas.x0 - 1 or box.x1 > canvas.x1 + 1 or box.y0 < canvas.y0 - 1 or box.y1 > canvas.y1 + 1:
            found.append(f"{text.get_text()!r} is cut")
    below = [figure.legends, [text for text in figure.texts if text.get_text()]]
    boxes = [one.get_window_extent() for group in below for one in group]
    panels = [axes.get_tightbbox() for axes in figure.axes]
    found += [f"{i} lies over a panel" for i, one in enumerate(boxes) if any(_over(one, box) for box in panels)]
    found += ["what is below a figure overlaps" for a, b in itertools.combinations(boxes, 2) if _over(a, b)]
    for legend in figure.legends:
        box = legend.get_window_extent()
        if box.width * box.height > canvas.width * canvas.height / 3:
            found.append("a legend takes more than a third")
    for axes in figure.axes:
        found += [f"ticks of {axes.get_title()!r} run into each other"] if _crowded(axes) else []
    plt.close(figure)
    return [f"{job.stem} at {job.page.width}: {one}" for one in found]


def texts(figure: Figure) -> list[Text]:
    """All text that can be seen."""
    every = figure.findobj(lambda one: isinstance(one, Text) and one.get_visible() and bool(one.get_text().strip()))
    hidden = {id(text) for axes in figure.axes if not axes.axison for text in axes.findobj(Text)}
    ticks = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = {id(label) for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
            ticks |= {id(text) for text in axis.findobj(Text)} - shown - {id(axis.label), id(axis.offsetText)}
    return [one for one in every if id(one) not in hidden | ticks]  # ticks beyond the axis are not drawn


def _over(a: object, b: object) -> bool:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)  # type: ignore[attr-defined]
    height = min(a.y1, b.y1) - max(a.y0, b.y0)  # type: ignore[attr-defined]
    return bool(width > 1 and height > 1)


def _crowded(axes: plt.Axes) -> bool:
    """Whether names of ticks of one axis overlap."""
    for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
        boxes = [tick.label1.get_window_extent() for tick in axis._update_ticks()
                 if tick.label1.get_visible() and tick.label1.get_text()]  # fmt: skip
        if any(_over(a, b) for a, b in itertools.combinations(boxes, 2)):
            return True
    return False


def test_some_figures_of_seventeen_methods(contest: Path) -> None:
    assert not [one for job in jobs(contest, only=("aggregates", "gradients")) for one in faults(job)]


def test_rows_whose_names_take_several_lines(contest: Path) -> None:
    assert on.stacked(["a", "b\nb", "c\nc\nc", "d"]) == ([0, 1.5, 4, 6], 7)
    places = [*(f"cube-{i}-play" for i in range(4)), "humanoidmaze-large-navigate", "humanoidmaze-medium-navigate"]
    numbers = {"difference": 1.0, "low": -1.0, "high": 3.0, "suite": "ogbench", "baseline": "fql", "over": "task"}
    frame = pd.DataFrame([{"label": one, "method": one, "place": place} | numbers for one in ("vgf", "iql")
                          for place in places])  # fmt: skip
    forest = next(place for place, kind in enumerate(registry.KINDS) if kind.name == "forest")
    assert not faults(Job(forest, frame, Page(TEXT), Path("forest"), ""))


@pytest.mark.slow
def test_figures_of_seventeen_methods(contest: Path) -> None:
    seen = {}
    for job in jobs(contest):
        if (kind := registry.KINDS[job.kind].name, bool(job.stem.parent.name)) not in seen:
            seen[kind, bool(job.stem.parent.name)] = faults(job)
    assert not [one for found in seen.values() for one in found]
    assert {"forest", "ranks", "sample-efficiency", "seeds-needed", "budget"} <= {kind for kind, _ in seen}


@pytest.mark.slow
def test_figures_of_few_methods_and_of_language(suite: Path) -> None:
    assert not [one for job in jobs(suite, only=(*TOY, "l-train", "gold-*", "length-eos")) for one in faults(job)]


@pytest.mark.slow
@pytest.mark.parametrize("width", [COLUMN, TEXT])
@pytest.mark.parametrize("which", ["contest", "suite"])
def test_every_figure_at_every_width(which: str, width: float, request: pytest.FixtureRequest) -> None:
    assert not [one for job in jobs(request.getfixturevalue(which), width, title=False) for one in faults(job)]


def test_small_print_and_title_are_within(contest: Path) -> None:
    (job,) = jobs(contest, only=("profiles",))
    lines = "\n".join(f"cube-single-play-task{i}, vgf: n = 4 of 5 (seed 3 failed)" for i in range(4))
    assert not faults(job._replace(below=lines))
    figure = job._replace(page=replace(job.page, title=False)).draw()
    assert figure._suptitle is None
    plt.close(figure)


def test_looks_are_distinct_and_fixed() -> None:
    names = [*REGISTRY, *(name for name in LANGUAGE if name not in REGISTRY)]
    assert set(names) <= set(KNOWN) and len(set(KNOWN.values())) == len(KNOWN)
    together = looks({name: name for name in (*KNOWN, "zeta", "eta")})
    assert len(set(together.values())) == len(KNOWN) + 2
    for name in (*KNOWN, "zeta"):
        assert looks({name: name})[name] == together[name], name  # whoever else is there
    assert looks({"VGF (ours)": "vgf"})["VGF (ours)"] == KNOWN["vgf"]
    for family in (REGISTRY, LANGUAGE):  # whose methods meet in a figure
        for a, b in itertools.combinations(family, 2):
            assert KNOWN[a][1:] != KNOWN[b][1:], (a, b)  # in grey print, too


def test_hues_of_families_are_apart() -> None:
    """By the distance of CIELAB (1976), where 2.3 is just noticeable: seven times that for thin lines."""
    hues = {look.color for look in (KNOWN[first] for first in FAMILIES)}
    assert len(hues) == len(FAMILIES)
    for a, b in itertools.combinations(hues, 2):
        assert np.linalg.norm(_lab(a) - _lab(b)) > 16, (a, b)


FAMILIES = ("vgf", "fql", "qam", "fedit", "cfgrl", "iql", "td3bc", "idql", "bc", "best_of_n", "dpo")
"""The first of each."""


def _lab(color: tuple[float, float, float]) -> np.ndarray:
    """L*, a*, b* of an sRGB colour under D65."""
    srgb = np.array(to_rgb(color))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ linear / [0.9505, 1.0, 1.089])  # all above the linear part, as none is near black
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_lengths_are_those_that_are_drawn() -> None:
    figure = plt.figure(dpi=200)
    for text in ("cube-single-play-task2", "vgf L_test=5", "85.2 [83.3, 87.0]"):
        drawn = figure.text(0, 0, text, fontsize=7).get_window_extent().width / 200
        assert on.length(text, 7) == pytest.approx(drawn, rel=0.05)  # at 200 dpi hinting moves letters
    plt.close(figure)
    inches = on.length("antmaze-large-", 7) + 0.01
    assert on.wrapped("antmaze-large-navigate-task1", inches) == "antmaze-large-\nnavigate-task1"
    assert on.wrapped("a b", 0.05) == "a\nb" and "".join(on.wrapped("x" * 40, 0.5).split("\n")) == "x" * 40


def test_names_at_the_ends_of_lines_keep_apart() -> None:
    assert on.spread({"a": 1.0, "b": 1.2, "c": 5.0}, 10.0) == pytest.approx({"a": 0.6, "b": 1.6, "c": 5.0})
    places = sorted(on.spread({name: 9.9 for name in "abcd"}, 10.0).values())
    assert places[-1] <= 10 and np.diff(places).min() > 0.99


def test_what_is_asked_for(tmp_path: Path) -> None:
    for method in ("vgf", "fql", "bc"):
        write_run(tmp_path, method, knobs={"L_test": [0, 1]} if method == "vgf" else None, episodes=4, evaluations=2)
    (tmp_path / "names.csv").write_text("vgf,VGF (ours)\n")
    common = ("--out", str(tmp_path / "f"), "--only", "profiles,knob-*", "--format", "svg", "--no-title")
    done = invoke(plots.app, str(tmp_path), *common, "--methods", "vgf,bc", "--names", str(tmp_path / "names.csv"))
    assert done.exit_code == 0, done.output
    files = sorted(path.relative_to(tmp_path / "f").as_posix() for path in (tmp_path / "f").rglob("*.*"))
    assert files == ["toy/profiles.csv", "toy/profiles.svg", "toy/toy/knob-L_test.csv", "toy/toy/knob-L_test.svg"]
    labels = pd.read_csv(tmp_path / "f" / "toy" / "profiles.csv")["label"].drop_duplicates().tolist()
    assert labels == ["VGF (ours)", "bc"]  # in the order asked for
    assert 'width="234pt"' in (tmp_path / "f" / "toy" / "profiles.svg").read_text()  # 3.25 inches
    wide = invoke(plots.app, str(tmp_path), *common, "--width", "text")
    assert wide.exit_code == 0 and 'width="396pt"' in (tmp_path / "f" / "toy" / "profiles.svg").read_text()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--only", "lerning"), "--only lerning: no such figure; did you mean 'learning'?"),
        (("--format", "pgn"), "--format pgn: did you mean 'png'?"),
        (("--width", "colum"), "--width colum: did you mean 'column'?"),
        (("--baseline", "fpl"), "--baseline fpl: no run of it; did you mean 'fql'?"),
    ],
)
def test_what_means_nothing_is_one_line(option: tuple[str, str], said: str, tmp_path: Path) -> None:
    write_run(tmp_path, "fql", episodes=2, evaluations=1)
    assert refused(plots.app, str(tmp_path), *option) == said
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
def test_other_processes_draw_the_same(contest: Path, tmp_path: Path) -> None:
    some = list(itertools.islice(jobs(contest, only=("aggregates", "knob-*", "learning")), plots.FEW + 2))
    here, there = tmp_path / "here", tmp_path / "there"
    list(plots._drawn((job._replace(stem=here / job.stem) for job in some), ["png"], 1))
    paths = list(plots._drawn((job._replace(stem=there / job.stem) for job in some), ["png"], 2))
    assert [path[0].relative_to(there) for path in paths] == [job.stem.with_suffix(".png") for job in some]
    for path in here.rglob("*.*"):
        assert path.read_bytes() == (there / path.relative_to(here)).read_bytes(), path


@pytest.mark.slow
def test_equal_records_give_equal_files(contest: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (job,) = jobs(contest, only=("ranks",))
        save(job.draw(), job.frame, tmp_path / name, ["svg", "pdf"])
    for suffix in ("svg", "pdf", "csv"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
