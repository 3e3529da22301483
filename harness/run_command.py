"""The command line: parses, plans, prints. There is no training code here.

python -m harness.run --methods vgf,fql --suite ogbench
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import methods
import tasks
from core.command import guarded
from core.files import expanded
from core.streams import STANDARD_OUTPUT
from harness import options, quiet, show
from harness.ending import STORAGE, Interrupted
from methods.core import BadInput

if TYPE_CHECKING:
    from harness.adopt import Offer
    from harness.config import Override, RunSettings
    from harness.plan import RunNode

_MANY = 1000  # seeds: more are not planned before it is seen that they fit

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def run(
    context: typer.Context,
    what: Annotated[list[str] | None, typer.Argument(metavar="[METHOD [TASK]]", help="with --show-config")] = None,
    names: Annotated[str, typer.Option("--methods", help="comma-separated; default: every method")] = "",
    suite: Annotated[str | None, typer.Option(help="|".join(tasks.SUITES) + "; default: the tasks', or toy")] = None,
    patterns: Annotated[str, typer.Option("--tasks", help="globs, comma-separated; default: the paper's tasks")] = "",
    seeds: Annotated[int | None, typer.Option(help="seeds 0..N-1")] = None,
    steps: Annotated[int | None, typer.Option(help="gradient steps of each method's own stage")] = None,
    preset: Annotated[str | None, typer.Option(help="paper|cpu|demo|smoke; default: paper, for toy: cpu")] = None,
    data: Annotated[str, typer.Option(help="auto|download|generate|PATH")] = "auto",
    results: Annotated[str, typer.Option(help="where records go")] = "results",
    sets: Annotated[list[str] | None, typer.Option("--set", help="[METHOD.|task.]KEY=VALUE; may be repeated")] = None,
    episodes: Annotated[int | None, typer.Option(help="evaluation episodes per seed and test-time setting")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="gradient steps between evaluations")] = None,
    data_episodes: Annotated[int | None, typer.Option(help="episodes of a dataset that is generated")] = None,
    online_steps: Annotated[int | None, typer.Option(help="environment steps online after the offline end")] = None,
    online_warmup: Annotated[int | None, typer.Option(help="of them, steps before the first update")] = None,
    updates_per_step: Annotated[int | None, typer.Option(help="gradient steps to an environment step")] = None,
    online_evaluate_every: Annotated[int | None, typer.Option(help="environment steps between evaluations")] = None,
    replay_capacity: Annotated[int | None, typer.Option(help="transitions, the dataset's too; default: all")] = None,
    jobs: Annotated[int | None, typer.Option(help="runs (language: seeds, too) at a time on this machine")] = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="continue and skip, or delete and redo")] = True,
    adopt: Annotated[list[str] | None, typer.Option(help="an artefact's folder to use; may be repeated")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and an estimate; run nothing")] = False,
    listing: Annotated[bool, typer.Option("--list", help="print methods, suites and tasks")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="print every setting with its origin")] = False,
) -> None:
    """Trains and evaluates methods on tasks; records go to RESULTS. The same command continues what was stopped."""
    console = Console(stderr=True)
    sizes = {"seeds": seeds, "episodes": episodes, "evaluate_every": evaluate_every, "data_episodes": data_episodes,
             "online_steps": online_steps, "online_warmup": online_warmup, "updates_per_step": updates_per_step,
             "online_evaluate_every": online_evaluate_every, "replay_capacity": replay_capacity,
             "jobs": jobs}  # fmt: skip
    given = {name: context.params[name] for name in options.on_command_line(context, context.params)}

    def go() -> int:
        options.check(given)
        chosen, globs = _shown(what or [], show_config, names, patterns)
        if listing:
            show.listing(suite)
            return 0
        home = suite or (tasks.home(globs) if globs else tasks.DEFAULT)
        return _main(chosen, home, globs, preset, data, Path(results), sets or [], list(map(Path, adopt or [])), resume,
                     dry_run, show_config, sizes, steps, console)  # fmt: skip

    raise typer.Exit(guarded(lambda: _written(go, Path(results))))


def _written(call: Callable[[], int], results: Path) -> int:
    """`call()`, with a line that names the folder of results where that cannot be written."""
    try:
        return call()
    except OSError as error:
        if error.errno not in STORAGE or error.filename == STANDARD_OUTPUT:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise BadInput(f"{results} {STORAGE[error.errno]}{where}") from error


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


def _main(
    named: list[str], suite: str, globs: list[str], preset: str | None, data: str, results: Path, sets: list[str],
    adopt: list[Path], resume: bool, dry_run: bool, show_config: bool, sizes: dict[str, int | None], steps: int | None,
    console: Console,
) -> int:  # fmt: skip
    from harness.numerics import pin

    chosen_tasks = tasks.select(suite, globs)
    family = tasks.family(suite)
    results, adopt = expanded(results), [expanded(path) for path in adopt]
    for line in pin(family):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    chosen = named or list(methods.registry(family))
    for name in chosen:
        methods.get(name, family)
    settings, overrides = _settings(suite, preset, sizes, steps, sets, chosen)

    from harness import budget
    from harness.adopt import Offer
    from harness.config import task_options
    from harness.engine import engine_of
    from harness.plan import plan_all
    from tasks.core import choose

    def planned(task: Any, data_id: str, settings: RunSettings = settings) -> list[RunNode]:
        return plan_all(task, data_id, chosen, overrides, settings, chosen=bool(named))

    if sizes["data_episodes"] is not None:
        _check_data_episodes(chosen_tasks, settings.data_episodes, data)
    made = task_options(overrides)
    chosen_tasks = tuple(choose(task.sized(settings.data_episodes), made) for task in chosen_tasks)
    # looks at everything before anything is fetched or written, so that a bad value costs nothing
    whereabouts = {task.name: task.whereabouts(data).text for task in chosen_tasks}
    few = replace(settings, seeds=settings.seeds[:1])  # enough to see what each takes
    engine_of(planned(chosen_tasks[0], "?", few)[0]).device()
    if len(settings.seeds) > _MANY:
        budget.check([run for task in chosen_tasks for run in planned(task, "?", few)], len(settings.seeds), results)
    drafts = [run for task in chosen_tasks for run in planned(task, "?")]
    budget.check(drafts, len(settings.seeds), results)
    offered = [Offer(path) for path in adopt]
    for offer in offered:
        offer.check(drafts, data_known=False)
    if show_config:
        show.settings([run for run in drafts if not run.continues])
        return 0
    if dry_run:
        show.plan(drafts, whereabouts, results)
        return 0
    per_task = len(drafts) // len(chosen_tasks)
    return _carry_out(chosen_tasks, planned, per_task, settings.jobs, data, results, resume, offered, console)


def _check_data_episodes(chosen_tasks: Sequence[Any], episodes: int, data: str) -> None:
    """Refuses a size for data that are not generated, or that no memory holds. Raises: BadInput."""
    from harness import budget

    generated = data in ("auto", "generate") and any(task.sized(1) != task.sized(2) for task in chosen_tasks)
    if not generated:
        where = f"--data {data}" if data not in ("auto", "generate") else f"suite {chosen_tasks[0].suite}"
        raise BadInput(f"--data-episodes has no meaning for {where}: nothing is generated in that size")
    for task in chosen_tasks:
        budget.check_dataset(task, episodes)


def _settings(
    suite: str, preset: str | None, sizes: dict[str, int | None], steps: int | None, sets: list[str], chosen: list[str]
) -> tuple[RunSettings, tuple[Override, ...]]:
    """Run sizes and method overrides from the preset and the command line."""
    from harness.config import Override, RunSettings, check_keys, parse_set
    from harness.config import preset as load_preset

    values, overrides = load_preset(suite, preset)
    values |= {name: value for name, value in sizes.items() if value is not None}
    options.check_sizes(sizes, values.get("online_steps", 0))
    values["seeds"] = range(values["seeds"])
    family = tasks.family(suite)
    given = parse_set(sets, family)
    check_keys(chosen, given, family)
    if steps is not None:
        given = (*given, Override(None, "steps", steps, "--steps"))
    return RunSettings(**values), (*overrides, *given)


def _carry_out(
    chosen_tasks: tuple[Any, ...], planned: Callable[[Any, str], list[RunNode]], per_task: int, jobs: int,
    data: str, results: Path, resume: bool, offered: list[Offer], console: Console,
) -> int:  # fmt: skip
    """Runs task by task, so that one dataset is on the device at a time; returns the exit code.

    A task whose data cannot be had is passed over with a line, unless none can. `planned`: a task's runs, `per_task` of
    them, with these data.
    """
    from harness.execute import Executor
    from harness.plan import together
    from harness.progress import Progress
    from harness.record import write_arrays

    statuses: list[str] = []
    resuming = "the same command continues" + ("" if resume else ", without --fresh")
    with Progress(console) as progress:
        executor = Executor(results, progress, jobs)
        for task in chosen_tasks:
            try:
                dataset = task.load(data)
            except BadInput as error:
                if task is chosen_tasks[-1] and set(statuses) <= {"no data"}:
                    raise
                progress.say(f"{task.name}: passed over: {error}")
                statuses += ["no data"] * per_task
                continue
            except KeyboardInterrupt:
                progress.say(f"stopped while getting data for {task.name}; {resuming}")
                return 130
            nodes = planned(task, dataset.identity)
            matching = [(offer, node) for offer in offered if (node := offer.check(nodes))]  # all, before any is taken
            for offer, node in matching:
                executor.forgotten.add(offer.take(executor.artifact(node), anew=not resume))
            if landscape := task.landscape():
                write_arrays(results / "tasks" / task.suite / f"{task.name}.npz", landscape)
            try:
                with executor.stop.listening(), quiet.about_failed_saves():
                    statuses += executor.run(together(nodes), dataset, fresh=not resume)
            except Interrupted:
                progress.say(f"stopped; {resuming}")
                return 130
    unfinished = len(statuses) - statuses.count("finished")
    console.print(f"{statuses.count('finished')} of {len(statuses)} runs finished; records in {results}/",
                  markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    return 1 if unfinished else 0
