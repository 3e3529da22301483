"""The measurement of simulators: what it counts, what it writes. Speed itself is not tested."""

from __future__ import annotations

import contextlib
import csv
import math
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from methods.core import TaskSpec
from tasks import throughput
from tests.harness.line import LineTask

APP = typer.Typer()
APP.command()(throughput.main)


def test_a_measurement_is_of_steps_and_of_memory(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(throughput, "memory", lambda task, rows: 1.5)
    steps = {"env": 0, "pool": 0}

    def step(kind: str) -> None:
        steps[kind] += 1

    begun: list[int] = []
    env = SimpleNamespace(reset=lambda seed: begun.append(seed), step=lambda action: step("env"), close=lambda: None)
    pool = SimpleNamespace(reset=lambda seeds: None, step=lambda actions, active: step("pool"))
    monkeypatch.setattr(throughput, "SimulatorPool", lambda make_env, n, clone: contextlib.nullcontext(pool))
    task = SimpleNamespace(name="made", spec=TaskSpec(2, 1, 6), make_env=lambda: env, clone=None)
    found = throughput.measure(task, rows=8, steps=20, turns=2)
    # a second for 20 steps of each of 8 episodes in the loop, and one, twice, for 20 of the pool's 8 rows
    assert steps == {"env": 160, "pool": 40} and begun == [0, 2, 4, 6, 1, 3, 5, 7]
    assert (found.loop, found.pool, found.ratio, found.mb) == (20.0, 160.0, 8.0, 1.5)


def test_of_all_tasks_as_many_steps_count():
    a, b = throughput.Measurement("a", 4, 100.0, 200.0, 1.0), throughput.Measurement("b", 4, 300.0, 300.0, 2.0)
    found = throughput.together([a, b])  # 1/100 + 1/300 s for a step of each in the loop, 1/200 + 1/300 in the pool
    assert (found.loop, found.pool) == pytest.approx((150.0, 240.0)) and found.ratio == pytest.approx(1.6)


def test_memory_of_a_simulator():
    mb = throughput.memory(LineTask(), 3)
    assert math.isnan(mb) or 0 <= mb < 100


def test_the_table_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "memory", lambda task, rows: 1.5)
    out = tmp_path / "speed.csv"
    arguments = ["--tasks", "hopper-medium-v2", "--rows", "2", "--steps", "4", "--turns", "1", "--out", str(out)]
    done = CliRunner().invoke(APP, arguments)
    assert done.exit_code == 0, done.stderr
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["task"], row["rows"], row["mb_per_simulator"]) == ("hopper-medium-v2", "2", "1.5")
    ratio = float(row["steps_per_s_pool"]) / float(row["steps_per_s_loop"])
    assert float(row["ratio"]) == pytest.approx(ratio, rel=1e-2) and row["command"].startswith("python -m tasks.")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["--tasks", "hoper"], "error: no suite has a task called 'hoper'"),
     (["--tasks", "toy", "--out", "nowhere/a.csv"], "error: --out nowhere/a.csv: no folder nowhere")],
)  # fmt: skip
def test_bad_arguments(arguments, line):
    done = CliRunner().invoke(APP, arguments)
    assert done.exit_code == 2 and done.stderr.startswith(line)
