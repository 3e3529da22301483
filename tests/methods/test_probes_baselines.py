"""Probes of the baselines with known answers: losses and targets in numbers, guidance in closed form, and gradients
against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods import losses
from methods.core import TaskSpec, act_keys
from methods.critic import Critic
from methods.samplers import FlowSampler
from tests.methods.common import double, make, make_batch, per_row, random_state
from tests.methods.test_probes import SMALL, first_seed, fresh, same, trainer_of

pytestmark = pytest.mark.slow

# losses and returns in numbers


def test_losses_of_v_by_hand() -> None:
    u, v = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    assert losses.expectile_loss(u, 0.9) == pytest.approx((0.9 * 1 + 0.1 * 4) / 2)
    # weights 1 + u / 1 = 2 and -1, the second cut: (4 + 0.5 / 0.5 + 0 + 3 / 0.5) / 2
    assert losses.sparse_loss(u, v, 0.5) == pytest.approx((4 + 1 + 0 + 6) / 2)
    # u / a = 2 and -4, over exp(2): (1 + exp(-2) 1 + exp(-6) + exp(-2) 6) / 2
    assert losses.exponential_loss(u, v, 0.5) == pytest.approx((1 + 7 * np.exp(-2) + np.exp(-6)) / 2)
    # u / a = 20 counts as 5; all far below -1: the shift stops at -1
    assert losses.exponential_loss(10 * u[:1], v[:1], 0.5) == pytest.approx(1 + np.exp(-5))
    assert losses.exponential_loss(u[1:], v[1:], 0.5) == pytest.approx(np.exp(-3) + np.exp(1) * 6)


def test_softmax_value_by_hand() -> None:
    """Weights 1 : 3 where the values differ by log(3) / 2 at weight 2."""
    values = jnp.array([[1.0, 1.0 + np.log(3.0) / 2], [4.0, 4.0]])
    np.testing.assert_allclose(losses.softmax_value(values, 2.0), [1.0 + 0.75 * np.log(3.0) / 2, 4.0], rtol=1e-6)
    assert losses.softmax_value(jnp.array([0.0, 1.0, 3.0]), 1e3) == 3.0


def test_planned_returns_by_hand() -> None:
    """Two transitions cut by a time limit, then three that end truly; discount 1/2."""
    rewards, masks = jnp.array([8.0, 16.0, 1.0, 2.0, 4.0]), jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    plan = partial(losses.planned_returns, rewards, masks, jnp.array([0.0, 1.0, 0.0, 0.0, 1.0]), discount=0.5)
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
        "expectile": (lambda v: losses.expectile_loss(q - v, 0.9), expectile),
        "sparse": (lambda v: losses.sparse_loss(q - v, jnp.full(10, v), 1.0), sparse),
        "exponential": (lambda v: losses.exponential_loss(q - v, jnp.full(10, v), 2.0), exponential),
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
    state = fresh(method)
    trainer, values = trainer_of(method, columns, state), []
    for first in range(0, 1500, 100):
        state, _ = trainer.run(state, first, 100)
        values.append(float(method.in_sample.value.v(first_seed(state)["value"].params, jnp.ones((1, 1)))[0]))
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


# guidance


def test_unguided_qgf_is_its_behaviour() -> None:
    """w = 0 takes the sampler's own actions from the same noise, whatever N allows; w > 0 does not."""
    method = make("qgf", **SMALL, test_weights=(0.0, 0.3), test_n=(1, 4), flow_steps=3)
    state, obs, key = random_state(method), jnp.asarray(make_batch(9)["observations"]), jax.random.key(1)
    candidates = jax.jit(method.candidates)
    plain = jax.jit(method.behavior.propose, static_argnums=3)(state["behavior"], obs, key, 4)
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
    monkeypatch.setattr(Critic, "q_values", q)
    guidance = method.guidance
    action, time = jnp.full((1, 1, 1), 0.2), jnp.asarray(0.3)
    reached = 0.4 - 0.2 * 0.95**7
    assert guidance.estimate(state, obs, action, time) == pytest.approx(0.27)
    assert guidance.finish(state, obs, action, time) == pytest.approx(reached)
    assert guidance.estimate(state, obs, action - 9.0, time) == -1.0  # clipped to the box
    expected = {
        "denoised": 2 * 0.63,
        "jacobian": 2 * 0.63 * 0.65,
        "noisy": 2 * 0.7,
        "full": 2 * (0.9 - reached) * 0.95**7,
    }
    assert guidance.action_grad(state, obs, action, time) == pytest.approx(expected[gradient])
    # beyond the box the estimate does not move with the action, so its Jacobian is 0; without it the gradient stays
    outside = {"denoised": 2 * 1.9, "jacobian": 0.0, "noisy": 2 * 9.7, "full": 0.0}[gradient]
    assert guidance.action_grad(state, obs, action - 9.0, time) == pytest.approx(outside)


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
        ifql.critic.network.apply(state["critic"].params, wide, candidates).min(0).argmax(-1)
    )  # the online critics' smaller
    np.testing.assert_allclose(acted[0], candidates[np.arange(9), chosen], atol=1e-5)  # float32: two programs


# gradients


def imitation(m: Any, p: Any, s: Any, b: Any, key: Any) -> Any:
    sampler = m.behavior.sampler
    return sampler.loss(p, b["observations"], b["actions"], sampler.draw(key, 8))


def regression(m: Any, p: Any, s: Any, b: Any, key: Any) -> Any:
    return m.actor_loss(p, s, b)


def td_loss(m: Any, p: Any, b: Any) -> Any:
    return m.critic.td_loss(p, b, m.critic.target(b, jnp.ones(8)))[0]


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
    "iql critic": ({}, "critic", lambda m, p, s, b, key: td_loss(m.in_sample, p, b)),
    "rebrac critic": ({}, "critic", lambda m, p, s, b, key: td_loss(m, p, b)),
    "iql": ({}, "actor", regression),
    "ivr": ({}, "actor", regression),
    "rebrac": ({}, "actor", lambda m, p, s, b, key: m.actor_loss(p, s, b)[0]),
    "td3bc": ({}, "actor", lambda m, p, s, b, key: m.actor_loss(p, s, b)[0]),
    "fql": ({"normalize_q": True, "flow_steps": 2}, "actor", lambda m, p, s, b, key: m.actor_loss(
        p, s, b, m.draw(key, b).noise)[0]),
    "fbrac": ({"flow_steps": 3}, "actor", generative),
    "diffusion_ql": ({"diffusion_steps": 2}, "actor", generative),
}  # fmt: skip


SLOW = {"diffusion_ql"}  # to compile


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in LOSSES])
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
