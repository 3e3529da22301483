"""Updates of the methods that denoise or guide, against re-implementations as in `test_updates_baselines.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq

from tests.methods import test_updates
from tests.methods.common import SPEC, double, make, random_state
from tests.methods.test_updates import (
    COMMON,
    LEARNING_RATE,
    TAU,
    TOLERANCE,
    A,
    B,
    dense,
    float64,  # noqa: F401, a fixture
    layer_norm,
    mlp,
    repeat,
    td_update,
    twin_q,
)
from tests.methods.test_updates_baselines import (
    ADAM,
    agree,
    gelu,
    learn,
    learn_q,
    spread,
    suite_q,
)


def mish(x: Any) -> Any:
    return x * jnp.tanh(jnp.log1p(jnp.exp(x)))


def sinusoids(x: Any) -> Any:
    """16 features of x [..., 1]."""
    frequencies = 1e4 ** (-np.arange(8) / 8)
    return jnp.concatenate([jnp.cos(x * frequencies), jnp.sin(x * frequencies)], axis=-1)


def denoise(params: Any, obs: Any, noisy: Any, features: Any) -> Any:
    """eps of Diffusion-QL's network."""
    encoded = mlp(params["params"]["MLP_0"], features, act=mish)
    return mlp(params["params"]["MLP_1"], obs, noisy, encoded, act=mish)


def of_number(number: Any) -> Any:
    """Its features of the step's number 0, 1, ... [..., 1]: frequencies from 1 to 1e-4, both ends included. Its code
    has the sines first, which is a permutation of the first layer's weights."""
    frequencies = 1e4 ** (-np.arange(8) / 7)
    return jnp.concatenate([jnp.cos(number * frequencies), jnp.sin(number * frequencies)], axis=-1)


def vp_schedule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """beta_i and abar_i of its "vp" schedule, i = 1..steps."""
    i = np.arange(1, steps + 1)
    alphas = np.exp(-0.1 / steps - 0.5 * (10 - 0.1) * (2 * i - 1) / steps**2)
    return 1 - alphas, np.cumprod(alphas)


def ddpm_chain(params: Any, obs: Any, noise: Any, steps: int) -> Any:
    """x_0 by the posteriors q(x_{i-1} | x_i, x_0) of DDPM, the clean action clipped to the box."""
    betas, bars = vp_schedule(steps)
    pieces = jnp.split(noise, steps, axis=-1)
    x = pieces[0]
    for i in range(steps - 1, -1, -1):
        before = bars[i - 1] if i else 1.0
        eps = denoise(params, obs, x, of_number(jnp.full((*x.shape[:-1], 1), i)))
        clean = jnp.clip(x / np.sqrt(bars[i]) - np.sqrt(1 / bars[i] - 1) * eps, -1, 1)
        x = (np.sqrt(before) * betas[i] * clean + np.sqrt(1 - betas[i]) * (1 - before) * x) / (1 - bars[i])
        if i:
            x = x + np.sqrt(betas[i] * (1 - before) / (1 - bars[i])) * pieces[steps - i]
    return jnp.clip(x, -1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backup", "order"),
    [pytest.param(False, "sequential", marks=pytest.mark.slow), (True, "sequential"),
     pytest.param(True, "simultaneous", marks=pytest.mark.slow)],
)  # fmt: skip
def test_diffusion_ql(backup: bool, order: str) -> None:
    """Gradients clipped to a norm that binds; each critic's own best of three actions in the backup; in the order of
    its code, which is the default, or at once."""
    steps, tx = 2, optax.chain(optax.clip_by_global_norm(0.5), optax.adam(LEARNING_RATE))
    settings = {"max_q_backup": backup, "backup_n": 3, "eta": 1.5, "clip_norm": 0.5, "diffusion_steps": steps}
    sequential = order == "sequential"
    method = make("diffusion_ql", **settings, **COMMON, **({} if sequential else {"order": order}))
    q = partial(twin_q, act=mish, norm="none")

    def oracle(state: Any, batch: Any, draws: Any) -> Any:
        critic, actor, obs, next_obs = (
            state["critic"],
            state["actor"],
            batch["observations"],
            batch["next_observations"],
        )
        next_obs = repeat(next_obs, 3) if backup else next_obs
        both = q(critic.target, next_obs, ddpm_chain(actor.target, next_obs, draws.next_noise, steps))
        next_q = jnp.minimum(both[0].max(axis=1), both[1].max(axis=1)) if backup else jnp.minimum(*both)
        new, critic_loss = learn_q(critic, batch, q, next_q, share=1.0, tx=tx, after=sequential)
        eps, time, _ = draws.denoising
        number = jnp.round(steps * time).astype(int) - 1
        bar = jnp.asarray(vp_schedule(steps)[1])[number]
        judge = new[0] if sequential else critic.params

        def loss(params: Any) -> Any:
            noisy = jnp.sqrt(bar) * batch["actions"] + jnp.sqrt(1 - bar) * eps
            imitation = jnp.mean((denoise(params, obs, noisy, of_number(number)) - eps) ** 2)
            values = q(judge, obs, ddpm_chain(params, obs, draws.noise, steps))
            raised, scale = jnp.where(draws.which == 0, values, values[::-1])
            return imitation - 1.5 * raised.mean() / jax.lax.stop_gradient(jnp.abs(scale).mean())

        new_actor, value = learn(actor, loss, tx, TAU / 5, sequential)
        return {"critic": new, "actor": new_actor}, {"critic": critic_loss, "actor": value}

    agree(method, method.stages()[0], oracle)


# guidance

STEPS = 3  # Euler steps
DEEPER = {**COMMON, "hidden_dims": (12, 12)}  # its policy has LayerNorm before all hidden activations but the last


@pytest.fixture
def deeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracles' networks as DEEPER has them."""
    monkeypatch.setattr(test_updates, "HIDDEN", DEEPER["hidden_dims"])


def velocity(params: Any, obs: Any, action: Any, k: int) -> Any:
    encoded = sinusoids(1e4 * jnp.full((*action.shape[:-1], 1), k / STEPS))
    p = params["params"]["MLP_0"]
    x = gelu(layer_norm(p["LayerNorm_0"], dense(p["Dense_0"], jnp.concatenate([obs, action, encoded], -1))))
    return dense(p["Dense_2"], gelu(dense(p["Dense_1"], x)))


def guided(behavior: Any, value: Any, obs: Any, action: Any, weight: Any, how: str) -> Any:
    """`value(x)` of actions; `weight` broadcasts to them."""

    def one_step(x: Any, k: int) -> Any:
        return jnp.clip(x + (1 - k / STEPS) * velocity(behavior, obs, x, k), -1, 1)

    def rollout(x: Any, k: int) -> Any:
        for later in range(k, STEPS):
            x = x + velocity(behavior, obs, x, later) / STEPS
        return jnp.clip(x, -1, 1)

    slope = jax.grad(lambda x: jnp.sum(value(x)))
    for k in range(STEPS):
        if how == "denoised":
            g = slope(one_step(action, k))
        elif how == "noisy":
            g = slope(action)
        else:
            ahead = partial(one_step if how == "jacobian" else rollout, k=k)
            g = jax.grad(lambda x, ahead=ahead: jnp.sum(value(ahead(x))))(action)
        action = action + velocity(behavior, obs, action, k) / STEPS + weight * g / STEPS
    return jnp.clip(action, -1, 1)


@pytest.mark.parametrize("how", ["denoised", "jacobian", "noisy", pytest.param("full", marks=pytest.mark.slow)])
def test_qgf_guidance(how: str, deeper: None) -> None:
    """Every weight a row of its own, 0 among them; the target critics guide, not the online ones."""
    method = make("qgf", gradient=how, flow_steps=STEPS, **DEEPER)
    state, rng = double(random_state(method)), np.random.default_rng(0)
    obs, noise = jnp.asarray(rng.normal(size=(B, SPEC.obs_dim))), jnp.asarray(rng.normal(size=(B, 4, A)))
    weight, wide = jnp.linspace(0.0, 2.0, B), repeat(obs, 4)

    def oracle(state: Any) -> Any:
        value = lambda x: jnp.min(suite_q(state["critic"].target, wide, x), axis=0)  # noqa: E731
        return guided(state["behavior"].params, value, wide, noise, weight[:, None, None], how)

    ours, theirs = jax.jit(method.guidance.sample)(state, obs, noise, weight), jax.jit(oracle)(state)
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)
    assert spread(np.abs(ours) == 1.0) and np.abs(ours - ours[:, :1]).max() > 0.1


def test_steps_after_sampling(deeper: None) -> None:
    """GradStep: a <- clip(a + w grad min Q_target) from the finished, clipped sample, as often as it is told."""
    method = make("qgf", gradient="after", after_steps=2, flow_steps=STEPS, **DEEPER)
    state, rng = double(random_state(method)), np.random.default_rng(0)
    obs, noise = jnp.asarray(rng.normal(size=(B, SPEC.obs_dim))), jnp.asarray(rng.normal(size=(B, 4, A)))
    weight, wide = jnp.linspace(0.0, 2.0, B), repeat(obs, 4)

    def oracle(state: Any) -> Any:
        slope = jax.grad(lambda x: jnp.sum(jnp.min(suite_q(state["critic"].target, wide, x), axis=0)))
        action = guided(state["behavior"].params, lambda x: 0.0 * jnp.sum(x), wide, noise, 0.0, "noisy")
        for _ in range(2):
            action = jnp.clip(action + weight[:, None, None] * slope(action), -1, 1)
        return action

    ours, theirs = jax.jit(method.guidance.sample)(state, obs, noise, weight), jax.jit(oracle)(state)
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)
    assert spread(np.abs(ours) == 1.0) and np.abs(ours - ours[:, :1]).max() > 0.1
    still = make("qgf", gradient="after", after_steps=0, flow_steps=STEPS, **DEEPER).guidance.sample
    np.testing.assert_allclose(still(state, obs, noise, weight), still(state, obs, noise, 0 * weight))


@pytest.mark.slow
def test_vgf_qgf_update(deeper: None) -> None:
    """VGF's TD on particles guided by the smaller target critic."""
    settings = {"behavior": "pretrained", "train_weight": 0.5, "n_particles": 4, "flow_steps": STEPS}
    method = make("vgf_qgf", **settings, **DEEPER)

    def oracle(state: Any, batch: Any, noise: Any) -> Any:
        critic, wide = state["critic"], repeat(batch["next_observations"], 4)
        value = lambda x: jnp.min(twin_q(critic.target, wide, x), axis=0)  # noqa: E731
        moved = guided(state["behavior"].params, value, wide, noise, 0.5, "denoised")
        return {"critic": td_update(critic, batch, moved, ADAM, jnp.mean)}, {}

    agree(method, method.stages()[1], oracle)


def test_sfbc_solver() -> None:
    """DPM-Solver++(2M) in its own variables: half log signal-to-noise, equal steps h; order one at both ends. The clean
    actions leave the box on the way and are not clipped."""
    steps = 5
    sampler = make("sfbc", solver_steps=steps, **COMMON).behavior.sampler
    params = double(random_state(make("sfbc", **COMMON))["behavior"].params)
    rng = np.random.default_rng(0)
    obs, x = jnp.asarray(rng.normal(size=(B, SPEC.obs_dim))), jnp.asarray(rng.normal(size=(B, A)))
    log_alpha = lambda t: -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1  # noqa: E731
    half_snr = lambda t: log_alpha(t) - 0.5 * np.log(1 - np.exp(2 * log_alpha(t)))  # noqa: E731
    snr = np.linspace(half_snr(1.0), half_snr(1e-3), steps + 1)
    times = np.array([brentq(lambda t, at=at: half_snr(t) - at, 1e-4, 1.1, xtol=1e-15) for at in snr])
    alpha = np.exp(log_alpha(times))
    sigma = np.sqrt(1 - alpha**2)
    ours, cleans = jax.jit(sampler.sample)(params, obs, x), []
    for i in range(steps):
        eps = denoise(params, obs, x, sinusoids(jnp.full((B, 1), 1000 * times[i])))
        cleans.append((x - sigma[i] * eps) / alpha[i])
        h, guess = snr[i + 1] - snr[i], cleans[-1]
        if 0 < i < steps - 1:
            ratio = (snr[i] - snr[i - 1]) / h
            guess = (1 + 1 / (2 * ratio)) * cleans[-1] - cleans[-2] / (2 * ratio)
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * (np.exp(-h) - 1) * guess
    assert np.abs(cleans[0]).max() > 1
    np.testing.assert_allclose(ours, jnp.clip(x, -1, 1), **TOLERANCE)
