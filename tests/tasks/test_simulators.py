"""The pool's promises: rows that don't influence one another, clear failures, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
import psutil
import pytest

from tasks.d4rl import suite as d4rl
from tasks.ogbench import suite as ogbench
from tasks.simulation.pools import simulators
from tasks.simulation.simulators import Failures, SimulatorPool, Simulators, cores

# One of each family; success depends on none of them here.
FAMILIES = ("cube-double-play", "scene-play", "puzzle-3x3-play", "antmaze-teleport-navigate",
            "humanoidmaze-medium-navigate", "antsoccer-arena-navigate")  # fmt: skip
BUILT_ONCE = ("cube-double-play", "puzzle-3x3-play")  # to save time; scenes, with their locks, are the harder case


class Probe(gymnasium.Env[Any, Any]):
    """Reports what it can see of its process; `action > 0` succeeds, action 9 raises, -9 ends the process."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,))
    action_space = gymnasium.spaces.Box(-9, 9, (1,))

    def _obs(self) -> np.ndarray:
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return np.array([float(os.environ.get("OMP_NUM_THREADS", 0)), blocked, self.t, np.random.uniform()])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        value = float(action[0])
        if value == 9:
            raise ArithmeticError("this simulator exploded")
        if value == -9:
            os._exit(3)
        self.t += 1
        return self._obs(), value, value > 1, self.t == 3, {"success": float(value > 0)}


def probes(n: int, workers: int) -> Simulators | SimulatorPool:
    """In so many processes, or in this one."""
    return SimulatorPool(Probe, n, workers) if workers else Simulators(Probe, n)


def broken() -> Probe:
    raise ArithmeticError("cannot be built")


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_keep_their_order_and_inactive_ones_rest(workers):
    with probes(5, workers) as pool:
        first = pool.reset(np.arange(5))
        assert first.shape == (5, 4) and first.dtype == np.float32
        actions = np.array([[-1], [0.5], [2], [0], [3]], np.float32)
        active = np.array([True, True, True, False, True])
        step = pool.step(actions, active)
        assert step.obs[:, 2].tolist() == [1, 1, 1, 0, 1]
        np.testing.assert_array_equal(step.obs[3], first[3])
        assert step.reward.tolist() == [-1, 0.5, 2, 0, 3]
        assert step.terminated.tolist() == [False, False, True, False, True]
        assert step.success.tolist() == [False, True, True, False, True]
        pool.step(actions, np.arange(5) == 0)
        last = pool.step(actions, np.arange(5) == 0)
        assert last.truncated.tolist() == [True, False, False, False, False]
        assert step.obs[0, 2] == 1, "what was handed out earlier must not change"
        assert not last.reward[1:].any()


@pytest.mark.parametrize("workers", [0, 2])
def test_episodes_that_are_over_give_way_and_the_others_go_on(workers):
    """A chosen row starts as it would with all of them; what was handed out before stays as it was."""
    with probes(3, workers) as pool:
        pool.reset(np.arange(3))
        before = pool.step(np.zeros((3, 1), np.float32), np.ones(3, bool)).obs
        obs = pool.reset(np.array([0, 7, 0]), np.array([False, True, False]))
        np.testing.assert_array_equal(obs[[0, 2]], before[[0, 2]])
        assert obs[:, 2].tolist() == [1, 0, 1] and before[:, 2].tolist() == [1, 1, 1]
        np.testing.assert_array_equal(obs[1], pool.reset(np.full(3, 7))[1])
        assert pool.step(np.zeros((3, 1), np.float32), np.ones(3, bool)).obs[:, 2].tolist() == [1, 1, 1]


def test_workers_are_lean():
    with SimulatorPool(Probe, 2, 2) as pool:
        threads, interrupt_blocked = pool.reset(np.zeros(2))[:, :2].T
    assert threads.tolist() == [1, 1]
    assert interrupt_blocked.tolist() == [1, 1]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system places processes by itself")
def test_workers_keep_a_core_each_where_there_is_one_for_each():
    with SimulatorPool(Probe, cores() + 1) as pool:
        places = [psutil.Process(process.pid).cpu_affinity() for process in pool._processes]
    assert sorted(places) == [[core] for core in sorted(os.sched_getaffinity(0))]
    with SimulatorPool(Probe, 2 * cores(), cores() + 1) as pool:
        assert {len(psutil.Process(process.pid).cpu_affinity()) for process in pool._processes} == {cores()}


def test_global_generator_is_each_rows_own():
    with Simulators(Probe, 3) as pool:
        np.random.seed(3)
        together = [pool.reset(np.array([5, 6, 5])), pool.step(np.zeros((3, 1)), np.ones(3, bool)).obs]
        drawn = np.random.uniform()
        np.random.seed(3)
        assert drawn == np.random.uniform(), "lent out, and put back"
    for obs in together:
        assert obs[0, 3] == obs[2, 3] != obs[1, 3]
    assert together[0][0, 3] != together[1][0, 3]


def test_jobs_do_not_draw_from_each_other_s_generator():
    """Runs may be carried out in threads: what a reset draws depends on its row alone."""

    class Draws(Probe):
        def _obs(self) -> np.ndarray:
            first = np.random.uniform()
            time.sleep(1e-4)  # here another thread would draw
            return np.array([first, np.random.uniform()])

    def starts(_: int) -> list[np.ndarray]:
        return [pool.reset(np.arange(6)) for pool in [Simulators(Draws, 6)] for _ in range(20)]

    with ThreadPoolExecutor(2) as executor:
        one, other = executor.map(starts, range(2))
    np.testing.assert_array_equal(np.array([one, other]), np.broadcast_to(one[0], (2, 20, 6, 2)))


def test_a_pool_has_a_worker():
    with pytest.raises(ValueError, match="2 simulators in 0 processes"):
        SimulatorPool(Probe, 2, 0)


@pytest.mark.parametrize(("action", "line"), [(9, "this simulator exploded"), (-9, "worker 1 died with exit code 3")])
def test_a_failing_worker_is_reported(action, line):
    with SimulatorPool(Probe, 4, 2) as pool:
        pool.reset(np.arange(4))
        processes = [psutil.Process(process.pid) for process in pool._processes]
        with pytest.raises(RuntimeError, match=line):
            pool.step(np.array([[0], [action], [0], [0]], np.float32), np.ones(4, bool))
        assert not psutil.wait_procs(processes, timeout=5)[1]
        with pytest.raises(RuntimeError, match="closed"):
            pool.reset(np.arange(4))


@pytest.mark.parametrize(("workers", "row", "action"), [(0, 1, 9), (2, 1, 9), (2, None, -9)])
def test_with_somebody_to_take_it_a_failure_is_its_own_row_s(workers, row, action):
    """The others do as without it, then and later; a process that dies takes all of its rows along."""
    lost = [1] if row else [1, 3]  # rows are dealt out in turn
    found = []
    for exploding in (0.0, action):
        failed: Failures = {}
        pool = SimulatorPool(Probe, 4, workers, failed=failed) if workers else Simulators(Probe, 4, failed=failed)
        with pool:
            seen = [pool.reset(np.arange(4))]
            actions = np.array([[0], [exploding], [1], [2]], np.float32)
            steps = [pool.step(actions, np.ones(4, bool)) for _ in range(2)]
            assert sorted(failed) == (lost if exploding else [])
            assert all(error.row == row for error in failed.values())
            seen += [step.obs for step in steps] + [pool.reset(np.arange(4) + 4)]
            found.append((np.array(seen), np.array([step[1:] for step in steps], float)))
    (whole, outcome), (seen, other) = found
    left = [each for each in range(4) if each not in lost]
    np.testing.assert_array_equal(seen[:, left], whole[:, left])
    np.testing.assert_array_equal(other[:, :, left], outcome[:, :, left])
    np.testing.assert_array_equal(seen[:, lost], np.broadcast_to(seen[0, lost], seen[:, lost].shape))
    assert not other[:, :, lost].any()
    assert ("this simulator exploded" if row else "worker 1 died with exit code 3") in str(failed[1])


class Stillborn(Probe):
    """Cannot begin with an even seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if not seed or seed % 2 == 0:
            raise ArithmeticError("no such start")
        return super().reset(seed=seed)


@pytest.mark.slow
def test_rows_that_never_began_are_nought():
    """Whether all rows of a worker failed or one of them."""
    for seeds, lost in (([2, 1, 4, 3], [0, 2]), ([2, 1, 1, 1], [0]), ([0, 0, 0, 0], [0, 1, 2, 3])):
        for workers in (0, 2):
            failed: Failures = {}
            pool = (
                SimulatorPool(Stillborn, 4, workers, failed=failed)
                if workers
                else Simulators(Stillborn, 4, None, False, failed)
            )
            with pool:
                obs = pool.reset(np.array(seeds))
                assert sorted(failed) == lost and obs.shape == (4, 4 if len(lost) < 4 else 0)
                assert not obs[lost].any() and pool.step(np.zeros((4, 1)), np.ones(4, bool)).obs.shape == obs.shape


def test_a_simulator_that_cannot_be_built_is_reported():
    with pytest.raises(RuntimeError, match="cannot be built"):
        SimulatorPool(broken, 2, 1, failed={})


def test_workers_die_with_their_parent_and_do_not_import_its_main(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal
        import numpy as np
        from tasks.simulation.simulators import SimulatorPool
        from tests.tasks.test_simulators import Probe

        print("main runs", flush=True)
        pool = SimulatorPool(Probe, 2, 2)
        print(*(process.pid for process in pool._processes), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60,
                         env={**os.environ, "PYTHONPATH": os.getcwd()})  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "main runs" and len(lines) == 2  # once: an unguarded main would start workers without end
    workers = [psutil.Process(int(pid)) for pid in lines[1].split() if psutil.pid_exists(int(pid))]
    assert not psutil.wait_procs(workers, timeout=5)[1]


@pytest.mark.parametrize("dataset", [FAMILIES[0], FAMILIES[3], *(pytest.param(d, marks=pytest.mark.slow) for d in
                                                                 (*FAMILIES[1:3], *FAMILIES[4:]))])  # fmt: skip
def test_real_episodes_depend_on_nothing_but_seed_and_actions(dataset):
    """Equal in workers and in this process, on fresh and on used simulators, in any company."""
    task = ogbench.get(f"{dataset}-singletask-v0")
    seeds, rng = np.array([7, 8, 2**32 - 1]), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 3, task.spec.action_dim)).astype(np.float32)
    active = np.ones((12, 3), bool)
    active[6:, 1] = False

    def episode(pool: Simulators | SimulatorPool, rows: np.ndarray) -> np.ndarray:
        obs = [pool.reset(seeds[rows])]
        for step in range(12):
            obs.append(pool.step(actions[step, rows], active[step, rows]).obs)
        return np.stack(obs)

    rows = np.arange(3)
    with SimulatorPool(task.make_env, 3, 1 if dataset in BUILT_ONCE else 2, task.clone) as pool:
        wanted = episode(pool, rows)
    assert wanted.shape == (13, 3, task.spec.obs_dim)
    assert np.abs(np.diff(wanted[:, 0], axis=0)).max() > 0.01
    assert not np.array_equal(wanted[0, 0], wanted[0, 1])
    np.testing.assert_array_equal(wanted[7:, 1], np.broadcast_to(wanted[6, 1], (6, task.spec.obs_dim)))
    with Simulators(task.make_env, 3, task.clone) as pool:
        np.testing.assert_array_equal(episode(pool, rows), wanted)
        order = rows[::-1]
        np.testing.assert_array_equal(episode(pool, order), wanted[:, order])
        assert fifty_steps_and_a_score(pool, task) == 0  # nothing done at random succeeds in so few steps


@pytest.mark.parametrize("dataset", [*FAMILIES[1:3], "antmaze-medium-navigate", *FAMILIES[4:]])
def test_every_family_steps_and_scores(dataset):
    """What takes longer, their independence of company, is tried above where time is no matter. Ants and humanoids go
    in lockstep, as evaluations have them."""
    task = ogbench.get(f"{dataset}-singletask-v0")
    with simulators(task, 1) if task.rules else Simulators(task.make_env, 1) as pool:
        assert fifty_steps_and_a_score(pool, task) == 0


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("hopper-medium-v2", 0, 20), ("halfcheetah-medium-v2", 0, 5), ("walker2d-medium-v2", -2, 10),
     ("antmaze-large-play-v2", 0, 0)],
)  # fmt: skip
def test_d4rl_s_simulators_step_and_score(name, low, high):
    task = d4rl.get(name)
    with simulators(task, 2) as pool:
        assert low <= fifty_steps_and_a_score(pool, task) <= high


def fifty_steps_and_a_score(pool: Simulators | SimulatorPool, task: Any) -> float:
    """Of the pool's first simulator, at random, as an evaluation does it."""
    rng, success, returns = np.random.default_rng(0), np.zeros(pool.n, bool), np.zeros(pool.n)
    active, obs = np.arange(pool.n) == 0, [pool.reset(np.full(pool.n, 5))[0]]
    for _ in range(50):
        step = pool.step(rng.uniform(-1, 1, (pool.n, task.spec.action_dim)).astype(np.float32), active)
        obs.append(step.obs[0])
        returns, success = returns + step.reward, success | step.success
        active = active & ~(step.terminated | step.truncated)
    seen = np.array(obs)
    assert seen.shape == (51, task.spec.obs_dim) and np.isfinite(seen).all()
    assert np.abs(np.diff(seen, axis=0)).max() > 0.01
    return float(task.score(returns, success)[0])


class Hangs(Probe):
    """Never comes back from a step."""

    def step(self, action: Any) -> Any:
        time.sleep(3600)


@pytest.mark.slow
def test_a_worker_that_hangs_can_be_left():
    class Enough(Exception):
        pass

    looks = []

    def wait() -> None:
        looks.append(1)
        if len(looks) > 1 and started:
            raise Enough

    started = False
    with SimulatorPool(Hangs, 2, 2, wait=wait) as pool:
        pool.reset(np.arange(2))
        processes = [psutil.Process(process.pid) for process in pool._processes]
        started = True
        with pytest.raises(Enough):
            pool.step(np.zeros((2, 1), np.float32), np.ones(2, bool))
        assert not psutil.wait_procs(processes, timeout=5)[1]
