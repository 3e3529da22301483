"""Facts with known answers of QAM, edits, DSRL, CFGRL, RQL, FAN, QSM and DAC: closed forms and limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods.actors import SquashedActor, Temperature
from methods.core import TaskSpec
from methods.learner import Learner, clipped_together
from methods.networks import forward
from methods.qam import QAM, QAMConfig
from methods.samplers import FlowSampler
from tests.methods.common import make, make_batch, per_row, random_state

ROWS = 8
OBS = jnp.asarray(make_batch(ROWS)["observations"])
BATCH = {name: jnp.asarray(column) for name, column in make_batch(ROWS).items()}
KEY = jax.random.key(0)


def with_params(learner: Learner, change: Any) -> Learner:
    """The learner with every parameter, and target, changed."""
    target = None if learner.target is None else jax.tree.map(change, learner.target)
    return learner._replace(params=jax.tree.map(change, learner.params), target=target)


# QAM


@dataclass(frozen=True)
class LinearFlow(FlowSampler):
    """The exact flow from N(0, I) to N(0, s^2 I), where a parameter stands for s^2; 0 velocity where it is 1."""

    def velocity(self, params: Any, obs: Any, actions: Any, time: Any, label: Any = None) -> Any:
        del obs, label
        return actions * (time * params - (1.0 - time)) / (time**2 * params + (1.0 - time) ** 2)


@dataclass(frozen=True)
class LinearCritic:
    """Q = sum of actions, whatever the parameters."""

    def q(self, params: Any, obs: Any, actions: Any, how: Any = None) -> Any:
        del params, obs, how
        return jnp.sum(actions, axis=-1)


@dataclass(frozen=True)
class LinearQAM(QAM):
    """With both of them, and without a network."""

    @property
    def sampler(self) -> FlowSampler:
        return LinearFlow(1, (), steps=self.config.flow_steps)

    @property
    def critic(self) -> Any:
        return LinearCritic()


@pytest.mark.parametrize(
    ("std", "steps", "shift"),
    [(0.5, 10, 0.2617), (0.5, 100, 0.2486), (0.5, 1000, 0.2496), (0.2, 10, 0.0529), (0.2, 100, 0.0411)],
)
def test_adjoint_matching_tilts_a_gaussian(std: float, steps: int, shift: float) -> None:
    """Base N(0, s^2) and Q = q a: the optimum is N(tau q s^2, s^2). The minimiser of the matching loss is v_base -
    (sigma^2 / 2) g, and g does not depend on x here; Euler's steps from 0 end at the shift, near s^2 = .25 or .04."""
    method = LinearQAM(QAMConfig(flow_steps=steps, inverse_temperature=1.0), TaskSpec(1, 1, 1))
    with jax.enable_x64(True):
        part = Learner(jnp.float64(std**2), (), jnp.float64(std**2))
        state: Any = {"behavior": part, "flow": part, "critic": Learner(0.0, (), 0.0)}
        chain = jnp.zeros((steps, 1, 1), jnp.float64)
        adjoint = method.adjoint(state, jnp.zeros((1, 1)), chain, jnp.zeros((1, 1), jnp.float64))
        x = jnp.zeros((1, 1), jnp.float64)
        for i, time in enumerate(method.sampler.times):
            base = method.sampler.velocity(part.params, x, x, time)
            x = x + (base - method.sigma(jnp.float64(time)) ** 2 / 2 * adjoint[i]) / steps
    assert float(x[0, 0]) == pytest.approx(shift, abs=6e-5)


@pytest.mark.slow
def test_adjoint_of_no_flow_and_of_a_network() -> None:
    """With v = 0, g_i = (i / T) g_T; in general it is the reverse mode of the base maps at the recorded states."""
    method = make("qam", flow_steps=4, inverse_temperature=0.7)
    with jax.enable_x64(True):
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), random_state(method))
        obs, shape = OBS.astype(jnp.float64), (ROWS, 2)
        chain, end = jax.random.normal(KEY, (4, *shape), jnp.float64), 0.3 * jax.random.normal(KEY, shape, jnp.float64)
        q = lambda a: jnp.sum(method.critic.q(state["critic"].target, obs, a, "mean"))  # noqa: E731
        last = -0.7 * jax.grad(q)(end)
        still = {**state, "behavior": with_params(state["behavior"], jnp.zeros_like)}
        for i, g in enumerate(method.adjoint(still, obs, chain, end)):
            np.testing.assert_allclose(g, i / 4 * last, atol=1e-12)
        found, expected = method.adjoint(state, obs, chain, end), last
        for i in (3, 2, 1, 0):
            after = (i + 1) / 4

            def step(x: Any, after: float = after) -> Any:
                velocity = method.sampler.velocity(state["behavior"].target, obs, x, after)
                return x + (2 * velocity - x / after) / 4

            expected = jax.vjp(step, chain[i])[1](expected)[0]
            np.testing.assert_allclose(found[i], expected, atol=1e-12)


def test_adjoint_outside_the_box_and_constants() -> None:
    method = make("qam")
    state = random_state(method)
    outside = jnp.asarray([[2.0, 0.1]] * ROWS)
    adjoint = method.adjoint(state, OBS, jnp.zeros((10, ROWS, 2)), outside)
    inside = method.adjoint({**state, "behavior": with_params(state["behavior"], jnp.zeros_like)}, OBS,
                            jnp.zeros((10, ROWS, 2)), outside)  # fmt: skip
    assert (
        not np.any(np.asarray(inside)[..., 0]) and np.any(np.asarray(inside)[1:, :, 1]) and np.any(np.asarray(adjoint))
    )
    assert float(method.sigma(jnp.float32(0.0))) ** 2 == pytest.approx(22.0, rel=1e-6)
    assert float(method.sigma(jnp.float32(0.9))) ** 2 == pytest.approx(0.4, rel=1e-5)


def test_first_step_of_the_chain_forgets_its_start() -> None:
    """x_1 = 2 h v(x_0, 0) + sqrt(2 (1 + h)) eps: with v = 0, x_0 has no part in it."""
    method = make("qam")
    state = random_state(method)
    state = {**state, "flow": with_params(state["flow"], jnp.zeros_like)}
    draws = method.draw(KEY, BATCH)
    chain, _ = method.chain(state, OBS, draws)
    np.testing.assert_allclose(chain[1], np.sqrt(2.2) * draws.steps[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(chain[0], draws.start)


def test_without_a_temperature_qam_is_imitation() -> None:
    """The same actions as BC from the same noise, bit for bit, and no adjoint."""
    qam, bc = make("qam", inverse_temperature=0.0), make("bc", sampler_activation="gelu")
    state = random_state(qam)
    acted = qam.policy(state, OBS, qam.sampler.noise(KEY, (ROWS,)))
    imitated = bc.behavior.sampler.sample(state["behavior"].params, OBS, qam.sampler.noise(KEY, (ROWS,)))
    np.testing.assert_array_equal(acted, imitated)
    chain, finished = qam.chain(state, OBS, qam.draw(KEY, BATCH))
    adjoint = qam.adjoint(state, OBS, chain, finished)
    assert not np.any(adjoint)
    same = {**state, "flow": state["flow"]._replace(params=qam.base(state))}
    assert float(qam.matching_loss(same["flow"].params, same, OBS, chain, adjoint)) == 0.0
    assert float(qam.matching_loss(state["flow"].params, state, OBS, chain, adjoint)) > 0.0


def test_one_clip_of_all_gradients() -> None:
    """Gradients of norms 3 and 4 have norm 5 together: each becomes a fifth. Below the norm nothing changes."""
    grads = {"a": jnp.asarray([3.0]), "b": {"x": jnp.asarray([0.0, 4.0])}}
    clipped = clipped_together(grads, 1.0)
    np.testing.assert_allclose(clipped["a"], [0.6], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"]["x"], [0.0, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(clipped_together(grads, 6.0)["a"], [3.0])


@pytest.mark.slow
def test_qam_f_learns_from_both() -> None:
    """alpha |mu - flow|^2 - Q(mu), by hand; and without alpha's part only Q."""
    method = make("qam_f", alpha=2.5)
    state = random_state(method)
    noise = jax.random.normal(KEY, (ROWS, 2))
    loss, parts = method.actor_loss(state["actor"].params, state, OBS, noise)
    raw = method.actor(state["actor"].params, OBS, noise)
    flow = method.sampler.sample(state["flow"].params, OBS, noise)
    values = method.critic.q_values(state["critic"].params, OBS, jnp.clip(raw, -1, 1))
    assert float(loss) == pytest.approx(2.5 * float(np.mean((raw - flow) ** 2)) - float(np.mean(values)), rel=1e-5)
    assert float(parts["actor/distill"]) == pytest.approx(float(np.mean((raw - flow) ** 2)), rel=1e-5)


# edits


def test_squashed_densities_integrate_to_one() -> None:
    """log pi of tanh(x) in one dimension: over (-1, 1) its exponential has the integral 1."""
    actor = SquashedActor(3, 1, (8,), "gelu", 1e-3)
    params = random_state_of(actor)
    x = np.linspace(-9.0, 9.0, 20_001)
    mean, log_std = forward(actor.network, params, jnp.zeros((1, 3)))
    noise = (x - float(mean[0, 0])) / np.exp(float(log_std[0, 0]))
    u, log_prob = actor(params, jnp.zeros((len(x), 3)), jnp.asarray(noise[:, None]))
    assert float(np.trapezoid(np.exp(np.asarray(log_prob, float)), np.asarray(u[:, 0], float))) == pytest.approx(
        1, 1e-3
    )


def random_state_of(part: Any) -> Any:
    shapes = jax.eval_shape(part.init, KEY).params
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


def test_temperature_by_hand() -> None:
    """alpha (H + d / 2) with H = -mean log pi: at log alpha = 0, log pi = (1, 3), d = 4 it is -2 + 2 = 0; the slope in
    log alpha is the same."""
    part = Temperature(4, 1e-3)
    assert float(part.loss({"log_alpha": jnp.zeros(())}, jnp.asarray([1.0, 3.0]))) == 0.0
    slope = jax.grad(part.loss)({"log_alpha": jnp.log(2.0)}, jnp.asarray([0.0, 1.0]))
    assert float(slope["log_alpha"]) == pytest.approx(2.0 * (-0.5 + 2.0))


@pytest.mark.parametrize("name", ["fedit", "qam_e"])
def test_edits_of_no_size_change_nothing(name: str) -> None:
    large = make(name, edit_scale=0.5)
    method = large.having(edit_scale=0.0)
    state, noise = random_state(large), jax.random.normal(KEY, (2, ROWS, 2))
    by_flow = {"qam_e": lambda: method.policy(state, OBS, noise[0]),
               "fedit": lambda: method.behavior.sample(state["behavior"], OBS, noise[0])}  # fmt: skip
    start = by_flow[name]()
    np.testing.assert_array_equal(method.edited(state, OBS, *noise), start)
    moved = np.abs(np.asarray(large.edited(state, OBS, *noise) - start))
    assert 0 < moved.max() <= 0.5 + 1e-6


@pytest.mark.slow
def test_without_edits_qam_e_is_qam() -> None:
    """Bit for bit, the clip of all gradients as one among it."""
    qam, plain = make("qam", clip="together"), make("qam_e", clip="together", edit_scale=0.0)
    state = random_state(qam)
    assert plain.parts.keys() == qam.parts.keys()
    batch = {name: jnp.asarray(column) for name, column in make_batch(ROWS).items()}
    draws = plain.draw(KEY, batch)
    ours, theirs = plain.update_parts(state, batch, draws)[0], qam.update_parts(state, batch, draws.flow)[0]
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_edits_maximise_q_and_spread() -> None:
    """Of a critic that is constant, the edit's gradient is that of alpha log pi alone."""
    method = make("fedit")
    state = random_state(method)
    flat = {**state, "critic": with_params(state["critic"], jnp.zeros_like)}
    start, noise = jax.random.uniform(KEY, (ROWS, 2)), jax.random.normal(KEY, (ROWS, 2))
    grads, _ = method.editing.gradients(flat, method.critic, OBS, start, noise)
    alpha = jnp.exp(state["temperature"].params["log_alpha"])

    def entropy(params: Any) -> Any:
        return alpha * jnp.mean(method.editing(params, OBS, start, noise)[1])

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), grads["edit"],
                 jax.grad(entropy)(state["edit"].params))  # fmt: skip


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


# CFGRL


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
