"""Losses of edits, DSRL, RQL, FAN, QSM, DAC and Q-chunking by hand: written from their rules, not from their code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods.best_of_n import BestOfN, BestOfNConfig
from methods.critic import Critic
from methods.learner import Learner
from methods.networks import forward
from methods.samplers import FlowDraws
from tests.methods.common import SPEC, make, make_batch, random_state

ROWS, DIMS = 8, 2
BATCH = {name: jnp.asarray(column) for name, column in make_batch(ROWS).items()}
OBS, NEXT, ACTIONS = (BATCH[name] for name in ("observations", "next_observations", "actions"))
REWARDS, MASKS = np.asarray(BATCH["rewards"]), np.asarray(BATCH["masks"])
KEY = jax.random.key(0)
SMALL = {"hidden_dims": (8,), "flow_steps": 2}
LOG_ALPHA = -0.8
"""Of a temperature that is not 1."""


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(tree)])


def normal(seed: int, *shape: int) -> Any:
    return jax.random.normal(jax.random.key(seed), shape or (ROWS, DIMS))


def close(found: Any, expected: Any, rel: float = 2e-5) -> None:
    assert float(found) == pytest.approx(float(expected), rel=rel, abs=1e-6)


def same_slope(found: Any, expected: Any) -> None:
    found, expected = flat(found), flat(expected)
    assert np.any(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def euler(method: Any, params: Any, obs: Any, x: Any, steps: int) -> Any:
    """Explicit steps along a flow, clipped at the end."""
    for i in range(steps):
        x = x + method.velocity(params, obs, x, i / steps) / steps
    return jnp.clip(x, -1, 1)


def squashed(actor: Any, params: Any, noise: Any, *inputs: Any) -> tuple[Any, Any]:
    """tanh of a Gaussian and its log density, by the change of variables as it stands."""
    mean, log_std = forward(actor.network, params, *inputs)
    raw = mean + jnp.exp(log_std) * noise
    density = jnp.exp(-0.5 * noise**2) / jnp.sqrt(2 * jnp.pi) / jnp.exp(log_std) * jnp.cosh(raw) ** 2
    return jnp.tanh(raw), jnp.sum(jnp.log(density), axis=-1)


def tempered(state: Any) -> Any:
    temperature = state["temperature"]._replace(params={"log_alpha": jnp.float32(LOG_ALPHA)})
    return {**state, "temperature": temperature}


def td(method: Any, state: Any, next_value: Any, actions: Any = ACTIONS, discount: float = 0.99) -> float:
    """mean (Q_k(s, a) - r - gamma m V(s'))^2"""
    q = np.asarray(method.critic.q_values(state["critic"].params, OBS, actions))
    errors = [
        (q[k, b] - REWARDS[b] - discount * MASKS[b] * float(next_value[b])) ** 2
        for k in range(len(q))
        for b in range(ROWS)
    ]
    return float(np.mean(errors))


def reported(method: Any, state: Any, draws: Any) -> Any:
    """What an update says of its losses."""
    return jax.jit(lambda state: method.update_parts(state, BATCH, draws)[1])(state)


# edits


def edit_losses(method: Any, state: Any, scale: float, start: Any, noise: Any) -> tuple[Any, Any]:
    """(slope of -mean Q(clip(b + kappa e)) + alpha mean log pi(e), its value, the temperature's loss)"""
    alpha = np.exp(LOG_ALPHA)

    def loss(params: Any) -> Any:
        edit, log_prob = squashed(method.editing.actor, params, noise, OBS, start)
        values = method.critic.q_values(state["critic"].params, OBS, jnp.clip(start + scale * edit, -1, 1))
        return -jnp.sum(values) / (2 * ROWS) + alpha * jnp.sum(log_prob) / ROWS, log_prob

    (value, log_prob), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(state["edit"].params)
    return slope, (value, alpha * (-np.mean(log_prob) + DIMS / 2))


def test_fedit_s_losses_by_hand() -> None:
    """-Q(s, clip(b + kappa e)) + alpha log pi(e) at b = clip ODE_BC(s, z), with alpha = exp(-.8); the temperature's
    alpha (H + d / 2); and TD at an edited draw. log pi is that of e, before kappa."""
    method = make("fedit", **SMALL, edit_scale=0.4)
    state, draws = tempered(random_state(method)), method.draw(KEY, BATCH)
    sampler, base = method.behavior.sampler, state["behavior"].params
    start = euler(sampler, base, OBS, draws.noise, 2)
    slope, (loss, own) = edit_losses(method, state, 0.4, start, draws.edit)
    found = jax.jit(lambda state: method.editing.gradients(state, method.critic, OBS, start, draws.edit)[0])(state)
    same_slope(found["edit"], slope)
    close(found["temperature"]["log_alpha"], own)
    after = euler(sampler, base, NEXT, draws.next_noise, 2)
    edit, _ = squashed(method.editing.actor, state["edit"].params, draws.next_edit, NEXT, after)
    values = method.critic.q_values(state["critic"].target, NEXT, jnp.clip(after + 0.4 * edit, -1, 1))
    metrics = reported(method, state, draws)
    close(metrics["edit/loss"], loss)
    close(metrics["temperature/loss"], own)
    close(metrics["temperature/alpha"], np.exp(LOG_ALPHA))
    close(metrics["critic/loss"], td(method, state, np.mean(values, axis=0)))


def test_qam_e_s_losses_by_hand() -> None:
    """FEdit's, at b = clip ODE_fast(s, z): of the flow that is fine-tuned, at next observations too; b is constant, so
    the edits give that flow no gradient."""
    method = make("qam_e", **SMALL, edit_scale=0.4)
    state, draws = tempered(random_state(method)), method.draw(KEY, BATCH)
    fast = state["flow"].params
    start = euler(method.sampler, fast, OBS, draws.noise, 2)
    slope, (loss, own) = edit_losses(method, state, 0.4, start, draws.edit)
    grads, metrics = jax.jit(method.gradients)(state, BATCH, draws)
    same_slope(grads["edit"], slope)
    close(metrics["edit/loss"], loss)
    close(grads["temperature"]["log_alpha"], own)
    after = euler(method.sampler, fast, NEXT, draws.flow.next_noise, 2)
    edit, _ = squashed(method.editing.actor, state["edit"].params, draws.next_edit, NEXT, after)
    values = method.critic.q_values(state["critic"].target, NEXT, jnp.clip(after + 0.4 * edit, -1, 1))
    close(metrics["critic/loss"], td(method, state, np.mean(values, axis=0)))
    plain = jax.jit(make("qam", **SMALL).gradients)(state, BATCH, draws.flow)[0]
    np.testing.assert_allclose(flat(grads["flow"]), flat(plain["flow"]), rtol=1e-4, atol=1e-6)


# DSRL


def test_dsrl_s_losses_by_hand() -> None:
    """The noise actor's mean of alpha log pi(u) - Z(s, c u), log pi before c; TD at a' = clip ODE(s', c u') of the
    flow's average, whatever the flow itself is."""
    method = make("dsrl", **SMALL, noise_scale=1.3)
    state, draws = tempered(random_state(method)), method.draw(KEY, BATCH)
    alpha = np.exp(LOG_ALPHA)

    def loss(params: Any) -> Any:
        u, log_prob = squashed(method.actor, params, draws.noise, OBS)
        z = method.noise_critic.q_values(state["noise_critic"].params, OBS, 1.3 * u)
        return alpha * jnp.sum(log_prob) / ROWS - jnp.sum(z) / (2 * ROWS), log_prob

    params = state["actor"].params
    (expected, log_prob), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    same_slope(jax.jit(jax.grad(lambda p: method.actor_loss(p, state, OBS, draws.noise)[0]))(params), slope)
    u, _ = squashed(method.actor, params, draws.next_noise, NEXT)
    actions = euler(method.behavior.sampler, state["behavior"].target, NEXT, 1.3 * u, 2)
    values = np.mean(method.critic.q_values(state["critic"].target, NEXT, actions), axis=0)
    elsewhere = {**state, "behavior": state["behavior"]._replace(params=None)}
    np.testing.assert_allclose(method.next_value(elsewhere, BATCH, draws.next_noise), values, rtol=1e-4, atol=1e-6)
    metrics = reported(method, state, draws)
    close(metrics["actor/loss"], expected)
    close(metrics["temperature/loss"], alpha * (-np.mean(log_prob) + DIMS / 2))
    close(metrics["critic/loss"], td(method, state, values))


def test_dsrl_of_unsteered_noise_is_bc() -> None:
    """With z ~ N(0, I) in place of c u, the candidates are BC's from the same noise, bit for bit."""
    method, bc = make("dsrl", noise_scale=1.0), make("bc", sampler_activation="gelu")

    class Unsteered(type(method)):  # type: ignore[misc]
        @property
        def actor(self) -> Any:
            return lambda params, obs, noise: (noise, None)

    state = {**random_state(method), "actor": Learner(None, ())}
    imitating = {"behavior": Learner(state["behavior"].target, ())}
    found, valid = Unsteered(method.config, method.spec).candidates(state, OBS, KEY, {})
    expected, _ = bc.candidates(imitating, OBS, KEY, {})
    assert found.shape == (ROWS, 1, DIMS) and np.all(valid)
    np.testing.assert_array_equal(found, expected)


# RQL


@pytest.mark.parametrize("expectile", [0.5, 0.8])
def test_rql_s_critic_loss_by_hand(expectile: float) -> None:
    """|kappa - 1[y < V]| (y - V_k(s, x_f, f))^2 with y = r + gamma m V_bar(s', z', 0): x_f by ten steps back along the
    online actor, z' noise that no policy acts on."""
    method = make("rql", expectile=expectile)
    state, draws = random_state(method), method.draw(KEY, BATCH)
    x, back = ACTIONS, np.asarray(draws.back)
    for i in range(10):
        x = x - back / 10 * method.sampler.velocity(state["actor"].params, OBS, x, 1 - i * back / 10)
    values = method.critic.q_values(state["critic"].params, OBS, jnp.concatenate([x, 1 - back], axis=-1))
    start = jnp.concatenate([draws.next_noise, jnp.zeros((ROWS, 1))], axis=-1)
    after = np.mean(method.critic.q_values(state["critic"].target, NEXT, start), axis=0)
    total, above = 0.0, 0
    for k in range(2):
        for b in range(ROWS):
            error = REWARDS[b] + 0.99 * MASKS[b] * after[b] - float(values[k, b])
            total += (expectile if error >= 0 else 1 - expectile) * error**2
            above += error >= 0
    loss, mean = method.critic_loss(state["critic"].params, state, BATCH, draws)
    assert 0 < above < 2 * ROWS
    close(loss, total / (2 * ROWS))
    close(mean, np.mean(values))
    other = {**state, "actor": state["actor"]._replace(target=None)}
    assert float(method.critic_loss(state["critic"].params, other, BATCH, draws)[0]) == float(loss)


def test_rql_s_value_of_finished_actions_is_an_ordinary_q() -> None:
    """At d = 0 and kappa = .5 it has half of TD's squared loss and half of its slope, towards r + gamma m V(s', z', 0),
    whatever the actor is."""
    method = make("rql", expectile=0.5)
    state, draws = random_state(method), method.draw(KEY, BATCH)._replace(back=jnp.zeros((ROWS, 1)))
    finished = jnp.concatenate([ACTIONS, jnp.ones((ROWS, 1))], axis=-1)
    start = jnp.concatenate([draws.next_noise, jnp.zeros((ROWS, 1))], axis=-1)
    after = np.mean(method.critic.q_values(state["critic"].target, NEXT, start), axis=0)
    target = REWARDS + 0.99 * MASKS * after

    def ordinary(params: Any) -> Any:
        return jnp.sum((method.critic.q_values(params, OBS, finished) - target) ** 2) / (2 * ROWS)

    expected, slope = jax.value_and_grad(ordinary)(state["critic"].params)
    other = {**state, "actor": random_state(method, seed=5)["actor"]}
    for there in (state, other):
        (loss, _), found = jax.value_and_grad(method.critic_loss, has_aux=True)(
            state["critic"].params, there, BATCH, draws
        )
        close(2 * loss, expected)
        same_slope(2 * flat(found), slope)


def test_rql_far_into_imitation_is_flow_matching() -> None:
    """The actor's slope is alpha times flow matching's less that of V(s, x + v min(.1, 1 - t), min(t + .1, 1)); the
    larger alpha, the less is left of the latter."""
    method = make("rql")
    state, (noise, time) = random_state(method), method.draw(KEY, BATCH).imitation
    draws = FlowDraws(noise, time.at[0].set(0.97))  # whose next step is shorter than .1
    time = np.asarray(draws.time)
    x = (1 - time) * noise + time * ACTIONS

    def matching(params: Any) -> Any:
        velocity = method.sampler.velocity(params, OBS, x, time)
        return jnp.sum((velocity - (ACTIONS - noise)) ** 2) / (ROWS * DIMS)

    def ahead(params: Any) -> Any:
        moved = x + method.sampler.velocity(params, OBS, x, time) * np.minimum(0.1, 1 - time)
        at = jnp.concatenate([moved, np.minimum(time + 0.1, 1.0)], axis=-1)
        return jnp.sum(method.critic.q_values(state["critic"].params, OBS, at)) / (2 * ROWS)

    params = state["actor"].params
    near, better = (flat(jax.jit(jax.grad(one))(params)) for one in (matching, ahead))
    apart = []
    for alpha in (0.1, 1.0, 1e5):
        found = flat(jax.grad(lambda p, a=alpha: method.having(alpha=a).actor_loss(p, state, BATCH, draws)[0])(params))
        same_slope(found, alpha * near - better)
        apart.append(np.linalg.norm(found / alpha - near) / np.linalg.norm(near))
    assert apart[0] > apart[1] > apart[2] and apart[2] < 1e-5


# FAN


@pytest.mark.parametrize("how", ["mean", "min"])
def test_fan_s_td_target_by_hand(how: str) -> None:
    """y = r + gamma (agg_k Z_k(s', a') - alpha_2 sum_d rho^2), rho = (a' - n) - v(s', (1 - t) n + t a', t): a' is
    clipped in both, the sum goes over dimensions, and Q sees the same n."""
    method = make("fan", alpha_critic=0.7, z_aggregation=how)
    state, draws = random_state(method, scale=0.8), method.draw(KEY, BATCH)
    noise, time = draws.next_noise, draws.next_time
    raw = method.actor(state["actor"].params, NEXT, noise)
    mu = jnp.clip(raw, -1, 1)
    assert np.any(np.abs(raw) > 1) and np.any(np.abs(raw) < 1)
    velocity = method.behavior.sampler.velocity(state["behavior"].params, NEXT, (1 - time) * noise + time * mu, time)
    z = np.asarray(method.value.q_values(state["value"].params, NEXT, mu))
    q = np.asarray(method.critic.q_values(state["critic"].params, OBS, jnp.concatenate([ACTIONS, noise], axis=-1)))
    total = 0.0
    for b in range(ROWS):
        away = sum(float(mu[b, d] - noise[b, d] - velocity[b, d]) ** 2 for d in range(DIMS))
        value = (z[0, b] + z[1, b]) / 2 if how == "mean" else min(z[0, b], z[1, b])
        target = REWARDS[b] + method.config.discount * (value - 0.7 * away)
        total += sum((q[k, b] - target) ** 2 for k in range(2))
    going_on = {**BATCH, "masks": jnp.ones(ROWS)}
    close(method.critic_loss(state["critic"].params, state, going_on, draws)[0], total / (2 * ROWS))


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.9])
def test_fan_of_an_end_values_it_by_its_reward(expectile: float) -> None:
    """m = 0: Q(s, a, n) = r for every n has no error, and then Z = r has the least loss at any expectile."""
    method = make("fan", expectile=expectile, alpha_critic=3.0)

    class Table:
        """Values `[K, b]` that are the parameters, whatever the action and its noise."""

        aggregation = "mean"
        target = method.critic.target

        def q_values(self, params: Any, obs: Any, actions: Any) -> Any:
            return params

    @dataclass(frozen=True)
    class Ended(type(method)):  # type: ignore[misc]
        @property
        def critic(self) -> Any:
            return Table()

        @property
        def value(self) -> Any:
            return Table()

    ended, rewards = Ended(method.config, method.spec), jnp.asarray(np.stack([REWARDS, REWARDS]))
    wrong = Learner(rewards + 5, (), rewards)
    state = {**random_state(method), "critic": wrong, "value": wrong}
    batch = {**BATCH, "masks": jnp.zeros(ROWS)}
    for seed in (0, 1):
        draws = method.draw(jax.random.key(seed), batch)
        q_loss, q_slope = jax.value_and_grad(lambda q, d=draws: ended.critic_loss(q, state, batch, d)[0])(rewards)
        assert float(q_loss) == 0.0 and not np.any(q_slope)
    slope = jax.grad(ended.value_loss)
    assert not np.any(slope(rewards, state, batch, draws.value_noise))
    above, below = (slope(rewards + by, state, batch, draws.value_noise) for by in (0.1, -0.1))
    np.testing.assert_allclose(above, 2 * 0.1 * (1 - expectile) / (2 * ROWS), rtol=1e-4)
    np.testing.assert_allclose(below, -2 * 0.1 * expectile / (2 * ROWS), rtol=1e-4)


# QSM and DAC


@pytest.mark.parametrize("name", ["qsm", "dac"])
def test_losses_of_diffusion_actors_by_hand(name: str) -> None:
    """alpha |eps - eps_hat|^2 and, of QSM, |-tau G - eps_hat|^2 or, of DAC, sqrt(1 - abar) G eps_hat, G = grad_a of the
    mean of the target critics at a_t = sqrt(abar) a + sqrt(1 - abar) eps, in or out of the box; G is constant."""
    method = make(name, alpha=0.6, inverse_temperature=1.7, diffusion_steps=4)
    state, draws = random_state(method, scale=0.5), method.draw(KEY, BATCH)
    signal, step = [1.0], np.asarray(draws.step)[:, 0]
    for t in range(1, 5):
        signal.append(signal[-1] * np.exp(-0.1 / 4 - 0.5 * 9.9 * (2 * t - 1) / 16))
    abar = np.array([[signal[t]] for t in step], np.float32)
    eps = np.asarray(draws.eps)
    noisy = jnp.asarray(np.sqrt(abar) * ACTIONS + np.sqrt(1 - abar) * eps)
    assert np.any(np.abs(noisy) > 1) and len(set(step)) > 1

    def slope_at(params: Any, actions: Any) -> np.ndarray:
        mean = lambda a: jnp.sum(method.critic.q_values(params, OBS, a)) / 2  # noqa: E731
        return np.asarray(jax.grad(mean)(actions))

    g = slope_at(state["critic"].target, noisy)
    for other in (slope_at(state["critic"].params, noisy), slope_at(state["critic"].target, ACTIONS),
                  slope_at(state["critic"].target, jnp.clip(noisy, -1, 1))):  # fmt: skip
        assert np.abs(g - other).max() > 0.05 * np.abs(g).max()

    def loss(params: Any) -> Any:
        predicted, total = method.actor.predict(params, OBS, noisy, draws.step), 0.0
        for b in range(ROWS):
            for d in range(DIMS):
                total += 0.6 * (eps[b, d] - predicted[b, d]) ** 2
                if name == "qsm":
                    total += (-1.7 * g[b, d] - predicted[b, d]) ** 2
                else:
                    total += np.sqrt(1 - abar[b, 0]) * g[b, d] * predicted[b, d]
        return total / (ROWS * DIMS)

    expected, slope = jax.jit(jax.value_and_grad(loss))(state["actor"].params)
    (found, _), found_slope = jax.value_and_grad(method.actor_loss, has_aux=True)(
        state["actor"].params, state, BATCH, draws
    )
    close(found, expected)
    same_slope(found_slope, slope)


# Q-chunking


@dataclass(frozen=True)
class PlainBestOfN(BestOfN):
    """best_of_n with critics of FQL's suite, which QC's code has: LayerNorm after GELU, and a mean over them."""

    @property
    def critic(self) -> Critic:
        return Critic.of(self.spec, self.config, activation="gelu", norm="after", loss="mean")


def chunks() -> dict[str, Any]:
    """Windows of five steps, some of which an episode's end cuts."""
    batch = {name: jnp.asarray(column) for name, column in make_batch(ROWS, SPEC.chunked(5)).items()}
    whole = np.array([5, 5, 2, 5, 1, 4, 5, 5])
    return {**batch, "valid": jnp.asarray(np.arange(5) < whole[:, None], jnp.float32)}


def updated(method: Any, state: Any, batch: Any) -> Any:
    (stage,) = method.stages()
    return jax.jit(stage.update)(state, batch, KEY)


def equal(ours: Any, theirs: Any) -> None:
    """Bit for bit, states and what is reported alike."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_qc_of_single_actions_is_best_of_n() -> None:
    """One update of h = 1, imitation and critic, bit for bit, where best_of_n chooses by the online critic, has FQL's
    networks, and as many samples."""
    qc = make("qc", **SMALL, chunk=1, n_particles=3)
    config = BestOfNConfig(**SMALL, batch_size=ROWS, n_particles=3, target_select="online", sampler_activation="gelu")
    state = random_state(qc)
    equal(updated(qc, state, BATCH), updated(PlainBestOfN(config, SPEC), state, BATCH))


def test_qc_of_one_sample_is_td_on_the_behaviour() -> None:
    """N = 1, on chunks of 5: there is nothing to choose, so one update of the critic is that of the mean of values of
    behaviour samples, bit for bit, which more samples' is not."""
    spec, batch = SPEC.chunked(5), chunks()
    settings = {**SMALL, "batch_size": ROWS, "chunk": 5, "chunk_mask": "step", "sampler_activation": "gelu"}
    one, more = (PlainBestOfN(BestOfNConfig(**settings, n_particles=n, target_select="mean"), spec) for n in (1, 3))
    qc, several = make("qc", spec, **SMALL, n_particles=1), make("qc", spec, **SMALL, n_particles=3)
    state, draws = random_state(qc), normal(1, ROWS, 3, 5 * DIMS)
    ours, theirs = (jax.jit(m.update_parts)(state, batch, draws[:, :1]) for m in (qc, one))
    equal(ours, theirs)
    assert one.behavior.stage(1).config == qc.behavior.stage(1).config
    chosen, mean = (jax.jit(m.next_value)(state, batch, draws) for m in (several, more))
    assert not np.allclose(chosen, mean, rtol=1e-3)


def test_qc_s_losses_of_chunks_by_hand() -> None:
    """TD towards R + gamma^5 m Q_bar(s', a'), a' the sample that the online critics' mean prefers, of whole windows;
    and imitation whose mean over rows, steps and dimensions counts steps before an episode's end."""
    spec, batch = SPEC.chunked(5), chunks()
    method = make("qc", spec, **SMALL, n_particles=3)
    state, samples = random_state(method), normal(1, ROWS, 3, 5 * DIMS)
    sampler, flow, next_obs = method.behavior.sampler, state["behavior"].params, batch["next_observations"]
    valid, total = np.asarray(batch["valid"]), 0.0
    proposals = [euler(sampler, flow, next_obs, samples[:, n], 2) for n in range(3)]
    online, target = (
        np.array([np.mean(method.critic.q_values(params, next_obs, a), axis=0) for a in proposals])
        for params in (state["critic"].params, state["critic"].target)
    )
    q = np.asarray(method.critic.q_values(state["critic"].params, batch["observations"], batch["actions"]))
    assert np.any(online.argmax(axis=0) != target.argmax(axis=0))
    for b in range(ROWS):
        value = target[online[:, b].argmax(), b]
        y = float(batch["rewards"][b]) + 0.99**5 * float(batch["masks"][b]) * value
        total += sum(valid[b, 4] * (q[k, b] - y) ** 2 for k in range(2))
    found = method.next_value(state, batch, samples)
    np.testing.assert_allclose(found, np.take_along_axis(target, online.argmax(axis=0)[None], 0)[0], rtol=1e-4)
    close(
        method.critic.td_loss(state["critic"].params, batch, method.critic.target(batch, found))[0], total / (2 * ROWS)
    )
    noise, time = draws = sampler.draw(KEY, ROWS)
    velocity = sampler.velocity(flow, batch["observations"], (1 - time) * noise + time * batch["actions"], time)
    errors = np.asarray(velocity - (batch["actions"] - noise)).reshape(ROWS, 5, DIMS) ** 2
    imitation = sum(valid[b, i] * errors[b, i].sum() for b in range(ROWS) for i in range(5)) / (ROWS * 5 * DIMS)
    close(method.behavior.gradient(state["behavior"], batch, draws)[0], imitation)


def test_qc_fql_of_single_actions_is_fql() -> None:
    """One update of h = 1 at FQL's alpha, imitation, critic and one-step policy, bit for bit."""
    fql, qc = make("fql", **SMALL, alpha=7.0), make("qc_fql", **SMALL, alpha=7.0, chunk=1)
    state = random_state(fql)
    equal(updated(qc, state, BATCH), updated(fql, state, BATCH))


@pytest.mark.slow
def test_qc_fql_of_chunks_is_fql() -> None:
    """On chunks of 5 it is FQL told to: the same update, bit for bit."""
    spec, batch = SPEC.chunked(5), chunks()
    fql = make("fql", spec, **SMALL, alpha=100.0, chunk=5, chunk_mask="step")
    qc, state = make("qc_fql", spec, **SMALL), random_state(fql)
    equal(updated(qc, state, batch), updated(fql, state, batch))
