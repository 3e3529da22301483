"""What the figures of language runs show: hand-computed numbers, one look a method, and runs that lack some of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis import plots
from analysis.figures import language, registry
from analysis.figures.looks import KNOWN
from analysis.figures.material import Material
from analysis.figures.page import Page
from analysis.figures.style import theme
from analysis.records.load import load
from tests.analysis.synthetic import LAYOUTS, write_run
from tests.analysis.synthetic_language import best_of_n, plain, vgf, write_language, write_suite

LEVELS = {"L_test": [0, 1, 4]}


Shown = dict[str, tuple[pd.DataFrame, Figure]]


def shown(root: Path) -> Shown:
    """Figure name -> (numbers, figure), of the only task."""
    return drawn(Material(load(root)))


def drawn(material: Material) -> Shown:
    found = registry.frames(material, "tldr-synthetic", "tldr-synthetic", (), scored=False)
    return {name: (frame, registry.KINDS[kind].draw(frame, Page())) for kind, name, frame in found}


@pytest.fixture(autouse=True)
def few_figures() -> Iterator[None]:
    before = set(plt.get_fignums())
    yield
    for number in set(plt.get_fignums()) - before:
        plt.close(number)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The figures of all five methods."""
    theme()
    write_suite(root := tmp_path_factory.mktemp("suite"), prompts=6)
    yield shown(root)
    plt.close("all")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_points_are_means_over_prompts_and_seeds(tmp_path: Path, layout: str) -> None:
    accuracy = {"gold_accuracy": 0.8, "label_accuracy": 0.7}
    write_language(tmp_path, "best_of_n", best_of_n, {"N": [1, 16]}, "3c" * 6, noise=0.0, seeds=2, accuracy=accuracy)
    noisy = write_language(tmp_path, "vgf", vgf(0.7, 0.5), LEVELS, prompts=30)
    write_run(tmp_path, "fql")
    table = pd.read_csv(noisy / "episodes.csv")
    LAYOUTS[layout](tmp_path)
    of, notes = language.points(load(tmp_path))
    assert notes == [] and set(of["method"]) == {"best_of_n", "vgf"}
    rows = of.set_index("line").loc["best_of_n"].set_index("setting")
    assert rows.loc["N=16", "gold"] == pytest.approx(0.2 + 0.25 * math.log(16), rel=1e-6)
    assert rows.loc["N=16", "compute"] == 32 and math.isnan(rows.loc["N=16", "transport"])
    assert rows["accuracy"].tolist() == [0.8, 0.8] and rows["gold_spread"].tolist() == [0, 0]
    mine = table[table["L_test"] == 4]
    row = of[(of["method"] == "vgf") & (of["L_test"] == 4)].iloc[0]
    assert row["proxy"] == pytest.approx(mine["proxy"].mean(), rel=1e-5)
    assert row["gold_spread"] == pytest.approx(mine.groupby("seed")["gold"].std().mean(), rel=1e-5)
    assert row["gold_low"] < row["gold"] < row["gold_high"] and math.isnan(row["accuracy"])


def test_a_pipe_in_a_model_s_place_is_a_note(tmp_path: Path) -> None:
    write_language(tmp_path, "vgf", vgf(0.7, 0.5), LEVELS, prompts=4, accuracy={"gold_accuracy": 0.7})
    path = next(tmp_path.rglob("reward-*.safetensors"))
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    of, notes = language.points(load(tmp_path))
    assert len(of) == 3 and any("is not a plain file" in note and str(path) in note for note in notes)


def test_the_bound_of_best_of_n_by_hand(tmp_path: Path) -> None:
    assert language.best_of_n_kl(1) == 0
    assert language.best_of_n_kl(4) == pytest.approx(1.386294 - 0.75, abs=1e-6)
    # exactly, for a continuous score: density n u^(n-1) against 1, KL = integral of n u^(n-1) log(n u^(n-1))
    u = (np.arange(200_000) + 0.5) / 200_000
    density = 16 * u**15
    assert language.best_of_n_kl(16) == pytest.approx(np.mean(density * np.log(density)), abs=1e-4)


def test_distances_never_mix_kl_and_transport(suite: Shown) -> None:
    far, figure = suite["gold-distance"]
    kinds = {method: set(one["kind"]) for method, one in far.groupby("method")}
    assert kinds == {"sft": {"estimate"}, "dpo": {"estimate"}, "ppo": {"estimate"}, "best_of_n": {"upper bound"},
                     "vgf": {"transport"}}  # fmt: skip
    left, right = figure.axes
    assert "KL" in left.get_xlabel() and right.get_xlabel() == "transport of the particles [MMD², not a KL]"
    assert far.loc[far["method"] == "ppo", "distance"].iloc[0] == pytest.approx(math.sqrt(3.5))
    with_n = far[far["method"] == "best_of_n"]
    np.testing.assert_allclose(with_n["distance"] ** 2, [language.best_of_n_kl(n) for n in with_n["N"]], atol=1e-12)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "best_of_n (upper bound)" in names and "dpo (estimate)" in names


def test_distances_are_to_the_sft_model_that_samples_alike(tmp_path: Path) -> None:
    """Greedy answers have no distance, by a knob or by the only temperature; nor has a choice softer than the best."""
    levels = {"T": [0, 0.7], "N": [1, 4]}
    write_language(tmp_path, "best_of_n", lambda s: plain(0.2), levels, prompts=4)
    write_language(tmp_path, "soft_best_of_n", lambda s: plain(0.2), levels | {"lambda": [0, 0.5]}, prompts=4)
    write_language(tmp_path, "vgf", lambda s: plain(0.2, transport=0.1), {"T": [0, 0.7], "L_test": [0, 1]}, prompts=4)
    for i, (method, one) in enumerate({"sft": 0.0, "dpo": 1.0}.items()):
        write_language(tmp_path, method, lambda _: plain(0.2, kl=1.0), fingerprint=f"{i}c" * 6, prompts=4,
                       settings={"test_temperatures": [one]})  # fmt: skip
    far, figure = drawn(material := Material(load(tmp_path)))["gold-distance"]
    assert set(far["method"]) == {"best_of_n", "vgf", "dpo"} and set(far["T"].dropna()) == {0.7}
    assert far["kind"].value_counts().to_dict() == {"upper bound": 2, "transport": 2, "estimate": 1}
    assert figure.axes[0].get_xlabel().replace("\n", " ") == "√KL to the SFT model at the same temperature [√nats]"
    assert "best_of_n T=0.7 (upper bound)" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert material.notes == [
        "tldr-synthetic: gold-distance is without greedy answers (T=0), whose distance from SFT's samples nobody "
        "knows: best_of_n, sft, soft_best_of_n, vgf",
        "tldr-synthetic: gold-distance is without choices softer than the best of N (lambda), of which there is no "
        "formula: soft_best_of_n",
    ]


def test_the_curve_before_decoding_says_what_it_is_of(tmp_path: Path) -> None:
    folder = write_language(tmp_path, "vgf", vgf(0.7, 0.5), LEVELS, prompts=4)
    table = pd.read_csv(folder / "episodes.csv")
    table.assign(soft=table["proxy"] - 1).to_csv(folder / "episodes.csv", index=False)
    _, figure = shown(tmp_path)["reward-L_test"]
    names = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert names == ["vgf", "vgf, particle before decoding (may mix tokens, also at L_test=0)"]


def test_gains_by_hand(tmp_path: Path) -> None:
    """In deviations over prompts at L_test=0: the proxy gains 0.9 log 2 at L_test=1, gold loses with L_test=4."""
    folder = write_language(tmp_path, "vgf", vgf(0.0, 1.0), LEVELS, prompts=400, seeds=1)
    of, figure = shown(tmp_path)["over-optimisation"]
    rows, table = of.set_index("L_test"), pd.read_csv(folder / "episodes.csv").groupby("L_test")
    deviation, means = table[["gold", "proxy"]].std().loc[0], table[["gold", "proxy"]].mean()
    assert rows.loc[0, "gold_gain"] == 0 and rows.loc[0, "proxy_gain"] == 0
    gain = (means.loc[4, "gold"] - means.loc[0, "gold"]) / deviation["gold"]
    assert rows.loc[4, "gold_gain"] == pytest.approx(gain, rel=1e-4)  # float32
    # 400 prompts with noise of 0.3 on either side: three standard errors of the difference are 0.064
    assert gain * deviation["gold"] == pytest.approx(-4 * (1 - math.exp(-(0.2**1.3))), abs=0.064)
    assert rows.loc[1, "proxy_gain"] * deviation["proxy"] == pytest.approx(0.9 * math.log(2), abs=0.064)
    # the interval is that of differences prompt by prompt: the normal one, but for the bootstrap's noise
    texts = pd.read_csv(folder / "episodes.csv").pivot(index="episode", columns="L_test", values="gold")
    half = 1.96 * (texts[4] - texts[0]).std() / math.sqrt(400) / deviation["gold"]
    assert rows.loc[4, "gold_gain_high"] - gain == pytest.approx(half, rel=0.1)
    assert gain - rows.loc[4, "gold_gain_low"] == pytest.approx(half, rel=0.1)
    assert rows.loc[0, "gold_gain_low"] == rows.loc[0, "gold_gain_high"] == 0
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in lines] == [of["gold_gain"].tolist(), of["proxy_gain"].tolist()]


def test_a_better_reward_model_comes_first(suite: Shown) -> None:
    _, figure = suite["over-optimisation"]
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.split(", ")[1] for title in titles] == ["reward model 79% right", "reward model 56% right"]


def test_one_colour_a_method_in_every_figure_and_legends_beside_the_axes(suite: Shown) -> None:
    for name in ("reward-L_test", "gold-distance", "gold-compute", "length-eos"):
        _, figure = suite[name]
        colours = {to_hex(line.get_color()) for axes in figure.axes for line in axes.lines}
        assert {to_hex(KNOWN[method].color) for method in ("dpo", "ppo", "sft")} <= colours, name
        figure.canvas.draw()
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes), name


def test_the_map_frames_its_best_cell(tmp_path: Path) -> None:
    levels = {**LEVELS, "eps": [0.4, 2.0]}
    write_language(tmp_path, "vgf", vgf(0.7, 0.5), levels, noise=0.0, prompts=4)
    frame, figure = shown(tmp_path)["gold-eps-L_test"]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 6 and texts[0] == "0.60"
    (framed,) = figure.axes[0].patches
    best = frame.loc[frame["gold"].idxmax()]
    corner = (sorted(levels["L_test"]).index(best["L_test"]) - 0.5, levels["eps"].index(best["eps"]) - 0.5)
    assert framed.get_xy() == corner


@pytest.mark.slow
def test_runs_without_a_panel_and_means_over_other_knobs_are_noted(tmp_path: Path) -> None:
    """Six runs, four panels; one run has a third knob, over which its cells are means."""
    for i in range(6):
        levels = {"L_test": [0, 1], "eps": [0.4, 2.0]} | ({"K": [1, 2]} if i == 0 else {})
        write_language(tmp_path, "vgf", vgf(0.7, 0.5), levels, f"{i}a" * 6, prompts=4, seeds=1,
                       accuracy={"gold_accuracy": 0.6 + 0.05 * i})  # fmt: skip
    figures = drawn(material := Material(load(tmp_path)))
    of, notes = language.points(material.records)[0], material.notes
    assert len(figures["over-optimisation"][1].axes) == 4
    assert len(figures["gold-eps-L_test"][1].axes) == 5  # with a colour bar
    labels = sorted(of["label"].unique())
    task = "tldr-synthetic"
    assert notes == [
        f"{task}: over-optimisation has panels for 4 of 6 runs, without {labels[1]}, {labels[0]}",  # the worst models
        f"{task}: gold-eps-L_test has panels for 4 of 6 runs, without {labels[4]}, {labels[5]}",
        f"{task}: cells of {labels[0]} in gold-eps-L_test are means over its other knobs",
    ]


def test_what_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    write_language(tmp_path, "sft", lambda _: plain(0.2), prompts=4)
    assert set(shown(tmp_path)) == {"gold-compute", "length-eos"}
    write_language(tmp_path, "vgf", lambda s: {"proxy": s["L_test"], "length": 9, "gold": math.nan}, LEVELS, prompts=4)
    of, notes = language.points(load(tmp_path))
    assert len(notes) == 1 and "vgf" in notes[0] and "no gold reward" in notes[0]
    figures = shown(tmp_path)
    assert len(of) == 4 and set(figures) == {"reward-L_test", "gold-compute", "length-eos"}
    assert [axes.get_ylabel()[:5] for axes in figures["reward-L_test"][1].axes] == ["gold ", "proxy"]


def test_runs_that_nobody_has_judged(tmp_path: Path) -> None:
    """Their texts are there and their figures, their scores are not: notes say so, and nothing breaks."""
    write_language(tmp_path, "vgf", lambda s: {"proxy": 1 + s["L_test"], "length": 9, "eos": 1}, LEVELS, prompts=4)
    records, kept = load(tmp_path), []
    assert len(records.episodes) == 36 and records.notes == [
        f"{records.runs[0].name}: 36 of 36 episodes have no valid verdict, so no score"
    ]
    assert not list(records.each()) and len(list(records.each(scored=False))) == 1
    list(plots.figures(records, tmp_path, notes := [], lambda _, frame, stem: kept.append(stem.name) or []))  # type: ignore
    assert kept == ["reward-L_test", "length-eos"] and "no scores, so no figures of them" in notes


def test_the_command_keeps_them_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_language(tmp_path, "vgf", vgf(0.7, 0.5), LEVELS, prompts=6)
    write_language(tmp_path, "sft", lambda _: plain(0.2, kl=0.0), prompts=6)
    kept: dict[str, pd.DataFrame] = {}

    def save(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
        kept[stem.relative_to(tmp_path).as_posix()] = frame
        plt.close(figure)
        return [stem]

    list(plots.figures(load(tmp_path), tmp_path, notes := [], save))  # type: ignore[var-annotated]
    place = "tldr-synthetic/tldr-synthetic"
    names = {"reward-L_test", "over-optimisation", "gold-distance", "gold-compute", "length-eos", "knob-L_test"}
    assert {f"{place}/{name}" for name in names} <= set(kept)
    assert not any("no scale" in note for note in notes)  # a win rate is read in percent
    assert kept[f"{place}/knob-L_test"]["mean"].max() > 1
