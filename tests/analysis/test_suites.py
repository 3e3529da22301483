"""What the analysis says of suites, which it does not import, is what the suites say themselves."""

from __future__ import annotations

import pytest

import tasks
from analysis import published
from analysis.missing import RUNNABLE
from analysis.style import UNITS, unit


@pytest.mark.parametrize("suite", tasks.SUITES)
def test_scores_have_the_suite_s_unit(suite: str) -> None:
    assert unit(suite) == tasks.about(suite).unit or suite not in UNITS


def test_a_command_is_given_for_what_can_be_run() -> None:
    rows, _ = published.read()
    assert set(RUNNABLE) == set(rows["suite"]) & set(tasks.SUITES)
