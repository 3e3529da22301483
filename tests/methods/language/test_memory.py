"""The table of memory and hours in docs/language.md: what it says is computed, and holds what is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.methods.language.memory import LAYERS, STAGES, WIDTH, hours, in_a_process

PAGE = Path("docs/language.md")


def rows() -> dict[str, list[float]]:
    """Stage -> its columns: 1 layer, 2 layers, 2 layers at most, 32 layers, hours."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if cells[0] in STAGES and len(cells) == 6:
            found[cells[0]] = [float(cell) for cell in cells[1:]]
    return found


def test_the_page_has_every_stage_by_its_formulas() -> None:
    assert rows().keys() == {*STAGES}
    for stage, (one, two, most, whole, time) in rows().items():
        assert one < two < most < 1.1 * two, stage
        assert whole == pytest.approx(one + (LAYERS - 1) * (two - one), abs=1.0)
        assert time == pytest.approx(hours(stage), abs=0.051)


def test_hours_of_sft_by_hand() -> None:
    """Two epochs of 116,722 sequences of 501 tokens: a pass, one again for checkpoints, and two back."""
    weights = 12 * WIDTH**2 * 32
    assert hours("sft") == pytest.approx(2 * weights * 4 * 2 * 116_722 * 501 / 4e14 / 3600)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stage", STAGES)
def test_the_peak_at_two_layers_is_under_the_figure_on_the_page(stage: str) -> None:
    assert in_a_process(stage, 2) < rows()[stage][2]
