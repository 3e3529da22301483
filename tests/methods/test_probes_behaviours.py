"""Behaviour models reproduce what they were fitted to: moments, both modes, and the exact noise through each solver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import methods.samplers
from methods.core import TaskSpec
from methods.samplers import DiffusionSampler, FlowSampler, GaussianSampler
from tests.methods.common import make

pytestmark = pytest.mark.slow

# behaviours: at s = 0 a Gaussian, at s = 1 two modes

MODES, MODE_SHARES = np.array([-0.5, 0.5]), np.array([0.3, 0.7])
CENTRE, WIDTH, MODE_WIDTH = 0.25, 0.2, 0.1
DRAWN = 4000  # actions sampled at each state


def behaviour() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    state = rng.integers(0, 2, size=8000)
    modes = rng.choice(MODES, p=MODE_SHARES, size=8000) + MODE_WIDTH * rng.normal(size=8000)
    actions = np.where(state == 0, CENTRE + WIDTH * rng.normal(size=8000), modes)
    return state[:, None].astype(np.float32), np.clip(actions, -1, 1)[:, None].astype(np.float32)


def fitted(sampler: Any, steps: int) -> Any:
    """Parameters after imitation at a learning rate that decays to 0."""
    obs, actions = map(jnp.asarray, behaviour())
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
    params = sampler.init(jax.random.key(0), 1)

    def step(carry: Any, key: Any) -> Any:
        params, opt_state = carry
        rows_key, draw_key = jax.random.split(key)
        rows = jax.random.randint(rows_key, (128,), 0, len(obs))
        grads = jax.grad(sampler.loss)(params, obs[rows], actions[rows], sampler.draw(draw_key, 128))
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(jax.random.key(1), steps)
    return jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[0][0])((params, tx.init(params)))


def samples(sampler: Any, params: Any) -> np.ndarray:
    """`[2, DRAWN]`: actions at both states."""
    obs = jnp.repeat(jnp.array([[0.0], [1.0]]), DRAWN, axis=0)
    noise = sampler.noise(jax.random.key(2), (2 * DRAWN,))
    return np.asarray(jax.jit(sampler.sample)(params, obs, noise)).reshape(2, -1)


def exact_samples(sampler: DiffusionSampler, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The same with E[eps | x_t] for a network: -sqrt(1 - abar) times the score of the noisy mixture."""

    def forward(network: Any, params: Any, obs: Any, noisy: Any, time: Any) -> Any:
        bar = sampler.signal(time)
        means, width = jnp.where(obs == 0, CENTRE, MODES), jnp.where(obs == 0, WIDTH, MODE_WIDTH)
        variance = bar * width**2 + 1 - bar
        gap = noisy - jnp.sqrt(bar) * means
        shares = jax.nn.softmax(jnp.log(MODE_SHARES) - 0.5 * gap**2 / variance, axis=-1)
        return jnp.sqrt(1 - bar) * jnp.sum(shares * gap / variance, axis=-1, keepdims=True)

    with monkeypatch.context() as patch:
        patch.setattr(methods.samplers, "forward", forward)
        return samples(sampler, {})


def assert_reproduced(found: np.ndarray, bias: float) -> None:
    """Moments at s = 0, share and moments of both modes at s = 1: to five standard errors, and `bias` beside."""
    one, two = found
    assert abs((two > 0).mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / DRAWN) + bias
    pieces = ((one, CENTRE, WIDTH), (two[two < 0], MODES[0], MODE_WIDTH), (two[two > 0], MODES[1], MODE_WIDTH))
    for piece, mean, width in pieces:
        assert abs(piece.mean() - mean) < 5 * width / np.sqrt(len(piece)) + bias
        assert abs(piece.std() - width) < 5 * width / np.sqrt(2 * len(piece)) + bias


@pytest.mark.parametrize(("solver", "steps"), [("ancestral", 500), ("langevin", 500), ("ode", 200)])
def test_solvers_given_the_exact_noise(solver: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many steps, each of which errs by about 1 / steps^2 of what is of size 1, or less: 0.002, and as much again
    for the modes' widths, whose neighbours in a chain are 0.1 apart."""
    sampler = DiffusionSampler(1, (4,), steps=steps, solver=solver, beta=(0.1, 20.0))
    assert_reproduced(exact_samples(sampler, monkeypatch), 0.005)


HIDDEN = (32, 32)
# with eta = 0 it imitates alone; its own 5 steps would leave the modes half merged, with any network
DIFFUSION_QL = make("diffusion_ql", TaskSpec(1, 1, 1), hidden_dims=HIDDEN, eta=0.0, diffusion_steps=20).actor.sampler
FLOW = FlowSampler(1, HIDDEN)
SFBC = make("sfbc", TaskSpec(1, 1, 1), hidden_dims=HIDDEN).behavior.sampler


@pytest.mark.parametrize("name", ["diffusion_ql", "langevin", "sfbc"])
def test_diffusion_learns_two_modes(name: str, fits: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the exact eps would sample in as few steps, which err by themselves (most, the chain of 5): the mean distance
    of equal quantiles. One mode alone would be off by 0.3 at least, a Gaussian of the same moments by 0.15; a network
    of this size leaves up to 0.1. Shares are the behaviour's to five standard errors and as much."""
    sampler = {"diffusion_ql": DIFFUSION_QL, "langevin": replace(DIFFUSION_QL, solver="langevin"), "sfbc": SFBC}[name]
    found = samples(sampler, fits["ode" if name == "sfbc" else "grid"])
    apart = np.abs(np.sort(found) - np.sort(exact_samples(sampler, monkeypatch))).mean(axis=-1)
    assert apart[0] < 0.05 and apart[1] < 0.1
    assert abs((found[1] > 0).mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / DRAWN) + 0.1
    assert (np.abs(found[1] + 0.5) < 0.25).mean() > 0.1 and (np.abs(found[1] - 0.5) < 0.25).mean() > 0.4


@pytest.fixture(scope="module")
def fits() -> dict[str, Any]:
    """One denoiser on the grid of times for both of its solvers, one on continuous times."""
    return {"grid": fitted(DIFFUSION_QL, 4000), "ode": fitted(SFBC, 3000)}


def test_a_flow_reproduces_moments() -> None:
    """Five standard errors, and 0.05 for a small network and ten Euler steps; at s = 1 the share of the modes too."""
    one, two = samples(FLOW, fitted(FLOW, 1500))
    assert abs(one.mean() - CENTRE) < 5 * WIDTH / np.sqrt(DRAWN) + 0.05
    assert abs(one.std() - WIDTH) < 5 * WIDTH / np.sqrt(2 * DRAWN) + 0.05
    assert abs((two > 0).mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / DRAWN) + 0.05


def test_a_gaussian_reproduces_moments() -> None:
    """One deviation serves both states: the root of the mean of 0.04 and of 0.1^2 + 0.84 * 0.5^2; the mean action at
    s = 1 is 0.7 * 0.5 - 0.3 * 0.5. The network's means err by about 0.02."""
    sampler = GaussianSampler(1, HIDDEN)
    params = fitted(sampler, 1000)
    means = sampler.sample(params, jnp.array([[0.0], [1.0]]), jnp.zeros((2, 1)))[:, 0]
    np.testing.assert_allclose(means, [CENTRE, 0.2], atol=0.03)
    pooled = np.sqrt((WIDTH**2 + MODE_WIDTH**2 + 0.84 * 0.5**2) / 2)
    assert np.exp(params["params"]["log_std"][0]) == pytest.approx(pooled, rel=0.05)
