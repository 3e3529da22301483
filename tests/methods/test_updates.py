"""Updates against re-implementations from the papers, in plain jnp and optax, with the same draws.

Both sides run in float64, where they differ by rounding alone: 1e-16 a term, amplified where Adam divides by a small
moment, hence TOLERANCE. Nothing of `methods` is used on the oracles' side but the trees of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.methods.common import SPEC, double, make, make_batch, random_state

TOLERANCE = {"rtol": 1e-8, "atol": 1e-9}
B, A = 6, SPEC.action_dim
HIDDEN = (12,)  # depth is a matter of test_networks
LEARNING_RATE, TAU, DISCOUNT = 1e-2, 0.1, 0.9
COMMON = {"hidden_dims": HIDDEN, "learning_rate": LEARNING_RATE, "tau": TAU, "discount": DISCOUNT}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


# the oracles' networks


def dense(p: Any, x: Any) -> Any:
    return x @ p["kernel"] + p["bias"]


def layer_norm(p: Any, x: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def mlp(p: Any, *inputs: Any, act: Any = jax.nn.relu, norm: str = "none") -> Any:
    x = jnp.concatenate(inputs, -1)
    for i in range(len(HIDDEN)):
        x = dense(p[f"Dense_{i}"], x)
        x = layer_norm(p[f"LayerNorm_{i}"], x) if norm == "before" else x
        x = act(x)
        x = layer_norm(p[f"LayerNorm_{i}"], x) if norm == "after" else x
    return dense(p[f"Dense_{len(HIDDEN)}"], x)


def field(params: Any, *inputs: Any, **how: Any) -> Any:
    return mlp(params["params"]["MLP_0"], *inputs, **how)


def twin_q(params: Any, obs: Any, actions: Any, act: Any = jax.nn.relu, norm: str = "before") -> Any:
    """[2, ...]"""
    both = params["params"]["VmapMLP_0"]
    members = [jax.tree.map(lambda leaf, m=m: leaf[m], both) for m in range(2)]
    return jnp.stack([mlp(member, obs, actions, act=act, norm=norm)[..., 0] for member in members])


def repeat(obs: Any, n: int) -> Any:
    return jnp.repeat(obs[:, None], n, axis=1)


# the oracles' rules


def flow_matching_loss(params: Any, batch: Any, x0: Any, t: Any, act: Any = jax.nn.relu) -> Any:
    x1 = batch["actions"]
    return jnp.mean((field(params, batch["observations"], (1 - t) * x0 + t * x1, t, act=act) - (x1 - x0)) ** 2)


def sample_flow(params: Any, obs: Any, noise: Any, act: Any = jax.nn.relu) -> Any:
    def euler(i: Any, a: Any) -> Any:
        return a + 0.1 * field(params, obs, a, jnp.full((*a.shape[:-1], 1), i / 10), act=act)

    return jnp.clip(jax.lax.fori_loop(0, 10, euler, noise), -1, 1)


def direction(x: Any, score: Any, alpha: float) -> Any:
    """phi of one state's particles [n, d]: Figure 7, the repulsion by autodiff through the median."""
    n = x.shape[0]

    def kernel(a: Any, b: Any) -> Any:
        d2 = jnp.sum((a[:, None] - b[None]) ** 2, -1)
        sigma2 = jnp.maximum(jnp.median(d2, axis=(0, 1)) / (2 * jnp.log(n + 1.0)), 1e-12)
        return jnp.exp(-d2 / (1e-6 + 2 * sigma2))

    repulsion = -jax.grad(lambda a: jnp.sum(kernel(a, jax.lax.stop_gradient(x))))(x)
    return (kernel(x, x) @ score / alpha + repulsion) / n


def move(x: Any, phi: Any, tx: Any, steps: int) -> list[Any]:
    """The particles [b, n, d] after 0, 1, ... `steps` steps."""
    opt_state, path = tx.init(x), [x]
    for _ in range(steps):
        updates, opt_state = tx.update(-phi(x), opt_state)
        x = jnp.clip(x + updates, -1, 1)
        path.append(x)
    return path


def grad_q(critic: Any, obs: Any, x: Any, how: Any = jnp.mean) -> Any:
    return jax.grad(lambda x: jnp.sum(how(twin_q(critic, repeat(obs, x.shape[1]), x), axis=0)))(x)


def vgf_path(critic: Any, obs: Any, x: Any, steps: int, alpha: float = 1.0, how: Any = jnp.mean) -> list[Any]:
    phi = jax.vmap(partial(direction, alpha=alpha))
    return move(x, lambda x: phi(x, grad_q(critic, obs, x, how)), optax.adam(0.1), steps)


def td_update(learner: Any, batch: Any, moved: Any, tx: Any, how: Any) -> tuple[Any, Any, Any]:
    """r + discount mask mean_particles agg_critics Q_target; the sum of the critics' mean squared errors."""
    next_q = how(twin_q(learner.target, repeat(batch["next_observations"], moved.shape[1]), moved), axis=0)
    target = batch["rewards"] + DISCOUNT * batch["masks"] * next_q.mean(axis=1)

    def loss(params: Any) -> Any:
        q = twin_q(params, batch["observations"], batch["actions"])
        return jnp.mean((q[0] - target) ** 2) + jnp.mean((q[1] - target) ** 2)

    return stepped(learner, jax.grad(loss)(learner.params), tx)


def stepped(learner: Any, grads: Any, tx: Any) -> tuple[Any, Any, Any]:
    """Parameters, optimiser state, and Polyak target from the parameters before the step."""
    updates, opt_state = tx.update(grads, learner.opt_state)
    target = learner.target and jax.tree.map(lambda p, slow: TAU * p + (1 - TAU) * slow, learner.params, learner.target)
    return jax.tree.map(lambda p, u: p + u, learner.params, updates), opt_state, target


def vgf_step(state: Any, batch: Any, x0: Any, t: Any, noise: Any, *, steps: int, alpha: float, how: Any) -> Any:
    behavior, critic, adam = state["behavior"], state["critic"], optax.adam(LEARNING_RATE)
    start = sample_flow(behavior.params, repeat(batch["next_observations"], noise.shape[1]), noise)
    moved = vgf_path(critic.params, batch["next_observations"], start, steps, alpha)[-1]
    return {
        "behavior": stepped(behavior, jax.grad(flow_matching_loss)(behavior.params, batch, x0, t), adam),
        "critic": td_update(critic, batch, moved, adam, how),
    }


def avgf_step(state: Any, batch: Any, x0: Any, t: Any, noise: Any, *, steps: int, how: Any) -> Any:
    behavior, critic, gradient = state["behavior"], state["critic"], state["gradient"]
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(LEARNING_RATE))
    particle_tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    obs, next_obs = batch["observations"], repeat(batch["next_observations"], noise.shape[1])
    moved = move(sample_flow(behavior.params, next_obs, noise),
                 lambda x: field(gradient.params, next_obs, x, norm="before"), particle_tx, steps)[-1]  # fmt: skip
    regressed = grad_q(critic.params, obs, batch["actions"][:, None])[:, 0]

    def gradient_loss(params: Any) -> Any:
        return jnp.mean((field(params, obs, batch["actions"], norm="before") - regressed) ** 2)

    return {
        "behavior": stepped(behavior, jax.grad(flow_matching_loss)(behavior.params, batch, x0, t), tx),
        "critic": td_update(critic, batch, moved, tx, how),
        "gradient": stepped(gradient, jax.grad(gradient_loss)(gradient.params), tx),
    }


def fql_step(
    state: Any, batch: Any, x0: Any, t: Any, next_noise: Any, noise: Any, *, alpha: float, normalize: bool, how: Any
) -> Any:
    behavior, critic, actor, tx = state["behavior"], state["critic"], state["actor"], optax.adam(LEARNING_RATE)
    gelu = partial(jax.nn.gelu, approximate=True)
    mu, q = partial(field, act=gelu), partial(twin_q, act=gelu, norm="after")
    obs, next_obs = batch["observations"], batch["next_observations"]
    next_q = how(q(critic.target, next_obs, jnp.clip(mu(actor.params, next_obs, next_noise), -1, 1)), axis=0)
    target = batch["rewards"] + DISCOUNT * batch["masks"] * next_q

    def critic_loss(params: Any) -> Any:
        both = q(params, obs, batch["actions"])
        return (jnp.mean((both[0] - target) ** 2) + jnp.mean((both[1] - target) ** 2)) / 2

    def actor_loss(params: Any) -> Any:
        action = mu(params, obs, noise)
        ode = sample_flow(behavior.params, obs, noise, act=gelu)
        values = jnp.mean(q(critic.params, obs, jnp.clip(action, -1, 1)), axis=0)
        scale = jax.lax.stop_gradient(1 / jnp.abs(values).mean()) if normalize else 1.0
        return alpha * jnp.mean((action - ode) ** 2) - scale * jnp.mean(values)

    return {
        "behavior": stepped(behavior, jax.grad(flow_matching_loss)(behavior.params, batch, x0, t, gelu), tx),
        "critic": stepped(critic, jax.grad(critic_loss)(critic.params), tx),
        "actor": stepped(actor, jax.grad(actor_loss)(actor.params), tx),
    }


# comparisons


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        for a, b in zip(jax.tree.leaves(tuple(ours[name])), jax.tree.leaves(theirs[name]), strict=True):
            np.testing.assert_allclose(a, b, err_msg=name, **TOLERANCE)


def two_steps(method: Any, oracle: Any, draw: Any) -> None:
    """Both from one state, twice: the second step also sees the first's optimiser state and targets."""
    state = double(random_state(method))

    @jax.jit
    def update(state: Any, batch: Any, flow_draws: Any, draws: Any) -> Any:
        behavior, _ = method.behavior.update(state["behavior"], batch, flow_draws)
        new, _ = method.update_parts(state, batch, draws)
        return {**new, "behavior": behavior}

    oracle = jax.jit(oracle)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        batch = double(jax.tree.map(jnp.asarray, make_batch(B, seed=seed)))
        flow_draws = (jnp.asarray(rng.normal(size=(B, A))), jnp.asarray(rng.uniform(size=(B, 1))))
        draws = draw(rng)
        theirs = oracle(state, batch, *flow_draws, *(draws if isinstance(draws, tuple) else (draws,)))
        before, state = state, update(state, batch, flow_draws, draws)
        assert_same(state, theirs)
        moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (before, state)), strict=True)]
        assert max(moved) > 1e-3


@pytest.mark.parametrize(
    ("n", "steps", "how", "alpha"), [(5, 1, "mean", 1.0), pytest.param(10, 4, "min", 0.1, marks=pytest.mark.slow)]
)
def test_vgf_update(n: int, steps: int, how: str, alpha: float) -> None:
    method = make("vgf", n_particles=n, train_flow_steps=steps, q_aggregation=how, alpha=alpha, **COMMON)
    oracle = partial(vgf_step, steps=steps, alpha=alpha, how=getattr(jnp, how))
    two_steps(method, oracle, lambda rng: jnp.asarray(rng.normal(size=(B, n, A))))


@pytest.mark.parametrize(("n", "steps", "how"), [(5, 3, "min")])
def test_avgf_update(n: int, steps: int, how: str) -> None:
    method = make("avgf", n_particles=n, train_flow_steps=steps, q_aggregation=how, **COMMON)
    oracle = partial(avgf_step, steps=steps, how=getattr(jnp, how))
    two_steps(method, oracle, lambda rng: jnp.asarray(rng.normal(size=(B, n, A))))


@pytest.mark.parametrize(("normalize", "how"), [(True, "min"), pytest.param(False, "mean", marks=pytest.mark.slow)])
def test_fql_update(normalize: bool, how: str) -> None:
    method = make("fql", alpha=3.0, normalize_q=normalize, q_aggregation=how, **COMMON)
    oracle = partial(fql_step, alpha=3.0, normalize=normalize, how=getattr(jnp, how))
    draws = type(method.draw(jax.random.key(0), make_batch(B)))
    two_steps(method, oracle, lambda rng: draws(*jnp.asarray(rng.normal(size=(2, B, A)))))


@pytest.mark.parametrize(("n", "how"), [(5, "mean"), (10, "min")])
def test_vgf_particles_at_every_number_of_steps(n: int, how: str) -> None:
    """L = 0..5, one row each."""
    method = make("vgf", n_particles=n, flow_q_aggregation=how, **COMMON)
    state = double(random_state(method))
    rng = np.random.default_rng(n)
    obs, start = jnp.asarray(rng.normal(size=(B, SPEC.obs_dim))), jnp.asarray(rng.uniform(-1, 1, size=(B, n, A)))
    path = jax.jit(partial(vgf_path, steps=5, how=getattr(jnp, how)))(state["critic"].params, obs, start)
    limited = jax.jit(partial(method.transport, steps=5))(state, obs, start, limit=jnp.arange(B))
    for row in range(B):
        np.testing.assert_allclose(limited[row], path[row][row], **TOLERANCE)
    assert np.abs(path[5] - path[4]).max() > 0.01
