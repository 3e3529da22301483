"""Probes of the baselines with known answers: losses and targets in numbers, behaviours whose moments are known,
guidance in closed form, and gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import methods.samplers
from harness.train import Trainer, take
from methods import critics
from methods.core import TaskSpec, act_keys
from methods.samplers import DiffusionSampler, FlowSampler, GaussianSampler
from tests.methods.common import double, make, make_batch, per_row, random_state
from tests.methods.test_probes import SMALL, first_seed, fresh, same

# losses and returns in numbers


def test_losses_of_v_by_hand() -> None:
    u, v = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    assert critics.expectile_loss(u, 0.9) == pytest.approx((0.9 * 1 + 0.1 * 4) / 2)
    # weights 1 + u / 1 = 2 and -1, the second cut: (4 + 0.5 / 0.5 + 0 + 3 / 0.5) / 2
    assert critics.sparse_loss(u, v, 0.5) == pytest.approx((4 + 1 + 0 + 6) / 2)
    # u / a = 2 and -4, over exp(2): (1 + exp(-2) 1 + exp(-6) + exp(-2) 6) / 2
    assert critics.exponential_loss(u, v, 0.5) == pytest.approx((1 + 7 * np.exp(-2) + np.exp(-6)) / 2)
    # u / a = 20 counts as 5; all far below -1: the shift stops at -1
    assert critics.exponential_loss(10 * u[:1], v[:1], 0.5) == pytest.approx(1 + np.exp(-5))
    assert critics.exponential_loss(u[1:], v[1:], 0.5) == pytest.approx(np.exp(-3) + np.exp(1) * 6)


def test_softmax_value_by_hand() -> None:
    """Weights 1 : 3 where the values differ by log(3) / 2 at weight 2."""
    values = jnp.array([[1.0, 1.0 + np.log(3.0) / 2], [4.0, 4.0]])
    np.testing.assert_allclose(critics.softmax_value(values, 2.0), [1.0 + 0.75 * np.log(3.0) / 2, 4.0], rtol=1e-6)
    assert critics.softmax_value(jnp.array([0.0, 1.0, 3.0]), 1e3) == 3.0


def test_planned_returns_by_hand() -> None:
    """Two transitions cut by a time limit, then three that end truly; discount 1/2."""
    rewards, masks = jnp.array([8.0, 16.0, 1.0, 2.0, 4.0]), jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    plan = partial(critics.planned_returns, rewards, masks, jnp.array([0.0, 1.0, 0.0, 0.0, 1.0]), discount=0.5)
    # backwards: 4, 2 + 2, 1 + 2; then 16 alone, 8 + 8
    np.testing.assert_array_equal(plan(values=jnp.full(5, -jnp.inf)), [16.0, 16.0, 3.0, 4.0, 4.0])
    # 10 beats the return 3, which nothing before it in the same episode sees; 20 beats 16 and is passed on: 8 + 10
    np.testing.assert_array_equal(plan(values=jnp.array([1.0, 20.0, 10.0, 3.0, 1.0])), [18.0, 20.0, 10.0, 4.0, 4.0])


QS, SHARES = np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])


def solutions() -> dict[str, tuple[Callable[[Any], Any], float]]:
    """For Q of three values: the loss of V, and the V at which it is least, from its first-order condition."""
    q, grid = np.repeat(QS, (10 * SHARES).astype(int)), np.linspace(0.0, 3.0, 300001)
    u = QS - grid[:, None]
    expectile = grid[np.abs((SHARES * np.abs(0.9 - (u < 0)) * u).sum(-1)).argmin()]
    sparse = grid[np.abs((SHARES * np.maximum(1 + u / 2, 0)).sum(-1) - 1).argmin()]  # E[(1 + u / 2a)_+] = 1
    exponential = 2.0 * np.log(SHARES @ np.exp(QS / 2.0))  # E exp(u / a) = 1
    return {
        "expectile": (lambda v: critics.expectile_loss(q - v, 0.9), expectile),
        "sparse": (lambda v: critics.sparse_loss(q - v, jnp.full(10, v), 1.0), sparse),
        "exponential": (lambda v: critics.exponential_loss(q - v, jnp.full(10, v), 2.0), exponential),
    }


@pytest.mark.parametrize("form", ["expectile", "sparse", "exponential"])
def test_v_is_where_its_loss_says(form: str) -> None:
    loss, v = solutions()[form]
    slope = jax.grad(loss)
    # 1e-5 of grid and float32; the slope is off by more than 1e-2 at a distance of 0.1
    assert abs(slope(v)) < 1e-4 and slope(v - 0.1) < -1e-2 and slope(v + 0.1) > 1e-2


@pytest.mark.parametrize("level", [pytest.param(0.5, marks=pytest.mark.slow), 0.9])
def test_iql_learns_the_expectile(level: float) -> None:
    """A bandit of three actions with the rewards and shares above, alone in each episode. The mean is 0.9 at level 0.5;
    a critic of this size errs by a few hundredths, and V follows."""
    spec = TaskSpec(obs_dim=1, action_dim=1, horizon=1)
    method = make("iql", spec, expectile=level, hidden_dims=(32,), learning_rate=3e-3, batch_size=64, tau=0.05)
    which = np.repeat([0, 1, 2], (1000 * SHARES).astype(int))
    obs, done = np.ones((1000, 1), np.float32), np.zeros(1000, np.float32)
    columns = {"observations": obs, "next_observations": obs, "actions": (which[:, None] - 1.0).astype(np.float32),
               "rewards": QS[which].astype(np.float32), "masks": done}  # fmt: skip
    state, stage = fresh(method), method.stages()[0]
    trainer, values = Trainer(stage, [0], take(columns, method.fields), state), []
    for first in range(0, 1500, 100):
        state, _ = trainer.run(state, first, 100)
        values.append(float(method.in_sample.value.apply(first_seed(state)["value"].params, jnp.ones((1, 1)))[0]))
    # V moves with the batches it sees: the mean of ten
    expected = 0.9 if level == 0.5 else solutions()["expectile"][1]
    assert np.mean(values[-10:]) == pytest.approx(expected, abs=0.1)


def test_rebrac_penalty_by_hand() -> None:
    """0.5 |(0.3, -0.4)|^2 = 0.125, and nothing at an episode's end."""
    method = make("rebrac", alpha_critic=0.5)
    batch = {"next_actions": jnp.zeros((3, 2)), "terminals": jnp.array([0.0, 1.0, 0.0])}
    found = method.penalty(batch, jnp.array([[0.3, -0.4], [0.3, -0.4], [1.0, 1.0]]))
    np.testing.assert_allclose(found, [0.125, 0.0, 1.0], rtol=1e-6)


def test_td3bc_normalises() -> None:
    """Mean and deviation of the dataset as NumPy has them; acting and learning see what is left after them."""
    method, columns = make("td3bc", **SMALL), make_batch(50)
    columns = {**columns, "observations": columns["observations"] * np.array([1, 10, 0], np.float32) + 5}
    state, extra = method.stages()[0].complete(random_state(method), columns)
    mean, std = columns["observations"].mean(0), columns["observations"].std(0) + 1e-3
    assert not extra
    np.testing.assert_allclose(state["normalizer"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(state["normalizer"]["std"], std, rtol=1e-5)
    obs = columns["observations"][:4]
    acted = method.act(state, obs, jax.random.key(0), {})
    scaled = (obs - state["normalizer"]["mean"]) / state["normalizer"]["std"]
    np.testing.assert_allclose(acted, method.policy(state["actor"].params, scaled), atol=1e-6)
    assert make("td3bc", normalize_observations=False).stages()[0].complete is None


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
DIFFUSION_QL = make("diffusion_ql", TaskSpec(1, 1, 1), hidden_dims=HIDDEN, eta=0.0, diffusion_steps=20).actor
FLOW = FlowSampler(1, HIDDEN)
SFBC = make("sfbc", TaskSpec(1, 1, 1), hidden_dims=HIDDEN).sampler


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


# guidance


def test_unguided_qgf_is_its_behaviour() -> None:
    """w = 0 takes the sampler's own actions from the same noise, whatever N allows; w > 0 does not."""
    method = make("qgf", **SMALL, test_weights=(0.0, 0.3), test_n=(1, 4), flow_steps=3)
    state, obs, key = random_state(method), jnp.asarray(make_batch(9)["observations"]), jax.random.key(1)
    candidates = jax.jit(method.candidates)
    plain = jax.jit(method.propose)(state, obs, method.sampler.noise(key, (9, 4)))
    still, valid = candidates(state, obs, key, per_row({"w": 0.0, "N": 1}, 9))
    np.testing.assert_allclose(still, plain, atol=1e-6)  # float32: two programs
    assert (np.asarray(valid) == [True, False, False, False]).all()
    assert np.abs(candidates(state, obs, key, per_row({"w": 0.3, "N": 1}, 9))[0] - plain).max() > 1e-3


@pytest.mark.parametrize("gradient", ["denoised", "jacobian", "noisy", "full"])
def test_guidance_in_closed_form(gradient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """v = 0.5 (0.4 - a) and Q = -(x - 0.9)^2, 0.1 more in the second critic. At t = 0.3 the one-step estimate of
    a = 0.2 is 0.2 + 0.7 * 0.1 = 0.27; seven Euler steps leave 0.95^7 of the distance to 0.4."""
    method = make("qgf", TaskSpec(1, 1, 1), gradient=gradient)
    state, obs = (
        {"behavior": random_state(method)["behavior"], "critic": random_state(method)["critic"]},
        jnp.zeros((1, 1)),
    )
    monkeypatch.setattr(FlowSampler, "velocity", lambda self, params, obs, actions, time: 0.5 * (0.4 - actions))
    q = lambda self, params, obs, x: jnp.stack([-((x - 0.9) ** 2)[..., 0], 0.1 - ((x - 0.9) ** 2)[..., 0]])  # noqa: E731
    monkeypatch.setattr(type(method), "values", q)
    action, time = jnp.full((1, 1, 1), 0.2), jnp.asarray(0.3)
    reached = 0.4 - 0.2 * 0.95**7
    assert method.estimate(state, obs, action, time) == pytest.approx(0.27)
    assert method.finish(state, obs, action, time) == pytest.approx(reached)
    assert method.estimate(state, obs, action - 9.0, time) == -1.0  # held in the box
    expected = {
        "denoised": 2 * 0.63,
        "jacobian": 2 * 0.63 * 0.65,
        "noisy": 2 * 0.7,
        "full": 2 * (0.9 - reached) * 0.95**7,
    }
    assert method.guidance(state, obs, action, time) == pytest.approx(expected[gradient])
    # beyond the box the estimate does not move with the action, so its Jacobian is 0; without it the gradient stays
    outside = {"denoised": 2 * 1.9, "jacobian": 0.0, "noisy": 2 * 9.7, "full": 0.0}[gradient]
    assert method.guidance(state, obs, action - 9.0, time) == pytest.approx(outside)


def test_ifql_is_best_of_n_with_its_critic() -> None:
    """The same stages, so the same work, and the same actions to the bit; N is among the first."""
    shared = {"test_n": (1, 4), **SMALL}
    ifql, best = make("ifql", **shared), make("best_of_n", critic="iql", sampler_activation="gelu", **shared)
    for ours, theirs in zip(ifql.stages(), best.stages(), strict=True):
        assert (ours.name, ours.rule, ours.config, ours.trains) == (
            theirs.name,
            theirs.rule,
            theirs.config,
            theirs.trains,
        )
    state, obs, key = random_state(ifql), jnp.asarray(make_batch(9)["observations"]), jax.random.key(1)
    acted = [jax.jit(method.act)(state, obs, key, per_row({"N": 4}, 9)) for method in (ifql, best)]
    assert same(*acted)
    candidates, _ = ifql.candidates(state, obs, act_keys(key)[0], per_row({"N": 4}, 9))
    wide = jnp.broadcast_to(obs[:, None], (9, 4, 3))
    chosen = (
        ifql.critic.apply(state["critic"].params, wide, candidates).min(0).argmax(-1)
    )  # the online critics' smaller
    np.testing.assert_allclose(acted[0], candidates[np.arange(9), chosen], atol=1e-5)  # float32: two programs


# gradients


def imitation(m: Any, p: Any, s: Any, b: Any, key: Any) -> Any:
    return m.sampler.loss(p, b["observations"], b["actions"], m.sampler.draw(key, 8))


def regression(m: Any, p: Any, s: Any, b: Any, key: Any) -> Any:
    loss = m.actor_loss(p, s, b)
    return loss[0] if isinstance(loss, tuple) else loss


def generative(m: Any, p: Any, s: Any, b: Any, key: Any) -> Any:
    return m.actor_loss(p, s, b, m.draw(key, b))[0]


LOSSES: dict[str, tuple[dict[str, Any], str, Callable[..., Any]]] = {
    "bc": ({}, "behavior", imitation),
    "bc_gaussian": ({}, "behavior", imitation),
    "idql": ({"sampler_dims": (8,), "blocks": 1, "dropout": 0.3}, "behavior", imitation),
    "iql value": ({}, "value", lambda m, p, s, b, key: m.in_sample.value_loss(p, s, b)),
    "ivr value sql": ({}, "value", lambda m, p, s, b, key: m.in_sample.value_loss(p, s, b)),
    "ivr value eql": ({"regularizer": "eql", "value_dropout": 0.5}, "value",
                      lambda m, p, s, b, key: m.in_sample.value_loss(p, s, b, key)),
    "iql critic": ({}, "critic", lambda m, p, s, b, key: m.in_sample.critic_loss(p, s, b)[0]),
    "rebrac critic": ({}, "critic", lambda m, p, s, b, key: m.critic.loss(p, b, jnp.ones(8))[0]),
    "iql": ({}, "actor", regression),
    "ivr": ({}, "actor", regression),
    "rebrac": ({}, "actor", regression),
    "td3bc": ({}, "actor", regression),
    "fql": ({"normalize_q": True, "flow_steps": 2}, "actor", lambda m, p, s, b, key: m.actor_loss(
        p, s, b, m.draw(key, b).noise)[0]),
    "fbrac": ({"flow_steps": 3}, "actor", generative),
    "diffusion_ql": ({"diffusion_steps": 2}, "actor", generative),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_slopes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Central differences along a random direction, step 1e-5 in float64: 1e-10 of truncation, 1e-11 of rounding. What
    a loss holds constant by `stop_gradient` is held at its value in the middle."""
    settings, part, loss = LOSSES[name]
    held: list[Any] = []
    through = jax.lax.stop_gradient

    def record(x: Any) -> Any:
        held.append(through(x))
        return held[-1]

    with jax.enable_x64(True):
        method = make(name.split()[0], **{**SMALL, **settings})
        state, batch, key = double(random_state(method)), double(make_batch(8)), jax.random.key(0)
        params, rng = state[part].params, np.random.default_rng(0)
        along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)

        def recorded(p: Any) -> Any:
            return loss(method, p, state, batch, key), list(held)

        monkeypatch.setattr(jax.lax, "stop_gradient", record)
        gradient, constants = jax.jit(jax.grad(recorded, has_aux=True))(params)
        replay = iter(constants)
        monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: next(replay))
        at = jax.jit(lambda h: loss(method, jax.tree.map(lambda p, d: p + h * d, params, along), state, batch, key))
        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        ours = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, along)))
        assert abs(slope) > 1e-4
        np.testing.assert_allclose(ours, slope, rtol=1e-6, atol=1e-8)
