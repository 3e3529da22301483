"""Columns that a dataset derives from its transitions; suites that stand by themselves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import tasks
from tasks.core import Dataset, Provenance, RewardTransform


def dataset() -> Dataset:
    """Episodes of 2, 1 and 3 transitions, the last cut off by the file's end; the first ends truly, the second by a
    time limit."""
    actions = np.arange(1.0, 13.0, dtype=np.float32).reshape(6, 2)
    terminals, masks = np.array([0, 1, 1, 0, 0, 0], np.float32), np.array([1, 0, 1, 1, 1, 1], np.float32)
    return Dataset(
        {"actions": actions, "terminals": terminals, "masks": masks, "rewards": np.zeros(6, np.float32)},
        Provenance("made", "", "given"),
    )


def test_next_actions_stay_within_their_episode() -> None:
    found = dataset().columns({"actions", "next_actions"})
    expected = [[3, 4], [0, 0], [0, 0], [9, 10], [11, 12], [0, 0]]
    np.testing.assert_array_equal(found["next_actions"], expected)
    assert found["next_actions"].dtype == np.float32
    assert found.keys() == {*dataset().transitions, "next_actions"}


def test_nothing_is_derived_that_is_not_asked_for() -> None:
    made = dataset()
    assert made.columns({"actions", "terminals"}) is made.transitions


def test_rewards_are_transformed_as_declared() -> None:
    twice = RewardTransform(scale=2.0, shift=-1.0)(np.array([0.0, 0.5, 1e9]))
    np.testing.assert_array_equal(twice, np.array([-1.0, 0.0, 2e9 - 1], np.float32))
    assert twice.dtype == np.float32
    np.testing.assert_array_equal(dataset().reward(np.array([0.25])), [0.25])  # as it is, unless a task says otherwise


def test_transforms_are_undone_and_follow_each_other() -> None:
    own, rewards = RewardTransform(scale=0.5, shift=-1.0), np.array([0.0, 1.0, -3.0])
    np.testing.assert_array_equal(own.undone(own(rewards)), rewards)
    assert own.followed_by(4.0, 1.0) == RewardTransform(scale=2.0, shift=-3.0)  # 4 (r / 2 - 1) + 1
    made = replace(dataset(), reward=own, transitions={"rewards": own(rewards)})
    np.testing.assert_array_equal(made.rewards(RewardTransform(4.0, -2.0)), 4.0 * rewards - 2.0)
    assert made.rewards(RewardTransform()).dtype == np.float32


@pytest.mark.parametrize("suite", tasks.SUITES)
def test_a_suite_knows_its_tasks_by_itself(suite: str) -> None:
    """In a process that has imported no other suite: what registers environments is its own to import."""
    code = f"import tasks; print(len(tasks.suite({suite!r}).names()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
