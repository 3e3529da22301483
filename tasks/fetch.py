"""`python -m tasks.fetch`: fetches, makes and imports the data of many tasks ahead of time, for machines without a
network. A command that was stopped goes on where it was."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take a while
    from core.command import main as run

    run("tasks.fetch:app")

import csv
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

import tasks
from core.errors import BadInput
from core.options import filled, parts
from tasks import sizes
from tasks.check import shown, told
from tasks.data import download, sources
from tasks.screen import say

VALIDATION = "-val.npz"
"""How the names of files of validation episodes end."""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    suite: Annotated[str, typer.Argument(help=f"one of {', '.join(tasks.SUITES)}")],
    patterns: Annotated[
        str | None, typer.Option("--tasks", help="comma-separated names or globs; default: the paper's")
    ] = None,
    data: Annotated[str, typer.Option(help="auto, download or generate")] = "download",
    episodes: Annotated[int, typer.Option(min=1, help="of a dataset that is generated")] = 1000,
    validation: Annotated[
        bool, typer.Option("--validation", help="also what is kept back of downloaded data, where a suite has that")
    ] = False,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="fetch nothing: print sources.csv with the hashes of what is here")
    ] = False,
) -> None:
    """Readies the data of a suite's tasks; prints where each file lies, its size and the time it took."""
    if manifest:
        _manifest(suite)
        return
    table = Table(Column("file", overflow="fold"), "MB", "seconds", Column("where", overflow="fold"))
    out, failed, seen, started = Console(), 0, set(), time.monotonic()
    if filled("--data", data) not in ("auto", "download", "generate"):
        raise BadInput(f"--data {data}: expected auto, download or generate")
    sizes.check_number("--episodes", episodes, 1)
    if validation and not _kept_back(suite):
        raise BadInput(f"--validation: suite {suite} has no files of its own for validation")
    chosen = tasks.select(suite, [] if patterns is None else parts("--tasks", patterns, "task"))
    for number, task in enumerate(chosen, start=1):
        begun = time.monotonic()
        try:
            path = task.sized(episodes).ready(data)
            kept_back = _validation(suite, path) if validation and path not in seen else None
        except Exception as error:  # of any kind: it concerns this task
            say(f"error: {task.name}: {told(error)}")
            failed += 1
            continue
        except KeyboardInterrupt:
            say("stopped; the same command continues")
            raise typer.Exit(130) from None
        if path in seen:  # the five tasks of an OGBench dataset share its file
            continue
        seen.add(path)
        took, size = time.monotonic() - begun, _megabytes(path)
        name, where = (path.name, str(path.parent)) if path else (task.name, "-")
        table.add_row(shown(name), f"{size:.1f}", f"{took:.1f}", shown(where))
        if kept_back:
            table.add_row(shown(kept_back.name), f"{_megabytes(kept_back):.1f}", "", shown(str(kept_back.parent)))
            seen.add(kept_back)
        say(f"{number} of {len(chosen)}: {task.name}: {size:.1f} MB in {took:.1f} s")
    if seen:
        out.print(table)
    total = sum(map(_megabytes, seen))
    out.print(f"{len(seen)} files, {total:.1f} MB, {time.monotonic() - started:.1f} s; {failed} of {len(chosen)} tasks "
              "without data", highlight=False, soft_wrap=True)  # fmt: skip
    raise typer.Exit(2 if failed else 0)


def _kept_back(suite: str) -> Mapping[str, sources.Source]:
    """A suite's files of validation episodes, by their names."""
    every: Mapping[str, sources.Source] = getattr(tasks.suite(suite), "SOURCES", {})
    return {name: one for name, one in every.items() if name.endswith(VALIDATION)}


def _validation(suite: str, path: Path | None) -> Path | None:
    """The file of validation episodes beside that of the training ones; generated data have theirs already."""
    if path is None:
        return None
    beside = path.with_name(f"{path.stem}{VALIDATION}")
    if not beside.is_file() and (source := _kept_back(suite).get(beside.name)):
        sources.fetch(source, beside, download.check_npz)
    return beside if beside.is_file() else None


def _manifest(suite: str) -> None:
    """Lines as in the suite's sources.csv, of the files that are here."""
    module = tasks.suite(suite)
    if not hasattr(module, "SOURCES"):
        raise BadInput(f"--manifest: suite {suite} has no files that are downloaded one by one")
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(sources.COLUMNS)
    lines.writerows(sources.manifest(module.SOURCES.values(), lambda name: module.data_folder() / name))


def _megabytes(path: Path | None) -> float:
    """Of a file, or of all below a folder; 0 of what is in no one place."""
    if path is None:
        return 0.0
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()) / 1e6
