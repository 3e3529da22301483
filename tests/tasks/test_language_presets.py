"""Every preset whose results may be read gives VGF's rivals what it takes: equal passes, and greedy decoding."""

from __future__ import annotations

from typing import Any

import pytest

import methods
from harness.config import RunSettings, preset, presets
from harness.plan import plan_run
from tasks import SUITES, family, select

LANGUAGE = [suite for suite in SUITES if family(suite) == "language"]
WHOLE = [(suite, name) for suite in LANGUAGE for name in presets(suite) if name != "smoke"]
CONTROLS = ("likely_swaps", "random_swaps")


def passes(suite: str, name: str, method: str) -> list[float]:
    """Of an answer, at every test-time setting above temperature 0."""
    (task,) = select(suite, [suite])
    overrides = tuple(one for one in preset(suite, name)[1] if not one.key.endswith(("model", "_checkpoint")))
    made: Any = plan_run(task, "x", method, overrides, RunSettings((0,), 4, 2, 2)).method
    costs = [made.cost(knobs) for knobs in made.knobs if made.temperature(knobs)]
    assert any(made.temperature(knobs) == 0 for knobs in made.knobs), f"{method} has a greedy row"
    return [cost.passes + 2 * cost.gradients for cost in costs]


@pytest.mark.parametrize(("suite", "name"), WHOLE)
def test_rivals_have_the_passes_of_vgf(suite: str, name: str) -> None:
    ours = set(passes(suite, name, "vgf"))
    theirs = passes(suite, name, "best_of_n")
    assert len(ours) >= 3
    for number in ours:
        assert any(abs(other - number) <= 0.05 * number for other in theirs), f"best-of-N at {number} passes"
    for control in CONTROLS:
        assert (ours - {min(ours)}) & set(passes(suite, name, control)), control
    assert any(abs(other - number) <= 0.15 * number for other in passes(suite, name, "hotflip") for number in ours)


@pytest.mark.parametrize(("suite", "name"), WHOLE)
def test_every_answer_of_a_sample_has_a_greedy_one(suite: str, name: str) -> None:
    for method in methods.LANGUAGE:
        if method not in ("optimum",):
            passes(suite, name, method)
