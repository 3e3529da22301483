"""A real simulator of every family of environments: reset, fifty steps, score, as an evaluation does it."""

from __future__ import annotations

import numpy as np
import pytest

import tasks
from tasks.simulators import SimulatorPool

FAMILIES = (
    ("ogbench", "cube-single-play-singletask-v0"), ("ogbench", "scene-play-singletask-v0"),
    ("ogbench", "puzzle-3x3-play-singletask-v0"), ("ogbench", "antmaze-large-navigate-singletask-v0"),
    ("ogbench", "humanoidmaze-medium-navigate-singletask-v0"), ("ogbench", "antsoccer-arena-navigate-singletask-v0"),
    ("d4rl", "hopper-medium-v2"), ("d4rl", "halfcheetah-medium-v2"), ("d4rl", "walker2d-medium-v2"),
    ("d4rl", "antmaze-large-play-v2"),
)  # fmt: skip


@pytest.mark.parametrize(("suite", "name"), FAMILIES, ids=[name for _, name in FAMILIES])
def test_fifty_steps_and_a_score(suite, name):
    (task,) = tasks.select(suite, [name])
    rng = np.random.default_rng(0)
    with SimulatorPool(task.make_env, 1, workers=0) as pool:
        obs, returns, success, active = [pool.reset(np.array([5]))], np.zeros(1), np.zeros(1, bool), np.ones(1, bool)
        for _ in range(50):
            step = pool.step(rng.uniform(-1, 1, (1, task.spec.action_dim)).astype(np.float32), active)
            obs.append(step.obs)
            returns, success = returns + step.reward, success | step.success
            active = active & ~(step.terminated | step.truncated)
    seen = np.concatenate(obs)
    assert seen.shape == (51, task.spec.obs_dim) and np.isfinite(seen).all()
    assert np.abs(np.diff(seen, axis=0)).max() > 0.01
    (score,) = task.score(returns, success)
    if suite == "ogbench":  # nothing done at random succeeds in so few steps
        assert returns < 0 and score == 0
    else:
        low, high = {"hopper": (0, 20), "halfcheet": (0, 5), "walker2d": (-2, 10), "antmaze": (0, 0)}[
            next(key for key in ("hopper", "halfcheet", "walker2d", "antmaze") if name.startswith(key))
        ]
        assert low <= score <= high
