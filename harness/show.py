"""What the command line prints instead of running: methods and tasks, settings with their origins, the plan's graph."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

import methods
import tasks
from harness.plan import RunNode, StageNode


def listing(suite: str | None) -> None:
    """Every method with a line, and the tasks of one suite or of all."""
    suites = {name: tasks.suite(name).names() for name in ([suite] if suite else tasks.SUITES)}
    console = Console(soft_wrap=True)
    console.print("methods", style="bold")
    for name in methods.REGISTRY:
        module = sys.modules[methods.get(name).__module__]
        console.print(f"  {name:<13}{(module.__doc__ or '').strip().splitlines()[0]}", highlight=False, markup=False)
    for name, names in suites.items():
        console.print(f"suite {name}", style="bold")
        for task in names:
            console.print(f"  {task}", highlight=False, markup=False)


def settings(drafts: Sequence[RunNode]) -> None:
    """Every setting of every run, and the layer it came from."""
    console = Console()
    for node in drafts:
        table = Table("setting", "value", "origin", title=node.label, title_justify="left")
        for field in dataclasses.fields(node.resolved.config):
            table.add_row(field.name, str(getattr(node.resolved.config, field.name)), node.resolved.origins[field.name])
        console.print(table)


def plan(drafts: Sequence[RunNode], whereabouts: Mapping[str, str], results: Path) -> None:
    """The graph of stages by task: each stage once, under the one it reads, with who uses it and its time."""
    from harness.estimate import seconds_per_stage

    console = Console(soft_wrap=True, highlight=False)
    times = seconds_per_stage(drafts)
    for task, where in whereabouts.items():
        runs = [run for run in drafts if run.task.name == task]
        tree = Tree(f"[bold]{task}[/bold]  data: {where}")
        branches: dict[str, Tree] = {}
        for run in runs:
            made: dict[str, str] = {}
            for node in run.nodes:
                if node.fingerprint not in branches:
                    above = [made[part] for part in node.stage.reads]
                    below = next((fingerprint for fingerprint in reversed(branches) if fingerprint in above), None)
                    text = _stage(node, [other for other in runs if node in other.nodes], times[node.fingerprint])
                    branches[node.fingerprint] = (branches[below] if below else tree).add(text)
                made |= dict.fromkeys(node.stage.trains, node.fingerprint)
            branches[run.nodes[-1].fingerprint].add(_evaluation(run))
        console.print(tree)
    total = sum(times.values())
    alone = sum(times[node.fingerprint] for run in drafts for node in run.nodes)
    console.print(f"{len(drafts)} runs x {len(drafts[0].settings.seeds)} seeds; results: {results}/", markup=False)
    console.print(f"training about {duration(total)} on this device ({duration(alone - total)} saved by sharing); "
                  "data, compilation and evaluation come on top", markup=False)  # fmt: skip


def _stage(node: StageNode, users: Sequence[RunNode], seconds: float) -> str:
    names = [run.method.name for run in users]
    shared = f" [green]shared by {len(names)}: {', '.join(names)}[/green]" if len(names) > 1 else ""
    return f"{node.stage.name}: {node.stage.rule}, {node.stage.steps} steps, {duration(seconds)}{shared}"


def _evaluation(run: RunNode) -> str:
    rows = len(run.settings.seeds) * len(run.method.knobs) * run.settings.episodes
    times = len(run.evaluation_steps())
    return f"[bold]{run.method.name}[/bold] evaluated {times} time{'s' * (times > 1)}, {rows} episodes each"


def duration(seconds: float) -> str:
    """In the unit a person would choose."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
