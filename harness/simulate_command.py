"""How long a plan would take on many workers of which some die, by a simulation (`harness/simulation.py`).

A program takes steps x milliseconds per update and lane, as measured for its stage, x its lanes. These were measured on
the CPU of the machine that the files name, at the methods' own settings: no GPU has been measured yet, so `--scale`
says how much faster a worker's device is, and networks of another size take another time. Compiling, evaluations and
the loading of each task's data are left out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from core.command import guarded
from core.errors import reason
from core.files import expanded, read_plain
from harness import options
from methods.core import BadInput

if TYPE_CHECKING:
    from harness.programs import Program
    from harness.request import Plan, Request
    from harness.simulation import Cluster, Outcome, Timed

_MEASURED = ("results/measured/throughput_cpu.csv", "results/measured/throughput_newer_cpu.csv")
_COLUMNS = ("method", "stage", "seeds", "precision", "ms_per_update_and_seed")
_MOST_LANES = 200_000
_MOST = {"workers": 1000, "repeats": 1000, "seed": 2**31 - 1, "synthetic": _MOST_LANES, "restart": 1e7, "start": 1e7,
         "die": 0.5, "scale": 1e6, "default_ms": 1e9}  # fmt: skip
_LEAST = {"workers": 1, "repeats": 1, "seed": 0, "synthetic": 1, "restart": 0, "start": 0, "die": 0, "scale": 1e-6,
          "default_ms": 1e-6}  # fmt: skip
_OF_A_PLAN = ("names", "suite", "patterns", "seeds", "steps", "preset", "protocol", "sets", "swept", "plan", "lanes",
              "seconds", "scale", "default_ms")  # fmt: skip

_SCALE = "how many times as fast a worker is as the device that was measured (a CPU: no GPU has been measured yet)"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Rates(NamedTuple):
    """Milliseconds per update and lane."""

    of: Mapping[tuple[str, str, str], Mapping[int, float]]  # (method, stage, precision) -> by lanes side by side
    files: tuple[str, ...]
    devices: tuple[str, ...]

    def ms(self, names: Sequence[str], stage: str, precision: str, lanes: int) -> float | None:
        """Of the first of the methods that was measured: beside as many lanes, or the next fewer, or else more."""
        for name in names:
            if found := self.of.get((name, stage, precision)):
                return found[max((count for count in found if count <= lanes), default=min(found))]
        return None


@app.command(cls=options.Command)
def simulate(
    context: typer.Context,
    names: Annotated[str, typer.Option("--methods", help="comma-separated; default: every method")] = "",
    suite: Annotated[str | None, typer.Option(help="default: the tasks', or toy")] = None,
    patterns: Annotated[str, typer.Option("--tasks", help="globs, comma-separated; default: the paper's tasks")] = "",
    seeds: Annotated[str | None, typer.Option(help="how many (5), a range (3-7) or a list (0,4,9)")] = None,
    steps: Annotated[int | None, typer.Option(help="gradient steps of each method's own stage")] = None,
    preset: Annotated[str | None, typer.Option(help="one of the suite's sizes: paper|laptop|cpu|demo|smoke")] = None,
    protocol: Annotated[str, typer.Option(help="by whose rules")] = "",
    sets: Annotated[list[str] | None, typer.Option("--set", help="[METHOD.|task.]KEY=VALUE; may be repeated")] = None,
    swept: Annotated[list[str] | None, typer.Option("--sweep", help="METHOD.KEY=V1,V2,...")] = None,
    plan: Annotated[str, typer.Option(help="a file that --save-plan wrote; options come on top of it")] = "",
    lanes: Annotated[str, typer.Option(help="lanes in one program, at most; auto: by this machine's memory")] = "auto",
    synthetic: Annotated[int | None, typer.Option(help="instead of a plan: so many lanes of random durations")] = None,
    seconds: Annotated[list[str] | None, typer.Option(metavar="FILE.csv", help="rates that harness.throughput --out "
        "wrote; may be repeated, the last counts; default: those in results/measured")] = None,
    scale: Annotated[float, typer.Option(help=_SCALE)] = 1.0,
    default_ms: Annotated[float | None, typer.Option(help="per update and lane, where nothing was measured")] = None,
    workers: Annotated[int, typer.Option(help="each carries out a program at a time")] = 64,
    die: Annotated[float, typer.Option(help="probability that a worker dies in the course of one program")] = 0.05,
    restart: Annotated[float, typer.Option(help="seconds from a death until the worker starts anew")] = 300.0,
    start: Annotated[float, typer.Option(help="seconds that a process's start takes: imports, planning, data; a driver "
        "starts one for each program")] = 20.0,
    silence: Annotated[str, typer.Option(metavar="TIME", help="after which a process counts as gone; as harness.run")]
        = "",
    repeats: Annotated[int, typer.Option(help="simulations of each way, with other deaths")] = 5,
    seed: Annotated[int, typer.Option(help="of the first repeat's deaths, and of random durations")] = 0,
) -> None:  # fmt: skip
    """How long a plan takes on many workers of which some die, against the least that is possible: given out by a
    driver, or claimed by --shard processes. Nothing is run."""
    given = {name: context.params[name] for name in options.on_command_line(context, context.params)}

    def go() -> None:
        options.check_once(context)
        options.check(given)
        _check(given)
        most = options.lanes(lanes)
        from harness.request import of_command_line
        from harness.simulation import Cluster
        from harness.simulation import synthetic as chains

        cluster = Cluster(workers, start, restart, silence=options.silence(silence))
        console = Console(highlight=False, soft_wrap=True)
        if synthetic is not None:
            timed = chains(synthetic, seed)
            console.print(f"{_count(synthetic, 'lane')} of random durations, 5 minutes to an hour, in chains of two, "
                          "each a program")  # fmt: skip
        else:
            rates = measured([expanded(Path(path)) for path in seconds or _MEASURED])
            asked, saved = of_command_line({**context.params, "seeds": seeds}, given)
            saved.check_unchanged(Path(plan))
            timed = _planned(asked, most, rates, scale, default_ms, console)
        _show(timed, cluster, die, range(seed, seed + repeats), console)

    raise typer.Exit(guarded(go))


def _check(given: Mapping[str, object]) -> None:
    """Refuses numbers that cannot be, and words of a plan where there is none. Raises: BadInput."""
    for name, value in given.items():
        if name in _MOST and isinstance(value, int | float):
            if not value >= _LEAST[name]:  # NaN is none
                raise BadInput(f"{options.flag(name)} {value:g}: expected at least {_LEAST[name]:g}")
            if value > _MOST[name]:
                raise BadInput(f"{options.flag(name)} {value:.10g}: expected at most {_MOST[name]:.10g}")
    if "synthetic" in given:
        for name in _OF_A_PLAN:
            if name in given:
                raise BadInput(f"{options.flag(name)} has no meaning with --synthetic, which is in place of a plan")


# how long programs take


def measured(paths: Sequence[Path]) -> Rates:
    """What files of `harness.throughput --out` say; of what stands in several the last counts.

    Raises:
      BadInput: a file cannot be read, or is none of these; names the line.
    """
    of: dict[tuple[str, str, str], dict[int, float]] = {}
    devices: list[str] = []
    for path in paths:
        try:
            rows = list(csv.DictReader(read_plain(path).decode("utf-8-sig").splitlines(), strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BadInput(f"--seconds {path}: {reason(error)}") from None
        if lacking := [name for name in _COLUMNS if not rows or name not in rows[0]]:
            raise BadInput(f"--seconds {path}: has no {'column ' + lacking[0] if rows else 'rows'}")
        for line, row in enumerate(rows, 2):
            users, stage, seeds, precision, ms = (row[name] or "" for name in _COLUMNS)
            if not (seeds.isascii() and seeds.isdecimal() and len(seeds) < 11 and int(seeds)):
                raise BadInput(f"--seconds {path}: line {line}: seeds is {seeds!r}, expected a whole number above 0")
            for name in users.split():
                of.setdefault((name, stage, precision), {})[int(seeds)] = _positive(path, line, ms)
            devices.append(row.get("device") or "an unnamed device")
    return Rates(of, tuple(map(str, paths)), tuple(dict.fromkeys(devices)))


def _positive(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < _MOST["default_ms"]:
        raise BadInput(f"--seconds {path}: line {line}: {_COLUMNS[-1]} is {text!r}, expected a number above 0")
    return value


def _planned(
    asked: Request, lanes: int | None, rates: Rates, scale: float, default_ms: float | None, console: Console
) -> list[Timed]:
    """The programs of a plan, all tasks', as if nothing were done yet. Needs no data.

    Raises:
      BadInput: the plan is at fault, or some of its stages were not measured and there is no `default_ms`.
    """
    from harness.engines import engine_of
    from harness.programs import waits
    from harness.remaining import remaining
    from harness.simulation import Timed

    plan = asked.plan()
    _check_size(plan)
    engine, timed = engine_of(plan.tasks[0].suite), list[Timed]()
    engine.device()  # whose memory is asked for; raises where it is not there
    lacking: dict[str, dict[str, None]] = {}
    many = 0
    errors = Console(stderr=True)  # to count the bytes of lanes takes a second or two a task
    for number, task in track(
        enumerate(plan.tasks), "planning", len(plan.tasks), console=errors, transient=True,
        disable=not errors.is_terminal,
    ):  # fmt: skip
        runs = plan.runs(task)
        users: dict[str, list[str]] = {}  # of a stage: who shares it may have been measured under another's name
        for run in runs:
            for node in run.nodes:
                users.setdefault(node.fingerprint, []).append(run.method.name)
        made = remaining([trial for run in runs for trial in run.trials()], Path("nowhere"), engine, lanes,
                         nothing=True).programs  # fmt: skip
        first = len(timed)
        for program, before in zip(made, waits(made), strict=True):
            node, count = program.first.node, len(program.lanes)
            ms = rates.ms(users[node.fingerprint], node.stage.name, _precision(program), count) or default_ms
            if ms is None and node.updates:
                lacking.setdefault(program.first.method.name, {})[node.stage.name] = None
            work = node.updates * count * (ms or 0.0) / 1e3 / scale
            timed.append(Timed(work, tuple(sorted(first + one for one in before)), number))
            many += count
    if lacking:
        which = ", ".join(f"{name} ({', '.join(stages)})" for name, stages in lacking.items())
        raise BadInput(f"no measured time of {which} in {', '.join(rates.files)}; --seconds FILE.csv names others, "
                       "--default-ms MS takes their place")  # fmt: skip
    stand_in = "" if default_ms is None else f", {default_ms:g} ms where there is none"
    console.print(f"{_count(many, 'lane')} in {_count(len(timed), 'program')} of {_count(len(plan.tasks), 'task')}",
                  markup=False)  # fmt: skip
    console.print(f"times per update: measured on {', '.join(rates.devices)} ({', '.join(rates.files)}){stand_in}; "
                  f"divided by --scale {scale:g}, which is the user's word; without compiling, evaluations and loading "
                  "of data", markup=False)  # fmt: skip
    return timed


def _check_size(plan: Plan) -> None:
    """Raises `BadInput`: a plan has more lanes than this command is for."""
    each = sum(len(plan.sweeps.get(name, [()])) for name in plan.methods)
    if (least := len(plan.tasks) * each * len(plan.settings.seeds)) > _MOST_LANES:
        raise BadInput(f"the plan has at least {least} lanes, expected at most {_MOST_LANES}")


def _precision(program: Program) -> str:
    return str(getattr(program.first.method.config, "precision", ""))


# what is printed


def _show(timed: Sequence[Timed], cluster: Cluster, die: float, seeds: Sequence[int], console: Console) -> None:
    """Simulates both ways with each seed's deaths, and prints what comes of it."""
    from harness.simulation import Driver, Shards, bound, drawn

    least = bound(timed, cluster.workers)
    console.print(f"{_count(cluster.workers, 'worker')}; total work {_hours(least.total)} h, longest path "
                  f"{_hours(least.path)} h; no order takes less than {_hours(least.least)} h, which the "
                  f"{'longest path' if least.path > least.total / cluster.workers else 'total work'} sets")  # fmt: skip
    outcomes: dict[str, list[Outcome]] = {"driver": [], f"--shard i/{cluster.workers}": []}
    for seed in seeds:
        deaths = drawn(len(timed), die, seed)
        for found, way in zip(outcomes.values(), (Driver, Shards), strict=True):
            found.append(way(timed, cluster, deaths).run())
    head = ["", "makespan h", "longest", "least possible / makespan", "least"]
    table = Table(*head, "deaths", "done again h", title=f"means of {_count(len(seeds), 'simulation')}, and the worst",
                  title_justify="left")  # fmt: skip
    for name, each in outcomes.items():
        spans = [one.makespan for one in each]
        ratios = [least.least / span if span else 1.0 for span in spans]
        deaths_each, lost = _mean([one.deaths for one in each]), _mean([one.lost for one in each])
        table.add_row(name, _hours(_mean(spans)), _hours(max(spans)), f"{_mean(ratios):.3f}", f"{min(ratios):.3f}",
                      f"{deaths_each:.1f}", _hours(lost))  # fmt: skip
    console.width = max(console.width, 100)  # as wide as the table, where the output is no terminal
    console.print(table)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.2f}" if hours >= 1 else f"{hours:.3g}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
