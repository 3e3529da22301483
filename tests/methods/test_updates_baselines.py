"""Updates of the baselines against re-implementations from their papers and codes, as in `test_updates.py`: float64,
the same draws, nothing of `methods` on the oracles' side but the trees of parameters."""

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
from tests.methods.common import SPEC, double, make, make_batch, random_state
from tests.methods.test_updates import (
    COMMON,
    DISCOUNT,
    LEARNING_RATE,
    TAU,
    TOLERANCE,
    A,
    B,
    assert_same,
    dense,
    field,
    float64,  # noqa: F401, a fixture
    flow_matching_loss,
    layer_norm,
    mlp,
    repeat,
    sample_flow,
    stepped,
    td_update,
    twin_q,
)

ADAM = optax.adam(LEARNING_RATE)
# two true ends, a time limit, and a transition that ends truly though its episode goes on
ENDS = {"masks": np.array([1, 0, 1, 0, 0, 1], np.float32), "terminals": np.array([0, 1, 1, 1, 0, 0], np.float32)}
SPREAD = {"seed": 3, "scale": 0.6}  # a state whose advantages lie on both sides of every rule's threshold
relu, gelu = jax.nn.relu, partial(jax.nn.gelu, approximate=True)
suite_q = partial(twin_q, act=gelu, norm="after")  # FQL's suite
plain_q = partial(twin_q, act=relu, norm="none")


def mish(x: Any) -> Any:
    return x * jnp.tanh(jnp.log1p(jnp.exp(x)))


def state_value(params: Any, obs: Any, act: Any, norm: str) -> Any:
    return mlp(params["params"]["MLP_0"], obs, act=act, norm=norm)[..., 0]


def head(p: Any, obs: Any, act: Any) -> Any:
    """A policy head of one hidden layer."""
    return dense(p["Dense_0"], act(dense(p["MLP_0"]["Dense_0"], obs)))


def learn(learner: Any, loss: Any, tx: Any = ADAM, tau: float = TAU) -> tuple[Any, Any]:
    """A gradient step and the loss before it."""
    value, grads = jax.value_and_grad(loss)(learner.params)
    params, opt_state, _ = stepped(learner, grads, tx)
    target = learner.target and jax.tree.map(lambda p, slow: tau * p + (1 - tau) * slow, learner.params, learner.target)
    return (params, opt_state, target), value


def learn_q(learner: Any, batch: Any, q: Any, next_value: Any, *, share: float, **how: Any) -> tuple[Any, Any]:
    """`share` of the sum of both critics' mean squared errors towards r + discount mask V(s')."""
    target = batch["rewards"] + DISCOUNT * batch["masks"] * next_value

    def loss(params: Any) -> Any:
        both = q(params, batch["observations"], batch["actions"])
        return share * jnp.sum((both[0] - target) ** 2 + (both[1] - target) ** 2) / B

    return learn(learner, loss, **how)


def agree(method: Any, stage: Any, oracle: Any, update: Any = None, **state_how: Any) -> None:
    """Ours and the oracle's from one state, twice, the second time from the first's; what the oracle does not name
    stays. `oracle(state, batch, draws)` returns learners and losses."""
    state = double(random_state(method, **state_how))
    update, oracle = jax.jit(update or stage.update), jax.jit(oracle)
    for seed in range(2):
        batch, key = double({**make_batch(B, seed=seed), **ENDS}), jax.random.key(seed)
        theirs, losses = oracle(state, batch, method.draw(key, batch))
        before, (state, metrics) = state, update(state, batch, key)
        assert_same({name: state[name] for name in theirs}, theirs)
        for name, loss in losses.items():
            np.testing.assert_allclose(metrics[f"{name}/loss"], loss, **TOLERANCE)
        for name in state:
            pairs = zip(jax.tree.leaves(state[name]), jax.tree.leaves(before[name]), strict=True)
            assert any((a != b).any() for a, b in pairs) == (name in theirs), name


def spread(x: Any) -> bool:
    """Whether a condition holds for some rows and not for others, so that both sides of a rule are tried."""
    return bool(jnp.any(x)) and not bool(jnp.all(x))


# in-sample critics and regression


def in_sample_step(state: Any, batch: Any, draws: Any, *, rule: Any, q: Any, v: Any) -> Any:
    obs, critic, value = batch["observations"], state["critic"], state["value"]

    def value_loss(params: Any) -> Any:
        now = v(params, obs)
        return rule(jnp.minimum(*q(critic.target, obs, batch["actions"])) - now, now)

    next_value = v(value.params, batch["next_observations"])
    new_critic, critic_loss = learn_q(critic, batch, q, next_value, share=1.0)
    new_value, loss = learn(value, value_loss)
    return {"critic": new_critic, "value": new_value}, {"critic": critic_loss, "value": loss}


def expectile(u: Any, v: Any, tau: float = 0.7) -> Any:
    return jnp.mean(jnp.abs(tau - (u < 0)) * u**2)


def sql(u: Any, v: Any, a: float = 0.3) -> Any:
    return jnp.mean((1 + u / (2 * a) > 0) * (1 + u / (2 * a)) ** 2 + v / a)


def eql(u: Any, v: Any, a: float = 0.1) -> Any:
    """exp(u / a) + V / a with u / a at most 5, times a constant that is exp(-5) where some row is at the limit."""
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.minimum(u / a, 5).max(), -1))
    return jnp.mean(jnp.exp(jnp.minimum(u / a, 5)) + v / a) * jnp.exp(-largest)


IN_SAMPLE = {
    "expectile": (make("ifql", expectile=0.7, **COMMON), expectile),
    "sql": (make("ivr", regularizer="sql", sql_alpha=0.3, **COMMON), sql),
    "eql": (make("ivr", regularizer="eql", eql_alpha=0.1, **COMMON), eql),
}
IVR_NETS = {"q": plain_q, "v": partial(state_value, act=relu, norm="none")}
IQL_NETS = {"q": suite_q, "v": partial(state_value, act=gelu, norm="after")}


@pytest.mark.parametrize("form", IN_SAMPLE)
def test_in_sample_critic(form: str) -> None:
    method, rule = IN_SAMPLE[form]
    stage = next(stage for stage in method.stages() if "value" in stage.trains)
    nets = IQL_NETS if form == "expectile" else IVR_NETS
    agree(method, stage, partial(in_sample_step, rule=rule, **nets), **SPREAD)
    state, batch = double(random_state(method, **SPREAD)), double(make_batch(B))
    u = np.asarray(method.in_sample.advantage(state, batch["observations"], batch["actions"], target=True))
    # rows on both sides of: a positive advantage, a positive weight, the limit of the exponent
    assert spread({"expectile": u > 0, "sql": 1 + u / 0.6 > 0, "eql": u / 0.1 > 5}[form])


def actor_step(state: Any, batch: Any, draws: Any, *, weigh: Any, policy: Any, q: Any, v: Any, target: bool) -> Any:
    obs, actions = batch["observations"], batch["actions"]
    critic = state["critic"].target if target else state["critic"].params
    u = jnp.minimum(*q(critic, obs, actions)) - v(state["value"].params, obs)

    def loss(params: Any) -> Any:
        mean, std = policy(params["params"], obs)
        log_prob = jnp.sum(-0.5 * ((actions - mean) / std) ** 2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi), axis=-1)
        return -jnp.sum(weigh(u) * log_prob) / B

    new, value = learn(state["actor"], loss)
    return {"actor": new}, {"actor": value}


def squashed(p: Any, obs: Any) -> Any:
    return jnp.tanh(head(p["PolicyHead_0"], obs, relu)), jnp.exp(p["log_std"])


ACTORS = {
    "iql": ({"alpha": 10.0}, lambda u: jnp.minimum(jnp.exp(10 * u), 100), lambda p, s: (head(p, s, gelu), 1.0)),
    "sql": ({"sql_alpha": 0.3}, lambda u: jnp.clip(u, 0, 100), squashed),
    "eql": ({"eql_alpha": 0.5}, lambda u: jnp.minimum(jnp.exp(10 * u / 0.5), 100), squashed),
}


@pytest.mark.parametrize("form", ACTORS)
def test_advantage_weighted_actor(form: str) -> None:
    settings, weigh, policy = ACTORS[form]
    if form != "iql":
        settings = {**settings, "regularizer": form}
    method = make("iql" if form == "iql" else "ivr", **settings, **COMMON)
    nets = IQL_NETS if form == "iql" else IVR_NETS
    oracle = partial(actor_step, weigh=weigh, policy=policy, target=form != "iql", **nets)
    agree(method, method.stages()[1], oracle, **SPREAD)
    weights = np.asarray(method.weights(double(random_state(method, **SPREAD)), double(make_batch(B))))
    assert spread(weights == (0.0 if form == "sql" else 100.0))


# deterministic actor-critics


def td3_step(
    state: Any, batch: Any, noise: Any, *, q: Any, act: Any, penalty: Any, actor_loss: Any, full: bool = True
) -> Any:
    critic, actor = state["critic"], state["actor"]

    def pi(params: Any, obs: Any) -> Any:
        return jnp.tanh(head(params["params"], obs, act))

    def loss(params: Any) -> Any:
        taken = pi(params, batch["observations"])
        return actor_loss(q(critic.params, batch["observations"], taken), taken - batch["actions"])

    noisy = pi(actor.target, batch["next_observations"]) + jnp.clip(0.2 * noise, -0.1, 0.1)
    taken = jnp.clip(noisy, -1, 1)
    next_q = jnp.minimum(*q(critic.target, batch["next_observations"], taken)) - penalty(batch, taken)
    new, critic_loss = learn_q(critic, batch, q, next_q, share=0.5, tau=TAU if full else 0.0)
    if not full:
        return {"critic": new}, {"critic": critic_loss}
    new_actor, value = learn(actor, loss)
    return {"critic": new, "actor": new_actor}, {"critic": critic_loss, "actor": value}


def rebrac_penalty(batch: Any, taken: Any) -> Any:
    return 0.4 * (1 - batch["terminals"]) * jnp.sum((taken - batch["next_actions"]) ** 2, axis=-1)


def rebrac_actor(q: Any, away: Any) -> Any:
    smaller = jnp.minimum(*q)
    return -smaller.mean() / jax.lax.stop_gradient(jnp.abs(smaller).mean()) + 0.7 * jnp.sum(away**2) / B


def td3bc_actor(q: Any, away: Any) -> Any:
    return -2.5 / jax.lax.stop_gradient(jnp.abs(q[0]).mean()) * q[0].mean() + jnp.sum(away**2) / (B * A)


@pytest.mark.parametrize("full", [True, False])
def test_rebrac(full: bool) -> None:
    """Its update, and the step between two of the actor's, which leaves the actor and every target alone."""
    method = make("rebrac", alpha_actor=0.7, alpha_critic=0.4, actor_noise_clip=0.1, **COMMON)
    (stage,) = method.stages()
    assert stage.period == 2
    rules = {"penalty": rebrac_penalty, "actor_loss": rebrac_actor}
    oracle = partial(td3_step, q=suite_q, act=gelu, full=full, **rules)
    agree(method, stage, oracle, stage.update if full else stage.between)


@pytest.mark.parametrize("full", [True, False])
def test_td3bc(full: bool) -> None:
    method = make("td3bc", actor_noise_clip=0.1, **COMMON)
    (stage,) = method.stages()

    def oracle(state: Any, batch: Any, noise: Any) -> Any:
        scaled = {name: (batch[name] - state["normalizer"]["mean"]) / state["normalizer"]["std"]
                  for name in ("observations", "next_observations")}  # fmt: skip
        rules = {"penalty": lambda batch, taken: 0.0, "actor_loss": td3bc_actor}
        return td3_step(state, {**batch, **scaled}, noise, q=plain_q, act=relu, full=full, **rules)

    agree(method, stage, oracle, stage.update if full else stage.between)


# generative policies


def test_fbrac() -> None:
    method = make("fbrac", alpha=3.0, q_aggregation="min", **COMMON)

    def oracle(state: Any, batch: Any, draws: Any) -> Any:
        critic, actor, obs = state["critic"], state["actor"], batch["observations"]
        taken = sample_flow(actor.params, batch["next_observations"], draws.next_noise, act=gelu)
        next_q = jnp.minimum(*suite_q(critic.target, batch["next_observations"], taken))
        new, critic_loss = learn_q(critic, batch, suite_q, next_q, share=0.5)

        def loss(params: Any) -> Any:
            action = draws.noise  # steps written out: the gradient goes through all of them
            for k in range(10):
                action = action + 0.1 * field(params, obs, action, jnp.full((B, 1), k / 10), act=gelu)
            values = suite_q(critic.params, obs, jnp.clip(action, -1, 1))
            return 3 * flow_matching_loss(params, batch, *draws.flow, gelu) - values.mean()

        new_actor, value = learn(actor, loss)
        return {"critic": new, "actor": new_actor}, {"critic": critic_loss, "actor": value}

    agree(method, method.stages()[0], oracle)


def sinusoids(x: Any) -> Any:
    """16 features of x [..., 1]."""
    frequencies = 1e4 ** (-np.arange(8) / 8)
    return jnp.concatenate([jnp.cos(x * frequencies), jnp.sin(x * frequencies)], axis=-1)


def denoise(params: Any, obs: Any, noisy: Any, time: Any) -> Any:
    """eps of Diffusion-QL's network."""
    encoded = mlp(params["params"]["MLP_0"], sinusoids(1000 * time), act=mish)
    return mlp(params["params"]["MLP_1"], obs, noisy, encoded, act=mish)


def vp_schedule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """beta_i and abar_i of its "vp" schedule, i = 1..steps."""
    i = np.arange(1, steps + 1)
    alphas = np.exp(-0.1 / steps - 0.5 * (10 - 0.1) * (2 * i - 1) / steps**2)
    return 1 - alphas, np.cumprod(alphas)


def ddpm_chain(params: Any, obs: Any, noise: Any, steps: int) -> Any:
    """x_0 by the posteriors q(x_{i-1} | x_i, x_0) of DDPM, the clean action held in the box."""
    betas, bars = vp_schedule(steps)
    pieces = jnp.split(noise, steps, axis=-1)
    x = pieces[0]
    for i in range(steps - 1, -1, -1):
        before = bars[i - 1] if i else 1.0
        eps = denoise(params, obs, x, jnp.full((*x.shape[:-1], 1), (i + 1) / steps))
        clean = jnp.clip(x / np.sqrt(bars[i]) - np.sqrt(1 / bars[i] - 1) * eps, -1, 1)
        x = (np.sqrt(before) * betas[i] * clean + np.sqrt(1 - betas[i]) * (1 - before) * x) / (1 - bars[i])
        if i:
            x = x + np.sqrt(betas[i] * (1 - before) / (1 - bars[i])) * pieces[steps - i]
    return jnp.clip(x, -1, 1)


@pytest.mark.parametrize("backup", [pytest.param(False, marks=pytest.mark.slow), True])
def test_diffusion_ql(backup: bool) -> None:
    """Gradients clipped to a norm that binds; each critic's own best of three actions in the backup."""
    steps, tx = 2, optax.chain(optax.clip_by_global_norm(0.5), optax.adam(LEARNING_RATE))
    settings = {"max_q_backup": backup, "backup_n": 3, "eta": 1.5, "clip_norm": 0.5, "diffusion_steps": steps}
    method = make("diffusion_ql", **settings, **COMMON)
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
        new, critic_loss = learn_q(critic, batch, q, next_q, share=1.0, tx=tx)
        eps, time, _ = draws.denoising
        bar = jnp.asarray(vp_schedule(steps)[1])[jnp.round(steps * time).astype(int) - 1]

        def loss(params: Any) -> Any:
            noisy = jnp.sqrt(bar) * batch["actions"] + jnp.sqrt(1 - bar) * eps
            imitation = jnp.mean((denoise(params, obs, noisy, time) - eps) ** 2)
            values = q(critic.params, obs, ddpm_chain(params, obs, draws.noise, steps))
            climb, scale = jnp.where(draws.which == 0, values, values[::-1])
            return imitation - 1.5 * climb.mean() / jax.lax.stop_gradient(jnp.abs(scale).mean())

        new_actor, value = learn(actor, loss, tx, TAU / 5)
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


@pytest.mark.parametrize("how", ["denoised", "jacobian", "noisy", "full"])
def test_qgf_guidance(how: str, deeper: None) -> None:
    """Every weight a row of its own, 0 among them; the target critics guide, not the online ones."""
    method = make("qgf", gradient=how, flow_steps=STEPS, **DEEPER)
    state, rng = double(random_state(method)), np.random.default_rng(0)
    obs, noise = jnp.asarray(rng.normal(size=(B, SPEC.obs_dim))), jnp.asarray(rng.normal(size=(B, 4, A)))
    weight, wide = jnp.linspace(0.0, 2.0, B), repeat(obs, 4)

    def oracle(state: Any) -> Any:
        value = lambda x: jnp.min(suite_q(state["critic"].target, wide, x), axis=0)  # noqa: E731
        return guided(state["behavior"].params, value, wide, noise, weight[:, None, None], how)

    ours, theirs = jax.jit(method.guided)(state, obs, noise, weight), jax.jit(oracle)(state)
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)
    assert spread(np.abs(ours) == 1.0) and np.abs(ours - ours[:, :1]).max() > 0.1


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
    """DPM-Solver++(2M) in its own variables: half log signal-to-noise, equal steps h; order one at both ends."""
    steps = 5
    sampler = make("sfbc", solver_steps=steps, **COMMON).sampler
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
        eps = denoise(params, obs, x, jnp.full((B, 1), times[i]))
        cleans.append(jnp.clip((x - sigma[i] * eps) / alpha[i], -1, 1))
        h, guess = snr[i + 1] - snr[i], cleans[-1]
        if 0 < i < steps - 1:
            ratio = (snr[i] - snr[i - 1]) / h
            guess = (1 + 1 / (2 * ratio)) * cleans[-1] - cleans[-2] / (2 * ratio)
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * (np.exp(-h) - 1) * guess
    np.testing.assert_allclose(ours, jnp.clip(x, -1, 1), **TOLERANCE)
