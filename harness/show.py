"""What the command line prints instead of running: methods and tasks, settings with their origins, the plan's graph."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

import methods
import tasks
from core.command import absent
from harness.plan import RunNode, StageNode, together


def listing(suite: str | None) -> None:
    """Every method with a line, and the tasks of one suite or of all."""
    suites = {name: tasks.listed(name) for name in ([suite] if suite else tasks.SUITES)}
    console = Console(soft_wrap=True)
    for family in dict.fromkeys(map(tasks.family, suites)):
        console.print("methods" if family == "control" else f"{family} methods", style="bold")
        for line in _method_lines(family):
            console.print(f"  {line}", highlight=False, markup=False)
    for name, (names, more) in suites.items():
        console.print(f"suite {name}", style="bold")
        for line in (*names, more) if more else names:
            console.print(f"  {line}", highlight=False, markup=False)


def _method_lines(family: str) -> list[str]:
    """Each method with the first line of its module; one line alone where what they need is not installed."""
    try:
        modules = {name: sys.modules[methods.get(name, family).__module__] for name in methods.registry(family)}
    except ModuleNotFoundError as error:
        return [str(absent(error))]
    return [f"{name:<13}{((module.__doc__ or '').strip().splitlines() or [''])[0]}" for name, module in modules.items()]


def settings(drafts: Sequence[RunNode]) -> None:
    """Every setting of every run, and the layer it came from."""
    console = Console()
    for node in drafts:
        table = Table("setting", "value", "origin", title=node.label, title_justify="left")
        for field in dataclasses.fields(node.resolved.config):
            value, origin = getattr(node.resolved.config, field.name), node.resolved.origins[field.name]
            table.add_row(field.name, escape(str(value)), escape(origin))
        console.print(table)


def plan(drafts: Sequence[RunNode], whereabouts: Mapping[str, str], results: Path) -> None:
    """The graph of stages by task: each stage once, under the last of those it reads, with who uses it and its time."""
    from harness.engine import engine_of

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 200)  # a tree cuts its lines
    times = engine_of(drafts[0]).estimate(drafts, Console(stderr=True))
    for task, where in whereabouts.items():
        runs = [run for group in together([run for run in drafts if run.task.name == task]).ordered() for run in group]
        tree = Tree(f"[bold]{escape(task)}[/bold]  data: {escape(where)}")
        branches: dict[str, Tree] = {}
        for run in runs:
            made: dict[str, str] = {}
            for node in run.nodes:
                if node.fingerprint not in branches:
                    above = [made[part] for part in node.needs]
                    below = next((fingerprint for fingerprint in reversed(branches) if fingerprint in above), None)
                    text = _stage(node, runs, times[node.fingerprint])
                    branches[node.fingerprint] = (branches[below] if below else tree).add(text)
                made |= dict.fromkeys(node.stage.trains, node.fingerprint)
            branches[run.nodes[-1].fingerprint].add(_evaluation(run, runs))
        console.print(tree)
    total = sum(times.values())
    continued = {run.continues.fingerprint for run in drafts if run.continues}
    alone = sum(times[node.fingerprint] for run in drafts if run.fingerprint not in continued for node in run.nodes)
    console.print(f"{len(drafts)} runs x {len(drafts[0].settings.seeds)} seeds; results: {results}/", markup=False)
    console.print(f"training about {duration(total)} on this device ({duration(alone - total)} saved by sharing); "
                  f"data, compilation{', exploring' if drafts[-1].continues else ''} and evaluation come on top",
                  markup=False)  # fmt: skip


def _stage(node: StageNode, runs: Sequence[RunNode], seconds: float) -> str:
    users = [run.name for run in _users(node, runs)]
    whom = f"[green]shared by {len(users)}: {', '.join(users)}[/green]" if len(users) > 1 else f"for {users[0]}"
    about = escape(f"{node.stage.name}: {node.stage.rule}")
    steps = f"{node.updates} {'updates' if node.online else 'steps'}"
    if node.online:
        steps = f"{node.stage.steps} environment steps, {steps}"
    return f"{about}; {steps}, {duration(seconds)}, {whom}"


def _users(node: StageNode, runs: Sequence[RunNode]) -> list[RunNode]:
    return [run for run in runs if node.fingerprint in {other.fingerprint for other in run.nodes}]


def _evaluation(run: RunNode, runs: Sequence[RunNode]) -> str:
    """Of a last stage that is an earlier one of a run before, only the end can be evaluated."""
    last = run.nodes[-1]
    along = _users(last, runs)[0].nodes[-1].fingerprint == last.fingerprint
    rows = len(run.settings.seeds) * len(run.method.knobs) * run.settings.episodes
    times = len(run.evaluation_steps()) if along else 1
    return f"[bold]{run.name}[/bold] evaluated {times} time{'s' * (times > 1)}, {rows} episodes each"


def duration(seconds: float) -> str:
    """In the unit a person would choose."""
    if math.isnan(seconds):
        return "?"
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
