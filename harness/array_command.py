"""The submission script of a job array: its tasks are shards of one `harness.run`, and go on where they stopped.

Everything after `--` are words of `harness.run`. They are planned, with data still unknown, before anything is written:
what is wrong with them is said now, and not by every task when its turn has come.

A task stops in time, with everything saved, and puts itself back into the queue until all is finished. Slurm alone is
known here: how other batch systems ask for a GPU or for memory, and who may put a job back, is each site's own.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.main import get_command

from core.command import guarded
from core.files import expanded, write_text
from core.text import nearest
from harness import options, run_command
from harness.storage import place
from methods.core import BadInput

SCHEDULERS = ("slurm",)
MOST_SHARDS = 999_999  # of which `--shard` can be one
MOST_PER_GPU = 100
MOST_CPUS = 10_000
MOST_WARNING_S = 65_535  # of `sbatch --signal`
WARM_AFTER_S = 300  # what all tasks need is compiled by then
PATIENCE_S = 600  # of the others with the first task, which may still be in the queue
DEVICE_SHARE = 0.9  # of a GPU's memory, for all processes on it

_MEMORY, _WORD = r"[1-9]\d{0,8}[KMGT]", r"[\w.,+@:-]+"
_OWN = {  # parameters of harness.run -> why they cannot be among its words
    "shard": "the script says it of every process",
    "stop_after": "the script says it, by --time and --before",
    "resume": "it would delete what the other tasks do",
    "on": "its tasks are the processes",
    "cpus_per_program": "its tasks are the processes",
    "gpus_per_program": "its tasks are the processes",
    "dry_run": "nothing would be carried out",
    "listing": "nothing would be carried out",
    "show_config": "nothing would be carried out",
    "save_plan": "nothing would be carried out",
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Array:
    """What the script depends on."""

    jobs: int  # tasks of the array
    time: int  # seconds a task may take
    before: int  # seconds before their end, at which it is to save and stop
    gpus: int | None
    cpus: int | None
    memory: str
    per_gpu: int  # processes on each GPU; where none is asked for, in each task
    partition: str
    account: str
    name: str
    setup: str  # bash
    folder: Path  # where the words mean what they were checked for
    compiled: Path  # where programs are kept, so that each is compiled once
    words: tuple[str, ...]  # of harness.run

    @property
    def per_task(self) -> int:
        """Processes in a task: each computes on one GPU."""
        return (self.gpus or 1) * self.per_gpu

    @property
    def shards(self) -> int:
        return self.jobs * self.per_task


@app.command(cls=options.Command)
def array(
    context: typer.Context,
    jobs: Annotated[int, typer.Option(help="tasks of the array")],
    time: Annotated[str, typer.Option(metavar="TIME", help="that a task may take; 4h, 1d, 90m")],
    words: Annotated[list[str] | None, typer.Argument(metavar="-- WORDS", help="options of harness.run")] = None,
    scheduler: Annotated[str, typer.Option(help="|".join(SCHEDULERS))] = SCHEDULERS[0],
    gpus: Annotated[int | None, typer.Option(help="of a task; default: none is asked for")] = None,
    cpus: Annotated[int | None, typer.Option(help="cores of a task")] = None,
    memory: Annotated[str, typer.Option(help="of a task; 32G")] = "",
    per_gpu: Annotated[int, typer.Option(help="processes on each GPU, which share its memory")] = 1,
    partition: Annotated[str, typer.Option(help="where the tasks may run")] = "",
    account: Annotated[str, typer.Option(help="whom they are charged to")] = "",
    name: Annotated[str, typer.Option(help="of the array, and of its logs")] = "runs",
    before: Annotated[str, typer.Option(metavar="TIME", help="before its time is over a task saves and stops")] = "10m",
    setup: Annotated[str, typer.Option(help="bash to run first; 'module load cuda; source env/bin/activate'")] = "",
    out: Annotated[str, typer.Option(help="the script")] = "submit.sh",
) -> None:
    """Writes the submission script of a job array that carries out one harness.run, whose options come after --."""
    given = {one: context.params[one] for one in options.on_command_line(context, context.params) if one != "words"}

    def go() -> int:
        options.check_once(context)
        options.check(given)
        if scheduler not in SCHEDULERS:
            raise BadInput(f"--scheduler {scheduler}: unknown; {nearest(scheduler, SCHEDULERS, '')}")
        _check_numbers(jobs, gpus, cpus, per_gpu)
        _check_texts(memory, {"partition": partition, "account": account, "name": name})
        _check_setup(setup)
        whole, warning = _times(time, before)
        path = expanded(Path(out))
        options.check_out(path)
        runs, compiled = _planned(words or [])
        made = Array(jobs, whole, warning, gpus, cpus, memory, per_gpu, partition, account, name, setup, Path.cwd(),
                     compiled, tuple(words or ()))  # fmt: skip
        write_text(path, script(made))
        size = f"{jobs} tasks of {made.per_task} processes, to share runs: {runs}"
        said = f"{path}: {size}; to submit it: sbatch {shlex.quote(str(path))}"
        Console(stderr=True).print(said, markup=False, highlight=False, soft_wrap=True)
        return 0

    raise typer.Exit(guarded(go))


# what is asked for


def _check_numbers(jobs: int, gpus: int | None, cpus: int | None, per_gpu: int) -> None:
    """Raises `BadInput`: a number that no array can have."""
    per_task = max(gpus or 1, 1) * max(per_gpu, 1)
    most = {"gpus": MOST_SHARDS, "cpus": MOST_CPUS, "per_gpu": MOST_PER_GPU, "jobs": MOST_SHARDS // per_task}
    for name, value in (("gpus", gpus), ("cpus", cpus), ("per_gpu", per_gpu), ("jobs", jobs)):
        if value is not None and value < 1:
            raise BadInput(f"{options.flag(name)} {value}: expected at least 1")
        if value is not None and value > most[name]:
            raise BadInput(f"{options.flag(name)} {value}: expected at most {most[name]}")


def _check_texts(memory: str, names: Mapping[str, str]) -> None:
    """Raises `BadInput`: a text that would not be one word of a directive."""
    if memory and not re.fullmatch(_MEMORY, memory, re.ASCII):
        raise BadInput(f"--memory {memory}: expected a number with K, M, G or T, such as 32G")
    for name, text in names.items():
        if text and not re.fullmatch(_WORD, text, re.ASCII):
            raise BadInput(f"{options.flag(name)} {text}: expected letters, digits and any of _ . , + @ : -")


def _check_setup(setup: str) -> None:
    """Raises `BadInput`: bash would not understand the script, or take the rest of it for something else."""
    done = subprocess.run(["bash", "-n"], input=f"{setup}\n", capture_output=True, text=True)
    if done.stderr.strip():
        raise BadInput(f"--setup {setup}: bash cannot read it: {done.stderr.strip().splitlines()[0]}")


def _times(time: str, before: str) -> tuple[int, int]:
    """Seconds of both. Raises: BadInput."""
    whole, warning = (int(options.seconds(name, text)) for name, text in (("time", time), ("before", before)))
    if warning > MOST_WARNING_S:
        raise BadInput(f"--before {before}: expected at most {MOST_WARNING_S}s")
    if warning >= whole:
        raise BadInput(f"--before {before}: expected less than --time {time}")
    return whole, warning


def _planned(words: Sequence[str]) -> tuple[int, Path]:
    """How many runs `harness.run` makes of its words, and where compiled programs are kept. Whether they fit into
    memory, and whether their data are there, is for the machines to say that will run them.

    Raises:
      BadInput: it would refuse them, or they have no meaning in an array. Or typer's error for what is no option.
    """
    from harness.request import of_command_line

    context = get_command(run_command.app).make_context("harness.run", list(words))
    said: dict[str, Any] = context.params
    given = {one: said[one] for one in options.on_command_line(context, said)}
    options.check_once(context)
    for one, why in _OWN.items():
        if one in given and not (one == "resume" and said[one]):
            raise BadInput(f"{'--fresh' if one == 'resume' else options.flag(one)} has no meaning in an array: {why}")
    if said["what"]:
        raise BadInput(f"unexpected argument {said['what'][0]!r} among the options of harness.run")
    options.check(given)
    options.lanes(said["lanes"])
    options.stale(said["stale"])
    options.silence(said["silence"])
    asked, saved = of_command_line(said, given)
    plan = asked.plan()
    drafts = [run for task in plan.tasks for run in plan.runs(task)]
    saved.check_unchanged(expanded(Path(said["plan"])), drafts if asked == saved else None)
    url, folder = place(said["results"])
    return len(drafts), (Path.cwd() if url else expanded(folder).absolute()) / ".compiled"


# the script


def script(array: Array) -> str:
    """The script's text."""
    parts = (_directives(array), _BEGIN % _values(array), _setup(array.setup), _share(array), _WARM % _values(array),
             _start(array), _END)  # fmt: skip
    return "\n".join(part for part in parts if part)


def _directives(array: Array) -> str:
    """What Slurm reads of it."""
    asked = {
        "job-name": array.name,
        "partition": array.partition,
        "account": array.account,
        "array": f"0-{array.jobs - 1}",
        "time": _clock(array.time),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": array.cpus or "",
        "mem": array.memory,
        "gres": f"gpu:{array.gpus}" if array.gpus else "",
        "signal": f"B:USR1@{array.before}",
        "requeue": None,
        "open-mode": "append",
        "output": f"{array.name}-%A_%a.log",
    }
    lines = [f"--{key}" if value is None else f"--{key}={value}" for key, value in asked.items() if value != ""]
    return "#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in lines)


def _clock(seconds: int) -> str:
    """As Slurm reads it: "1-04:00:00" is a day and four hours."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:{rest:02}"


def _values(array: Array) -> dict[str, Any]:
    """What stands in the script's parts."""
    limit = array.time - array.before
    return {
        "folder": shlex.quote(str(array.folder)),
        "compiled": shlex.quote(str(array.compiled)),
        "limit": limit,
        "warm_after": WARM_AFTER_S,
        "patience": min(PATIENCE_S, limit // 2),
        "words": "".join(f" {shlex.quote(word)}" for word in array.words),
        "per_task": array.per_task,
        "per_gpu": array.per_gpu,
        "shards": array.shards,
    }


def _setup(setup: str) -> str:
    """The user's own lines, which were not written for `set -u`."""
    return f"set +u\n{setup}\n\nset -u\n" if setup else ""


def _share(array: Array) -> str:
    """Where processes share a GPU, what each may take of its memory."""
    if array.per_gpu == 1:
        return ""
    share = math.floor(1e4 * DEVICE_SHARE / array.per_gpu) / 1e4
    return f"unset XLA_CLIENT_MEM_FRACTION  # JAX refuses both\nexport XLA_PYTHON_CLIENT_MEM_FRACTION={share:g}\n"


def _start(array: Array) -> str:
    """Starts the processes of a task; where it has several GPUs, each on its own."""
    if not array.gpus or array.gpus == 1:
        return _START % {**_values(array), "devices": "", "device": ""}
    every = ",".join(map(str, range(array.gpus)))
    devices = f'IFS=, read -r -a devices <<<"${{CUDA_VISIBLE_DEVICES:-{every}}}"\n'
    device = f'  export CUDA_VISIBLE_DEVICES="${{devices[$((k / {array.per_gpu}))]}}"\n'
    return _START % {**_values(array), "devices": devices, "device": device}


_BEGIN = """\
set -u
task=${SLURM_ARRAY_TASK_ID:?submit this script with sbatch}
compiled=%(compiled)s
limit=%(limit)d  # seconds after which every process saves and stops
heard=0 again=yes stopped=no worst=0 pids=

pass_on() {
  heard=$((heard + 1))
  kill -s "$1" $(jobs -p) 2>/dev/null
}
trap 'pass_on USR1' USR1  # the time is nearly over
trap 'again=no; pass_on TERM' TERM INT  # cancelled, to stay so; what Slurm preempts, it queues again by itself

cd %(folder)s || exit 2
mkdir -p "$compiled" || exit 2
export JAX_COMPILATION_CACHE_DIR="$compiled" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1
"""

_WARM = """\
# What all tasks need is compiled once: by the first, for which the others wait a while.
if [ "$task" -eq 0 ]; then
  (
    trap '' USR1 TERM INT  # it ends by itself soon after this script, however that ends
    while [ "$SECONDS" -lt %(warm_after)d ] && kill -0 "$$" 2>/dev/null; do sleep 5; done
    touch "$compiled/warm"
  ) </dev/null >/dev/null 2>&1 &
else
  while [ ! -e "$compiled/warm" ] && [ "$SECONDS" -lt %(patience)d ] && [ "$heard" -eq 0 ]; do sleep 1; done
fi
"""

_START = """\
%(devices)sfor ((k = 0; k < %(per_task)d; k++)); do
  if [ "$heard" -gt 0 ]; then
    stopped=yes
    break
  fi
  left=$((limit - SECONDS))
%(device)s  python -m harness.run%(words)s \\
    --shard "$((task * %(per_task)d + k))/%(shards)d" --stop-after "$((left > 0 ? left : 1))s" &
  pids="$pids $!"
done
"""

_END = """\
for pid in $pids; do
  while :; do
    before=$heard
    wait "$pid"
    code=$?
    [ "$heard" -ne "$before" ] || break  # else a signal cut the waiting short
  done
  case $code in
    130 | 138) stopped=yes ;;  # 138: of USR1 itself, before harness.run listened to it
    *) [ "$code" -le "$worst" ] || worst=$code ;;
  esac
done

[ "$task" -ne 0 ] || touch "$compiled/warm"
[ "$stopped" = yes ] || exit "$worst"
if [ "$again" = yes ]; then
  scontrol requeue "$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID" || echo "not queued again: submit the script anew" >&2
fi
exit 130
"""
