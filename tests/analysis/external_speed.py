"""Time and memory of results of another code base at full size: 850 runs of 12 seeds with 30 evaluations each.

`python -m tests.analysis.external_speed` makes a pickle of QAM's form, whose scores lie around the printed means, and
has it imported, tabled, compared, drawn and reported, each by a process of its own.
"""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from analysis.published import read

EVALUATIONS, SEEDS, EPISODES = 30, 12, 50


def write(path: Path) -> None:
    """The file; a method more than print has, so that it has as many as QAM's."""
    rows, _ = read()
    rows = rows[rows["table"] == "qam"]
    rng, found = np.random.default_rng(0), {}
    for row in rows.to_dict("records"):
        rise = np.minimum(np.arange(1, EVALUATIONS + 1) / 20, 1.0)[:, None] * np.ones(SEEDS)
        found[row["task"], row["method"]] = rng.binomial(EPISODES, rise * row["mean"] / 100) / EPISODES
        found[row["task"], "RLPD"] = rng.binomial(EPISODES, 0.5, (10, SEEDS)) / EPISODES
    path.write_bytes(pickle.dumps(found))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "qam.pkl")
        take = ["analysis.published", "import", "qam.pkl", "--results", "all", "--protocol", "qam"]
        for words in (
            take,
            ["analysis.tables", "all"],
            ["analysis.stats", "all", "--compare", "QAM-E (qam),FQL (qam)"],
            ["analysis.plots", "all"],
            ["analysis.report", "all", "--out", "report"],
        ):
            began = time.monotonic()
            subprocess.run([sys.executable, "-m", *words], cwd=folder, check=True, capture_output=True)
            most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # of all so far
            print(f"{words[0]}: {time.monotonic() - began:.1f} s, at most {most:.2f} GB so far", flush=True)


if __name__ == "__main__":
    main()
