"""Every method still computes what it did: see `golden.py`, which made the numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.methods.common import each
from tests.methods.golden import CASES, STORED, golden

NUMBERS = json.loads(STORED.read_text())


def flat(tree: Any, path: str = "") -> dict[str, float]:
    """Every number by its place."""
    if not isinstance(tree, dict | list):
        return {path: tree}
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {place: value for name, branch in branches for place, value in flat(branch, f"{path}/{name}").items()}


def test_every_method_has_its_numbers() -> None:
    assert NUMBERS.keys() == CASES.keys()


@pytest.mark.parametrize("case", each(CASES, ("fql", "iql", "rebrac", "vgf")))
def test_losses_gradients_parameters_and_actions_are_as_they_were(case: str) -> None:
    """Float64, to 1e-10: what another machine's mathematics leaves open, and no more."""
    ours, stored = flat(golden(case)), flat(NUMBERS[case])
    assert ours.keys() == stored.keys()
    for place, value in ours.items():
        assert np.isclose(value, stored[place], rtol=1e-10, atol=1e-10), (place, value, stored[place])
