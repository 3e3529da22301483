"""The distance and the bound that figures show are those of the flow that methods run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.statistics import transport
from methods import particles

LONG = 3000  # steps, more than any run has


def test_the_distance_is_the_theory_s() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 2, 7, 4)), rng.normal(size=(3, 2, 5, 4))
    for sigma in (0.1, 1.0, 3.0):
        np.testing.assert_allclose(transport.mmd2(x, y, sigma), particles.mmd2(x, y, sigma), rtol=1e-12)


def test_adam_s_gains_are_the_theory_s() -> None:
    """A closed form here, a sum over all ages of a gradient there."""
    np.testing.assert_allclose(transport.adam_gains(300), particles.adam_gains(300), rtol=1e-10)
    first, second = transport.BETAS
    limit = (1 - first) ** 2 / (1 - second) / (1 - first**2 / second)
    assert transport.adam_gains(20 * LONG)[-1] == pytest.approx(math.sqrt(limit), rel=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "normalized", "sgd"])
@pytest.mark.parametrize("steps", [0, 1, 7, 50])
def test_the_bound_is_the_theory_s(optimizer: str, steps: int) -> None:
    settings = {"step_size": 0.03, "optimizer": optimizer, "sigma": 0.7}
    ours, theirs = transport.Flow(**settings), particles.Flow(**settings)
    if optimizer == "sgd" and steps:
        for bound in (lambda: transport.transport_bound(ours, steps, 3),
                      lambda: particles.transport_bound(theirs, steps, 3, 0.7)):  # fmt: skip
            with pytest.raises(ValueError, match="Lipschitz constant"):
                bound()
        return
    expected = particles.transport_bound(theirs, steps, 3, 0.7)
    assert transport.transport_bound(ours, steps, 3) == pytest.approx(expected, rel=1e-12)


def test_the_settings_are_the_flow_s() -> None:
    ours = vars(transport.Flow())
    assert ours == {name: value for name, value in vars(particles.Flow()).items() if name in ours}
