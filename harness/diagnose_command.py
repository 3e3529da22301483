"""What trained methods tell of themselves beside scores, written to `diagnosis.csv` in each seed's folder.

Takes the options of `harness.run` that say which runs are meant; nothing is trained. Of methods that declare nothing
to ask (`Method.diagnoses`) a line says so. `python -m analysis.plots` draws what is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import methods
from core.command import guarded
from core.files import expanded
from core.remote import Unreachable
from harness import options
from methods.core import BadInput, Method

if TYPE_CHECKING:
    from harness.plan import RunNode
    from harness.request import Request

MOST = 4096  # states

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(cls=options.Command)
def diagnose(
    context: typer.Context,
    names: Annotated[str, typer.Option("--methods", help="comma-separated; default: every method")] = "",
    suite: Annotated[str | None, typer.Option(help="default: the tasks', or toy")] = None,
    patterns: Annotated[str, typer.Option("--tasks", help="globs, comma-separated")] = "",
    seeds: Annotated[str | None, typer.Option(help="how many (5), a range (3-7) or a list (0,4,9)")] = None,
    steps: Annotated[int | None, typer.Option(help="gradient steps of each method's own stage")] = None,
    preset: Annotated[str | None, typer.Option(help="one of the suite's sizes: paper|laptop|cpu|demo|smoke")] = None,
    protocol: Annotated[str, typer.Option(help="by whose rules")] = "",
    data: Annotated[str, typer.Option(help="auto|download|generate|PATH")] = "auto",
    results: Annotated[str, typer.Option(help="where the records are: a folder or a URL")] = "results",
    sets: Annotated[list[str] | None, typer.Option("--set", help="[METHOD.|task.]KEY=VALUE; may be repeated")] = None,
    swept: Annotated[list[str] | None, typer.Option("--sweep", help="METHOD.KEY=V1,V2,...")] = None,
    episodes: Annotated[int | None, typer.Option(help="as the runs have it")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="as the runs have it")] = None,
    data_episodes: Annotated[int | None, typer.Option(help="as the runs have it")] = None,
    plan: Annotated[str, typer.Option(help="a file that --save-plan wrote; options come on top of it")] = "",
    states: Annotated[int, typer.Option(min=1, max=MOST, help="of the data, at which is asked")] = 64,
) -> None:  # fmt: skip
    """Asks finished runs what their methods declare; the options are those of harness.run that made them."""
    console = Console(stderr=True)
    given = {name: context.params[name] for name in options.on_command_line(context, context.params)}

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def go() -> int:
        options.check_once(context)
        options.check(given)
        from harness.request import of_command_line
        from harness.storage import place

        asked, _ = of_command_line(context.params, given)
        url, folder = place(results)
        return _ask(asked, url, expanded(folder), states, say, console)

    raise typer.Exit(guarded(go))


def _ask(asked: Request, url: str, base: Path, states: int, say: Callable[[str], None], console: Console) -> int:
    """Of every run that is meant; returns the exit code."""
    from harness.diagnosis import diagnose as of_run
    from harness.numerics import pin
    from harness.progress import Progress
    from harness.remaining import folders
    from harness.session import Session, seeds_text
    from harness.stale import Stale
    from harness.storage import opened

    plan = asked.plan()
    if plan.family != "control":
        raise BadInput(f"suite {plan.tasks[0].suite}: its methods declare nothing to ask")
    for line in pin(plan.family):
        say(line)
    asking = tuple(name for name in plan.methods if methods.get(name, plan.family).diagnoses is not Method.diagnoses)
    if not asking:
        raise BadInput(f"--methods {', '.join(plan.methods)}: none of them declares anything to ask")
    done, lacking = 0, list[str]()
    with Progress(console) as progress, opened(url, base, progress.say) as (results, storage):
        session = Session(results, progress, storage=storage)
        for task in plan.tasks:
            there = storage.names(results / "runs" / task.suite / task.name)
            names = [one for one in asking if one in there]
            lacking += [f"{one} on {task.name}: has not been run" for one in asking if one not in names]
            if not names:  # nothing is downloaded or generated for it
                continue
            dataset = task.load(plan.data)
            asked_of: dict[tuple[str, ...], RunNode] = {}  # by its lanes
            runs = replace(plan, methods=tuple(names)).runs(task, dataset.identity)
            storage.refresh(folders([trial for run in runs for trial in run.trials()], results))
            if line := Stale(results, [trial for run in runs for trial in run.trials()]).line():
                say(f"error: {line}; harness.run --stale says what becomes of it")
                return 2
            for run in (run for run in runs if not run.continues):
                lanes = tuple(lane.fingerprint for trial in run.trials() for lane in trial.lanes())
                if lanes in asked_of:
                    progress.say(f"{run.label}: of the same parts as {asked_of[lanes].label}, which was asked")
                    continue
                try:
                    with storage.in_hand([], folders(run.trials(), results)):
                        seeds = of_run(session, run, dataset, states)
                except Unreachable:
                    raise
                except BadInput as error:
                    lacking.append(str(error))
                    continue
                asked_of[lanes], done = run, done + 1
                where = run.folder(results).relative_to(results)
                progress.say(f"{run.label}: {seeds_text(seeds)}: {url or results}/{where}/seed-*/diagnosis.csv")
                if left := sorted({*run.settings.seeds} - {*seeds}):
                    lacking.append(f"{run.label}: {seeds_text(left)} not finished")
    for line in lacking:
        say(f"error: {line}")
    return 0 if done and not lacking else 2
