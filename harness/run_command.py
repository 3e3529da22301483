"""The command line: parses, plans, prints. There is no training code here.

python -m harness.run --methods vgf,fql --suite ogbench
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import tasks
from core.command import guarded
from core.files import expanded
from core.records import RELEASED
from core.remote import is_url
from core.streams import STANDARD_OUTPUT
from harness import options, show
from harness.ending import STORAGE
from harness.options import Execution
from harness.storage import opened, place
from methods.core import BadInput

if TYPE_CHECKING:
    from harness.request import Request

_SWEEP = "METHOD.KEY=V1,V2,...: a run of each value; several make a grid; also METHOD.KEY=@FILE, METHOD=@FILE.csv"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(cls=options.Command)
def run(
    context: typer.Context,
    what: Annotated[list[str] | None, typer.Argument(metavar="[METHOD [TASK]]", help="with --show-config")] = None,
    names: Annotated[str, typer.Option("--methods", help="comma-separated; default: every method")] = "",
    suite: Annotated[str | None, typer.Option(help="|".join(tasks.SUITES) + "; default: the tasks', or toy")] = None,
    patterns: Annotated[str, typer.Option("--tasks", help="globs, comma-separated; default: the paper's tasks")] = "",
    seeds: Annotated[str | None, typer.Option(help="how many (5), a range (3-7) or a list (0,4,9)")] = None,
    steps: Annotated[int | None, typer.Option(help="gradient steps of each method's own stage")] = None,
    preset: Annotated[str | None, typer.Option(help="paper|laptop|cpu|demo|smoke; default: the suite's first")] = None,
    protocol: Annotated[str, typer.Option(help="by whose rules: chunks, critics, networks, sizes; --list has them")]
        = "",
    data: Annotated[str, typer.Option(help="auto|download|generate|PATH")] = "auto",
    results: Annotated[str, typer.Option(help="where records go: a folder, s3://... or gs://...")] = "results",
    sets: Annotated[list[str] | None, typer.Option("--set", help="[METHOD.|task.]KEY=VALUE; may be repeated")] = None,
    swept: Annotated[list[str] | None, typer.Option("--sweep", help=_SWEEP)] = None,
    episodes: Annotated[int | None, typer.Option(help="evaluation episodes per seed and test-time setting")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="gradient steps between evaluations")] = None,
    data_episodes: Annotated[int | None, typer.Option(help="episodes of a dataset that is generated")] = None,
    online_steps: Annotated[int | None, typer.Option(help="environment steps online after the offline end")] = None,
    online_warmup: Annotated[int | None, typer.Option(help="of them, steps before the first update")] = None,
    updates_per_step: Annotated[int | None, typer.Option(help="gradient steps to an environment step")] = None,
    online_evaluate_every: Annotated[int | None, typer.Option(help="environment steps between evaluations")] = None,
    replay_capacity: Annotated[int | None, typer.Option(help="transitions, the dataset's too; default: all")] = None,
    jobs: Annotated[int | None, typer.Option(help="programs at a time on this machine")] = None,
    lanes: Annotated[str, typer.Option(help="seeds and settings that train in one program, at most; auto: by memory")]
        = "auto",
    shard: Annotated[str, typer.Option(metavar="I/N", help="one of N processes that share RESULTS; I from 0")] = "",
    on: Annotated[str, typer.Option(metavar="ray[:ADDRESS]", help="a Ray cluster instead of this process")] = "",
    cpus_per_program: Annotated[float, typer.Option(help="with --on ray")] = 1.0,
    gpus_per_program: Annotated[float, typer.Option(help="with --on ray: a share of one (0.25), or several")] = 0.0,
    silence: Annotated[str, typer.Option(metavar="TIME", help="after which another worker counts as gone; 2m")] = "",
    stop_after: Annotated[str, typer.Option(metavar="TIME", help="save and stop then; 3h50m, 90s")] = "",
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="continue and skip, or delete and redo")] = True,
    track: Annotated[str, typer.Option(help="tensorboard|wandb: logs there, too; files go to RESULTS/track")] = "",
    stale: Annotated[str, typer.Option(help="reuse|redo what code made that has changed since; default: refuse")] = "",
    adopt: Annotated[list[str] | None, typer.Option(help="an artefact's folder to use; may be repeated")] = None,
    plan: Annotated[str, typer.Option(help="a file that --save-plan wrote; options come on top of it")] = "",
    save_plan: Annotated[str, typer.Option(help="write what is asked for to this file; run nothing")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what is finished and what is to do")] = False,
    timed: Annotated[bool, typer.Option("--time", help="with --dry-run: measure how long it would take")] = False,
    listing: Annotated[bool, typer.Option("--list", help="print methods, suites and tasks")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="print every setting with its origin")] = False,
) -> None:  # fmt: skip
    """Trains and evaluates methods on tasks; records go to RESULTS. The same command continues what was stopped."""
    console = Console(stderr=True)
    given = {name: context.params[name] for name in options.on_command_line(context, context.params)}

    def go() -> int:
        options.check_once(context)
        options.check(given)
        chosen, globs = _shown(what or [], show_config, names, patterns)
        if listing:
            show.listing(suite)
            return 0
        from harness.request import of_command_line

        asked, saved = of_command_line(context.params, given, methods=tuple(chosen), tasks=tuple(globs))
        if urls := [path for path in adopt or () if is_url(path)]:
            raise BadInput(f"--adopt {urls[0]}: is a URL, and folders are adopted; copy it first")
        given_parts = tuple(expanded(Path(path)) for path in adopt or ())
        url, folder = place(results)
        if (expanded(folder) / RELEASED).is_file():
            raise BadInput(f"--results {results}: is a release, which nothing is run into; name another folder")
        execution = Execution(
            expanded(folder),
            not resume,
            options.lanes(lanes),
            options.stale(stale),
            asked.data,
            given_parts,
            options.shard(shard),
            options.seconds("stop_after", stop_after),
            options.silence(silence),
            url,
            options.track(track, url),
        )
        options.check_elsewhere(given, on, url)
        if execution.shard and execution.fresh:
            raise BadInput("--fresh has no meaning with --shard: it would delete what the others do")
        if on and not (save_plan or dry_run or timed or show_config):
            return _on_cluster(on, asked, saved, expanded(Path(plan)), execution, (cpus_per_program, gpus_per_program),
                               console)  # fmt: skip
        how = "save" if save_plan else "config" if show_config else "time" if timed else "dry" if dry_run else ""
        return _main(asked, saved, execution, how, expanded(Path(save_plan or plan)), console)

    raise typer.Exit(guarded(lambda: _written(go, results)))


def _on_cluster(
    on: str, asked: Request, saved: Request, file: Path, execution: Execution, share: tuple[float, float],
    console: Console,
) -> int:  # fmt: skip
    """Carries a plan out elsewhere, without planning here."""
    _, _, address = on.partition(":")
    from harness.on_ray import Cluster, drive
    from harness.pieces import Order

    settled = asked.settled()
    how = replace(execution, results=execution.results.absolute(), data=settled.data)  # a worker stands elsewhere
    return drive(Order(settled, saved, file, how), Cluster(address, *share), console)


def _written(call: Callable[[], int], results: str) -> int:
    """`call()`, with a line that names the folder of results where that cannot be written."""
    try:
        return call()
    except OSError as error:
        if error.errno not in STORAGE or error.filename == STANDARD_OUTPUT:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise BadInput(f"{place(results)[1]} {STORAGE[error.errno]}{where}") from error


def _shown(what: list[str], show_config: bool, names: str, patterns: str) -> tuple[list[str], list[str]]:
    """Methods and tasks that are named, by options or by `--show-config METHOD TASK`."""
    if not what:
        return options.parts("names", names, "method"), options.parts("patterns", patterns, "task")
    if not show_config or names or (patterns and len(what) == 2):
        raise BadInput(f"unexpected argument {what[0]!r}; methods are named by --methods, tasks by --tasks")
    if len(what) > 2:
        raise BadInput(f"unexpected argument {what[2]!r}; expected --show-config METHOD TASK")
    named = what[1] if len(what) == 2 else patterns
    return options.parts("what", what[0], "method"), options.parts("patterns", named, "task")


def _main(asked: Request, saved: Request, execution: Execution, how: str, file: Path, console: Console) -> int:
    """Plans, and does what is wanted of the plan: `how` is "save", "config", "dry", "time", or "" to carry it out.

    `saved`: what options came on top of; `file`: where it is to be saved, or else where it is from.
    """
    plan = asked.plan()
    from harness.checked import checked

    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    found = checked(plan, asked, execution, None if how == "save" else (saved, file), say)
    if how == "save":
        asked.save(file)
    elif how == "config":
        show.settings([run for run in found.drafts if not run.continues])
    elif how:
        with opened(execution.url, execution.results, say, write=False) as (folder, storage):
            show.plan(plan, found.places, replace(execution, results=folder), storage, timed=how == "time")
    else:
        from harness.carry_out import carry_out

        with opened(execution.url, execution.results, say) as (folder, storage):
            how_here = replace(execution, results=folder)
            return carry_out(plan, found.per_task, how_here, found.adopted, console, storage)
    return 0
