"""How long the figures of many runs take.

`python -m tests.analysis.plot_speed --runs 50` writes so many runs of 17 methods on OGBench's tasks (5 seeds x 10
evaluations x up to 6 knob settings x 50 episodes; a tenth as many go on online) into a temporary folder, draws every
figure of them by `analysis.plots`, and prints a row for `results/measured/plots_cpu.csv`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

from tests.analysis.synthetic import write_contest

HEADER = "runs,pictures,formats,jobs,seconds,cpu_s,device,matplotlib,date,command"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--format", default="png,svg,pdf")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_contest(Path(folder), asked.runs, online=("fql", "vgf"))
        load, start, spent = os.getloadavg()[0], time.perf_counter(), os.times()
        command = [sys.executable, "-m", "analysis.plots", folder, "--format", asked.format, "--jobs", str(asked.jobs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - spent.children_user - spent.children_system
        pictures = done.stdout.count("(+ ")
    device = f"cpu ({os.cpu_count()} cores, load {load:.1f})"
    print(HEADER)
    print(
        f'{asked.runs},{pictures},"{asked.format}",{asked.jobs},{seconds:.1f},{cpu:.1f},"{device}",'
        f"{matplotlib.__version__},{datetime.datetime.now(datetime.UTC).date()},"
        f"python -m tests.analysis.plot_speed --runs {asked.runs}"
    )


if __name__ == "__main__":
    main()
