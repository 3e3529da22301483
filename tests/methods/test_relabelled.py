"""Rows and windows with a goal each, as methods see them in tasks of goals: by hand on trajectories of six rows and of
three, and by how often which goal is drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BadInput
from methods.core import TaskSpec
from methods.fql import FQL
from methods.goals import ACHIEVED, HINDSIGHT, GoalLaw, GoalRule, Relabelled
from methods.iql import IQL
from methods.sampling import ROWS, Windows
from tasks.core import Dataset, Provenance
from tests.methods.test_sampling import pick_of, transitions

LENGTHS = [6, 3]  # rows 0-5 | 6-8
TOTAL = 9
COLUMNS = {**Dataset(transitions(LENGTHS), Provenance("hand-made", "?", "given")).columns({"remaining"})}
GAMMA = 0.5
SPEC = TaskSpec(2, 2, 10, goals=GoalRule())


def at(sampling: Relabelled, start: list[int], goal: list[int]) -> dict[str, list[Any]]:
    batch = sampling.at(pick_of(COLUMNS), TOTAL, jnp.array(start), jnp.array(goal))
    return {name: np.asarray(column).tolist() for name, column in batch.items()}


def test_six_rows_by_hand() -> None:
    """Each row of the trajectory with the goal at row 3; row 3 is at its goal, and so is no other."""
    batch = at(Relabelled(ROWS, HINDSIGHT, GAMMA), [0, 1, 2, 3, 4, 5], [3] * 6)
    assert batch["observations"] == [[3, 0], [3, 1], [3, 2], [3, 3], [3, 4], [3, 5]]  # the goal first
    assert batch["next_observations"] == [[3, 0.5], [3, 1.5], [3, 2.5], [3, 3.5], [3, 4.5], [3, 5.5]]
    assert batch["rewards"] == [-1, -1, -1, 0, -1, -1]
    assert batch["masks"] == [1, 1, 1, 0, 1, 1]
    reached = at(Relabelled(ROWS, HINDSIGHT, GAMMA, "reached"), [0, 1, 2, 3, 4, 5], [3] * 6)
    assert reached["rewards"] == [0, 0, 0, 1, 0, 0] and reached["masks"] == batch["masks"]


def test_windows_by_hand() -> None:
    """Windows of three steps. At rewards of -1 before the goal: none of it in sight (gamma-sum -1.75), the goal at the
    last row (-1.5), in mid-window (-1), at the first row (0); behind it (-1.75 again); across the trajectory's end, of
    which the window has one step; and a goal that lies in the next trajectory, which that window never reaches."""
    start, goal = [0, 1, 2, 3, 2, 5, 5], [5, 3, 3, 3, 0, 2, 6]
    batch = at(Relabelled(Windows(3, 3, GAMMA), HINDSIGHT, GAMMA), start, goal)
    assert batch["rewards"] == [-1.75, -1.5, -1, 0, -1.75, -1, -1]
    assert batch["masks"] == [1, 0, 0, 0, 1, 1, 1]
    assert batch["valid"] == [[1, 1, 1]] * 5 + [[1, 0, 0]] * 2
    assert batch["observations"] == [[5, 0], [3, 1], [3, 2], [3, 3], [0, 2], [2, 5], [6, 5]]
    assert batch["next_observations"] == [[5, 2.5], [3, 3.5], [3, 4.5], [3, 5.5], [0, 4.5], [2, 5.5], [6, 5.5]]
    reached = at(Relabelled(Windows(3, 3, GAMMA), HINDSIGHT, GAMMA, "reached"), start, goal)
    assert reached["rewards"] == [0, 0.25, 0.5, 1, 0, 0, 0]


@given(start=st.integers(0, TOTAL - 1), goal=st.integers(0, TOTAL - 1))
@settings(max_examples=30, deadline=None)
def test_a_window_of_one_is_a_row(start: int, goal: int) -> None:
    one = at(Relabelled(Windows(1, 1, GAMMA), HINDSIGHT, GAMMA), [start], [goal])
    row = at(Relabelled(ROWS, HINDSIGHT, GAMMA), [start], [goal])
    assert {name: one[name] for name in row} == row


@partial(jax.jit, static_argnums=0)
def draw(sampling: Relabelled, key: Any) -> dict[str, jax.Array]:
    return sampling.draw(pick_of(COLUMNS), TOTAL, key, 20_000)


def test_goals_follow_the_law_and_rewards_the_goals() -> None:
    """Shares of current, future and random goals, of rows that have others after them; 5 standard deviations."""
    batch = {name: np.asarray(one) for name, one in draw(Relabelled(ROWS, HINDSIGHT, GAMMA), jax.random.key(0)).items()}
    goal, row = batch["observations"].astype(int).T
    np.testing.assert_array_equal(batch["rewards"], np.where(goal == row, 0, -1))
    np.testing.assert_array_equal(batch["masks"], goal != row)
    np.testing.assert_array_equal(batch["next_observations"][:, 0], goal)
    first = row == 0  # of six rows: itself .2 + .3 / 9, each of the five later ones .5 / 5 + .3 / 9, others .3 / 9
    found = np.bincount(goal[first], minlength=TOTAL) / first.sum()
    expected = np.array([0.2, *[0.1] * 5, 0, 0, 0]) + 0.3 / 9
    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / first.sum())).all()


def test_the_benchmarks_law_is_geometric_and_its_discount_may_be_traced() -> None:
    """Of the first of six rows: itself .2 + .3 / 9; k ahead .5 (1 - gamma) gamma^(k - 1) + .3 / 9, the last with the
    rest; others .3 / 9. Of two lanes each by its own gamma."""
    law = replace(HINDSIGHT, geometric=True)

    def one(gamma: Any, key: Any) -> dict[str, jax.Array]:
        return Relabelled(ROWS, law, gamma).draw(pick_of(COLUMNS), TOTAL, key, 20_000)

    gammas = (0.5, 0.9)
    both = jax.jit(jax.vmap(one))(jnp.array(gammas), jax.random.split(jax.random.key(3), 2))
    for lane, gamma in enumerate(gammas):
        goal, row = np.asarray(both["observations"][lane]).astype(int).T
        first = row == 0
        ahead = [(1 - gamma) * gamma**k for k in range(4)] + [gamma**4]
        expected = np.array([0.2, *(0.5 * np.array(ahead)), 0, 0, 0]) + 0.3 / 9
        found = np.bincount(goal[first], minlength=TOTAL) / first.sum()
        assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / first.sum())).all()


def test_what_acts_and_what_judges_have_goals_of_their_own() -> None:
    """A critic's rows are drawn by the value law, a policy's and an imitation's by the actor law; only a geometric law
    makes the discount count, so that a critic of another gamma has the same policy's goals beside it."""
    rule = GoalRule(replace(HINDSIGHT, geometric=True), ACHIEVED, "cost")
    spec = replace(SPEC, goals=rule)
    critic, actor = IQL(IQL.Config(), spec).stages()
    assert critic.sample == Relabelled(ROWS, rule.value, 0.99) and actor.sample == Relabelled(ROWS, ACHIEVED, 0.0)
    behavior, own = FQL(FQL.Config(behavior="pretrained", chunk=3, discount=0.9), spec).stages()
    assert own.sample == Relabelled(Windows(3, 3, 0.9), rule.value, 0.9)
    assert behavior.sample == Relabelled(Windows(3, 3, 1.0), ACHIEVED, 0.0)
    plain = IQL(IQL.Config(), replace(SPEC, goals=None)).stages()
    assert [stage.sample for stage in plain] == [ROWS, ROWS]


def test_online_and_what_cannot_be_had_is_refused() -> None:
    assert not Relabelled(ROWS, HINDSIGHT, GAMMA).online
    assert Relabelled(Windows(2, 2, GAMMA), HINDSIGHT, GAMMA).reads == {"terminals", "remaining", "observations"}
    with pytest.raises(BadInput, match=r"^goals: a geometric law needs a discount below 1, not 1.0$"):
        Relabelled(ROWS, GoalLaw(0, 1, 0, geometric=True), 1.0)
    with pytest.raises(BadInput, match=r"^fql\.behavior=joint: in tasks of goals .*; behavior=pretrained$"):
        FQL(FQL.Config(), SPEC).stages()
