"""The replay buffer against a list of transitions: what it holds, what may be drawn, where episodes end."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import replay

OFFLINE, SEEDS, BATCH = 5, 2, 4096
NAMES = ("rewards", "actions", "next_actions", "terminals")
INSERT = jax.jit(replay.insert)
DRAW = jax.jit(
    lambda columns, own, key, gathered, capacity: replay.draw(
        columns, own, key, BATCH, gathered=gathered, capacity=capacity
    )
)


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
        batch = DRAW(columns, block, jax.random.key(seed), len(starts), capacity)
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
    batch = jax.jit(partial(replay.draw, rows=BATCH, gathered=4, capacity=8))(columns, block, jax.random.key(0))
    _, counts = np.unique(np.asarray(batch["rewards"]), return_counts=True)
    assert len(counts) == 8
    np.testing.assert_allclose(counts, BATCH / 8, atol=5 * np.sqrt(BATCH / 8 * 7 / 8))


@pytest.mark.parametrize("missing", ["terminals", "next_actions"])
def test_columns_that_no_one_reads_are_not_kept(missing: str) -> None:
    columns = {name: column for name, column in dataset().items() if name != missing}
    own = replay.empty(columns, SEEDS, 4)
    row = {"rewards": np.zeros(SEEDS, np.float32), "actions": np.zeros((SEEDS, 1), np.float32)}
    assert INSERT(own, row, np.ones(SEEDS, bool), 0).keys() == columns.keys()
