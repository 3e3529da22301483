"""Simulators in lockstep: step for step what each of them does alone, whoever runs beside it, in any thread."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.d4rl import suite as d4rl
from tasks.ogbench import suite as ogbench
from tasks.simulation.lockstep import Lockstep
from tasks.simulation.pools import simulators
from tasks.simulation.simulators import Failures, SimulatorError, SimulatorPool, Simulators
from tasks.toy import suite as toy

MAZES = ("antmaze-medium-navigate", "humanoidmaze-medium-navigate", "antsoccer-arena-navigate")
TASKS = [*(d4rl.get(f"{name}-v2") for name in ("hopper-medium", "halfcheetah-medium", "walker2d-medium",
                                               "antmaze-umaze")),
         *(ogbench.get(f"{name}-singletask-v0") for name in MAZES)]  # fmt: skip


def lockstep(task: Any, n: int, threads: int | None = None) -> Lockstep:
    return Lockstep(task.make_env, n, task.rules, task.spec.horizon, task.clone, threads)


def play(pool: Simulators, task: Any, steps: int) -> list[tuple[np.ndarray, ...]]:
    """Steps at random; a row rests now and then, and one begins anew halfway."""
    rng, n = np.random.default_rng(0), pool.n
    seen: list[tuple[np.ndarray, ...]] = [(pool.reset(np.arange(n) + 5),)]
    for step in range(steps):
        actions = rng.uniform(-1, 1, (n, task.spec.action_dim)).astype(np.float32)
        seen.append(tuple(pool.step(actions, np.arange(n) != step % (2 * n))))
        if step == steps // 2:
            seen.append((pool.reset(np.arange(n) + 90, np.arange(n) == 1),))
    return seen


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_step_is_the_simulators_own(task):
    """Observations, rewards, ends and successes, to the last bit; falls included, where one can fall."""
    with Simulators(task.make_env, 4, task.clone) as alone, lockstep(task, 4, threads=3) as together:
        wanted, found = play(alone, task, 60), play(together, task, 60)
    for ours, theirs in zip(found, wanted, strict=True):
        for column, values in zip(ours, theirs, strict=True):
            assert column.dtype == values.dtype
            np.testing.assert_array_equal(column, values)
    fallen = np.array([step[2] for step in found if len(step) > 1])
    assert fallen.any() == task.name.startswith(("hopper", "walker2d")) and not fallen.all()


def test_a_humanoid_s_rules_see_what_it_sees():
    """In double precision, where the order of a sum shows."""
    task = ogbench.get("humanoidmaze-medium-navigate-singletask-v0")
    seen: list[np.ndarray] = []
    with Simulators(task.make_env, 3) as alone, lockstep(task, 3) as together:
        outcome = together.rules.outcome
        together.rules.outcome = lambda moved: (seen.append(found := outcome(moved)), found)[1]
        rng = np.random.default_rng(0)
        for pool in (alone, together):
            pool.reset(np.arange(3))
        for _ in range(20):
            actions = rng.uniform(-1, 1, (3, 21)).astype(np.float32)
            together.step(actions, np.ones(3, bool))
            for env, action, obs in zip(alone.envs, actions, seen.pop().obs, strict=True):
                np.testing.assert_array_equal(obs, env.step(action)[0])


def test_a_hopper_too_fast_to_be_healthy_ends_its_episode():
    task, steps = TASKS[0], []
    with Simulators(task.make_env, 2, task.clone) as alone, lockstep(task, 2) as together:
        for pool in (alone, together):
            pool.reset(np.arange(2))
            pool.envs[1].unwrapped.data.qvel[-1] = 1e3  # the foot's; its height and pitch stay as they were
            steps.append(pool.step(np.zeros((2, 3), np.float32), np.ones(2, bool)))
    assert steps[1].terminated.tolist() == steps[0].terminated.tolist() == [False, True]


def place(simulator: Any, task: Any, metres: float) -> None:
    """Puts what is judged so far from the goal."""
    base = simulator.unwrapped
    goal = base.goal if task.suite == "d4rl" else base.cur_goal_xy
    judged = slice(-7, -5) if "soccer" in task.name else slice(0, 2)
    base.data.qpos[judged] = goal + np.array([metres, 0.0])


GOALS = [task for task in TASKS if "maze" in task.name or "soccer" in task.name]
GOALS += [replace(GOALS[-1], success_timing="pre"), replace(GOALS[-3], success_timing="pre")]


@pytest.mark.parametrize("task", GOALS, ids=lambda task: f"{task.name}-{getattr(task, 'success_timing', '')}")
def test_goals_are_reached_where_the_simulator_says_so(task):
    """Beside the goal, at its rim, and away from it."""
    distances, still = (0.0, 0.3, 0.49, 0.51, 0.7, 3.0), np.zeros((6, task.spec.action_dim), np.float32)
    steps = []
    with Simulators(task.make_env, 6) as alone, lockstep(task, 6) as together:
        for pool in (alone, together):
            pool.reset(np.arange(6))
            for simulator, metres in zip(pool.envs, distances, strict=True):
                place(simulator, task, metres)
            steps.append([pool.step(still, np.ones(6, bool)) for _ in range(2)])
    for wanted, found in zip(*steps, strict=True):
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    first = steps[1][0]
    assert first.success[0] and first.terminated[0] and not first.success[-1] and not first.terminated[-1]


def test_a_row_that_begins_anew_has_its_new_goal():
    """D4RL draws one for each episode."""
    task = d4rl.get("antmaze-umaze-v2")
    with lockstep(task, 2) as pool:
        pool.reset(np.arange(2))
        pool.reset(np.array([7, 8]), np.array([False, True]))
        place(pool.envs[1], task, 0.0)
        step = pool.step(np.zeros((2, 8), np.float32), np.ones(2, bool))
    assert step.success.tolist() == [False, True]


def test_time_limits_count_a_row_s_own_steps():
    task = TASKS[1]  # nobody falls
    with Lockstep(task.make_env, 3, task.rules, 4, task.clone) as pool:
        pool.reset(np.arange(3))
        zero = np.zeros((3, task.spec.action_dim), np.float32)
        ends = [pool.step(zero, np.array([True, step > 0, True])).truncated.tolist() for step in range(3)]
        pool.reset(np.arange(3), np.array([False, False, True]))
        ends += [pool.step(zero, np.ones(3, bool)).truncated.tolist() for _ in range(2)]
    assert ends == [[False] * 3] * 3 + [[True, False, False], [True, True, False]]


def test_a_step_draws_nothing_from_numpy_s_global_generator():
    for task in TASKS:
        with lockstep(task, 2) as pool:
            pool.reset(np.arange(2))
            np.random.seed(3)
            pool.step(np.zeros((2, task.spec.action_dim), np.float32), np.ones(2, bool))
            drawn = np.random.uniform()
            np.random.seed(3)
            assert drawn == np.random.uniform()


def test_nobody_active_and_no_goal_known():
    task = TASKS[0]
    with lockstep(task, 2) as pool:
        obs = pool.reset(np.arange(2))
        step = pool.step(np.zeros((2, 3), np.float32), np.zeros(2, bool))
    np.testing.assert_array_equal(step.obs, obs)
    assert not np.concatenate([step.reward, step.terminated, step.truncated, step.success]).any()


@pytest.mark.parametrize("mine", [True, False], ids=["the calling thread", "another"])
def test_a_simulator_that_fails_is_reported_and_nobody_moves_on(mine):
    """By the thread that takes its row; the others end with the row that they are at."""
    task, met, moved = TASKS[0], threading.Barrier(2, timeout=30), []
    with lockstep(task, 60, threads=2) as pool:
        pool.reset(np.arange(60))

        def advance(model: Any, data: Any, frames: int) -> None:
            if len(moved) < 2:
                moved.append(data)
                met.wait()  # each thread has one
                if (threading.current_thread() is threading.main_thread()) == mine:
                    raise ArithmeticError("this simulator exploded")
            time.sleep(0.002)
            moved.append(data)

        pool.rules.advance = advance
        with pytest.raises(SimulatorError, match="a simulator failed: ArithmeticError: this simulator exploded"):
            pool.step(np.zeros((60, 3), np.float32), np.ones(60, bool))
        before = len(moved)
        assert before < 30 or not mine
        time.sleep(0.1)
        for use in (lambda: pool.reset(np.arange(60)), lambda: pool.step(np.zeros((60, 3)), np.ones(60, bool))):
            with pytest.raises(RuntimeError, match="the simulators are closed"):
                use()
        assert len(moved) == before
    with pytest.raises(SimulatorError, match="a simulator failed: ValueError: cannot be built"):
        Lockstep(broken, 2, task.rules, 5)


def test_with_somebody_to_take_it_a_failure_is_its_own_row_s():
    task, found = TASKS[0], []
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, task.spec.action_dim)).astype(np.float32)
    for explodes in (False, True):
        failed: Failures = {}
        with Lockstep(task.make_env, 3, task.rules, task.spec.horizon, task.clone, 2, failed) as pool:
            seen, advance = [pool.reset(np.arange(3))], pool.rules.advance

            def exploding(model: Any, data: Any, frames: int, pool: Any = pool, advance: Any = advance) -> None:
                if data is pool.data[1]:
                    raise ArithmeticError("this simulator exploded")
                advance(model, data, frames)

            seen += [pool.step(actions[0], np.ones(3, bool)).obs]
            if explodes:
                pool.rules.advance = exploding
            steps = [pool.step(action, np.ones(3, bool)) for action in actions[1:]]
            seen += [step.obs for step in steps] + [pool.reset(np.arange(3))]
            found.append(np.array(seen))
            assert list(failed) == ([1] if explodes else [])
    assert failed[1].row == 1 and str(failed[1]) == "a simulator failed: ArithmeticError: this simulator exploded"
    np.testing.assert_array_equal(found[1][:, [0, 2]], found[0][:, [0, 2]])
    assert not np.array([step.reward[1] for step in steps]).any() and (found[1][2:, 1] == found[1][1, 1]).all()


def broken() -> Any:
    raise ValueError("cannot be built")


def test_actions_of_another_width_are_refused():
    with lockstep(TASKS[0], 2) as pool:
        pool.reset(np.arange(2))
        with pytest.raises(ValueError, match=r"actions have shape \(2, 1\), expected \(2, 3\)"):
            pool.step(np.zeros((2, 1), np.float32), np.ones(2, bool))


@pytest.mark.parametrize(
    ("task", "kind"),
    [(TASKS[0], Lockstep), (toy.get("toy"), Simulators),
     (ogbench.get("antmaze-giant-navigate-singletask-v0"), Lockstep),
     (ogbench.get("antmaze-teleport-navigate-singletask-v0"), SimulatorPool),
     (ogbench.get("pointmaze-medium-navigate-singletask-v0"), SimulatorPool)],
)  # fmt: skip
def test_each_task_is_stepped_in_its_quickest_way(task, kind):
    with simulators(task, 2) as pool:
        assert type(pool) is kind


def test_learning_online_meets_the_online_simulator():
    task = ogbench.get("antmaze-medium-navigate-singletask-v0")
    for online, timing in ((False, "post"), (True, "pre")):
        with simulators(task, 1, online) as pool:
            assert pool.envs[0].unwrapped._success_timing == timing
