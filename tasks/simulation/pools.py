"""The simulators of a task, stepped together in the way that is quickest."""

from __future__ import annotations

from collections.abc import Callable

from tasks.core import Task
from tasks.simulation.lockstep import Lockstep
from tasks.simulation.simulators import Failures, SimulatorPool, Simulators


def simulators(
    task: Task, n: int, online: bool = False, wait: Callable[[], None] = lambda: None, failed: Failures | None = None
) -> Simulators | SimulatorPool:
    """`n` of the task's simulators, for evaluation or to learn from `online`, stepped in the way that is quickest on a
    few cores: in lockstep where the task has rules; if cheap, one after another; else in worker processes (`wait` and
    `failed`: see `SimulatorPool`)."""
    make_env = task.make_online_env if online else task.make_env
    if task.rules:
        return Lockstep(make_env, n, task.rules, task.spec.horizon, task.clone, failed=failed)
    if task.cheap:
        return Simulators(make_env, n, task.clone, failed=failed)
    return SimulatorPool(make_env, n, clone=task.clone, wait=wait, failed=failed)
