"""How long loading takes, and what memory, at the size of a whole study.

`python -m tests.analysis.load_speed` writes 2,000 runs x 5 seeds x 10 evaluations x 4 knob settings x 50 episodes (20M
rows, about 1 GB) into a temporary folder, loads them in a fresh process, and prints a row for
`results/measured/load_cpu.csv`. `--runs 20 --episodes 2` is small.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tests.analysis.synthetic import write_run

RUNS, DISTINCT, EPISODES = 2000, 20, 50
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


def write(root: Path, runs: int, distinct: int, episodes: int) -> None:
    """`runs` run folders over 50 tasks, with the episodes of `distinct` drawn ones, which parsing cannot tell."""
    drawn: list[Path] = []
    for i in range(runs):
        where = {"task": f"cube-{i % 50}-play-singletask-v0", "method": f"method{i // 50}"}
        size = {"evaluations": 10 if len(drawn) < distinct else 0, "episodes": episodes}
        knobs = {"L_test": [0, 1, 2, 3]}
        folder = write_run(root, suite="ogbench", fingerprint=f"{i:012x}", knobs=knobs, **where, **size)  # type: ignore[arg-type]
        if size["evaluations"]:
            drawn.append(folder)
        else:
            shutil.copyfile(drawn[i % distinct] / "episodes.csv", folder / "episodes.csv")


def measured(root: Path) -> str:
    """What LOAD prints of the runs below `root`, from a process of its own. Raises: SystemExit with what it said."""
    code = str(Path(__file__).parents[2])  # wherever this was started
    paths = os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH"))))
    done = subprocess.run([sys.executable, "-c", LOAD, root], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": paths})  # fmt: skip
    if done.returncode:
        raise SystemExit(f"loading ended with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How long loading a study takes, and what memory.")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of each evaluation and setting")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given.runs, DISTINCT, given.episodes)
        size = sum(path.stat().st_size for path in Path(folder).rglob("episodes.csv")) / 2**30
        found = measured(Path(folder))
    device = f"cpu ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})"
    sizes = (("runs", given.runs, RUNS), ("episodes", given.episodes, EPISODES))
    options = [f"--{name} {value}" for name, value, usual in sizes if value != usual]
    command = " ".join(["python -m tests.analysis.load_speed", *options])
    print("runs,rows,seconds,cpu_s,peak_gib,frame_gib,csv_gib,device,pandas,date,command")
    date = datetime.datetime.now(datetime.UTC).date()
    print(f'{found},{size:.2f},"{device}",{pd.__version__},{date},{command}')


if __name__ == "__main__":
    main()
