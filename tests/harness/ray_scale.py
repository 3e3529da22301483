"""What a Ray cluster costs: the driver's own time for many pieces, and what a second worker saves.

    python -m tests.harness.ray_scale empty [--pieces 10000]
    python -m tests.harness.ray_scale workers [--seeds 8 --steps 20000]

`empty` sends pieces that do nothing, in chains of two, through real Ray on this machine. `workers` carries out a plan
of equal lanes on a cluster of one node and on one of two, each pinned to a core of its own. It needs root (network
namespaces) and two quiet cores.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from harness.on_ray import Cluster, Driver
from harness.pieces import Piece
from tests.harness.command import ROOT
from tests.harness.nodes import cluster

app = typer.Typer(add_completion=False)


@app.command()
def empty(pieces: Annotated[int, typer.Option(min=1000)] = 10_000) -> None:
    """The driver's processor time and memory a piece."""
    import ray

    os.environ |= {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)

    @ray.remote(num_cpus=1)
    def nothing(number: int) -> Mapping[str, str]:
        return {}

    made = [Piece(i, "t", (f"lane-{i}",), f"piece {i}", (i - 1,) if i % 2 else (), 1.0) for i in range(pieces)]
    driver = Driver(Cluster(), Console(stderr=True), lambda: False)
    own, started = psutil.Process(), time.monotonic()
    before, memory = own.cpu_times(), list[float]()
    for done, _ in enumerate(driver.each(made, lambda one: nothing.remote(one.number)), start=1):
        if done % (pieces // 10) == 0:
            memory.append(own.memory_info().rss / 2**20)
    after = own.cpu_times()
    spent = after.user + after.system - before.user - before.system
    print(f"{pieces} pieces in {time.monotonic() - started:.0f} s; the driver: {1000 * spent / pieces:.2f} s of its "
          f"own a thousand; its memory by tenths: {', '.join(f'{one:.0f}' for one in memory)} MiB")  # fmt: skip
    ray.shutdown()


@app.command()
def workers(seeds: int = 8, steps: int = 20_000) -> None:
    """Wall-clock of one worker and of two, with a warm compile cache."""
    scratch = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))
    words = ["--tasks", "toy", "--methods", "bc", "--seeds", str(seeds), "--lanes", "1", "--steps", str(steps),
             "--set", f"behavior_steps={steps}", "--evaluate-every", str(steps), "--episodes", "5"]  # fmt: skip
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
                                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}  # fmt: skip
    took: dict[str, float] = {}
    for name, cores in (("warm", (0,)), ("one", (0,)), ("two", (0, 1))):
        results = scratch / name
        with cluster(scratch / f"ray-{name}", len(cores), cores) as nodes:
            started = time.monotonic()
            command = [sys.executable, "-m", "harness.run", *words, "--on", f"ray:{nodes.address}"]
            process = nodes.on_head([*command, "--results", str(results)], dict(environment), ROOT)
            said = process.communicate()[1]
            took[name] = time.monotonic() - started
            if process.returncode:
                raise SystemExit(said)
        trained = [json.loads(path.read_text())["seconds"] for path in results.glob("artifacts/*/stage.json")]
        print(f"{name}: {took[name]:.1f} s, of which training {sum(trained):.1f} s in {len(trained)} lanes")
    print(f"two workers take {took['two'] / took['one']:.2f} of one worker's time ({datetime.now():%Y-%m-%d})")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    app()
