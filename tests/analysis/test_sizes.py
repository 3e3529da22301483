"""Score and training over the size of networks: numbers by hand, and which runs make a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.figures import sizes
from analysis.figures.material import Material
from analysis.figures.page import COLUMN, TEXT, Page
from analysis.records.load import load
from tests.analysis.synthetic import write_run


def sized(root: Path, method: str, widths: list[int], score: float, **more: object) -> None:
    for number, width in enumerate(widths):
        settings = {"hidden_dims": [width, width // 2], "alpha": 1.0, **more}
        name = f"{method[:3]}{number}{'0' * 8}"
        write_run(root, method, "s", "t", name, effect=lambda *_, score=score: score, seed_std=0, episode_std=0,
                  evaluations=1, seeds=4, settings=settings)  # fmt: skip
        score += 10.0


def test_lines_are_of_runs_that_differ_in_size_alone(tmp_path: Path) -> None:
    sized(tmp_path, "fql", [512, 128, 256], 30.0)
    sized(tmp_path, "iql", [128], 20.0)  # one size
    points = dict(sizes.of_task(Material(load(tmp_path)), "s", "t"))["model-size"]
    assert points["line"].tolist() == ["fql"] * 3 and points["width"].tolist() == [128, 256, 512]
    assert points["mean"].tolist() == [40.0, 50.0, 30.0]
    assert points["seconds"].tolist() == [60.0 / 4] * 3  # of four seeds together, in the old layout
    assert set(points["device"]) == {"cpu"}
    for width, axes in ((TEXT, 2), (COLUMN, 2)):
        figure = sizes.draw(points, Page(width))
        assert len(figure.axes) == axes
        np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), points["seconds"])


def test_another_setting_makes_another_line(tmp_path: Path) -> None:
    sized(tmp_path, "fql", [128], 30.0)
    sized(tmp_path, "fqx", [128, 256], 30.0)
    write_run(tmp_path, "fql", "s", "t", "f" * 12, evaluations=1, settings={"hidden_dims": [256, 128], "alpha": 3.0})
    points = dict(sizes.of_task(Material(load(tmp_path)), "s", "t"))["model-size"]
    assert set(points["line"]) == {"fqx"}


@pytest.mark.parametrize("layers", [None, "512", [], [True], ["a"]])
def test_a_run_that_says_no_size_is_left_out(tmp_path: Path, layers: object) -> None:
    for number in range(2):
        write_run(tmp_path, "fql", "s", "t", f"abc{number}{'0' * 8}", evaluations=1,
                  settings={"hidden_dims": layers, "number": number})  # fmt: skip
    assert not dict(sizes.of_task(Material(load(tmp_path)), "s", "t"))
