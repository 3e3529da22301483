"""The particle flow against Algorithm 1 written as loops, against autodiff, optax, and itself on three libraries."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.particles import (
    Flow,
    direction,
    fresh_moments,
    median_bandwidth,
    median_weights,
    squared_distances,
    step,
    transport,
)

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 9)
dims = st.integers(1, 6)
FIXED = Flow(bandwidth="fixed", sigma=0.7)
EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64: rounding 1e-16, times gamma d^2 <= ln(n+1) n and sums of n^2 terms


def particles(seed: int, *shape: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Random particles and scores of this shape, float64."""
    x, score = np.random.default_rng(seed).normal(size=(2, *shape))
    return scale * x, score


def loops(x: np.ndarray, score: np.ndarray, gamma: float, alpha: float, repulsion: bool) -> np.ndarray:
    """Algorithm 1, line by line, with k(y, z) = exp(-gamma |y - z|^2)."""
    phi = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            k = math.exp(-gamma * sum((x[j] - x[i]) ** 2))
            phi[i] += k * score[j] / alpha
            if repulsion:
                phi[i] += -2.0 * gamma * (x[j] - x[i]) * k  # the derivative of k(x_j, x_i) in x_j
    return phi / len(x)


def public_code_repulsion(x: jax.Array, through_median: bool) -> jax.Array:
    """Figure 7: -d/dx sum_ij k(x_i, stop(x_j)), the bandwidth inside the derivative or not."""

    def total(x: jax.Array) -> jax.Array:
        d2 = jnp.sum((x[:, None] - jax.lax.stop_gradient(x)[None]) ** 2, axis=-1)
        median = jnp.median(d2, axis=(0, 1))
        median = median if through_median else jax.lax.stop_gradient(median)
        sigma2 = jnp.maximum(median / (2.0 * jnp.log(len(x) + 1.0)), 1e-12)
        return jnp.sum(jnp.exp(-d2 / (1e-6 + 2.0 * sigma2)))

    return -jax.grad(total)(x) / len(x)


# the direction


def test_velocity_in_numbers() -> None:
    """Particles 0 and 1, scores 1 and 2, sigma 1, alpha 1/2; k = exp(-1/2) = 0.606531.

    phi_0 = (1 + 2 k) - k / 2 = 1.909796; phi_1 = (k + 2) + k / 2 = 2.909796; without MaxEnt (1 + 2 k) / 2 and
    (k + 2) / 2. The 1e-6 in gamma moves these by under 1e-6.
    """
    x, score = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    flow = Flow(alpha=0.5, bandwidth="fixed", sigma=1.0)
    assert direction(x, score, flow).ravel() == pytest.approx([1.909796, 2.909796], abs=2e-6)
    plain = direction(x, score, replace(flow, maxent=False)).ravel()
    assert plain == pytest.approx([1.106531, 1.303265], abs=2e-6)
    assert direction(x, score, replace(flow, kernel="none")).ravel() == pytest.approx([2.0, 4.0])
    assert direction(x, score, replace(flow, kernel="none", maxent=False)).ravel() == pytest.approx([1.0, 2.0])


def test_median_bandwidth_in_numbers() -> None:
    """Points 0, 1, 3: squared distances 0 0 0 1 1 4 4 9 9, median 1; sigma^2 = 1 / (2 ln 4), so k = 4^-d^2.

    Points 0, 2: 0 0 4 4, median (0 + 4) / 2 = 2, sigma^2 = 1 / ln 3.
    """
    three, two = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [2.0]])
    assert median_bandwidth(squared_distances(three, three)) == pytest.approx(1.0 / (2.0 * math.log(4.0)))
    assert median_bandwidth(squared_distances(two, two)) == pytest.approx(1.0 / math.log(3.0))
    score = np.array([[0.0], [0.0], [4.0**9 * 3.0]])
    moved = direction(three, score, Flow(maxent=False)).ravel()
    # 1 / gamma = 1e-6 + 0.72135, and k = 4^-9 is off by 9 ln 4 times its share, 1.7e-5
    assert moved == pytest.approx([1.0, 4.0**5, 4.0**9], rel=3e-5)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=counts, d=dims, alpha=st.floats(0.01, 100.0), maxent=st.booleans(), fixed=st.booleans())
def test_velocity_is_algorithm_1(seed: int, n: int, d: int, alpha: float, maxent: bool, fixed: bool) -> None:
    x, score = particles(seed, n, d)
    median = np.median([sum((a - b) ** 2) for a in x for b in x])
    sigma2 = 0.7**2 if fixed else max(median / (2.0 * math.log(n + 1.0)), 1e-12)
    flow = replace(FIXED if fixed else Flow(bandwidth_gradient=False), alpha=alpha, maxent=maxent)
    expected = loops(x, score, 1.0 / (1e-6 + 2.0 * sigma2), alpha if maxent else 1.0, maxent)
    np.testing.assert_allclose(direction(x, score, flow), expected, **EXACT)


@pytest.mark.parametrize("through_median", [True, False])
@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_repulsion_is_the_public_code_s_autodiff(n: int, through_median: bool) -> None:
    """Odd and even n^2; particles in general position, on a grid (equal distances), and partly coinciding."""
    rng = np.random.default_rng(n)
    x = np.concatenate([rng.normal(size=(8, n, 2)), rng.integers(-2, 3, size=(8, n, 2)).astype(float)])
    x[4:8] *= 1e-2
    with jax.enable_x64(True):
        expected = jax.jit(jax.vmap(lambda x: public_code_repulsion(x, through_median)))(jnp.asarray(x))
    ours = direction(x, np.zeros_like(x), Flow(bandwidth_gradient=through_median))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, **EXACT)


def public_code_by_products(x: jax.Array) -> jax.Array:
    """The repulsion `[b, n, d]` with distances as the public code has them, |x|^2 + |y|^2 - 2 x.y."""

    def total(x: jax.Array, y: jax.Array) -> jax.Array:
        squares = jnp.sum(x * x, -1)[..., :, None] + jnp.sum(y * y, -1)[..., None, :]
        d2 = jnp.maximum(squares - 2.0 * jnp.matmul(x, jnp.swapaxes(y, -1, -2)), 0.0)
        sigma2 = jnp.median(d2, axis=(-2, -1), keepdims=True) / (2.0 * jnp.log(x.shape[-2] + 1.0))
        return jnp.sum(jnp.exp(-d2 / (1e-6 + 2.0 * sigma2)))

    return -jax.grad(total)(x, x) / x.shape[-2]


@pytest.mark.parametrize(("n", "d", "double"), [(5, 2, False), (5, 5, False), (7, 5, False), (5, 5, True)])
def test_the_public_code_s_rounding_takes_the_other_particle_or_ours(n: int, d: int, double: bool) -> None:
    """The derivative of the median falls on one of two particles: on ours, which comes first, or, where the matrix
    product does not round alike, on the other, as if the order were reversed. There is no third way."""
    x = 0.5 * np.random.default_rng(0).normal(size=(2048, n, d)).astype(np.float64 if double else np.float32)
    with jax.enable_x64(double):
        public = np.asarray(jax.jit(public_code_by_products)(jnp.asarray(x)))
    first, other = direction(x, 0 * x, Flow()), direction(x[:, ::-1], 0 * x, Flow())[:, ::-1]
    size = np.abs(first).max(axis=(1, 2), keepdims=True)
    agrees, differs = (np.abs(public - way).max(axis=(1, 2)) < 1e-3 * size[:, 0, 0] for way in (first, other))
    print(f"N = {n}, d = {d}, {x.dtype}: {np.sum(~agrees)} of {len(x)} take the other particle")
    assert (agrees | differs).all() and agrees.mean() > 0.5 and np.mean(agrees & differs) < 0.1


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=counts, ties=st.booleans())
def test_median_weights_pick_the_median(seed: int, n: int, ties: bool) -> None:
    x, _ = particles(seed, 3, n, 2)
    distances = squared_distances(np.round(x) if ties else x, np.round(x) if ties else x)
    weights = median_weights(distances)
    assert (weights.sum((-1, -2)) == 1.0).all() and set(np.unique(weights)) <= {0.0, 0.5, 1.0}
    np.testing.assert_array_equal((weights * distances).sum((-1, -2)), np.median(distances, axis=(-1, -2)))


# the step


@pytest.mark.parametrize("clip_norm", [None, 1e-2, 1.0])
def test_adam_steps_are_optax_s(clip_norm: float | None) -> None:
    """Six steps over two problems at once; the clip is of the norm over all of them, as optax's over a tree."""
    x, _ = particles(0, 2, 3, 4)
    gradients = np.random.default_rng(1).normal(size=(6, 2, 3, 4)) * np.logspace(0, -4, 6)[:, None, None, None]
    flow = Flow(step_size=0.05, maxent=False, kernel="none", clip_norm=clip_norm, box=None)
    adam = optax.adam(0.05)
    tx = adam if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adam)
    moments, ours = fresh_moments(x), x
    with jax.enable_x64(True):
        theirs = jnp.asarray(x)
        state, update = tx.init(theirs), jax.jit(tx.update)
        for count, gradient in enumerate(gradients, 1):
            updates, state = update(jnp.asarray(-gradient), state)
            theirs = optax.apply_updates(theirs, updates)
            ours, moments = step(ours, gradient, moments, count, flow)
            np.testing.assert_allclose(ours, theirs, **EXACT)


def test_plain_step_clips_norm_then_box() -> None:
    x, score = np.array([[0.95, 0.0]]), np.array([[30.0, 40.0]])
    flow = Flow(step_size=0.5, optimizer="sgd", maxent=False, clip_norm=0.5)
    moved, _ = step(x, score, fresh_moments(x), 1, flow)
    assert moved.ravel() == pytest.approx([1.0, 0.2])  # (0.3, 0.4) after the norm clip, halved, then the box
    moved, _ = step(x, score, fresh_moments(x), 1, replace(flow, clip_norm=1e3, box=None))
    assert moved.ravel() == pytest.approx([15.95, 20.0])


RULES = [
    Flow(),
    Flow(bandwidth_gradient=False, alpha=0.1),
    Flow(optimizer="sgd", bandwidth="fixed", sigma=0.3, box=None),
    Flow(maxent=False),
    Flow(kernel="none", maxent=False, clip_norm=1.0),
]


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("flow", RULES)
def test_jax_torch_and_numpy_agree(flow: Flow, n: int) -> None:
    """Five steps in float32, in each library without its autodiff."""
    torch: Any = pytest.importorskip("torch")
    x = np.random.default_rng(n).uniform(-0.5, 0.5, size=(2, n, 3)).astype(np.float32)
    target = np.array([0.9, -0.9, 0.0], np.float32)

    def run(array: Any, goal: Any, **loop: Any) -> Any:
        return transport(array, lambda x: 3.0 * (goal - x), 5, flow, **loop)

    ours = run(x, target)
    by_jax = jax.jit(partial(run, loop=jax.lax.fori_loop))(jnp.asarray(x), jnp.asarray(target))
    with torch.inference_mode():
        by_torch = run(torch.from_numpy(x), torch.from_numpy(target))
    assert ours.dtype == by_jax.dtype == np.float32 and by_torch.dtype == torch.float32
    assert isinstance(by_jax, jax.Array) and isinstance(by_torch, torch.Tensor)
    # the last bit of 0.999^t, 6e-8, is 3e-5 of sqrt(1 - 0.999^t), and so of each of five steps of 0.1
    np.testing.assert_allclose(by_jax, ours, atol=2e-5)
    np.testing.assert_allclose(by_torch.numpy(), ours, atol=2e-5)
    assert np.abs(ours - x).max() > 0.1


@pytest.mark.parametrize("bandwidth", ["median", "fixed"])
def test_one_particle_climbs_its_own_gradient(bandwidth: str) -> None:
    x, score = np.array([[0.1, -0.2, 0.3]]), np.array([[2.0, -1e-3, 5.0]])
    flow = Flow(step_size=0.25, optimizer="sgd", alpha=4.0, bandwidth=bandwidth, box=None)
    np.testing.assert_array_equal(transport(x, lambda _: score, 1, flow), x + 0.25 * score / 4.0)
    by_adam = transport(x, lambda _: score, 1, replace(flow, optimizer="adam"))
    # 1e-8 beside the smallest score / alpha, 2.5e-4: 4e-5 of the step
    np.testing.assert_allclose(by_adam, x + 0.25 * np.sign(score), atol=0.25 * 5e-5)


# symmetries


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=counts, d=dims, flow=st.sampled_from([Flow(bandwidth_gradient=False), FIXED, RULES[3], RULES[4]]))
def test_order_of_particles_does_not_matter(seed: int, n: int, d: int, flow: Flow) -> None:
    x, score = particles(seed, n, d)
    order = np.random.default_rng(seed).permutation(n)
    np.testing.assert_allclose(direction(x[order], score[order], flow), direction(x, score, flow)[order], **EXACT)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(2, 9), d=dims)
def test_order_matters_to_the_median_s_pair_alone(seed: int, n: int, d: int) -> None:
    """Autodiff through the median credits one end of the pair that is the median, whichever came first; the other
    particles are moved alike in any order."""
    x, score = particles(seed, n, d)
    order = np.random.default_rng(seed).permutation(n)
    weights = median_weights(squared_distances(x, x))
    pair = (weights + weights.T).sum(-1) > 0
    difference = direction(x[order], score[order], Flow()) - direction(x, score, Flow())[order]
    np.testing.assert_allclose(difference[~pair[order]], 0.0, **EXACT)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=counts, d=dims, shift=st.floats(-10.0, 10.0), flow=st.sampled_from([FIXED, *RULES]))
def test_shifted_particles_move_alike(seed: int, n: int, d: int, shift: float, flow: Flow) -> None:
    x, score = particles(seed, n, d)
    # the shift costs a digit of the differences between particles, which repulsion from a close one divides by
    np.testing.assert_allclose(direction(x + shift, score, flow), direction(x, score, flow), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("flow", RULES[:4])
def test_leading_axes_are_independent_problems(flow: Flow) -> None:
    x, score = particles(3, 2, 3, 5, 4)
    together = transport(x, lambda _: score, 3, flow)
    for index in np.ndindex(2, 3):
        alone = transport(x[index], lambda _, index=index: score[index], 3, flow)
        np.testing.assert_allclose(together[index], alone, **EXACT)


# edges


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=counts, gap=st.floats(-12.0, 0.0), flow=st.sampled_from([Flow(), FIXED]), plain=st.booleans())
def test_coinciding_particles_stay_finite(seed: int, n: int, gap: float, flow: Flow, plain: bool) -> None:
    """Nearly or wholly coinciding, in float32."""
    flow = replace(flow, alpha=2.0, optimizer="sgd" if plain else "adam", box=None)
    x, score = particles(seed, n, 3, scale=10.0**gap)
    x, score = x.astype(np.float32), score.astype(np.float32)
    assert np.isfinite(transport(x, lambda _: score, 4, flow)).all()
    same = np.broadcast_to(x[:1], x.shape)
    phi = direction(same, score, flow)
    np.testing.assert_allclose(phi, np.broadcast_to(score.mean(0) / 2.0, x.shape), atol=1e-5)  # float32; k = 1


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_limit_is_running_that_many_steps(optimizer: str) -> None:
    x, _ = particles(4, 4, 5, 2)
    flow, limits = Flow(optimizer=optimizer, bandwidth_gradient=False), np.array([0, 1, 3, 9])
    moved = transport(x, lambda x: 1.0 - x, 4, flow, limit=limits)
    for row, limit in enumerate(limits):
        alone = transport(x[row], lambda x: 1.0 - x, min(limit, 4), flow)
        np.testing.assert_allclose(moved[row], alone, **EXACT)
    np.testing.assert_array_equal(moved[0], x[0])


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=counts, d=dims, box=st.floats(0.1, 2.0), flow=st.sampled_from(RULES), push=st.floats(-5.0, 5.0))
def test_box_holds_and_binds(seed: int, n: int, d: int, box: float, flow: Flow, push: float) -> None:
    x, score = particles(seed, n, d)
    boxed = replace(flow, box=box, step_size=0.5)
    held = transport(x, lambda _: push + score, 1, boxed)
    free = transport(x, lambda _: push + score, 1, replace(boxed, box=None))
    np.testing.assert_array_equal(held, np.clip(free, -box, box))
    assert np.abs(transport(held, lambda _: push + score, 3, boxed)).max() <= box


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=counts, d=dims, flow=st.sampled_from([Flow(), FIXED]), power=st.floats(0.0, 8.0))
def test_a_high_temperature_leaves_repulsion_alone(seed: int, n: int, d: int, flow: Flow, power: float) -> None:
    """phi differs from its repulsion by at most max |grad Q| / alpha."""
    x, score = particles(seed, n, d)
    alone = direction(x, np.zeros_like(score), flow)
    attraction = direction(x, score, replace(flow, alpha=10.0**power)) - alone
    assert np.linalg.norm(attraction, axis=-1).max() <= np.linalg.norm(score, axis=-1).max() / 10.0**power + 1e-10


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(2, 9), d=dims)
def test_repulsion_spreads_and_attraction_gathers(seed: int, n: int, d: int) -> None:
    """Small plain steps of repulsion lower sum_ij k; at low temperature particles meet at the maximum of Q."""
    x, _ = particles(seed, n, d)
    flow = Flow(step_size=0.01, optimizer="sgd", bandwidth="fixed", sigma=0.7, box=None)

    def energy(x: np.ndarray) -> float:
        return float(np.exp(-squared_distances(x, x) / (2 * 0.7**2)).sum())

    spread = transport(x, np.zeros_like, 3, flow)
    assert energy(spread) < energy(x) or energy(x) < n + 1e-3  # unless they are out of each other's reach already
    goal = np.full(d, 0.3)
    gathered = transport(x, lambda x: goal - x, 60, Flow(alpha=1e-6, step_size=0.1))
    assert np.abs(gathered - goal).max() < 0.2  # Adam circles its goal at the scale of its step, 0.1
