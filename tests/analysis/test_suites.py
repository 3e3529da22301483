"""What the analysis says of suites, which it does not import, is what the suites say themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import tasks
from analysis import published
from analysis.missing import RUNNABLE
from analysis.records.inference import UNITS, unit, units_of


@pytest.mark.parametrize("suite", tasks.SUITES)
def test_scores_have_the_suite_s_unit(suite: str) -> None:
    assert unit(suite) == tasks.about(suite).unit or suite not in UNITS


def test_what_a_record_says_of_its_score_is_on_the_axis() -> None:
    """A suite that only its records know; and what differs is not hidden."""

    def units(*said: str | None) -> str:
        runs: Any = [SimpleNamespace(suite="mine", meta={"unit": one} if one else {}) for one in said]
        return unit("mine", units_of(runs))

    assert units("laps [1/h]", None) == "laps [1/h]" and units("laps", "laps", "$x$") == r"laps / \$x\$"
    assert units(None) == unit("mine") == "score [points]" and unit("toy", units_of([])) == UNITS["toy"]


def test_a_command_is_given_for_what_can_be_run() -> None:
    rows, _ = published.read()
    assert set(RUNNABLE) == set(rows["suite"]) & set(tasks.SUITES)
