"""Estimates of what each test-time setting of trained methods is worth, from data alone: `offline.csv` in each seed's
folder.

Takes the options of `harness.run` that say which runs are meant; nothing is trained but FQE's critics. A seed whose
file was made in the same way is passed over, so that a command that was stopped goes on. `--select offline:lcb` of the
analysis chooses by what is found, and `python -m analysis.offline` says what such a choice loses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from core.command import guarded
from core.files import expanded
from core.remote import Unreachable
from harness import options
from methods.core import BadInput

if TYPE_CHECKING:
    from harness.estimating import Asking
    from harness.plan import RunNode
    from harness.request import Request

MOST = 1_000_000  # transitions, and updates

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(cls=options.Command)
def offline(
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
    split: Annotated[str, typer.Option(help="where is asked: validation (held out) or training")] = "validation",
    transitions: Annotated[int, typer.Option(min=1, max=MOST, help="drawn from there")] = 4096,
    updates: Annotated[int, typer.Option(min=0, max=MOST, help="of FQE's critics; 0: without FQE")] = 10_000,
) -> None:  # fmt: skip
    """Estimates the settings of finished runs offline; the options are those of harness.run that made them."""
    console = Console(stderr=True)
    given = {name: context.params[name] for name in options.on_command_line(context, context.params)}

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def go() -> int:
        options.check_once(context)
        options.check(given)
        from harness.estimating import SPLITS, Asking
        from harness.request import of_command_line
        from harness.storage import place

        asked, _ = of_command_line(context.params, given)
        url, folder = place(results)
        if split not in SPLITS:
            raise BadInput(f"--split {split}: it is one of {', '.join(SPLITS)}")
        return _ask(asked, url, expanded(folder), Asking(split, transitions, updates), say, console)

    raise typer.Exit(guarded(go))


def _ask(asked: Request, url: str, base: Path, asking: Asking, say: Callable[[str], None], console: Console) -> int:
    """Of every run that is meant; returns the exit code."""
    from harness.estimating import estimate, held_out
    from harness.numerics import pin
    from harness.progress import Progress
    from harness.remaining import folders
    from harness.session import Session, seeds_text
    from harness.stale import Stale
    from harness.storage import opened

    plan = asked.plan()
    if plan.family != "control":
        raise BadInput(f"suite {plan.tasks[0].suite}: its methods act in no environment, so there are no transitions")
    for line in pin(plan.family):
        say(line)
    done, lacking = 0, list[str]()
    with Progress(console) as progress, opened(url, base, progress.say) as (results, storage):
        session = Session(results, progress, storage=storage)
        for task in plan.tasks:
            there = storage.names(results / "runs" / task.suite / task.name)
            names = [one for one in plan.methods if one in there]
            if plan.named or not names:
                lacking += [f"{one} on {task.name}: has not been run" for one in plan.methods if one not in names]
            if not names:  # nothing is downloaded or generated for it
                continue
            training = task.load(plan.data)
            runs = replace(plan, methods=tuple(names)).runs(task, training.identity)
            runs = [run for run in runs if not run.continues]
            storage.refresh(folders([trial for run in runs for trial in run.trials()], results))
            if line := Stale(results, [trial for run in runs for trial in run.trials()]).line():
                say(f"error: {line}; harness.run --stale says what becomes of it")
                return 2
            try:
                dataset = held_out(task, training, asking.split)
            except BadInput as error:
                lacking.append(str(error))
                continue
            seeds_in_all = sum(len(run.settings.seeds) for run in runs)
            with progress.stage(f"{task.name}: estimates", seeds_in_all, 0) as bar:
                for run in runs:
                    try:
                        with storage.in_hand([], folders(run.trials(), results)):
                            seeds, before = estimate(session, run, dataset, asking, bar.advance)
                    except Unreachable:
                        raise
                    except BadInput as error:
                        lacking.append(str(error))
                        continue
                    done += 1
                    progress.say(_said(run, seeds_text(seeds), seeds == before, url or str(results), results))
                    if left := sorted({*run.settings.seeds} - {*seeds}):
                        lacking.append(f"{run.label}: {seeds_text(left)} not finished")
    for line in lacking:
        say(f"error: {line}")
    return 0 if done and not lacking else 2


def _said(run: RunNode, seeds: str, known: bool, url: str, results: Path) -> str:
    """The line on a run that is done: where its files are, and which estimates its critic does not allow."""
    from methods.valuation import critic_of

    critic = critic_of(run.method)
    why = ""
    if critic is None:
        why = "; no critic of finished actions: fqe and transport alone"
    elif critic.members < 2:
        why = f"; one critic, so no disagreement: --set {run.method.name}.critics=K trains K"
    where = f"{url}/{run.folder(results).relative_to(results)}/seed-*/offline.csv"
    return f"{run.label}: {seeds}: {where}{' (there before)' * known}{why}"
