"""CFGRL's labels: good actions, or goals that are seen."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods.core import BadInput
from methods.goals import GoalRule
from methods.inference import Cost
from tests.methods.common import SPEC, make, make_batch, per_row, random_state

ROWS = 8
OBS = jnp.asarray(make_batch(ROWS)["observations"])
BATCH = {name: jnp.asarray(column) for name, column in make_batch(ROWS).items()}
KEY = jax.random.key(0)
GOALS = replace(SPEC, obs_dim=6, goals=GoalRule())
"""Of which the first three entries are the goal's."""
AIMED = {name: jnp.asarray(column) for name, column in make_batch(ROWS, GOALS).items()}


@pytest.mark.slow
def test_cfgrl_extrapolates() -> None:
    """omega = 0 is the flow of any action, bit for bit; 1 that of good ones; and 3 three times their difference."""
    method = make("cfgrl")
    state, x = random_state(method), jax.random.normal(KEY, (ROWS, 4, 2))
    at = lambda omega: method.velocity(state, OBS, x, 0.3, jnp.full((ROWS, 1, 1), omega))  # noqa: E731
    plain, good = (
        method.sampler.velocity(state["actor"].params, OBS, x, 0.3, jnp.full((ROWS, 4), label)) for label in (0, 1)
    )
    np.testing.assert_array_equal(at(0.0), plain)
    np.testing.assert_allclose(at(1.0), good, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(at(3.0), plain + 3 * (good - plain), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_cfgrl_labels() -> None:
    """Where no action is good, the second label has no gradient; where all are, both labels have the same target, so
    that with a weight of 1 a flow that knows no difference has twice the plain loss."""
    method = make("cfgrl")
    state, draws = random_state(method), method.draw(KEY, BATCH)
    none, all_good = method.having(advantage_threshold=1e9), method.having(advantage_threshold=-1e9, plain_weight=1.0)
    grads, share = jax.grad(none.loss, has_aux=True)(state["actor"].params, state, BATCH, draws)
    table = next(leaf for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if "embedding" in str(path))
    assert float(share) == 0 and np.any(table[0]) and not np.any(table[1])
    alike = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if "embedding" in str(path) else leaf, state["actor"].params
    )
    loss, share = all_good.loss(alike, state, BATCH, draws)
    plain = all_good.sampler.loss(alike, OBS, BATCH["actions"], draws, label=jnp.zeros(ROWS, int))
    assert float(share) == 1 and float(loss) == pytest.approx(2 * float(plain), rel=1e-5)


# goals


def test_a_hidden_goal_is_zero_and_has_the_other_label() -> None:
    """Row by row, by the flow's own loss of one row."""
    method = make("cfgrl", GOALS, condition="goal", goal_drop=0.5)
    state, draws = random_state(method), method.draw(KEY, AIMED)
    assert 0 < draws.hidden.sum() < ROWS
    loss, seen = method.goal_loss(state["actor"].params, AIMED, draws)
    each = []
    for i in range(ROWS):
        obs = np.array(AIMED["observations"][i : i + 1])
        if draws.hidden[i]:
            obs[:, :3] = 0.0
        start, time = (one[i : i + 1] for one in draws.flow)
        action = AIMED["actions"][i : i + 1]
        label = jnp.array([0 if draws.hidden[i] else 1])
        velocity = method.sampler.velocity(state["actor"].params, obs, (1 - time) * start + time * action, time, label)
        each.append(np.mean((np.asarray(velocity) - np.asarray(action - start)) ** 2))
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-5)
    assert float(seen) == pytest.approx(1 - np.mean(draws.hidden))


def test_the_share_of_hidden_goals() -> None:
    method = make("cfgrl", GOALS, condition="goal", goal_drop=0.1)
    many = {"actions": jnp.zeros((20_000, 2))}
    assert float(method.draw(KEY, many).hidden.mean()) == pytest.approx(0.1, abs=0.01)


def test_without_extrapolation_the_goal_is_not_looked_at() -> None:
    """omega = 0 acts alike whatever the goal; with omega = 1 the goal tells."""
    method = make("cfgrl", GOALS, condition="goal", test_omegas=(0.0, 1.0))
    state, obs = random_state(method), AIMED["observations"]
    other = obs.at[:, :3].add(1.0)
    act = lambda obs, omega: method.act(state, obs, KEY, per_row({"omega": omega, "N": 1}, ROWS))  # noqa: E731
    np.testing.assert_array_equal(act(obs, 0.0), act(other, 0.0))
    assert np.abs(act(obs, 1.0) - act(other, 1.0)).max() > 1e-3


def test_it_needs_no_critic_and_learns_a_policy_s_goals() -> None:
    method = make("cfgrl", GOALS, condition="goal")
    (stage,) = method.stages()
    assert stage.trains == set(method.parts) == {"actor"} and not stage.reads
    assert stage.sample == method.policy_sample != method.sample
    assert method.cost({"omega": 3.0, "N": 1}) == Cost(20)


def test_what_it_cannot_do_is_told() -> None:
    with pytest.raises(BadInput, match=r"^cfgrl\.condition=goal: the task has no goals; valid: advantage$"):
        make("cfgrl", condition="goal").stages()
    with pytest.raises(BadInput, match=r"^cfgrl\.test_n=1,4: .* there is no critic to choose by; it takes 1$"):
        make("cfgrl", GOALS, condition="goal", test_n=(1, 4))
