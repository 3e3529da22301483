"""What the command line prints instead of running: methods and tasks, settings with their origins, the plan's graph."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

import methods
import tasks
from harness.session import seeds_text
from methods.core import leaves

if TYPE_CHECKING:
    from harness.options import Execution
    from harness.plan import RunNode
    from harness.programs import Program
    from harness.request import Plan
    from harness.storage import Storage
    from tasks.core import DataLocation

Texts: TypeAlias = tuple[tuple[str, "Texts"], ...]
"""Of a tree: each branch and what is below it."""


def listing(suite: str | None) -> None:
    """Every method with a line, and the tasks of one suite or of all."""
    suites = {name: tasks.listed(name) for name in ([suite] if suite else tasks.SUITES)}
    console = Console(soft_wrap=True)
    for family in dict.fromkeys(map(tasks.family, suites)):
        console.print("methods" if family == "control" else f"{family} methods", style="bold")
        for name in methods.registry(family):
            console.print(f"  {name:<13}{methods.about(name, family)}", highlight=False, markup=False)
    for name, (names, more) in suites.items():
        console.print(f"suite {name}", style="bold")
        for line in (*names, more) if more else names:
            console.print(f"  {line}", highlight=False, markup=False)
        for protocol in filter(lambda one: one.name, tasks.about(name).protocols.values()):
            console.print(f"  --protocol {protocol.name:<8}{protocol.about}", highlight=False, markup=False)


def settings(drafts: Sequence[RunNode]) -> None:
    """Every setting of every run, and the layer it came from."""
    console = Console()
    for node in drafts:
        table = Table("setting", "value", "origin", title=node.label, title_justify="left")
        for field in dataclasses.fields(node.resolved.config):
            value, origin = getattr(node.resolved.config, field.name), node.resolved.origins[field.name]
            table.add_row(field.name, escape(str(value)), escape(origin))
        console.print(table)


def plan(
    plan: Plan, places: Mapping[str, DataLocation], execution: Execution, storage: Storage, *, timed: bool = False
) -> None:
    """What of a plan is finished and what is to do: runs, then programs with their lanes, each under the last of those
    that it reads. With `timed` how long they would take, which is measured."""
    from harness.engines import engine_of
    from harness.remaining import folders, remaining
    from harness.stale import OUTCOMES, Stale

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 200)  # a tree cuts its lines
    engine = engine_of(plan.tasks[0].suite)
    todo: list[Program] = []
    lines, shown = list[str](), dict[Texts, str]()
    for task in plan.tasks:
        known = places[task.name].there
        dataset = task.load(execution.data) if known else None
        runs = plan.runs(task, dataset.identity if dataset else "?")
        if dataset:
            engine.check(runs, dataset)
        by = f"  protocol: {escape(plan.protocol)}" if plan.protocol else ""
        head = f"[bold]{escape(task.name)}[/bold]{by}  data: {escape(places[task.name].text)}"
        tree = Tree(head)
        trials = [trial for run in runs for trial in run.trials()]
        storage.refresh(folders(trials, execution.results))
        stale = Stale(execution.results, [] if execution.fresh else trials)
        if line := stale.line():
            lines.append(f"{line}; {OUTCOMES[execution.stale]}")
        gone = stale.gone if execution.stale == "redo" else set()
        made = remaining(trials, execution.results, engine, execution.lanes, nothing=execution.fresh, gone=gone)
        todo += made.programs
        times = engine.estimate(made.programs, Console(stderr=True)) if timed else {}
        branches: dict[str, Tree] = {}
        for program in made.programs:
            above = [one.fingerprint for lane in program.lanes for one in lane.reads.values()]
            below = next((branches[one] for one in reversed(above) if one in branches), tree)
            branch = below.add(_program(program, times.get(program.first.fingerprint)))
            branches |= {lane.fingerprint: branch for lane in program.lanes}
            for run, seeds in _evaluated(program).items():
                rows = len(run.method.knobs) * run.settings.episodes
                branch.add(f"[bold]{escape(run.name)}[/bold]{_setting(run)} evaluated, {seeds_text(seeds)}, {rows} "
                           f"episodes each")  # fmt: skip
        for run, seeds in made.finished.items():
            tree.add(f"[green]finished[/green]: {escape(run.label)}, {seeds_text(seeds)} ({run.fingerprint})")
        if first := shown.get(texts := _texts(tree)):
            console.print(f"{head}; as {escape(first)}")
        else:
            shown[texts] = task.name
            console.print(tree)
    for line in lines:
        console.print(line, markup=False)
    lanes = sum(len(program.training) for program in todo)
    text = f"to do: {_count(lanes, 'lane')} in {_count(sum(bool(one.training) for one in todo), 'program')}"
    console.print(f"{text}; results: {execution.place}/", markup=False)
    if not all(place.there for place in places.values()):
        console.print("what is finished of tasks without data cannot be told before they are there", markup=False)


def _texts(tree: Tree) -> Texts:
    """What stands below a tree's head."""
    return tuple((str(child.label), _texts(child)) for child in tree.children)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _setting(run: RunNode) -> str:
    return f" ({escape(run.setting)})" if run.setting else ""


def _evaluated(program: Program) -> dict[RunNode, list[int]]:
    """Seeds by run."""
    runs: dict[RunNode, list[int]] = {}
    for trial in program.trials:
        runs.setdefault(trial.run, []).append(trial.seed)
    return runs


def _program(program: Program, seconds: float | None) -> str:
    node = program.first.node
    about = escape(f"{node.stage.name}: {node.stage.rule}")
    if not program.training:
        return f"{about}; trained before"
    steps = f"{node.updates} {'updates' if node.online else 'steps'}"
    if node.online:
        steps = f"{node.stage.steps} environment steps, {steps}"
    if program.step:
        steps += f", from step {program.step} on"
    lanes = _count(len(program.training), "lane")
    values = [leaves(lane.method.config) for lane in program.training]
    differing = [name for name in values[0] if len({one.get(name) for one in values}) > 1]
    swept = f" of different {', '.join(differing)}" if differing else ""
    seeds = sorted({lane.seed for lane in program.training})
    time = "" if seconds is None else f", about {duration(seconds)}"
    return f"{about}; {steps}, {lanes}{swept}, {seeds_text(seeds)}{time}"


def duration(seconds: float) -> str:
    """In the unit a person would choose."""
    if math.isnan(seconds):
        return "?"
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
