"""Windows of transitions in order, against a table computed by hand and a loop that follows the rules word by word."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.sampling import ROWS, Rows, Sampling, Windows

GAMMA = 0.5  # powers of it are exact
WIDTH = 2  # of an action
TOTAL = 16


def transitions(lengths: list[int], solved: set[int] = frozenset()) -> dict[str, np.ndarray]:  # type: ignore[assignment]
    """Episodes of such lengths. Observation i is i, the one after it i + 0.5, action i (i, -i), the reward -1, but 0
    where the task is `solved`, and so is the mask then."""
    number = np.arange(sum(lengths), dtype=np.float32)
    done = np.isin(number, list(solved))
    return {
        "observations": number[:, None],
        "next_observations": number[:, None] + 0.5,
        "actions": np.stack([number, -number], axis=1),
        "rewards": np.where(done, 0.0, -1.0).astype(np.float32),
        "masks": (~done).astype(np.float32),
        "terminals": np.isin(number + 1, np.cumsum(lengths)).astype(np.float32),
    }


def pick_of(columns: dict[str, np.ndarray]) -> Any:
    held = {name: jnp.asarray(column) for name, column in columns.items()}
    return lambda places: {name: column[places] for name, column in held.items()}


@partial(jax.jit, static_argnums=0)
def windows(sampling: Windows, columns: dict[str, np.ndarray], start: np.ndarray) -> dict[str, jax.Array]:
    pick = pick_of(columns)
    return sampling.at(pick, len(columns["actions"]), start)


def one_by_one(data: dict[str, np.ndarray], i: int, h: int, chunk: int, gamma: float) -> dict[str, Any]:
    """The window that starts at row i, one row after another."""
    rows, ends = len(data["actions"]), data["terminals"] > 0
    valid, reward, mask, last = [1.0], float(data["rewards"][i]), float(data["masks"][i]), i
    for j in range(1, h):
        valid.append(0.0 if any(ends[i + before] for before in range(j)) else 1.0)
        reward += gamma**j * float(data["rewards"][i + j]) * valid[j]
        if valid[j]:
            mask, last = min(mask, float(data["masks"][i + j])), i + j
    after = range(i + h, i + h + chunk)
    follows = after[-1] < rows and not any(ends[i : after[-1]])
    return {
        "observations": data["observations"][i], "next_observations": data["next_observations"][last],
        "actions": np.concatenate([data["actions"][i + j] for j in range(chunk)]), "valid": np.array(valid),
        "rewards": reward, "masks": mask, "terminals": float(not follows),
        "next_actions": np.concatenate([data["actions"][k] for k in after]) if follows else np.zeros(chunk * WIDTH),
    }  # fmt: skip


# ---- by hand ----

# episodes of 1, 4, 5 and 6 rows: 0 | 1-4 | 5-9 | 10-15. The first and the last end solved, the second by a time limit;
# the third is solved in its row 7 and goes on to its time limit
DATA = transitions([1, 4, 5, 6], {0, 7, 15})
VALID = [1, 4, 3, 2, 1, 5, 4, 3, 2, 1, 5, 5]  # rows that are, of five, from starts 0 .. 11
RETURNS = [0, -1.875, -1.75, -1.5, -1, -1.6875, -1.375, -0.75, -1.5, -1, -1.9375, -1.875]
MASKS = [0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0]
NEXT = [0.5, 4.5, 4.5, 4.5, 4.5, 9.5, 9.5, 9.5, 9.5, 9.5, 14.5, 15.5]


def test_windows_of_five_over_episodes_of_one_four_five_and_six() -> None:
    batch = windows(Windows(5, 5, GAMMA), DATA, np.arange(12))
    assert np.asarray(batch["valid"]).tolist() == [[1.0] * n + [0.0] * (5 - n) for n in VALID]
    assert np.asarray(batch["rewards"]).tolist() == RETURNS
    assert np.asarray(batch["masks"]).tolist() == MASKS
    assert np.asarray(batch["next_observations"])[:, 0].tolist() == NEXT
    assert np.asarray(batch["observations"])[:, 0].tolist() == list(range(12))
    for i, actions in enumerate(np.asarray(batch["actions"])):  # raw, the next episode's too
        assert actions.tolist() == [sign * k for k in range(i, i + 5) for sign in (1, -1)]
    assert np.asarray(batch["terminals"]).tolist() == [1 - (i in (10,)) for i in range(12)]  # row 14 is not its last


def test_the_last_rows_of_an_episode_start_no_whole_window() -> None:
    """Of h = 5, one window of an episode of five is whole, two of six, and none of a shorter one."""
    whole = np.asarray(windows(Windows(5, 5, GAMMA), DATA, np.arange(12))["valid"])[:, -1]
    assert np.flatnonzero(whole).tolist() == [5, 10, 11]


def test_returns_of_three_steps_with_single_actions() -> None:
    batch = windows(Windows(3, 1, GAMMA), DATA, np.array([5, 6, 8, 13]))
    assert np.asarray(batch["actions"]).tolist() == [[5, -5], [6, -6], [8, -8], [13, -13]]
    assert np.asarray(batch["rewards"]).tolist() == [-1.5, -1.25, -1.5, -1.5]  # row 7 and row 15 pay nothing
    assert np.asarray(batch["masks"]).tolist() == [0, 0, 1, 0]
    assert np.asarray(batch["next_observations"])[:, 0].tolist() == [7.5, 8.5, 9.5, 15.5]
    assert np.asarray(batch["valid"])[:, -1].tolist() == [1, 1, 0, 1]


def test_the_actions_after_a_window_are_the_same_episode_s() -> None:
    """Of two: rows 7 and 8 after 5 and 6, 8 and 9, the last, after 6 and 7; after 7 and 8 there is but one more."""
    data = DATA | {"next_actions": np.full((TOTAL, WIDTH), np.nan, np.float32)}  # looked at by nobody
    batch = windows(Windows(2, 2, GAMMA), data, np.array([5, 6, 7, 8, 12, 13]))
    zeros = [0, 0, 0, 0]
    assert np.asarray(batch["next_actions"]).tolist() == [[7, -7, 8, -8], [8, -8, 9, -9], zeros, zeros,
                                                          [14, -14, 15, -15], zeros]  # fmt: skip
    assert np.asarray(batch["terminals"]).tolist() == [0, 0, 1, 1, 0, 1]


def test_what_was_prepared_for_next_states_is_the_last_valid_row_s() -> None:
    bank = np.arange(TOTAL, dtype=np.float32)[:, None, None] * np.ones((1, 3, 2 * WIDTH), np.float32)
    batch = windows(Windows(2, 2, GAMMA), DATA | {"bank": bank, "other": bank}, np.array([4, 5]))
    assert np.asarray(batch["bank"])[:, 0, 0].tolist() == [4, 6] and batch["bank"].shape == (2, 3, 2 * WIDTH)
    assert np.asarray(batch["other"])[:, 0, 0].tolist() == [4, 5]


def test_windows_of_one_row_are_rows() -> None:
    """Bit for bit, from the same key; a row's `valid` is 1."""
    following = np.where(DATA["terminals"][:, None] > 0, 0.0, np.roll(DATA["actions"], -1, axis=0)).astype(np.float32)
    data = DATA | {"next_actions": following}
    rows, ones = (sampling.draw(pick_of(data), TOTAL, jax.random.key(3), 64) for sampling in (ROWS, Windows(1, 1, 0.9)))
    assert ones.keys() - rows.keys() == {"valid"} and ones["valid"].tolist() == [[1.0]] * 64
    for name, column in rows.items():
        np.testing.assert_array_equal(column, ones[name], err_msg=name)
        assert column.dtype == ones[name].dtype


@pytest.mark.parametrize("h", [1, 5, TOTAL])
def test_windows_start_anywhere_they_fit_and_equally_often(h: int) -> None:
    """0 .. held - h, each a share of the draws give or take 5 sigma."""
    count, n = 8192, TOTAL - h + 1
    batch = Windows(h, h, GAMMA).draw(pick_of(DATA), TOTAL, jax.random.key(0), count)
    starts, found = np.unique(np.asarray(batch["observations"]), return_counts=True)
    assert starts.tolist() == list(range(n))
    np.testing.assert_allclose(found, count / n, atol=5 * np.sqrt(count / n) + 1e-9)


def test_samplings_say_what_they_need() -> None:
    kinds: list[Sampling] = [Rows(), Windows(5, 2, 0.9)]
    assert [(one.length, one.reads) for one in kinds] == [(1, frozenset()), (5, frozenset({"terminals"}))]


# ---- against the loop ----


@given(
    cuts=st.sets(st.integers(1, TOTAL - 1)),
    solved=st.sets(st.integers(0, TOTAL - 1)),
    sampling=st.sampled_from([Windows(1, 1, 0.7), Windows(5, 5, 0.7), Windows(3, 1, 0.7), Windows(4, 2, 0.7)]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_any_window_of_any_data_is_what_the_loop_says(
    cuts: set[int], solved: set[int], sampling: Windows, seed: int
) -> None:
    """Rounding: sums of five float32 terms."""
    edges = [0, *sorted(cuts), TOTAL]
    data = transitions(np.diff(edges).tolist(), solved)
    data["rewards"] = np.random.default_rng(seed).normal(size=TOTAL).astype(np.float32)
    data["next_actions"] = np.zeros((TOTAL, WIDTH), np.float32)
    starts = np.arange(TOTAL - sampling.length + 1)
    batch = windows(sampling, data, starts)
    expected = [one_by_one(data, i, sampling.length, sampling.chunk, sampling.discount) for i in starts.tolist()]
    for name in expected[0]:
        rows = np.array([one[name] for one in expected])
        np.testing.assert_allclose(batch[name], rows, rtol=1e-5, atol=1e-6, err_msg=name)
