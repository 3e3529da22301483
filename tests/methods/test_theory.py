"""How far particles can go: the bounds on MMD^2 and on displacement, and what best-of-N cannot do.

Everything is NumPy in float64. Comparisons with a bound allow ROUNDING, 1e-12: the sums have fewer than 1e3 terms of
at most 1, each off by 1e-16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from methods.particles import ADAM_BETAS, Flow, adam_gains, fresh_moments, mmd2, step, transport, transport_bound
from methods.select import RULES, select

ROUNDING = 1e-12
ROOT_E = math.sqrt(math.e)

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 8)
dims = st.integers(1, 16)
widths = st.floats(0.05, 5.0)
scales = st.floats(-4.0, 4.0).map(lambda exponent: 10.0**exponent)
rates = st.floats(1e-3, 1.0)
horizons = st.integers(1, 8)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300)


def reward(rng: np.random.Generator, dim: int, c: float) -> tuple[Callable, Callable]:
    """A random R that is c-Lipschitz in the Euclidean norm, and its gradient.

    R = sum_m share_m R_m with sum |share_m| = c and each R_m 1-Lipschitz: a plane, a cone, a soft minimum of two cones,
    a wave, and a tanh network v.tanh(W a) with |v| = |W|_2 = 1.
    """
    share = c * rng.dirichlet(np.ones(5)) * rng.choice([-1.0, 1.0], size=5)
    plane, wave = unit(rng.normal(size=(2, dim)))
    tips = rng.uniform(-1.0, 1.0, size=(3, dim))
    hidden = rng.normal(size=(6, dim))
    hidden, out = hidden / np.linalg.norm(hidden, 2), unit(rng.normal(size=6))

    def cones(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        away = x[:, None] - tips  # [n, 3, d]
        return np.linalg.norm(away, axis=-1), unit(away)

    def value(x: np.ndarray) -> np.ndarray:
        lengths, _ = cones(x)
        parts = [x @ plane, lengths[:, 0], -0.1 * logsumexp(-lengths[:, 1:] / 0.1, axis=-1), np.sin(x @ wave),
                 np.tanh(x @ hidden.T) @ out]  # fmt: skip
        return np.tensordot(share, np.stack(parts), 1)

    def score(x: np.ndarray) -> np.ndarray:
        lengths, directions = cones(x)
        weights = softmax(-lengths[:, 1:] / 0.1, axis=-1)
        parts = [np.broadcast_to(plane, x.shape), directions[:, 0], (weights[..., None] * directions[:, 1:]).sum(1),
                 np.cos(x @ wave)[:, None] * wave, (out * (1 - np.tanh(x @ hidden.T) ** 2)) @ hidden]  # fmt: skip
        return np.tensordot(share, np.stack(parts), 1)

    return value, score


def longest(moves: np.ndarray) -> float:
    """The farthest any particle went, Euclidean."""
    return float(np.linalg.norm(moves, axis=-1).max())


def kernel(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    """k(x, y), out of mmd2 of two single points, 2 - 2 k."""
    return 1.0 - float(mmd2(x[None], y[None], sigma)) / 2.0


# Theorem 1


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=counts, dim=dims, sigma=widths, alpha=scales, c=scales, eps=rates, steps=horizons, spread=scales)
def test_theorem_1(
    seed: int, n: int, dim: int, sigma: float, alpha: float, c: float, eps: float, steps: int, spread: float
) -> None:
    """Fixed bandwidth, plain steps, MaxEnt: each step at most eps (c / alpha + 1 / (sigma sqrt e)), and the MMD^2 from
    the start at most 2 eps L / (sigma sqrt e) times the same sum."""
    rng = np.random.default_rng(seed)
    _, score = reward(rng, dim, c)
    flow = Flow(step_size=eps, optimizer="sgd", alpha=alpha, bandwidth="fixed", sigma=sigma, box=None)
    velocity_bound = c / alpha + 1.0 / (sigma * ROOT_E)
    start = x = rng.normal(size=(n, dim)) * spread
    for count in range(1, steps + 1):
        before, (x, _) = x, step(x, score(x), fresh_moments(x), count, flow)
        assert longest(x - before) <= eps * velocity_bound * (1 + 1e-9) + 1e-15 * np.abs(before).max()  # float64 of x
        bound = 2.0 * eps * count / (sigma * ROOT_E) * velocity_bound
        assert mmd2(start, x, sigma) <= bound + ROUNDING
    # the 1e-6 in gamma makes the rule's own bound smaller, by 1e-6 / (4 sigma^2) at most
    assert bound * (1 - 1e-6 / (4 * sigma**2)) <= transport_bound(flow, steps, dim, sigma, lipschitz=c) <= bound


@settings(max_examples=30, deadline=None)
@given(seed=seeds, dim=dims, c=scales)
def test_rewards_are_what_they_claim(seed: int, dim: int, c: float) -> None:
    """The premise: `score` is the gradient of `value`, and no secant is steeper than c."""
    rng = np.random.default_rng(seed)
    value, score = reward(rng, dim, c)
    x, y = rng.uniform(-1.0, 1.0, size=(2, 20, dim))
    assert (np.abs(value(x) - value(y)) <= c * np.linalg.norm(x - y, axis=-1) * (1 + 1e-9)).all()
    along, h = unit(y - x), 1e-5
    slope = (value(x + h * along) - value(x - h * along)) / (2 * h)
    # central differences err by h^2 times a third derivative, under 1e-3 c unless a cone's tip is within 3e-4: at most
    # one of 20 points in any run we shall see
    assert (np.abs(slope - (score(x) * along).sum(-1)) <= 1e-3 * c).sum() >= 19


def test_step_bound_is_attained() -> None:
    """Coinciding particles move up a plane at eps c / alpha; many repel one at distance sigma by 1 / (sigma sqrt e)."""
    flow = Flow(step_size=0.1, optimizer="sgd", alpha=0.5, bandwidth="fixed", sigma=0.7, box=None)
    plane = 3.0 * unit(np.ones((4, 2)))
    together = np.full((4, 2), 0.2)
    moved, _ = step(together, plane, fresh_moments(together), 1, flow)
    assert longest(moved - together) == pytest.approx(0.1 * 3.0 / 0.5)

    lone = np.array([[0.7, 0.0]] + [[0.0, 0.0]] * 999)
    moved, _ = step(lone, np.zeros_like(lone), fresh_moments(lone), 1, flow)
    reach = 0.1 * 0.999 / (0.7 * ROOT_E)  # 999 of 1000 push
    assert moved[0] - lone[0] == pytest.approx([reach, 0.0], rel=1e-5)  # 1e-6 in gamma, over 2 sigma^2


# the Lipschitz step of its proof: Euclidean, not in the sup norm


@settings(max_examples=50, deadline=None)
@given(seed=seeds, dim=dims, sigma=widths, spread=scales)
def test_kernel_is_lipschitz_in_the_euclidean_norm(seed: int, dim: int, sigma: float, spread: float) -> None:
    x, y, z = np.random.default_rng(seed).normal(size=(3, dim)) * spread
    difference = abs(kernel(x, z, sigma) - kernel(y, z, sigma))
    assert difference <= np.linalg.norm(x - y) / (sigma * ROOT_E) + ROUNDING


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_kernel_is_not_lipschitz_in_the_sup_norm(dim: int) -> None:
    """Along the diagonal, at distance sigma where k is steepest, the slope is sqrt(d) times what that norm allows."""
    sigma, h = 2.0, 0.01
    diagonal = np.ones(dim)
    x, y, z = diagonal * sigma / math.sqrt(dim), diagonal * (sigma / math.sqrt(dim) + h), np.zeros(dim)
    difference = abs(kernel(x, z, sigma) - kernel(y, z, sigma))
    assert np.abs(x - y).max() == pytest.approx(h)
    assert difference > 1.3 * h / (sigma * ROOT_E)  # sqrt(2) = 1.41 at least, less the curvature over h
    assert 0.95 * np.linalg.norm(x - y) / (sigma * ROOT_E) < difference <= np.linalg.norm(x - y) / (sigma * ROOT_E)


def test_sup_norm_counterexample_in_numbers() -> None:
    """x = (1, 1), y = (1.01, 1.01), z = 0, sigma^2 = 2: k(x, z) = exp(-0.5), k(y, z) = exp(-0.510050)."""
    x, y, z, sigma = np.array([1.0, 1.0]), np.array([1.01, 1.01]), np.zeros(2), math.sqrt(2.0)
    assert kernel(x, z, sigma) == pytest.approx(0.606531, abs=1e-6)
    assert kernel(y, z, sigma) == pytest.approx(0.600465, abs=1e-6)
    # 0.006065 apart; sup norm allows 0.01 * 0.428882, Euclidean 0.014142 * 0.428882
    assert 0.004289 < kernel(x, z, sigma) - kernel(y, z, sigma) < 0.006066


# Adam


def steepest(count: int) -> np.ndarray:
    """Gradients g_1..g_count, `[count]`, for which Adam's step `count` is largest: g_i in proportion to w_i / u_i."""
    age = np.arange(count)[::-1]
    first, second = ADAM_BETAS
    return ((1 - first) * first**age / (1 - first**count)) / ((1 - second) * second**age / (1 - second**count))


def adam_moves(gradients: np.ndarray, **settings: object) -> np.ndarray:
    """|update| / eps at each step, `[L, n, d]`, under gradients `[L, n, d]` that do not depend on the particles."""
    flow = Flow(step_size=0.5, maxent=False, kernel="none", box=None, **settings)
    x, moments, moves = np.zeros(gradients.shape[1:]), fresh_moments(gradients[0]), []
    for count, gradient in enumerate(gradients, 1):
        before, (x, moments) = x, step(x, gradient, moments, count, flow)
        moves.append(np.abs(x - before) / 0.5)
    return np.stack(moves)


def test_adam_gains_in_numbers() -> None:
    """m^ = (0.9 g_1 + g_2) / 1.9 and v^ = (0.999 g_1^2 + g_2^2) / 1.999: b_2^2 = (0.81 / 0.999 + 1) 1.999 / 3.61."""
    gains = adam_gains(5)
    assert gains[0] == 1.0
    assert gains[1] == pytest.approx(math.sqrt((0.81 / 0.999 + 1.0) * 1.999 / 3.61)) == pytest.approx(1.0014, abs=1e-4)
    assert sum(gains) / 5 == pytest.approx(1.0045, abs=1e-4)  # what 5 steps may take together, over eps L
    assert gains[4] == pytest.approx(1.0108, abs=1e-4)
    assert gains == sorted(gains) and adam_gains(3) == gains[:3]


@pytest.mark.parametrize("count", range(1, 9))
def test_adam_gains_are_attained(count: int) -> None:
    gradients = steepest(count)[:, None, None]
    # 1e-8 in Adam's denominator shortens the step by as much
    assert adam_moves(gradients)[-1].item() == pytest.approx(adam_gains(count)[-1], rel=1e-7)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=counts, dim=dims, steps=horizons, clip=st.sampled_from([None, 1e-3, 1.0]), wild=st.booleans())
def test_adam_moves_no_farther_than_its_gains(
    seed: int, n: int, dim: int, steps: int, clip: float | None, wild: bool
) -> None:
    """Whatever the gradients: over 60 orders of magnitude, or near the worst ones; with or without a norm clip."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(steps, n, dim))
    if wild:
        gradients *= 10.0 ** rng.uniform(-30, 30, size=gradients.shape)
    else:
        gradients = steepest(steps)[:, None, None] * (1 + 0.1 * gradients) * rng.choice([-1, 1], size=(n, dim))
    largest = adam_moves(gradients, clip_norm=clip).max(axis=(1, 2))
    assert (largest <= np.array(adam_gains(steps)) * (1 + ROUNDING)).all()


# the bound for the rule that is actually run


@settings(max_examples=80, deadline=None)
@given(
    seed=seeds, n=counts, dim=dims, steps=horizons, eps=rates, c=scales, alpha=scales, sigma=widths, width=widths,
    optimizer=st.sampled_from(["adam", "sgd"]), maxent=st.booleans(), kernel=st.sampled_from(["rbf", "none"]),
    bandwidth=st.sampled_from(["median", "fixed"]), through_median=st.booleans(),
    clip=st.sampled_from([None, 1e-2, 1.0]), box=st.sampled_from([None, 1.0]),
)  # fmt: skip
def test_transport_bound_covers_every_rule(
    seed: int, n: int, dim: int, steps: int, eps: float, c: float, alpha: float, sigma: float, width: float,
    optimizer: str, maxent: bool, kernel: str, bandwidth: str, through_median: bool, clip: float | None,
    box: float | None,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    flow = Flow(eps, optimizer, maxent, alpha, kernel, bandwidth, width, through_median, clip, box)
    if optimizer == "sgd" and maxent and kernel == "rbf" and bandwidth == "median" and clip is None:
        with pytest.raises(ValueError, match="unbounded"):
            transport_bound(flow, steps, dim, sigma, lipschitz=c)
        return
    _, score = reward(rng, dim, c)
    start = rng.uniform(-1.0, 1.0, size=(n, dim))
    moved = transport(start, score, steps, flow)
    measured, bound = mmd2(start, moved, sigma), transport_bound(flow, steps, dim, sigma, lipschitz=c)
    assert measured <= bound + ROUNDING
    assert box is None or np.abs(moved).max() <= box


@pytest.mark.parametrize(
    ("settings", "speed"),
    [
        ({"bandwidth": "fixed", "sigma": 0.5}, 3.0 / 2.0 + 1.0 / (0.5 * ROOT_E)),
        ({"maxent": False}, 3.0),
        ({"kernel": "none"}, 3.0 / 2.0),
        ({"kernel": "none", "maxent": False}, 3.0),
        ({"clip_norm": 0.25}, 0.25),
        ({"kernel": "none", "clip_norm": 0.25}, 0.25),
        ({"kernel": "none", "clip_norm": 9.0}, 3.0 / 2.0),
    ],
)
def test_transport_bound_of_plain_steps_is_its_formula(settings: dict, speed: float) -> None:
    flow = Flow(step_size=0.1, optimizer="sgd", alpha=2.0, **settings)
    expected = 2.0 * 4 * 0.1 * speed / (0.3 * ROOT_E)  # 4 steps, sigma 0.3 of the MMD
    assert transport_bound(flow, 4, 7, 0.3, lipschitz=3.0) == pytest.approx(expected, rel=1e-5)  # gamma's 1e-6


def test_transport_bound_of_adam_is_its_formula() -> None:
    flow = Flow(step_size=0.1, alpha=2.0, clip_norm=1.0)
    expected = 2.0 * sum(adam_gains(4)) * 0.1 * math.sqrt(7) / (0.3 * ROOT_E)
    assert transport_bound(flow, 4, 7, 0.3) == pytest.approx(expected)
    assert transport_bound(flow, 4, 7, 0.3, lipschitz=1e9) == pytest.approx(expected)
    assert transport_bound(flow, 0, 7, 0.3) == 0.0


def test_what_cannot_be_certified() -> None:
    plain = Flow(optimizer="sgd", kernel="none")
    with pytest.raises(ValueError, match="Lipschitz"):
        transport_bound(plain, 1, 2, 1.0)
    assert transport_bound(replace(plain, clip_norm=1.0), 1, 2, 1.0) > 0
    with pytest.raises(ValueError, match="median"):
        transport_bound(Flow(optimizer="sgd"), 1, 2, 1.0, lipschitz=1.0)
    # rightly: the closer two particles are, the farther repulsion with a median bandwidth throws them
    throws = []
    for gap in (1e-2, 1e-3):
        x = np.array([[0.0], [gap], [3 * gap]])
        throws.append(longest(transport(x, np.zeros_like, 1, Flow(optimizer="sgd", box=None)) - x))
    assert throws[1] > 5 * throws[0]


# mmd2


def test_mmd2_in_numbers() -> None:
    """{0, 1} against {0}: (1 + e^-1/2) / 2 + 1 - 2 (1 + e^-1/2) / 2 = (1 - e^-1/2) / 2."""
    assert mmd2(np.array([[0.0], [1.0]]), np.array([[0.0]]), 1.0) == pytest.approx((1 - math.exp(-0.5)) / 2)
    assert mmd2(np.zeros((1, 2)), np.full((1, 2), 3.0), 3.0) == pytest.approx(2 - 2 * math.exp(-1.0))
    assert mmd2(np.zeros((2, 1)), np.full((3, 1), 1e3), 1.0) == 2.0  # farther apart than any kernel reaches


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=counts, m=counts, dim=dims, sigma=widths, spread=scales)
def test_mmd2_is_a_squared_metric_up_to_2(seed: int, n: int, m: int, dim: int, sigma: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    x, y, z = (rng.normal(size=(size, dim)) * spread for size in (n, m, n))
    assert mmd2(x, x[rng.permutation(n)], sigma) == pytest.approx(0.0, abs=ROUNDING)
    assert mmd2(x, y, sigma) == pytest.approx(mmd2(y, x, sigma), abs=ROUNDING)
    assert -ROUNDING <= mmd2(x, y, sigma) <= 2.0 + ROUNDING
    # sqrt of 1e-15 of rounding is 3e-8
    xy, yz, xz = (math.sqrt(max(mmd2(a, b, sigma), 0.0)) for a, b in ((x, y), (y, z), (x, z)))
    assert xz <= xy + yz + 1e-7


# Theorem 2: support


@pytest.mark.parametrize("n", [1, 5, 50, 300])
def test_particles_leave_the_support_that_best_of_n_cannot(n: int) -> None:
    """Reference uniform on [-0.2, 0.2]^2, R = a_1: best-of-N stays inside for any N and rule; the flow does not, and
    goes no farther than its budget."""
    rng = np.random.default_rng(n)
    start = rng.uniform(-0.2, 0.2, size=(3, n, 2)).astype(np.float32)
    for rule in RULES:
        chosen = select(start, 1e3 * start[..., 0], np.ones((3, n), bool), jax.random.key(0), rule=rule)
        assert np.abs(chosen).max() <= np.float32(0.2)

    flow, steps = Flow(maxent=False), 5
    moved = transport(start, lambda x: np.zeros_like(x) + np.array([1.0, 0.0], x.dtype), steps, flow)
    budget = flow.step_size * sum(adam_gains(steps))
    assert (moved[..., 0] > 0.2).all()  # eps L = 0.5, more than the support is wide
    assert np.abs(moved - start).max() <= budget + 2e-5  # float32: 3e-5 of sqrt(1 - 0.999^t)
