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


@pytest.mark.parametrize(("later", "shift"), [(True, 0.2617), (False, 0.1785)])
def test_the_adjoint_asks_the_base_one_step_later(later: bool, shift: float) -> None:
    """Its velocity stands at t_i + h, where the chain's stands at t_i: at T = 10 the base N(0, .25) is shifted by
    .2617, and would be by .1785 at t_i. By hand, of v = k(t) x; the method's adjoint is the former."""
    steps, variance = 10, 0.25
    slope = lambda t: (t * variance - (1 - t)) / (t * t * variance + (1 - t) ** 2)  # noqa: E731
    adjoint, g = np.zeros(steps), -1.0
    for i in reversed(range(steps)):
        after = (i + 1) / steps
        g += (2 * slope(after if later else i / steps) - 1 / after) * g / steps
        adjoint[i] = g
    x = 0.0
    for i in range(steps):
        noise = 2 * (1 - i / steps + 1 / steps) / (i / steps + 1 / steps)
        x += (slope(i / steps) * x - noise / 2 * adjoint[i]) / steps
    assert x == pytest.approx(shift, abs=6e-5)
    method = LinearQAM(QAMConfig(flow_steps=steps, inverse_temperature=1.0), TaskSpec(1, 1, 1))
    part, zero = Learner(jnp.float32(variance), (), jnp.float32(variance)), jnp.zeros((1, 1))
    state: Any = {"behavior": part, "flow": part, "critic": Learner(0.0, (), 0.0)}
    found = method.adjoint(state, zero, jnp.zeros((steps, 1, 1)), zero)[:, 0, 0]
    assert np.allclose(found, adjoint, rtol=1e-4, atol=1e-6) == later


@dataclass(frozen=True)
class TableFlow(FlowSampler):
    """A velocity for each step, and for each row where the parameters `[T, (b,) a]` have one, whatever x is."""

    def velocity(self, params: Any, obs: Any, actions: Any, time: Any, label: Any = None) -> Any:
        del obs, label
        return jnp.broadcast_to(params[jnp.round(time * self.steps).astype(int)], actions.shape)


@dataclass(frozen=True)
class CurvedFlow(FlowSampler):
    """p sin(W^T x + 2 t) + s_1, where p is the parameter; its Jacobian is not symmetric."""

    def velocity(self, params: Any, obs: Any, actions: Any, time: Any, label: Any = None) -> Any:
        del label
        return params * jnp.sin(actions @ jnp.asarray(MIXED) + 2.0 * time) + obs[:, :1]


@dataclass(frozen=True)
class SquareCritic:
    """Q = p (a_1^2 + 2 a_2^2), where p is the parameter."""

    def q(self, params: Any, obs: Any, actions: Any, how: Any = None) -> Any:
        assert how == "mean"
        return params * (actions[:, 0] ** 2 + 2.0 * actions[:, 1] ** 2)


@dataclass(frozen=True)
class TableQAM(QAM):
    """With velocities that are looked up."""

    @property
    def sampler(self) -> FlowSampler:
        return TableFlow(2, (), steps=self.config.flow_steps)


@dataclass(frozen=True)
class CurvedQAM(QAM):
    """With a flow and a critic known in closed form."""

    @property
    def sampler(self) -> FlowSampler:
        return CurvedFlow(2, (), steps=self.config.flow_steps)

    @property
    def critic(self) -> Any:
        return SquareCritic()


MIXED = np.array([[1.0, -0.5], [0.3, 0.8]])
CURVED = {"flow": 1.3, "behavior": -0.7, "critic": 0.4}
"""What the fine-tuned flow is, the averages of the base, and of the critic: their online parameters are others."""


def curved(steps: int, inverse_temperature: float = 0.6) -> tuple[CurvedQAM, Any, Any, Any]:
    """The method, a state of it, observations and draws, in float64."""
    method = CurvedQAM(QAMConfig(flow_steps=steps, inverse_temperature=inverse_temperature), TaskSpec(3, 2, 1))
    state = {name: Learner(jnp.float64(9.0), (), jnp.float64(p)) for name, p in CURVED.items()}
    state["flow"] = Learner(jnp.float64(CURVED["flow"]), ())
    draws = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), method.draw(KEY, BATCH))
    return method, state, OBS.astype(jnp.float64), draws


def curved_velocity(part: str, obs: Any, x: Any, time: float) -> Any:
    return CURVED[part] * np.sin(x @ MIXED + 2.0 * time) + np.asarray(obs)[:, :1]


def table_state(flow: np.ndarray, base: np.ndarray) -> Any:
    return {
        "flow": Learner(jnp.asarray(flow), ()),
        "behavior": Learner(jnp.full_like(base, 7.0), (), jnp.asarray(base)),
    }


def test_matching_loss_and_its_slope_by_a_literal_loop() -> None:
    """The sum over steps and dimensions, and mean over rows, of ((2 / sigma) (v - v_base) + sigma g)^2, sigma_i^2 =
    2 (1 - t + h) / (t + h); its slope in v is (4 / sigma) (...) / rows, and 0 at v_base - (sigma^2 / 2) g."""
    steps, rows, dims, rng = 5, 3, 2, np.random.default_rng(0)
    velocity, base, g, chain = rng.normal(size=(4, steps, rows, dims))
    loss, slope, best = 0.0, np.zeros_like(g), np.zeros_like(g)
    for i in range(steps):
        t, h = i / steps, 1 / steps
        sigma = np.sqrt(2 * (1 - t + h) / (t + h))
        for b in range(rows):
            for d in range(dims):
                error = 2 / sigma * (velocity[i, b, d] - base[i, b, d]) + sigma * g[i, b, d]
                loss += error**2 / rows
                slope[i, b, d] = 4 / sigma * error / rows
                best[i, b, d] = base[i, b, d] - sigma**2 / 2 * g[i, b, d]
    method = TableQAM(QAMConfig(flow_steps=steps), TaskSpec(3, dims, 1))
    with jax.enable_x64(True):
        state, obs = table_state(velocity, base), jnp.zeros((rows, 3))
        of = jax.value_and_grad(lambda params: method.matching_loss(params, state, obs, chain, g))
        found, found_slope = of(state["flow"].params)
        at_best, slope_at_best = of(jnp.asarray(best))
    assert float(found) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(found_slope, slope, rtol=1e-10)
    assert float(at_best) == pytest.approx(0.0, abs=1e-24)
    np.testing.assert_allclose(slope_at_best, 0.0, atol=1e-12)


def test_matching_loss_is_least_at_the_mean_adjoint() -> None:
    """Where rows share a velocity, as networks do between equal inputs, it is v_base - (sigma^2 / 2) E[g]; what is left
    of the loss is the variance of sigma g."""
    steps, rows, rng = 4, 5, np.random.default_rng(1)
    g, chain = rng.normal(size=(2, steps, rows, 2))
    base = rng.normal(size=(steps, 2))
    noise = np.array([2 * (1 - i / steps + 1 / steps) / ((i + 1) / steps) for i in range(steps)])
    method = TableQAM(QAMConfig(flow_steps=steps), TaskSpec(3, 2, 1))
    with jax.enable_x64(True):
        best = jnp.asarray(base - noise[:, None] / 2 * g.mean(axis=1))
        state, obs = table_state(base, base), jnp.zeros((rows, 3))
        loss, slope = jax.value_and_grad(lambda params: method.matching_loss(params, state, obs, chain, g))(best)
    np.testing.assert_allclose(slope, 0.0, atol=1e-12)
    left = np.sum(noise[:, None] * g.var(axis=1))
    assert float(loss) == pytest.approx(left, rel=1e-12)


def test_the_chain_by_a_literal_loop() -> None:
    """x <- x + h (2 v_fast(x, t) - x / (t + h)) + sqrt(h) sigma_t eps for all steps but the last, which is a plain
    Euler step of the base's average; nothing is clipped on the way or at its end."""
    steps = 5
    with jax.enable_x64(True):
        method, state, obs, draws = curved(steps)
        chain, finished = method.chain(state, obs, draws)
    assert draws.steps.shape == (steps - 1, ROWS, 2)
    h, x, expected = 1 / steps, np.asarray(draws.start), []
    for i in range(steps - 1):
        expected.append(x)
        t = i * h
        sigma = np.sqrt(2 * (1 - t + h) / (t + h))
        drift = 2 * curved_velocity("flow", obs, x, t) - x / (t + h)
        x = x + h * drift + np.sqrt(h) * sigma * np.asarray(draws.steps[i])
    expected.append(x)
    np.testing.assert_allclose(chain, expected, rtol=1e-11, atol=1e-12)
    ended = x + h * curved_velocity("behavior", obs, x, 1 - h)
    np.testing.assert_allclose(finished, ended, rtol=1e-11, atol=1e-12)
    assert np.abs(chain).max() > 1 and np.abs(finished).max() > 1


def test_the_adjoint_by_a_literal_loop() -> None:
    """From -grad Q_target / temperature, 0 in coordinates outside the box, g_i = g_{i+1} + h J^T g_{i+1}, where J is
    that of 2 v_base - x / t at x_i and t_i + h: by the averages, of base and critic alike."""
    steps, h = 5, 0.2
    with jax.enable_x64(True):
        method, state, obs, draws = curved(steps)
        chain, finished = method.chain(state, obs, draws)
        found = method.adjoint(state, obs, chain, finished)
    inside = np.abs(finished) < 1
    assert inside.any() and not inside.all()
    g = -0.6 * CURVED["critic"] * np.array([2.0, 4.0]) * np.asarray(finished) * inside
    for i in reversed(range(steps)):
        after, expected = (i + 1) * h, np.zeros_like(g)
        for b in range(ROWS):
            slopes = np.cos(np.asarray(chain)[i, b] @ MIXED + 2 * after)
            jacobian = 2 * CURVED["behavior"] * slopes[:, None] * MIXED.T - np.eye(2) / after
            expected[b] = g[b] + h * jacobian.T @ g[b]
        g = expected
        np.testing.assert_allclose(found[i], g, rtol=1e-10, atol=1e-13)


def test_the_lean_adjoint_is_not_the_reverse_mode_of_the_sampled_chain() -> None:
    """That sees the fine-tuned flow, velocities at t_i and a last step without -x / t. Even where the flow is the base
    it is another; with v = 0 it is g_T i / (T - 1), not g_T i / T."""
    steps, h = 5, 0.2
    with jax.enable_x64(True):
        method, state, obs, draws = curved(steps)

        def through(fast: float, base: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """(reverse mode at x_0 ... x_{T-1}, the lean adjoint, g_T)"""
            there = {**state, "flow": Learner(jnp.float64(fast), ()),
                     "behavior": Learner(jnp.float64(9.0), (), jnp.float64(base))}  # fmt: skip
            chain, finished = method.chain(there, obs, draws)

            def rest(x: Any, first: int) -> Any:
                for i in range(first, steps - 1):
                    t = i * h
                    sigma = np.sqrt(2 * (1 - t + h) / (t + h))
                    velocity = fast * jnp.sin(x @ MIXED + 2 * t) + obs[:, :1]
                    x = x + h * (2 * velocity - x / (t + h)) + np.sqrt(h) * sigma * draws.steps[i]
                x = jnp.clip(x + h * (base * jnp.sin(x @ MIXED + 2 * (1 - h)) + obs[:, :1]), -1, 1)
                return -0.6 * CURVED["critic"] * jnp.sum(x[:, 0] ** 2 + 2 * x[:, 1] ** 2)

            reverse = np.array([jax.grad(rest)(chain[i], i) for i in range(steps)])
            inside = np.abs(finished) < 1
            last = -0.6 * CURVED["critic"] * np.array([2.0, 4.0]) * finished * inside
            return reverse, np.asarray(method.adjoint(there, obs, chain, finished)), np.asarray(last)

        for fast in (CURVED["flow"], CURVED["behavior"]):
            reverse, lean, last = through(fast, CURVED["behavior"])
            moved = np.any(last != 0, axis=-1)
            for i in range(steps):
                assert np.abs(reverse[i] - lean[i])[moved].max() > 0.05 * np.abs(lean[i]).max()
        reverse, lean, last = through(0.0, 0.0)
    for i in range(steps):
        np.testing.assert_allclose(reverse[i], i / (steps - 1) * last, atol=1e-12)
        np.testing.assert_allclose(lean[i], i / steps * last, atol=1e-12)


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


SMALL = {"hidden_dims": (8,), "flow_steps": 2}


def test_without_distillation_qam_f_is_qam() -> None:
    """alpha = 0: no one-step policy, and QAM's gradients bit for bit, of its TD target too; it acts by QAM's flow."""
    qam = make("qam", **SMALL, clip="together")
    plain = make("qam_f", **SMALL, clip="together", alpha=0.0)
    state, draws = random_state(qam), plain.draw(KEY, BATCH)
    assert plain.parts.keys() == qam.parts.keys()
    assert all(plain.parts[name] == qam.parts[name] for name in ("critic", "flow"))
    ours, theirs = jax.jit(plain.gradients)(state, BATCH, draws), jax.jit(qam.gradients)(state, BATCH, draws.flow)
    assert ours[0].keys() == {"behavior", "critic", "flow"}
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(plain.policy(state, OBS, draws.noise), qam.policy(state, OBS, draws.noise))


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(tree)])


def test_far_into_distillation_qam_f_copies_qam_s_flow() -> None:
    """Of alpha |mu - ODE_fast|^2 - Q(mu) the slope is alpha times that of the distance, and -Q's where alpha has none:
    they part by hand. The larger alpha, the more parallel it is to the distance's alone."""
    method = make("qam_f", **SMALL)
    state, noise = random_state(method), jax.random.normal(KEY, (ROWS, 2))
    flow = method.sampler.sample(state["flow"].params, OBS, noise)

    def distance(params: Any) -> Any:
        return jnp.sum((method.actor(params, OBS, noise) - flow) ** 2) / (ROWS * 2)

    def value(params: Any) -> Any:
        moved = jnp.clip(method.actor(params, OBS, noise), -1, 1)
        return jnp.sum(method.critic.q_values(state["critic"].params, OBS, moved)) / (2 * ROWS)

    params = state["actor"].params
    near, better = (flat(jax.jit(jax.grad(one))(params)) for one in (distance, value))
    angles = []
    for alpha in (0.01, 1.0, 1e4):
        loss = method.having(alpha=alpha).actor_loss
        found = flat(jax.jit(jax.grad(lambda p, loss=loss: loss(p, state, OBS, noise)[0]))(params))
        np.testing.assert_allclose(found, alpha * near - better, rtol=1e-3, atol=1e-5 * max(alpha, 1.0))
        angles.append(found @ near / np.linalg.norm(found) / np.linalg.norm(near))
    assert angles[0] < angles[1] < angles[2] and angles[2] == pytest.approx(1.0, abs=1e-6) and angles[0] < 0.9


def test_without_a_temperature_qam_f_is_fql_but_for_its_teacher() -> None:
    """Its flow has no adjoint to follow, so it chases the base's average by sum (2 / sigma)^2 |v - v_base|^2; the
    one-step policy copies that flow, not the base, and acts and bootstraps itself."""
    method = make("qam_f", **SMALL, inverse_temperature=0.0, alpha=3.0)
    state, draws = random_state(method), method.draw(KEY, BATCH)
    grads, metrics = jax.jit(method.gradients)(state, BATCH, draws)
    chain, _ = method.chain(state, OBS, draws.flow)

    def chase(params: Any) -> Any:
        total = 0.0
        for i, noise in enumerate((2 * 1.5 / 0.5, 2 * 1.0 / 1.0)):
            velocity = method.sampler.velocity(params, OBS, chain[i], i / 2)
            base = method.sampler.velocity(state["behavior"].target, OBS, chain[i], i / 2)
            total += 4 / noise * jnp.sum((velocity - base) ** 2) / ROWS
        return total

    loss, slope = jax.jit(jax.value_and_grad(chase))(state["flow"].params)
    assert float(metrics["flow/loss"]) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(flat(grads["flow"]), flat(slope), rtol=1e-3, atol=1e-5)
    raw = method.actor(state["actor"].params, OBS, draws.noise)
    taught, base = (method.sampler.sample(state[name].params, OBS, draws.noise) for name in ("flow", "behavior"))
    assert float(metrics["actor/distill"]) == pytest.approx(float(np.mean((raw - taught) ** 2)), rel=1e-5)
    assert float(metrics["actor/distill"]) != pytest.approx(float(np.mean((raw - base) ** 2)), rel=1e-2)
    np.testing.assert_array_equal(method.policy(state, OBS, draws.noise), np.clip(raw, -1, 1))
    next_obs = BATCH["next_observations"]
    acted = np.clip(method.actor(state["actor"].params, next_obs, draws.flow.next_noise), -1, 1)
    values = np.mean(method.critic.q_values(state["critic"].target, next_obs, acted), axis=0)
    target = np.asarray(BATCH["rewards"]) + 0.99 * np.asarray(BATCH["masks"]) * values
    q = np.asarray(method.critic.q_values(state["critic"].params, OBS, BATCH["actions"]))
    assert method.config.discount == 0.99 and method.config.q_aggregation == "mean"
    assert float(metrics["critic/loss"]) == pytest.approx(float(np.mean((q - target) ** 2)), rel=1e-5)


def test_the_one_step_policy_leaves_qam_s_flow_alone() -> None:
    """mu gives it no gradient: QAM and QAM-F teach the flow the same, and the critic by other targets."""
    qam, distilled = make("qam", **SMALL), make("qam_f", **SMALL)
    state, draws = random_state(distilled), distilled.draw(KEY, BATCH)
    ours = jax.jit(distilled.gradients)(state, BATCH, draws)[0]
    theirs = jax.jit(qam.gradients)(state, BATCH, draws.flow)[0]
    np.testing.assert_allclose(flat(ours["flow"]), flat(theirs["flow"]), rtol=1e-5, atol=1e-7)
    assert np.any(flat(ours["actor"])) and not np.allclose(flat(ours["critic"]), flat(theirs["critic"]), rtol=1e-3)


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
