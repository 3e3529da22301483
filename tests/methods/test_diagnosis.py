"""What a guided flow tells of itself: closed forms of flows and critics that are known, and shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods.diagnosis import (
    BEST_OF,
    EDGES,
    ESTIMATORS,
    NOISES,
    SAMPLES_A_STATE,
    STARTS,
    TIMES,
    WAYS,
    cosine,
    led_to,
    over_weights,
    paths,
    shares,
    similarities,
    times,
    unfinished,
)
from methods.guidance import Guidance
from methods.samplers import FlowSampler
from tests.methods.common import SPEC, make, random_state

B, A = 6, 2
OBS = jnp.zeros((B, 3))
STATE: Any = {"behavior": None, "critic": None}


class _Straight(FlowSampler):
    """v(s, a, t) = c: from noise z it leads to z + c, wherever it is asked."""

    def velocity(self, params: Any, obs: Any, actions: Any, time: Any, label: Any = None) -> Any:
        return jnp.full_like(actions, 0.2)

    def noise(self, key: Any, shape: tuple[int, ...]) -> Any:
        return 0.1 * jax.random.normal(key, (*shape, self.action_dim))


@dataclass(frozen=True)
class _Bowl:
    """Q(s, a) = -|a - peak|^2 / 2, of both critics."""

    peak: float = 0.5

    def q(self, params: Any, obs: Any, actions: Any, how: str | None = None) -> Any:
        return -0.5 * jnp.sum((actions - self.peak) ** 2, axis=-1)

    def action_grad(self, params: Any, obs: Any, actions: Any, how: str | None = None) -> Any:
        return self.peak - actions


@pytest.fixture
def guidance(monkeypatch: pytest.MonkeyPatch) -> Guidance:
    monkeypatch.setattr("methods.guidance.guide", lambda critic, learner: None)
    monkeypatch.setattr("methods.diagnosis.guide", lambda critic, learner: None)

    class _Learner:
        params = None

    STATE["behavior"] = _Learner()
    return Guidance(_Straight(A, (4,), steps=10), _Bowl())  # type: ignore[arg-type]


def test_cosine_by_hand() -> None:
    one = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [-2.0, 0.0]])
    other = jnp.array([[0.0, 3.0], [2.0, 2.0], [1.0, 0.0], [5.0, 0.0]])
    np.testing.assert_allclose(cosine(one, other), [0.0, 1.0, 0.0, -1.0], atol=1e-6)


def test_an_unfinished_action_is_as_far_as_its_time(guidance: Guidance) -> None:
    """Of a straight flow a_t = z + t c; it is not clipped."""
    noise = 3.0 * jax.random.normal(jax.random.key(0), (B, 1, A))
    for time in TIMES:
        np.testing.assert_allclose(unfinished(guidance, STATE, OBS, noise, time), noise + 0.2 * time, atol=1e-6)


def test_on_a_straight_flow_all_estimators_but_the_noisy_one_agree(guidance: Guidance) -> None:
    """They ask at z + c, the noisy one at z + t c: at t = .9 nearly the same. With little noise all are near 1, with
    more of it less so, and an oracle by hand gives each number."""
    found = np.asarray(similarities(guidance, STATE, OBS, jax.random.key(1)))
    assert found.shape == (B, len(ESTIMATORS), len(TIMES), len(NOISES))
    denoised, jacobian, noisy, full = np.moveaxis(found, 1, 0)
    np.testing.assert_allclose(denoised, jacobian, atol=1e-5)
    np.testing.assert_allclose(denoised, full, atol=1e-5)
    start_key, added_key = jax.random.split(jax.random.key(1))
    start = guidance.sampler.noise(start_key, (B, 1))
    added = jax.random.normal(added_key, start.shape)
    for place, time in enumerate(TIMES):
        for level, noise in enumerate(NOISES):
            at = start + 0.2 * time
            expected = cosine(0.5 - at, 0.5 - (at + noise * added))[:, 0]
            np.testing.assert_allclose(noisy[:, place, level], expected, atol=1e-5)
    assert (found[..., 0] > 0.99).all() and (
        found.mean(axis=(0, 1, 2)) == np.sort(found.mean(axis=(0, 1, 2)))[::-1]
    ).all()


def test_where_guidance_leads(guidance: Guidance) -> None:
    """Without weight every way is the plain sample; the steps after it go down the bowl's slope, (1 - w)^3 of the way
    left; distances are to the best of the samples and to the nearest of the given actions, by a loop."""
    near = jnp.stack([jnp.zeros((B, A)), jnp.ones((B, A))], axis=1)
    weights = (0.0, 0.5)
    value, apart, off = (np.asarray(one) for one in led_to(guidance, STATE, OBS, near, weights, jax.random.key(2)))
    assert value.shape == apart.shape == off.shape == (B, len(WAYS), 2)
    start_key, others_key = jax.random.split(jax.random.key(2))
    plain = np.asarray(jnp.clip(guidance.sampler.noise(start_key, (B, 1)) + 0.2, -1, 1))[:, 0]
    samples = np.asarray(jnp.clip(guidance.sampler.noise(others_key, (B, BEST_OF)) + 0.2, -1, 1))
    after = 0.5 + (plain - 0.5) * 0.5**3
    for row in range(B):
        best = min(samples[row], key=lambda one: float(np.sum((one - 0.5) ** 2)))
        for way in range(len(WAYS)):
            np.testing.assert_allclose(value[row, way, 0], -0.5 * np.sum((plain[row] - 0.5) ** 2), atol=1e-5)
            np.testing.assert_allclose(apart[row, way, 0], np.linalg.norm(plain[row] - best), atol=1e-5)
        np.testing.assert_allclose(value[row, -1, 1], -0.5 * np.sum((after[row] - 0.5) ** 2), atol=1e-5)
        nearest = min(np.linalg.norm(after[row]), np.linalg.norm(after[row] - 1.0))
        np.testing.assert_allclose(off[row, -1, 1], nearest, atol=1e-5)
    assert (value[:, :, 1] > value[:, :, 0]).all()


def test_times_are_the_sampler_s_own() -> None:
    assert times(FlowSampler(A, (4,), steps=10)) == (0.0, 0.3, 0.6, 0.9)
    assert times(FlowSampler(A, (4,), steps=5)) == pytest.approx((0.0, 0.2, 0.6, 0.8))
    assert times(FlowSampler(A, (4,), steps=1)) == (0.0,)


@pytest.mark.parametrize("settings", [{}, {"chunk": 2}])
def test_qgf_answers_what_it_declares(settings: dict[str, Any]) -> None:
    method = make("qgf", test_weights=(0.0, 0.5), flow_steps=3, **settings)
    if settings:
        method = replace(method, spec=method.spec.chunked(2))
    state = random_state(method)
    obs, near = jnp.zeros((B, method.spec.obs_dim)), jnp.zeros((B, 4, method.spec.action_dim))
    found = jax.jit(method.diagnose)(state, obs, near, jax.random.key(0))
    assert found.keys() == {one.name for one in method.diagnoses}
    for one in method.diagnoses:
        axes = [axis[1] for axis in (one.lines, one.panels, one.x) if axis[0]]
        assert found[one.name].shape == (B, *map(len, axes)) and np.isfinite(found[one.name]).all()
    assert make("fql").diagnoses == () and over_weights((0.0,))[0].x == ("w", (0.0,))


# actions on a line


@pytest.fixture
def line(guidance: Guidance) -> Guidance:
    return replace(guidance, sampler=_Straight(1, (4,), steps=10))


def test_paths_on_a_straight_flow_by_a_loop(line: Guidance) -> None:
    """Each step goes c / 10 and w / 10 of the slope at the estimate ahead; without weight it is z + t c. The last is
    clipped, and what steps after sampling do is not on the way."""
    weights = (0.0, 0.5)
    found = np.asarray(paths(line, STATE, OBS, weights))
    assert found.shape == (B, len(STARTS), 2, 11)
    for start, ways in zip(STARTS, found[0], strict=True):
        for weight, way in zip(weights, ways, strict=True):
            at = start
            for step in range(10):
                assert way[step] == pytest.approx(at, abs=1e-5)
                ahead = np.clip(at + (1 - step / 10) * 0.2, -1, 1)
                at = at + (0.2 + weight * (0.5 - ahead)) / 10
            assert way[10] == pytest.approx(np.clip(at, -1, 1), abs=1e-5)
    after = np.asarray(paths(replace(line, gradient="after"), STATE, OBS, weights))
    np.testing.assert_allclose(after[:, :, 1], found[:, :, 0], atol=1e-6)


def test_shares_count_samples(line: Guidance) -> None:
    """They rise to 1; without weight they are the flow's own, and the same for every way."""
    key = jax.random.key(3)
    found = np.asarray(shares(line, STATE, OBS, (0.0, 0.9), key))
    assert found.shape == (B, 2, len(WAYS), len(EDGES))
    assert (np.diff(found, axis=-1) >= 0).all() and (found[..., -1] == 1).all()
    samples = np.asarray(line.sampler.noise(key, (B, SAMPLES_A_STATE)))[..., 0] + 0.2
    expected = (samples[:, :, None] <= EDGES).mean(axis=1)
    for way in range(len(WAYS)):
        np.testing.assert_allclose(found[:, 0, way], expected, atol=1 / SAMPLES_A_STATE + 1e-6)
    assert found[:, 1, 0, EDGES < 0.25].mean() < found[:, 0, 0, EDGES < 0.25].mean()  # towards the peak at .5


def test_qgf_draws_its_ways_on_a_line_alone() -> None:
    line = replace(SPEC, action_dim=1)
    method = make("qgf", line, test_weights=(0.0, 0.5), flow_steps=3)
    names = [one.name for one in method.diagnoses]
    assert {"path", "share"} == set(names) - {one.name for one in make("qgf").diagnoses}
    found = jax.jit(method.diagnose)(random_state(method), jnp.zeros((B, 3)), jnp.zeros((B, 4, 1)), jax.random.key(0))
    assert set(found) == set(names)
    for one in method.diagnoses:
        axes = [axis[1] for axis in (one.lines, one.panels, one.x) if axis[0]]
        assert found[one.name].shape == (B, *map(len, axes))
