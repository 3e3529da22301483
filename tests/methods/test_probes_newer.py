"""Facts with known answers of DSRL, CFGRL, RQL, FAN, QSM and DAC: closed forms and limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods.samplers import FlowSampler
from tests.methods.common import make, make_batch, per_row, random_state, with_params

ROWS = 8
OBS = jnp.asarray(make_batch(ROWS)["observations"])
BATCH = {name: jnp.asarray(column) for name, column in make_batch(ROWS).items()}
KEY = jax.random.key(0)


# DSRL


def test_dsrl_without_noise_is_one_action() -> None:
    method = make("dsrl", noise_scale=0.0)
    state = random_state(method)
    one, other = (method.steered(state, OBS, jax.random.normal(jax.random.key(i), (ROWS, 2))) for i in (1, 2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, method.behavior.sample(state["behavior"], OBS, jnp.zeros((ROWS, 2))))


def test_dsrl_of_a_flow_that_stays_regresses_on_q() -> None:
    """With v = 0 a noise becomes itself, clipped, so Z is regressed on Q(s, clip z), head by head."""
    method = make("dsrl")
    state = random_state(method)
    still = {**state, "behavior": with_params(state["behavior"], jnp.zeros_like)}
    start = 1.5 * jax.random.normal(KEY, (ROWS, 2))
    loss = method.noise_loss(state["noise_critic"].params, still, OBS, start)
    z = method.noise_critic.q_values(state["noise_critic"].params, OBS, start)
    q = method.critic.q_values(state["critic"].params, OBS, jnp.clip(start, -1, 1))
    assert float(loss) == pytest.approx(float(np.mean((np.asarray(z) - np.asarray(q)) ** 2)), rel=1e-5)
    assert state["noise_critic"].target is None


# RQL


def test_rql_carries_back() -> None:
    """Nowhere with d = 0; along no flow for any d; and by one explicit step each tenth of d otherwise."""
    method = make("rql")
    state, actions = random_state(method), BATCH["actions"]
    x, time = method.carried_back(state, OBS, actions, jnp.zeros((ROWS, 1)))
    np.testing.assert_array_equal(x, actions)
    np.testing.assert_array_equal(time, np.ones((ROWS, 1)))
    still = {**state, "actor": with_params(state["actor"], jnp.zeros_like)}
    x, time = method.carried_back(still, OBS, actions, jnp.full((ROWS, 1), 0.7))
    np.testing.assert_array_equal(x, actions)
    np.testing.assert_allclose(time, 0.3, atol=1e-6)
    expected, at, back = actions, 1.0, 0.5
    for _ in range(10):
        expected = expected - back / 10 * method.sampler.velocity(state["actor"].params, OBS, expected, at)
        at -= back / 10
    found, _ = method.carried_back(state, OBS, actions, jnp.full((ROWS, 1), back))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rql_draws_and_acts() -> None:
    method = make("rql")
    draws = method.draw(KEY, {"actions": jnp.zeros((1000, 2))})
    tenths = np.asarray(draws.back[500:, 0]) * 10
    np.testing.assert_allclose(tenths, np.round(tenths), atol=1e-5)
    assert set(np.round(tenths).astype(int)) == set(range(11)) and len(np.unique(draws.back[:500])) > 400
    state = random_state(method)
    acted, explored = method.act(state, OBS, KEY, {}), method.explore(state, OBS, KEY)
    assert not np.array_equal(acted, explored)  # by the average, and by the actor itself
    same = {**state, "actor": state["actor"]._replace(target=state["actor"].params)}
    np.testing.assert_array_equal(method.act(same, OBS, KEY, {}), explored)


def test_rql_asks_v_one_step_ahead() -> None:
    """-V(s, x_t + v min(.1, 1 - t), min(t + .1, 1)), and no gradient into V."""
    method = make("rql", alpha=0.0)
    state, draws = random_state(method), method.draw(KEY, BATCH).imitation
    loss, _ = method.actor_loss(state["actor"].params, state, BATCH, draws)
    start, time = draws
    x = (1 - time) * start + time * BATCH["actions"]
    velocity = method.sampler.velocity(state["actor"].params, OBS, x, time)
    inputs = [x + velocity * np.minimum(0.1, 1 - time), np.minimum(time + 0.1, 1.0)]
    values = method.critic.q_values(state["critic"].params, OBS, jnp.concatenate(inputs, axis=-1))
    assert float(loss) == pytest.approx(-float(np.mean(values)), rel=1e-5)


# FAN


def test_fan_on_a_straight_flow_is_anchored() -> None:
    """v = a* - n wherever it is asked, and mu = a*: the anchor is 0 at every time."""
    method = make("fan")
    state = random_state(method)
    noise, goal = jax.random.normal(KEY, (ROWS, 2)), jnp.full((ROWS, 2), 0.4)

    @dataclass(frozen=True)
    class Straight(FlowSampler):
        def velocity(self, params: Any, obs: Any, actions: Any, time: Any, label: Any = None) -> Any:
            del params, obs, label  # of x = (1 - t) n + t a*, the n
            return goal - (actions - time * goal) / (1 - time)

    @dataclass(frozen=True)
    class Anchored(type(method)):  # type: ignore[misc]
        @property
        def behavior(self) -> Any:
            return replace(super().behavior, sampler=Straight(2, ()))

    straight = Anchored(method.config, method.spec)
    for time in (0.0, 0.4, 0.9):
        anchor = straight.anchor(state, OBS, noise, goal, jnp.full((ROWS, 1), time))
        np.testing.assert_allclose(anchor, 0.0, atol=2e-6)


def test_fan_targets() -> None:
    """At an end (m = 0) Q is regressed on r for any noise; the loss of Z at an expectile of one half is half the
    squared distance to Q under a fresh noise."""
    method = make("fan", expectile=0.5, alpha_critic=3.0)
    state, draws = random_state(method), method.draw(KEY, BATCH)
    ended = {**BATCH, "masks": jnp.zeros(ROWS)}
    loss, _ = method.critic_loss(state["critic"].params, state, ended, draws)
    inputs = jnp.concatenate([BATCH["actions"], draws.next_noise], axis=-1)
    q = method.critic.q_values(state["critic"].params, OBS, inputs)
    assert float(loss) == pytest.approx(float(np.mean((np.asarray(q) - np.asarray(BATCH["rewards"])) ** 2)), rel=1e-5)
    z = method.value.q_values(state["value"].params, OBS, BATCH["actions"])
    inputs = jnp.concatenate([BATCH["actions"], draws.value_noise], axis=-1)
    target = np.mean(method.critic.q_values(state["critic"].target, OBS, inputs), axis=0)
    value_loss = method.value_loss(state["value"].params, state, BATCH, draws.value_noise)
    assert float(value_loss) == pytest.approx(0.5 * float(np.mean((target - np.asarray(z)) ** 2)), rel=1e-5)


def test_fan_normalises_each_value_by_its_mean_size() -> None:
    """-mean(q) / mean |q| - mean(z) / mean |z|, the sizes being constants: the slope is scaled, and nothing more."""
    plain, normalised = make("fan", alpha_actor=0.0), make("fan", alpha_actor=0.0, normalize_value_loss=True)
    state, draws = random_state(plain), plain.draw(KEY, BATCH)
    actions = jnp.clip(plain.actor(state["actor"].params, OBS, draws.noise), -1, 1)
    inputs = jnp.concatenate([actions, draws.actor_noise], axis=-1)
    q = np.mean(plain.critic.q_values(state["critic"].params, OBS, inputs), axis=0)
    z = np.mean(plain.value.q_values(state["value"].params, OBS, actions), axis=0)
    expected = -q.mean() / np.abs(q).mean() - z.mean() / np.abs(z).mean()
    loss, slope = jax.value_and_grad(lambda params: normalised.actor_loss(params, state, OBS, draws)[0])(
        state["actor"].params
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)

    def weighed(params: Any) -> Any:
        moved = jnp.clip(plain.actor(params, OBS, draws.noise), -1, 1)
        at = jnp.concatenate([moved, draws.actor_noise], axis=-1)
        of_q = plain.critic.q_values(state["critic"].params, OBS, at).mean() / np.abs(q).mean()
        return -of_q - plain.value.q_values(state["value"].params, OBS, moved).mean() / np.abs(z).mean()

    for got, wanted in zip(*map(jax.tree.leaves, (slope, jax.grad(weighed)(state["actor"].params))), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_fan_has_other_weights_online() -> None:
    """An online update is that of a method with those weights offline; they change nothing before."""
    weights = {"alpha_actor": 5.0, "alpha_critic": 2.0, "online_alpha_actor": 0.5, "online_alpha_critic": 0.25}
    assert (kept := make("fan", **weights).online()) is not None and kept.config["alpha_actor"] == 5.0
    method = make("fan", **weights, online_weights="own")
    other = make("fan", alpha_actor=0.5, alpha_critic=0.25)
    (offline,), online = method.stages(), method.online()
    assert online is not None and online.config["alpha_actor"] == 0.5 and online.config["alpha_critic"] == 0.25
    assert not {"online_weights", "online_alpha_actor", "online_alpha_critic"} & set(offline.config)
    state = random_state(method)
    for got, wanted in zip(*(jax.tree.leaves(stage.update(state, BATCH, KEY)) for stage in (online, other.stages()[0])),
                           strict=True):  # fmt: skip
        np.testing.assert_array_equal(got, wanted)


# QSM and DAC


def test_noise_schedule() -> None:
    actor = make("dac", diffusion_steps=10).actor
    assert actor.betas[1] == pytest.approx(0.0578, abs=5e-5) and actor.betas[10] == pytest.approx(0.613, abs=5e-4)
    assert actor.signal[10] == pytest.approx(np.exp(-5.05), rel=1e-9) and actor.signal[0] == 1


def test_dac_without_a_critic_is_denoising() -> None:
    method = make("dac", alpha=1.0)
    state, draws = random_state(method), method.draw(KEY, BATCH)
    flat = {**state, "critic": with_params(state["critic"], jnp.zeros_like)}
    loss, parts = method.actor_loss(state["actor"].params, flat, BATCH, draws)
    signal = method.actor.signal[np.asarray(draws.step)]
    noisy = np.sqrt(signal) * BATCH["actions"] + np.sqrt(1 - signal) * draws.eps
    predicted = method.actor.predict(state["actor"].params, OBS, jnp.asarray(noisy, jnp.float32), draws.step)
    assert float(parts["actor/guidance"]) == 0.0
    assert float(loss) == pytest.approx(float(np.mean((np.asarray(draws.eps) - np.asarray(predicted)) ** 2)), rel=1e-4)


def test_minimisers_of_qsm_and_dac() -> None:
    """Where (alpha eps - tau G) / (1 + alpha) and eps - sqrt(1 - abar) G / (2 alpha) are predicted, the losses' slopes
    in what is predicted are 0. So at tau = 0 QSM is no imitation: it shrinks the noise by alpha / (1 + alpha)."""
    alpha, tau, level, eps, g = 2.0, 0.7, 0.6, 0.3, -1.4
    qsm, dac = make("qsm", alpha=alpha, inverse_temperature=tau), make("dac", alpha=alpha)
    for method, best in ((qsm, (alpha * eps - tau * g) / (1 + alpha)), (dac, eps - level * g / (2 * alpha))):

        def loss(x: Any, method: Any = method) -> Any:
            return alpha * (eps - x) ** 2 + method.guided(x, g, level)

        assert float(jax.grad(loss)(best)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["qsm", "dac"])
def test_samples_by_a_literal_loop(name: str) -> None:
    """The recursion of the facts, step by step; DAC's last step is the clipped clean action itself."""
    method = make(name, diffusion_steps=4)
    state, actor = random_state(method), method.actor
    noise = actor.noise(KEY, (ROWS,))
    x, betas, signal = np.asarray(noise[:, 0], float), actor.betas, actor.signal
    for count, t in enumerate((4, 3, 2, 1)):
        eps = np.asarray(actor.predict(state["actor"].params, OBS, jnp.asarray(x, jnp.float32), t), float)
        clean = (x - np.sqrt(1 - signal[t]) * eps) / np.sqrt(signal[t])
        z = np.asarray(noise[:, count + 1], float) if t > 1 else 0.0
        if name == "dac":
            clean = np.clip(clean, -1, 1)
            mean = np.sqrt(signal[t - 1]) * betas[t] * clean + np.sqrt(1 - betas[t]) * (1 - signal[t - 1]) * x
            x = mean / (1 - signal[t]) + np.sqrt(betas[t]) * z
            assert t > 1 or np.allclose(x, clean)
        else:
            x = np.clip(clean + np.sqrt(betas[t]) * z, -1, 1)
    np.testing.assert_allclose(actor(state["actor"].params, OBS, noise), np.clip(x, -1, 1), atol=2e-5)


@pytest.mark.slow
def test_every_new_method_acts_within_the_box() -> None:
    for name in ("qam", "qam_f", "qam_e", "fedit", "dsrl", "cfgrl", "rql", "fan", "qsm", "dac"):
        method = make(name)
        actions = method.act(random_state(method), OBS, KEY, per_row(method.knobs[0], ROWS))
        assert actions.shape == (ROWS, 2) and np.abs(actions).max() <= 1
