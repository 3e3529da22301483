"""Facts with known answers of QAM and of edits on top of flows: closed forms and limits."""

from __future__ import annotations

from dataclasses import dataclass
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
from tests.methods.common import make, make_batch, random_state, with_params

ROWS = 8
OBS = jnp.asarray(make_batch(ROWS)["observations"])
BATCH = {name: jnp.asarray(column) for name, column in make_batch(ROWS).items()}
KEY = jax.random.key(0)


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
    draws = plain.draw(KEY, BATCH)
    ours, theirs = plain.update_parts(state, BATCH, draws)[0], qam.update_parts(state, BATCH, draws.flow)[0]
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
