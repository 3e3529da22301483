"""Robust-Q: values of unfinished actions, regressed on those of finished ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods.robust_q import RobustQ
from methods.samplers import FlowDraws
from tests.methods.common import double, make, make_batch, random_state
from tests.methods.test_updates import float64  # noqa: F401, a fixture

ROWS = 8
BATCH = {name: jnp.asarray(column) for name, column in make_batch(ROWS).items()}
OBS, ACTIONS = BATCH["observations"], BATCH["actions"]
KEY = jax.random.key(0)


class FirstEntry:
    """Q(s, a) = a_1, of both heads."""

    def q_values(self, params: Any, obs: Any, actions: Any) -> Any:
        return jnp.stack([actions[..., 0]] * 2)


class OfFirstEntry(RobustQ):
    critic = FirstEntry()  # type: ignore[assignment]


def test_the_loss_by_hand() -> None:
    """Row by row and head by head, at times that the flow is trained on."""
    method = make("robust_q", flow_steps=4)
    state, draws = random_state(method), method.draw(KEY, BATCH)
    assert set(np.unique(draws.time)) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    total = 0.0
    for i in range(ROWS):
        z, t, a = (np.asarray(one)[i] for one in (draws.start, draws.time, ACTIONS))
        frequencies = 1e4 ** (-np.arange(8) / 8)
        features = np.concatenate([np.cos(1e4 * t * frequencies), np.sin(1e4 * t * frequencies)])
        seen = jnp.asarray(np.concatenate([(1 - t) * z + t * a, features]), jnp.float32)[None]
        for k in range(2):
            guess = method.noised.q_values(state["noised"].params, OBS[i : i + 1], seen)[k, 0]
            taught = method.critic.q_values(state["critic"].target, OBS[i : i + 1], ACTIONS[i : i + 1])[k, 0]
            total += (float(guess) - float(taught)) ** 2
    assert float(method.loss(state["noised"].params, state, BATCH, draws)) == pytest.approx(total / ROWS, rel=1e-4)


def test_only_its_own_network_learns() -> None:
    method = make("robust_q")
    state = random_state(method)
    after, metrics = method.update(state, BATCH, KEY)
    same = lambda part: all(  # noqa: E731
        np.array_equal(*pair) for pair in zip(jax.tree.leaves(state[part]), jax.tree.leaves(after[part]), strict=True)
    )
    assert {part for part in state if not same(part)} == {"noised"} and metrics["noised/loss"] > 0


@pytest.mark.parametrize("how", ["min", "mean"])
def test_its_gradient_is_the_slope(how: str, float64: None) -> None:  # noqa: F811
    """Central differences in float64, of each entry of an unfinished action."""
    method = make("robust_q", guidance_aggregation=how)
    state, obs = double(random_state(method)), jnp.asarray(np.asarray(OBS), float)
    x, time, step = jax.random.normal(KEY, (ROWS, 3, 2), float), 0.3, 1e-6
    reduce = {"min": np.min, "mean": np.mean}[how]
    value = lambda x: reduce(np.asarray(method.values(state["noised"].params, obs, x, time)), axis=0)  # noqa: E731
    for entry in range(2):
        push = step * jnp.eye(2)[entry]
        slope = (value(x + push) - value(x - push)) / (2 * step)
        np.testing.assert_allclose(method.action_grad(state, obs, x, time)[..., entry], slope, rtol=1e-5, atol=1e-8)


def test_guided_samples_by_a_loop() -> None:
    """a <- a + (v + w grad Q~(s, a, t)) / steps, clipped at the end; w = 0 is imitation."""
    method = make("robust_q", flow_steps=3, test_weights=(0.0, 0.7), test_n=(2,))
    state, flow = random_state(method), method.behavior.sampler
    start = flow.noise(KEY, (ROWS, 2))
    for weight in (0.0, 0.7):
        knobs = {"w": jnp.full(ROWS, weight), "N": jnp.full(ROWS, 2.0)}
        x = start
        for i in range(3):
            velocity = flow.velocity(state["behavior"].params, OBS, x, i / 3)
            x = x + (velocity + weight * method.action_grad(state, OBS, x, i / 3)) / 3
        np.testing.assert_allclose(method.candidates(state, OBS, KEY, knobs)[0], jnp.clip(x, -1, 1), atol=1e-5)


@pytest.mark.slow
def test_it_learns_the_mean_value_of_what_an_action_may_become() -> None:
    """Actions N(0, s^2) of value Q(s, a) = a: E[a | a_t] = t s^2 a_t / ((1 - t)^2 + t^2 s^2), at t = 0 the mean of all
    values, at t = 1 the value itself."""
    std, settings = 0.4, {"hidden_dims": (64, 64), "learning_rate": 2e-3, "flow_steps": 4}
    method = make("robust_q", **settings)
    known = OfFirstEntry(method.config, method.spec)
    state = method.init(KEY)

    def step(state: Any, key: Any) -> tuple[Any, None]:
        action_key, key = jax.random.split(key)
        actions = std * jax.random.normal(action_key, (512, 2))
        batch = {"observations": jnp.zeros((512, 3)), "actions": actions}
        return known.update(state, batch, key)[0], None

    state, _ = jax.lax.scan(step, state, jax.random.split(KEY, 3000))
    at = jnp.linspace(-0.6, 0.6, 7)
    for time in (0.0, 0.5, 0.75, 1.0):
        x = jnp.stack([at, jnp.zeros(7)], axis=-1)
        learned = method.values(state["noised"].params, jnp.zeros((7, 3)), x, time)
        expected = time * std**2 * at / ((1 - time) ** 2 + time**2 * std**2)
        np.testing.assert_allclose(learned, np.stack([expected] * 2), atol=0.06)


def test_draws_are_the_flow_s() -> None:
    method = make("robust_q")
    ours, flow_s = method.draw(KEY, BATCH), method.behavior.sampler.draw(KEY, ROWS)
    assert isinstance(ours, FlowDraws)
    np.testing.assert_array_equal(ours.start, flow_s.start)
