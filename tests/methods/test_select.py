"""Choosing among candidates: the rules, their frequencies, and what is never chosen; targets and ensembles by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.losses import aggregate, td_loss, td_target
from methods.select import RULES, select

ROWS = 20_000


def frequencies(values: list[float], valid: list[bool], rule: str, temperature: float = 1.0) -> np.ndarray:
    """How often each candidate is chosen in ROWS rows."""
    n = len(values)
    candidates = jnp.broadcast_to(jnp.arange(float(n))[:, None], (ROWS, n, 1))
    wide = (jnp.broadcast_to(jnp.array(row), (ROWS, n)) for row in (values, valid))
    chosen = select(candidates, *wide, jax.random.key(0), rule=rule, temperature=temperature)
    return np.bincount(np.asarray(chosen[:, 0], int), minlength=n) / ROWS


@pytest.mark.parametrize(
    ("rule", "temperature", "expected"),
    [
        ("argmax", 1.0, [0.0, 1.0, 0.0, 0.0]),
        ("uniform", 1.0, [1 / 3, 1 / 3, 1 / 3, 0.0]),
        # weights e^1, e^2, e^0 and e^(1/2), e^1, e^0
        ("softmax", 1.0, [0.244728, 0.665241, 0.090031, 0.0]),
        ("softmax", 2.0, [0.307196, 0.506480, 0.186324, 0.0]),
    ],
)
def test_frequencies(rule: str, temperature: float, expected: list[float]) -> None:
    """Within 4.5 binomial standard errors; the best candidate of all is not valid."""
    found = frequencies([1.0, 2.0, 0.0, 9.0], [True, True, True, False], rule, temperature)
    error = 4.5 * np.sqrt(np.array(expected) * (1 - np.array(expected)) / ROWS) + 1e-6  # the numbers' last digit
    assert (np.abs(found - expected) <= error).all()
    assert found[3] == 0.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), rule=st.sampled_from(RULES))
def test_what_is_chosen_is_a_valid_candidate_of_its_row(seed: int, rule: str) -> None:
    rng = np.random.default_rng(seed)
    candidates = rng.normal(size=(7, 5, 2)).astype(np.float32)
    values = rng.normal(size=(7, 5)).astype(np.float32) * 10.0 ** rng.integers(-3, 4)
    valid = rng.uniform(size=(7, 5)) < 0.5
    valid[np.arange(7), rng.integers(0, 5, size=7)] = True
    chosen = select(candidates, values, valid, jax.random.key(seed), rule=rule)
    matches = (candidates == np.asarray(chosen)[:, None]).all(-1)
    assert (matches.sum(-1) == 1).all() and (matches & valid).any(-1).all()
    if rule == "argmax":
        np.testing.assert_array_equal(matches.argmax(-1), np.where(valid, values, -np.inf).argmax(-1))


def test_td_by_hand() -> None:
    """Critics (1, 2) and (3, 0): mean (2, 1), min (1, 0). Targets 1 + 0.5 * 1 * 2 = 2, and 1 at a true end."""
    values = jnp.array([[1.0, 2.0], [3.0, 0.0]])
    assert aggregate(values, "mean").tolist() == [2.0, 1.0] and aggregate(values, "min").tolist() == [1.0, 0.0]
    target = td_target(jnp.ones(2), jnp.array([1.0, 0.0]), aggregate(values, "mean"), 0.5)
    assert target.tolist() == [2.0, 1.0]
    assert td_loss(values, target) == 2.0  # (1 + 1) / 2 + (1 + 1) / 2
