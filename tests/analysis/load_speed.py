"""How long loading takes, and what memory, at the size of a whole study.

`python -m tests.analysis.load_speed` writes 2,000 runs x 5 seeds x 10 evaluations x 4 knob settings x 50 episodes (20M
rows, about 1 GB) into a temporary folder, loads them in a fresh process, and prints a row for
`results/measured/load_cpu.csv`.
"""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from tests.analysis.synthetic import write_run

RUNS, DISTINCT = 2000, 20
LOAD = """
import resource, sys, time
from pathlib import Path
from analysis.records.load import load
start = time.perf_counter()
records = load(Path(sys.argv[1]))
seconds, cpu = time.perf_counter() - start, time.process_time()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
frame = records.episodes.memory_usage(deep=True).sum() / 2**30
assert not records.notes, records.notes[0]
print(f"{len(records.runs)},{len(records.episodes)},{seconds:.1f},{cpu:.1f},{peak:.2f},{frame:.2f}")
"""


def write(root: Path, runs: int = RUNS) -> None:
    """`runs` run folders over 50 tasks; their episodes are those of DISTINCT drawn ones, which parsing cannot tell."""
    drawn: list[Path] = []
    for i in range(runs):
        where = {"task": f"cube-{i % 50}-play-singletask-v0", "method": f"method{i // 50}"}
        size = {"evaluations": 10} if len(drawn) < DISTINCT else {"evaluations": 0}
        knobs = {"L_test": [0, 1, 2, 3]}
        folder = write_run(root, suite="ogbench", fingerprint=f"{i:012x}", knobs=knobs, **where, **size)  # type: ignore[arg-type]
        if size["evaluations"]:
            drawn.append(folder)
        else:
            shutil.copyfile(drawn[i % DISTINCT] / "episodes.csv", folder / "episodes.csv")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).rglob("episodes.csv")) / 2**30
        done = subprocess.run([sys.executable, "-c", LOAD, folder], capture_output=True, text=True, check=True)
    device = f"cpu ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})"
    print("runs,rows,seconds,cpu_s,peak_gib,frame_gib,csv_gib,device,pandas,date,command")
    print(
        f'{done.stdout.strip()},{size:.2f},"{device}",{pd.__version__},{datetime.datetime.now(datetime.UTC).date()},'
        "python -m tests.analysis.load_speed"
    )


if __name__ == "__main__":
    main()
