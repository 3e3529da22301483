"""The measurement of simulators: what it counts, what it writes. Speed itself is not tested."""

from __future__ import annotations

import contextlib
import csv
import math
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

from methods.core import TaskSpec
from tasks import throughput
from tests.tasks.conftest import command

MEMORY = throughput.Memory(9.0, 1.5)


def test_a_measurement_is_of_steps_and_of_memory(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(throughput, "memory", lambda task, rows: MEMORY)
    steps = {"env": 0, "pool": 0}

    def step(kind: str) -> None:
        steps[kind] += 1

    begun: list[int] = []
    env = SimpleNamespace(reset=lambda seed: begun.append(seed), step=lambda action: step("env"), close=lambda: None)
    pool = SimpleNamespace(reset=lambda seeds: None, step=lambda actions, active: step("pool"))
    monkeypatch.setattr(throughput, "simulators", lambda task, n: contextlib.nullcontext(pool))
    task = SimpleNamespace(name="made", spec=TaskSpec(2, 1, 6), make_env=lambda: env, clone=None)
    found = throughput.measure(task, rows=8, steps=20, turns=2)
    # a second for 20 steps of each of 8 episodes in the loop, and one, twice, for 20 of the pool's 8 rows
    assert steps == {"env": 160, "pool": 40} and begun == [0, 2, 4, 6, 1, 3, 5, 7]
    assert (found.loop, found.pool, found.ratio, found.memory) == (20.0, 160.0, 8.0, MEMORY)


class Weight(gymnasium.Env[Any, Any]):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, megabytes: int) -> None:
        self.weight = np.ones(megabytes * 125_000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}


def heavy() -> Weight:
    return Weight(96)


def lighter(first: Weight) -> Weight:
    return Weight(32)


def test_memory_of_the_first_simulator_and_of_each_further_one():
    found = throughput.memory(SimpleNamespace(make_env=heavy, clone=lighter), 4)
    assert math.isnan(found.first) or (90 < found.first < 130 and 30 < found.further < 36)


def test_the_table_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "memory", lambda task, rows: MEMORY)
    out = tmp_path / "speed.csv"
    arguments = ["--tasks", "hopper-medium-v2", "--rows", "2", "--steps", "4", "--turns", "1", "--out", str(out)]
    done = command(throughput.app, *arguments)
    assert done.exit_code == 0, done.stderr
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["task"], row["rows"], row["mb_first"], row["mb_further"]) == ("hopper-medium-v2", "2", "9", "1.5")
    ratio = float(row["steps_per_s_pool"]) / float(row["steps_per_s_loop"])
    assert float(row["ratio"]) == pytest.approx(ratio, rel=1e-2) and row["command"].startswith("python -m tasks.")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["--tasks", "hoper"], "error: no suite with simulators has a task called 'hoper'"),
     (["--tasks", "tldr-synthetic"], "error: no suite with simulators has a task called 'tldr-synthetic'"),
     (["--tasks", "toy", "--out", "nowhere/a.csv"], "error: --out nowhere/a.csv: no folder nowhere"),
     (["--tasks", "toy", "--out", "tests"], "error: --out tests: is a folder")],
)  # fmt: skip
def test_bad_arguments(arguments, line):
    done = command(throughput.app, *arguments)
    assert done.exit_code == 2 and done.stderr.startswith(line)
