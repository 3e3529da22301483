"""Goal-relabelled rows: what they say of hand-made trajectories, and how often which goal is drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import BadInput
from methods.goals import ACHIEVED, HINDSIGHT, GoalLaw, Goals
from methods.networks import features
from tasks.core import Dataset, Provenance
from tests.methods.test_sampling import pick_of, transitions

LENGTHS = [1, 4, 5, 6]  # rows 0 | 1-4 | 5-9 | 10-15
TOTAL, DRAWS = 16, 16_000
FIRST = np.repeat([0, 1, 5, 10], LENGTHS)
LAST = np.repeat([0, 4, 9, 15], LENGTHS)
GEOMETRIC = GoalLaw(0.0, 1.0, 0.0, geometric=True)


def data() -> dict[str, np.ndarray]:
    columns = transitions(LENGTHS)
    columns["oracle"] = columns["observations"] * np.array([[10, 100]], np.float32)
    return {**Dataset(columns, Provenance("hand-made", "?", "given")).columns({"remaining"})}


COLUMNS = data()


@partial(jax.jit, static_argnums=0)
def draw(goals: Goals, key: Any) -> dict[str, jax.Array]:
    return goals.draw(pick_of(COLUMNS), TOTAL, key, DRAWS)


def drawn(goals: Goals, seed: int = 0) -> dict[str, np.ndarray]:
    return {name: np.asarray(column) for name, column in draw(goals, jax.random.key(seed)).items()}


def places(batch: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Which row a column of one number is of."""
    return batch[name][:, 0].astype(int)


def near(count: float, share: float, of: int) -> bool:
    """Within 5 standard deviations of a binomial's mean: one false alarm in two million."""
    return bool(abs(count - share * of) <= 5 * np.sqrt(of * share * (1 - share)))


def test_how_many_rows_of_the_trajectory_follow() -> None:
    assert COLUMNS["remaining"].tolist() == [0, 3, 2, 1, 0, 4, 3, 2, 1, 0, 5, 4, 3, 2, 1, 0]
    assert COLUMNS["remaining"].dtype == np.int32
    broken = {**transitions([2, 2]), "terminals": np.array([0, 1, 0, 0], np.float32)}  # breaks off
    assert Dataset(broken, Provenance("", "", "")).columns({"remaining"})["remaining"].tolist() == [1, 0, 1, 0]


def test_rows_are_judged_by_whether_they_are_their_goal() -> None:
    """Rows 0, 6 and 12 with the value goals 0, 8 and 12 and the actor goals 0, 9 and 15, in both conventions."""
    start, value, actor = np.array([0, 6, 12]), np.array([0, 8, 12]), np.array([0, 9, 15])
    for reward, expected in (("reached", [1, 0, 1]), ("cost", [0, -1, 0])):
        batch = Goals(0.9, reward=reward).at(pick_of(COLUMNS), start, value, actor)  # type: ignore[arg-type]
        assert batch["rewards"].tolist() == expected and batch["rewards"].dtype == jnp.float32
        assert batch["masks"].tolist() == [0, 1, 0]
        assert batch["value_goals"].tolist() == [[0], [8], [12]] and batch["actor_goals"].tolist() == [[0], [9], [15]]
        assert batch["observations"].tolist() == [[0], [6], [12]]
        assert batch["next_observations"].tolist() == [[0.5], [6.5], [12.5]]
        assert batch["actions"].tolist() == [[0, 0], [6, -6], [12, -12]]


def test_goals_may_be_another_column_or_some_of_its_entries() -> None:
    where = np.array([3])
    whole, some = (Goals(0.9, goal="oracle", dims=dims).at(pick_of(COLUMNS), where, where + 1, where)
                   for dims in (None, (1,)))  # fmt: skip
    assert whole["value_goals"].tolist() == [[40, 400]] and some["value_goals"].tolist() == [[400]]
    assert some["actor_goals"].tolist() == [[300]]
    assert Goals(0.9, goal="oracle").reads == {"remaining", "oracle"}
    both = features({"goal": some["value_goals"], "state": some["observations"]})
    assert both.tolist() == [[400, 3]]


def test_shares_of_current_future_and_random_goals() -> None:
    """.2, .5, .3 of value goals. A random goal is the row itself once in 16, and each of the later ones as often; the
    last row of a trajectory, of which there are four, has itself for its future."""
    batch = drawn(Goals(0.9))
    start, goal = places(batch, "observations"), places(batch, "value_goals")
    last = start == LAST[start]
    assert near(last.sum(), 4 / 16, DRAWS)
    assert near((goal == start)[~last].sum(), 0.2 + 0.3 / 16, (~last).sum())
    assert near((goal == start)[last].sum(), 0.7 + 0.3 / 16, last.sum())
    elsewhere = (goal < start) | (goal > LAST[start])  # random alone; by rows as often as these have others elsewhere
    expected = 0.3 * np.mean([1 - (LAST[i] - i + 1) / 16 for i in range(TOTAL)])
    assert near(elsewhere.sum(), float(expected), DRAWS)
    np.testing.assert_array_equal(batch["rewards"], goal == start)
    np.testing.assert_array_equal(batch["masks"], goal != start)


def test_every_row_is_as_likely_as_any_other_and_so_is_every_random_goal() -> None:
    batch = drawn(Goals(0.9, value=GoalLaw(0, 0, 1)))
    for name in ("observations", "value_goals"):
        found = np.bincount(places(batch, name), minlength=TOTAL)
        assert all(near(count, 1 / TOTAL, DRAWS) for count in found)


@pytest.mark.parametrize("law", [ACHIEVED, GEOMETRIC])
def test_future_goals_never_leave_the_trajectory_nor_are_the_row_itself_before_its_last(law: GoalLaw) -> None:
    batch = drawn(Goals(0.8, value=law, actor=law))
    for name in ("value_goals", "actor_goals"):
        start, goal = places(batch, "observations"), places(batch, name)
        assert (goal <= LAST[start]).all() and (goal >= np.minimum(start + 1, LAST[start])).all()
        assert (FIRST[goal] == FIRST[start]).all()


def test_uniform_future_goals_are_each_later_row_as_often() -> None:
    batch = drawn(Goals(0.9))
    start, goal = places(batch, "observations"), places(batch, "actor_goals")
    for row in (1, 5, 10, 13):
        found, n = np.bincount(goal[start == row] - row, minlength=LAST[row] - row + 1), (start == row).sum()
        assert found[0] == 0 and all(near(count, 1 / (LAST[row] - row), n) for count in found[1:])


def test_geometric_future_goals_follow_their_law() -> None:
    """k rows ahead with probability (1 - gamma) gamma^(k - 1), the last row with what is left: gamma^(k - 1)."""
    gamma = 0.6
    batch = drawn(Goals(gamma, actor=GEOMETRIC))
    start, goal = places(batch, "observations"), places(batch, "actor_goals")
    for row in (1, 10, 12):
        n, ahead = (start == row).sum(), goal[start == row] - row
        most = LAST[row] - row
        shares = [(1 - gamma) * gamma ** (k - 1) for k in range(1, most)] + [gamma ** (most - 1)]
        assert sum(shares) == pytest.approx(1)
        found = np.bincount(ahead, minlength=most + 1)
        assert found[0] == 0 and all(near(count, share, n) for count, share in zip(found[1:], shares, strict=True))


def test_value_and_actor_goals_are_drawn_apart() -> None:
    """By the same law they agree where chance has it: of five rows that follow row 10, once in five."""
    batch = drawn(Goals(0.9, value=ACHIEVED, actor=ACHIEVED))
    here = places(batch, "observations") == 10
    agree = (batch["value_goals"] == batch["actor_goals"])[here]
    assert near(agree.sum(), 1 / 5, here.sum())


def test_discounts_may_be_traced_and_lanes_differ() -> None:
    """Under vmap and jit, each lane with a discount and a key of its own: as alone."""
    discounts, keys = jnp.array([0.3, 0.9]), jax.random.split(jax.random.key(1), 2)

    def one(discount: Any, key: Any) -> dict[str, jax.Array]:
        return Goals(discount, actor=GEOMETRIC).draw(pick_of(COLUMNS), TOTAL, key, 256)

    both = jax.jit(jax.vmap(one))(discounts, keys)
    for lane in range(2):
        alone = one(discounts[lane], keys[lane])
        assert both.keys() == alone.keys()
        for name in alone:
            np.testing.assert_array_equal(both[name][lane], alone[name], err_msg=name)
    ahead = np.asarray(both["actor_goals"] - both["observations"]).mean(axis=(1, 2))
    assert ahead[0] < ahead[1]


def test_the_same_key_gives_the_same_goals_and_none_is_used_twice() -> None:
    one, same, other = (drawn(Goals(0.9), seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["value_goals"], other["value_goals"])
    with jax.debug_key_reuse(True):
        draw.lower(Goals(0.9, actor=GEOMETRIC), jax.random.key(0))


def test_what_is_no_law_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^goals: current, future, random = 0.2, 0.5, 0.4 are no probabilities$"):
        GoalLaw(0.2, 0.5, 0.4)
    with pytest.raises(BadInput, match=r"are no probabilities"):
        GoalLaw(-0.5, 1.0, 0.5)
    with pytest.raises(BadInput, match=r"^goals: a geometric law needs a discount below 1, not 1.0$"):
        Goals(1.0, actor=GEOMETRIC)
    assert Goals(1.0).value == HINDSIGHT == GoalLaw(0.2, 0.5, 0.3)
