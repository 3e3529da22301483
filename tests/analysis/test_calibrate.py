"""The simulations of `make calibrate` at a small size: the same tables, with the bounds they must keep."""

from __future__ import annotations

import numpy as np

from tests.analysis.calibrate import TABLES, choices, coverage, differences, families, markdown


def most(level: float, trials: int) -> float:
    """Percent that a rate of `level` stays below but for four standard errors."""
    return 100 * (level + 4 * np.sqrt(level * (1 - level) / trials))


def test_families_of_null_tasks() -> None:
    """By spread alone more than a third of the families find a difference at two seeds; by the tests, 5% at most."""
    (two,) = families(12, seeds=(2,), rhos=(0.0,))
    (three,) = families(12, seeds=(3,), rhos=(0.1,))
    for row in (two, three):
        for name in ("Welch", "paired", "Mann-Whitney"):
            assert float(str(row[name])) <= most(0.05, 12)
    assert float(str(two["by spread alone"])) > 35


def test_intervals_cover_from_three_seeds_on() -> None:
    """At 0% and 100%, too, where the percentile bootstrap is a point."""
    (row,) = coverage(60, seeds=(3,), rhos=(0.02,))
    for rate in ("0%", "2%", "10%", "50%", "98%", "100%"):
        student, _, percentile = map(float, str(row[rate]).split(" / "))
        assert student >= 100 - most(0.05, 60)
        if rate in ("10%", "50%"):
            assert percentile < student
    (apart,) = differences(40, seeds=(3,), rhos=(0.0,))
    welch, rest = str(apart["0% and 10%"]).split("; ")
    newcombe, bootstrap = map(float, rest.split(" / "))
    assert float(welch) >= 100 - most(0.05, 40) and newcombe >= 100 - most(0.05, 40) and bootstrap < 80


def test_choices_of_equal_settings() -> None:
    """By other seeds nothing is gained; by held-out episodes of the same seeds something, by hindsight most."""
    (row,) = choices(300, seeds=(3,))
    new, held, best = (float(str(row[name])) for name in ("new-seeds", "held-out", "oracle"))
    assert abs(new) < 1.2 and held > new + 0.5 and best > held + 1
    assert float(str(row["its 95% interval holds"])) >= 100 - most(0.05, 300) - 2


def test_table() -> None:
    assert markdown(iter([{"a": 1, "b": 2.34567}, {"a": "x", "b": 0.0}])) == (
        "| a | b |\n|--:|--:|\n| 1 | 2.35 |\n| x | 0 |"
    )
    assert len(TABLES) == 4
