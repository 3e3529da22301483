"""kill -9 at random instants, again and again: what is there at the end has the same bytes as without.

    python -m tests.soak [--kills 100] [--seed 0]

A command is started, killed after a random time, and started anew, until it finishes; then the next one in a new
folder, until there were enough kills. Parts, episodes, training rows and candidates are compared with those of the
same command when nobody killed it. Takes about half an hour on two cores (`make soak`).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress

SIZES = ("--preset", "smoke", "--steps", "400", "--evaluate-every", "100")
COMMANDS = {
    "side by side": ("--methods", "fql,vgf,td3bc", "--seeds", "3", "--set", "behavior_steps=200", *SIZES),
    "in several programs": ("--methods", "td3bc", "--seeds", "5", "--lanes", "2", *SIZES),
}
PROGRAM = """
from harness import training
training.SAVE_EVERY_S = 0.0  # after every span
from core.command import main
main("harness.run_command:app")
"""
COMPARED = ("*.safetensors", "episodes.csv", "train.csv", "candidates.npz")
app = typer.Typer(add_completion=False)


class Whole(NamedTuple):
    """A command that nobody kills."""

    length: float  # seconds
    files: dict[str, str]  # SHA-256 of everything that may not differ, by its path

    @classmethod
    def of(cls, scratch: Path, name: str, console: Console) -> Whole:
        """Done twice: the first time compiles."""
        for time_of in ("warm", "whole"):
            started, results = time.monotonic(), scratch / f"{time_of} {name}"
            if begin(COMMANDS[name], results, scratch / "cache").wait():
                console.print((scratch / f"{results.name}.log").read_text())
                raise typer.Exit(2)
        return cls(time.monotonic() - started, contents(results))


def begin(command: Sequence[str], results: Path, cache: Path) -> subprocess.Popen[bytes]:
    """A command, in a process group of its own."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, **kept, "PYTHONPATH": str(Path(__file__).parents[1])}
    arguments = [sys.executable, "-c", PROGRAM, *command, "--results", str(results)]
    log = (results.parent / f"{results.name}.log").open("ab")
    return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, start_new_session=True)


def killed(
    command: Sequence[str], results: Path, cache: Path, waits: Iterator[float], console: Console
) -> Iterator[None]:
    """Starts a command until it finishes; yields after each kill."""
    while True:
        process = begin(command, results, cache)
        try:
            status = process.wait(timeout=next(waits))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            yield
            continue
        if status:
            console.print((results.parent / f"{results.name}.log").read_text())
            raise typer.Exit(1)
        return


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
    whole = {name: Whole.of(scratch, name, console) for name in COMMANDS}
    done, began = 0, time.monotonic()
    with Progress(console=console) as progress:
        bar = progress.add_task("kills", total=kills)
        for number, name in enumerate(itertools.cycle(COMMANDS), start=1):
            results, length = scratch / f"round-{number}", whole[name].length
            waits = iter(lambda: draw.uniform(0.2, 1.1) * length, None)  # noqa: B023
            for _ in killed(COMMANDS[name], results, scratch / "cache", waits, console):
                done += 1
                progress.update(bar, completed=done)
            if wrong := differing(whole[name].files, contents(results)):
                console.print(f"{results}: after {done} kills {len(wrong)} files differ: {', '.join(wrong[:5])}")
                raise typer.Exit(1)
            shutil.rmtree(results)
            if not console.is_terminal:
                console.print(f"{done} of {kills} kills, {time.monotonic() - began:.0f} s", highlight=False)
            if done >= kills:
                break
    files = sum(len(one.files) for one in whole.values())
    console.print(f"{done} kills in {number} rounds: {files} files, none differs", highlight=False)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    app()
