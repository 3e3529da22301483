"""The replay buffer against a list of transitions: what it holds, what may be drawn, where episodes end."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import replay
from methods.sampling import ROWS, Windows

OFFLINE, SEEDS, BATCH = 5, 2, 4096
NAMES = ("rewards", "actions", "next_actions", "terminals")
INSERT = jax.jit(replay.insert)


@jax.jit
def drawn(columns: Any, own: Any, key: Any, gathered: Any, capacity: Any) -> dict[str, jax.Array]:
    """Single transitions, each as likely as any other."""
    return ROWS.draw(*replay.held(columns, own, gathered=gathered, capacity=capacity), key, BATCH)


def dataset() -> dict[str, jax.Array]:
    """Rewards number the transitions: -5 .. -1."""
    number = np.arange(-OFFLINE, 0, dtype=np.float32)
    columns = {
        "rewards": number,
        "actions": number[:, None],
        "next_actions": number[:, None] + 1,
        "terminals": 0 * number,
    }
    return {name: jnp.asarray(column) for name, column in columns.items()}


def transition(number: int, seed: int) -> tuple[float, float]:
    """Reward and action of a seed's transition, unlike any other."""
    return number + 100.0 * seed, number + 1000.0 * seed


def rows_of(batch: Any) -> set[tuple[float, ...]]:
    return set(zip(*(np.asarray(batch[name]).reshape(BATCH).tolist() for name in NAMES), strict=True))


@given(
    starts=st.lists(st.tuples(*[st.booleans()] * SEEDS), min_size=1, max_size=14),
    capacity=st.sampled_from([3, 7, 30]),
)
@settings(deadline=None, max_examples=25)
def test_it_holds_what_a_list_would(starts: list[tuple[bool, ...]], capacity: int) -> None:
    """The last `capacity` of the dataset and what was gathered; the newest of an episode so far is its last."""
    columns, total = dataset(), 14
    own = replay.empty(columns, SEEDS, min(capacity, total))
    lists: list[list[list[float]]] = [[[float(n), n, n + 1, 0] for n in range(-OFFLINE, 0)] for _ in range(SEEDS)]
    for number, firsts in enumerate(starts):
        firsts = firsts if number else (True,) * SEEDS
        rewards, actions = np.array([transition(number, seed) for seed in range(SEEDS)], np.float32).T
        own = INSERT(own, {"rewards": rewards, "actions": actions[:, None]}, np.array(firsts), number)
        for seed in range(SEEDS):
            if not firsts[seed]:
                lists[seed][-1][2:] = [float(actions[seed]), 0]  # its successor's action; no longer the last
            lists[seed].append([float(rewards[seed]), float(actions[seed]), 0, 1])
    for seed in range(SEEDS):
        block = {name: column[seed] for name, column in own.items()}
        batch = drawn(columns, block, jax.random.key(seed), len(starts), capacity)
        # of at most 30, each is missed by 4096 draws once in 10^60
        assert rows_of(batch) == {tuple(map(float, row)) for row in lists[seed][-capacity:]}


def test_draws_are_uniform() -> None:
    """Half offline, half online, 4 rows left of each: every one of the 8 is drawn n/8 times, give or take 5 sigma."""
    columns = dataset()
    own = replay.empty(columns, 1, 4)
    for number in range(7):
        rewards, actions = np.array([transition(number, 0)], np.float32).T
        own = INSERT(own, {"rewards": rewards, "actions": actions[:, None]}, np.array([number == 0]), number)
    block = {name: column[0] for name, column in own.items()}
    batch = drawn(columns, block, jax.random.key(0), 4, 8)
    _, counts = np.unique(np.asarray(batch["rewards"]), return_counts=True)
    assert len(counts) == 8
    np.testing.assert_allclose(counts, BATCH / 8, atol=5 * np.sqrt(BATCH / 8 * 7 / 8))


@pytest.mark.parametrize("missing", ["terminals", "next_actions"])
def test_columns_that_no_one_reads_are_not_kept(missing: str) -> None:
    columns = {name: column for name, column in dataset().items() if name != missing}
    own = replay.empty(columns, SEEDS, 4)
    row = {"rewards": np.zeros(SEEDS, np.float32), "actions": np.zeros((SEEDS, 1), np.float32)}
    assert INSERT(own, row, np.ones(SEEDS, bool), 0).keys() == columns.keys()


# ---- windows: the dataset's two episodes have 3 and 2 rows ----

ENDS = (-3, -1)  # the dataset's last rows, by their numbers -5 .. -1
SOLVED = (2, 8)  # online rows whose mask is 0: the last of the first episode, and one within the third


def gathered(count: int, starts: set[int], capacity: int) -> tuple[Any, Any]:
    """The dataset and a seed's block after so many online rows. Row n has the reward n, actions and observations of n,
    and is followed by n + 0.5."""
    number = np.arange(-OFFLINE, 0, dtype=np.float32)
    columns = {"observations": number[:, None], "next_observations": number[:, None] + 0.5, "rewards": number,
               "actions": number[:, None], "next_actions": 0 * number[:, None], "masks": np.ones_like(number),
               "terminals": np.isin(number, ENDS).astype(np.float32)}  # fmt: skip
    columns = {name: jnp.asarray(column) for name, column in columns.items()}
    own = replay.empty(columns, 1, min(capacity, 14))
    for n in range(count):
        one = np.full((1, 1), n, np.float32)
        row = {"observations": one, "next_observations": one + 0.5, "rewards": one[0], "actions": one,
               "masks": np.array([n not in SOLVED], np.float32)}  # fmt: skip
        own = INSERT(own, row, np.array([n in starts]), n)
    return columns, {name: column[0] for name, column in own.items()}


def all_windows(columns: Any, own: Any, count: int, capacity: int, h: int = 3, chunk: int = 2) -> dict[str, np.ndarray]:
    """Those of every start, in order."""
    pick, held = replay.held(columns, own, gathered=count, capacity=capacity)
    batch = Windows(h, chunk, 0.5).at(pick, held, jnp.arange(held - h + 1))
    return {name: np.asarray(column) for name, column in batch.items()}


def test_windows_straddle_the_dataset_and_what_was_gathered_and_its_episodes() -> None:
    """Online rows 0-2 are an episode that ends solved, 3-6 one that a time limit ends, 7-9 the one in hand."""
    batch = all_windows(*gathered(10, {0, 3, 7}, 30), count=10, capacity=30)
    assert batch["observations"][:, 0].tolist() == list(range(-5, 8))
    valid = {-5: 3, -4: 2, -3: 1, -2: 2, -1: 1, 0: 3, 1: 2, 2: 1, 3: 3, 4: 3, 5: 2, 6: 1, 7: 3}  # rows that are
    assert batch["valid"].sum(axis=1).tolist() == list(valid.values())
    last = {start: start + n - 1 for start, n in valid.items()}
    assert batch["next_observations"][:, 0].tolist() == [n + 0.5 for n in last.values()]
    assert batch["actions"].tolist() == [[n, n + 1] for n in valid]
    assert batch["rewards"].tolist() == [sum(0.5**j * (n + j) for j in range(valid[n])) for n in valid]
    solved = {n: any(row in SOLVED for row in range(n, last[n] + 1)) for n in valid}
    assert batch["masks"].tolist() == [1.0 - solved[n] for n in valid]
    assert {n for n in valid if solved[n]} == {0, 1, 2, 7}
    # two actions after the window, within the episode: none of these episodes has five rows
    assert (batch["next_actions"] == 0).all() and (batch["terminals"] == 1).all()


def test_windows_after_the_buffer_wrapped_are_those_of_its_last_rows_in_order() -> None:
    """Room for seven: of twelve online rows the last seven, whose block of seven was written round; the oldest is in
    the midst of its episode, 3-8, and the newest is the last of its own so far."""
    columns, own = gathered(12, {0, 3, 9}, 7)
    assert len(own["rewards"]) == 7 and own["rewards"].tolist() == [7, 8, 9, 10, 11, 5, 6]
    batch = all_windows(columns, own, count=12, capacity=7)
    assert batch["observations"][:, 0].tolist() == [5, 6, 7, 8, 9]
    assert batch["valid"].sum(axis=1).tolist() == [3, 3, 2, 1, 3]
    assert batch["next_observations"][:, 0].tolist() == [7.5, 8.5, 8.5, 8.5, 11.5]
    assert batch["masks"].tolist() == [1, 0, 0, 0, 1]


def test_a_wrapped_buffer_that_still_holds_some_of_the_dataset() -> None:
    """Room for six, four gathered: the dataset's last two rows come first, and end where it ends."""
    batch = all_windows(*gathered(4, {0, 3}, 6), count=4, capacity=6)
    assert batch["observations"][:, 0].tolist() == [-2, -1, 0, 1]
    assert batch["valid"].sum(axis=1).tolist() == [2, 1, 3, 2]


def test_the_actions_after_a_window_in_the_buffer() -> None:
    """One action each: row 4 follows the window 2-3 and 5 the window 3-4; row 5 is the newest, so nothing follows it,
    nor, in its episode, row 1."""
    batch = all_windows(*gathered(6, {0, 2}, 30), count=6, capacity=30, h=2, chunk=1)
    known = {int(n): float(a) for n, a, end in zip(batch["observations"][:, 0], batch["next_actions"][:, 0],
                                                   batch["terminals"], strict=True) if not end}  # fmt: skip
    assert known == {-5: -3, 2: 4, 3: 5}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_windows_are_drawn_from_what_is_there_alone(count: int) -> None:
    """Before, and soon after the first row; a row that is not there yet is 0 everywhere, the dataset's are below."""
    columns, own = gathered(count, {0}, 30)
    pick, held = replay.held(columns, own, gathered=jnp.asarray(count), capacity=30)
    batch = Windows(4, 4, 0.5).draw(pick, held, jax.random.key(0), BATCH)
    starts = np.unique(np.asarray(batch["observations"]))
    assert starts.tolist() == list(range(-5, count - 3))
    assert np.asarray(batch["actions"]).max() == max(count - 1, -1)
