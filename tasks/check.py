"""What is there of each task's data, and whether it is what it should be. Reads files, never a network.

    python -m tasks.check                    # every task that --list shows
    python -m tasks.check ogbench --tasks 'cube-single-*'

A published dataset is compared with its suite's `expected.csv`: its number of transitions and, where it is known, the
mean return of its episodes; rows marked `verified: no` could not be compared with a file where they were written. A set
made here must hold the episodes or transitions that were asked for. Of texts, examples and preferences are counted.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take a while
    import os

    from core.command import main as run

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before its client is loaded: texts are read from its cache alone
    run("tasks.check:app")

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import tasks
from core.errors import Absent, BadInput, reason
from core.files import expanded
from core.options import filled, parts
from core.text import printable
from tasks.core import Dataset
from tasks.d4rl.collect import fewest
from tasks.data.files import exists
from tasks.language.core import Corpus

TOLERANCE = 0.01  # of transitions: time-outs are dropped; the published counts are of steps
RETURN_TOLERANCE = 0.02  # of the mean return: episodes that the file breaks off may be counted or not


@dataclass(frozen=True)
class Contents:
    """A dataset in a few numbers."""

    transitions: int
    episodes: int
    mean_return: float  # of its episodes, undiscounted, of the simulator's own rewards
    least_return: float
    most_return: float
    ends: float  # share of the transitions after which nothing is to come


def contents(dataset: Dataset) -> Contents:
    """Counts transitions and episodes, and sums the rewards of each episode with their transform undone; what the
    loader knows of the file's episodes stands (an AntMaze's go on past their goal, where values end)."""
    columns, told = dataset.transitions, dataset.provenance.details
    last = columns["terminals"] > 0.5
    rewards = dataset.reward.undone(columns["rewards"])
    episode = np.concatenate([[0], np.cumsum(last)[:-1]])
    returns = np.bincount(episode, weights=rewards)
    count = told.get("episodes", len(returns))
    mean, least, most = (told.get(f"return_{name}", float(getattr(returns, name)())) for name in ("mean", "min", "max"))
    rows = told.get("transitions", len(last))  # of all files of a series, of which the first gives the returns
    return Contents(rows, count, mean, least, most, float((columns["masks"] < 0.5).mean()))


def counts(corpus: Corpus) -> tuple[str, str]:
    """How many examples and how many preferences there are to train on."""
    kinds = {"examples": corpus.of_examples, "preferences": corpus.of_preferences}
    examples, preferences = (f"{len(splits.get('train', ())):,} {kind}" for kind, splits in kinds.items())
    return examples, preferences


def expectation(suite: str, dataset: str) -> Mapping[str, str] | None:
    """What is known of a suite's published dataset (`tasks.About.expected`); None where nothing is."""
    return next((row for row in tasks.about(suite).expected if fnmatch.fnmatch(dataset, row["dataset"])), None)


def verdict(suite: str, name: str, origin: str, found: Contents, details: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a dataset is what it should be, and in words.

    Args:
      suite, name: of the dataset.
      origin: how it was had; see `tasks.core.Provenance`.
      details: that its provenance has of it; of a generated set the recipe.
    """
    if origin == "generated":
        recipe = details.get("recipe", {})
        if (asked := recipe.get("episodes")) is not None and found.episodes != asked:
            return False, f"DIFFERS: {found.episodes} episodes, {asked} were asked for"
        least = fewest(name, details) if "transitions" in recipe else 0
        if found.transitions < least:
            return False, f"DIFFERS: {found.transitions:,} transitions, {least:,} were asked for"
        return True, "as asked for" if asked or least else "made here: nothing to compare with"
    if (expected := expectation(suite, name)) is None:
        return True, "nothing to compare with"
    wanted = int(expected["transitions"])
    if origin == "given":  # need not be the published set
        alike = abs(found.transitions - wanted) <= TOLERANCE * wanted
        return True, f"given; {'as many' if alike else 'not as many'} transitions as published ({wanted:,})"
    if abs(found.transitions - wanted) > TOLERANCE * wanted:
        return False, f"DIFFERS: {wanted:,} transitions were expected ({expected['source']})"
    mean = expected["mean_return"]
    if mean and abs(found.mean_return - float(mean)) > RETURN_TOLERANCE * abs(float(mean)):
        return False, f"DIFFERS: a mean return of {mean} was expected ({expected['source']})"
    return True, "as expected"


app = typer.Typer(add_completion=False)


@app.command()
def main(
    suites: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(tasks.SUITES)}; default: all")] = None,
    patterns: Annotated[str | None, typer.Option("--tasks", help="comma-separated names or globs")] = None,
    data: Annotated[
        str, typer.Option(help="auto, download, generate, a file or a folder of them: what to look at")
    ] = "auto",
    episodes: Annotated[int, typer.Option(min=1, help="of a dataset that was generated")] = 1000,
) -> None:
    """Says for each task what is there, from where, how much, and whether it is as expected.

    A task that fails, in whatever way, fails alone.
    """
    out, wrong, there, absent = Console(), 0, 0, dict[str, list[str]]()
    out.width = max(out.width, 140)  # as wide as the table, where the output is no terminal
    columns = ("transitions", "episodes", "return: mean (least, most)", "terminal %", "verdict", "from")
    table = Table(Column("task", no_wrap=True), *columns[:-1], Column(columns[-1], overflow="fold"))
    globs = [] if patterns is None else parts("--tasks", patterns, "task")
    if filled("--data", data) not in ("auto", "download", "generate") and not exists(expanded(Path(data))):
        raise BadInput(f"no such file: {data} (--data takes auto, download, generate or a path)")
    alone = len(suites or []) == 1
    chosen = [task for suite in suites or list(tasks.SUITES) for task in _tasks(suite, globs, alone)]
    if not chosen:
        raise BadInput(f"no task matches --tasks {patterns}")
    for task in chosen:
        choice = "generate" if task.suite == "toy" else data
        try:
            where = (task := task.sized(episodes)).data_location(choice)
            if not where.there:
                absent.setdefault(where.text, []).append(task.name)
                continue
            dataset = task.load(choice)
        except Absent as error:
            absent.setdefault(str(error), []).append(task.name)
            continue
        except Exception as error:
            wrong += 1
            table.add_row(task.name, *[""] * 4, shown(f"REFUSED: {told(error)}"), "")
            continue
        if isinstance(dataset, Corpus):
            there += 1
            table.add_row(task.name, *counts(dataset), "", "", "nothing to compare with", shown(where.text))
            continue
        found, made = contents(dataset), dataset.provenance
        right, words = verdict(task.suite, made.name, made.origin, found, made.details)
        wrong, there = wrong + (not right), there + right
        returns = f"{found.mean_return:.1f} ({found.least_return:.1f}, {found.most_return:.1f})"
        table.add_row(task.name, f"{found.transitions:,}", f"{found.episodes:,}", returns, f"{100 * found.ends:.2f}",
                      words, shown(where.text))  # fmt: skip
    for text, names in absent.items():
        out.print(shown(f"absent, {text}: {', '.join(names)}"), highlight=False, soft_wrap=True)
    if table.rows:
        out.print(table)
    out.print(f"{len(chosen)} tasks: {there} there and sound, {sum(map(len, absent.values()))} absent, {wrong} wrong",
              highlight=False)  # fmt: skip
    raise typer.Exit(1 if wrong else 0)


def told(error: Exception, doing: str = "loading it") -> str:
    """What a task failed of, in one line; its kind, where it is none that was thought of."""
    if isinstance(error, MemoryError):
        return f"out of memory {doing}"
    return reason(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {reason(error)}"


def shown(text: str) -> str:
    """As rich prints it as it stands, a path with brackets, too."""
    return escape(printable(text))


def _tasks(suite: str, globs: list[str], alone: bool) -> tuple[Any, ...]:
    """The suite's tasks that match; those that `--list` shows if there is no glob. Where it is not the only suite that
    is looked at, none need match."""
    if not globs:
        return tuple(tasks.suite(suite).get(name) for name in tasks.listed(suite)[0])
    try:
        return tasks.select(suite, globs)
    except BadInput:
        if alone:
            raise
        return ()
