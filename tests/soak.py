"""kill -9 at random instants, again and again: what is there at the end has the same bytes as without.

    python -m tests.soak [--kills 100] [--seed 0]

One command is started, killed after a random time, and started anew, until it finishes; then a next one in a new
folder, until there were enough kills. Parts, episodes, training rows and candidates are compared with those of a
command that nobody killed. Takes about half an hour on two cores (`make soak`).
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

COMMAND = ("--methods", "fql,vgf,td3bc", "--preset", "smoke", "--seeds", "3", "--set", "steps=400", "--set",
           "behavior_steps=200", "--evaluate-every", "100")  # fmt: skip
PROGRAM = """
from harness import training
training.SAVE_EVERY_S = 0.0  # after every span
from core.command import main
main("harness.run_command:app")
"""
COMPARED = ("*.safetensors", "episodes.csv", "train.csv", "candidates.npz")
app = typer.Typer(add_completion=False)


def begin(results: Path, cache: Path) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, **kept, "PYTHONPATH": str(Path(__file__).parents[1])}
    arguments = [sys.executable, "-c", PROGRAM, *COMMAND, "--results", str(results)]
    log = (results.parent / f"{results.name}.log").open("ab")
    return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, start_new_session=True)


def contents(results: Path) -> dict[str, str]:
    """SHA-256 of everything that may not differ, by its path."""
    found = [path for pattern in COMPARED for path in results.rglob(pattern)]
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)}


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


@app.command()
def soak(
    kills: Annotated[int, typer.Option(min=1, help="how many")] = 100,
    seed: Annotated[int, typer.Option(help="of the instants")] = 0,
) -> None:
    """Kills, continues and compares."""
    draw, console = random.Random(seed), Console()
    scratch = Path(tempfile.mkdtemp(prefix="vgf-soak-"))
    begin(scratch / "warm", scratch / "cache").wait()  # compiles everything once
    started = time.monotonic()
    if begin(scratch / "whole", scratch / "cache").wait():
        console.print((scratch / "whole.log").read_text())
        raise typer.Exit(2)
    length = time.monotonic() - started
    expected, done, rounds, began = contents(scratch / "whole"), 0, 0, time.monotonic()
    with Progress(console=console) as progress:
        bar = progress.add_task("kills", total=kills)
        while done < kills:
            rounds += 1
            results = scratch / f"round-{rounds}"
            while True:
                process = begin(results, scratch / "cache")
                try:
                    status = process.wait(timeout=draw.uniform(0.2, 1.1) * length)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    done += 1
                    progress.update(bar, completed=done)
                    continue
                if status:
                    console.print((scratch / f"{results.name}.log").read_text())
                    raise typer.Exit(1)
                break
            if wrong := differing(expected, contents(results)):
                console.print(f"{results}: after {done} kills {len(wrong)} files differ: {', '.join(wrong[:5])}")
                raise typer.Exit(1)
            shutil.rmtree(results)
            if not console.is_terminal:
                console.print(f"{done} of {kills} kills, {time.monotonic() - began:.0f} s", highlight=False)
    console.print(f"{done} kills in {rounds} rounds: {len(expected)} files, none differs", highlight=False)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    app()
