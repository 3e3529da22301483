"""`python -m analysis.published import FILE`: lays results of another code base beside ours; `check` looks at them."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from analysis import importing
from analysis.importing import How
from analysis.output import folder, of_records, say
from analysis.pitfalls import PITFALLS
from analysis.records import external
from analysis.records.files import RecordError, content
from analysis.records.runs import PROTOCOLS
from core.errors import BadInput
from core.files import digests, expanded, sweep, write_text
from core.options import filled
from core.records import RELEASED, file_name
from core.remote import is_url

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
SCALES = ("percent", "share")


@app.callback()
def _both() -> None:
    """Results of other code bases, beside ours."""


@app.command("import")
def take(
    path: Annotated[Path, typer.Argument(parser=folder, help="a CSV, a pickle, or a folder of runs")],
    place: Annotated[str, typer.Option("--results", help="beside whose runs they go")] = "results",
    name: Annotated[str, typer.Option(help="what they are called by; default: the file's name")] = "",
    suite: Annotated[str, typer.Option(help="where the tasks' names do not tell")] = "",
    protocol: Annotated[str, typer.Option(help="by whose rules the scores are; default: the suite's first")] = "",
    scale: Annotated[str, typer.Option(help="percent|share: what a score of 1 is")] = "",
    every: Annotated[int, typer.Option(min=0, help="steps between two evaluations, where a pickle has none")] = 0,
    source: Annotated[str, typer.Option(help="where they are from, in words")] = "",
    licence: Annotated[str, typer.Option(help="of the numbers")] = "",
    endpoint: Annotated[str, typer.Option(help="what a score is the mean of, in words")] = "",
    note: Annotated[list[str] | None, typer.Option(help="for whoever compares; may be repeated")] = None,
) -> None:
    """Reads scores by seed from a CSV (method,task,seed,score[,step][,phase]), from the released pickles of QAM, DQC
    and CORL, or from a folder of flags.json and eval.csv, and writes RESULTS/external/NAME.csv."""
    if is_url(place):
        raise BadInput(f"--results {place}: is a URL; import into a folder, and copy its external/ there")
    if (expanded(Path(filled("--results", place))) / RELEASED).is_file():
        raise BadInput(f"--results {place}: is a release, which nothing is added to; name a folder of results")
    if scale and scale not in SCALES:
        raise BadInput(f"--scale {scale}: expected percent or share")
    called = filled("--name", name) if name else path.stem or path.name
    try:
        file_name(called)
    except ValueError as error:
        raise BadInput(f"--name {called}: {error}") from None
    rows, notes = importing.read(path, How(suite, protocol, scale, every))
    where = str(path)
    found = external.checked(rows, where)
    if protocol and (nameless := sorted(set(found["suite"]) - set(PROTOCOLS))):
        raise BadInput(f"--protocol {protocol}: suite {nameless[0]} has no names for protocols")
    for of, default in PROTOCOLS.items():  # a suite that has names for protocols needs one
        mine = (found["suite"] == of) & (found["protocol"] == "")
        if mine.any():
            found.loc[mine, "protocol"] = default
            notes.append(f"taken for protocol {default} of {of}, as --protocol does not say another")
    beside = external.folder_of(expanded(Path(filled("--results", place))))
    beside.mkdir(parents=True, exist_ok=True)
    sweep(beside)
    target = beside / f"{called}.csv"
    if target.exists():
        notes.append(f"takes the place of what {target} held")
    known = list(note or ())
    if set(found["method"]) >= {"QAM", "QAM-E"}:
        known += [one for one in PITFALLS["qam"] if one not in known]
    told = {
        "source": source or path.name, "licence": licence, "endpoint": endpoint, "notes": known,
        "imported_from": path.name, "sha256": _digest(path),
        "command": _command(path, name, suite, protocol, scale, every, source, licence, endpoint, list(note or ())),
    }  # fmt: skip
    write_text(target.with_suffix(".toml"), tomli_w.dumps(told))
    write_text(target, found.to_csv(index=False, lineterminator="\n", float_format="%.7g"))
    for line in notes:
        say(line)
    counts = found.groupby(["task", "method"]).ngroups
    say(f"{target}: {_of(found['method'].nunique(), 'method')}, {_of(found['task'].nunique(), 'task')}, "
        f"{_of(counts, 'pair')} of them, {_of(len(found), 'score')}")  # fmt: skip


@app.command()
def check(
    results: Annotated[
        Path, typer.Argument(parser=of_records, help="the folder that holds external/, or its URL")
    ] = Path("results"),
) -> None:
    """Looks at every file of RESULTS/external; a line for each that is wrong."""
    place, wrong = external.folder_of(results), 0
    paths = sorted(place.glob("*.csv"))
    if not paths:
        raise RecordError(f"no CSV in {place}")
    for path in paths:
        try:
            file_name(path.stem)
            known, rows = external.about(path), external.read(path)
            if not known.source or not known.licence:
                raise RecordError(f"{path.with_suffix('.toml')}: says no source, or no licence")
        except (BadInput, ValueError) as error:
            say(f"error: {error}")
            wrong += 1
            continue
        say(f"{path}: {len(rows)} scores of {rows['method'].nunique()} methods on {rows['task'].nunique()} tasks")
    raise typer.Exit(2 if wrong else 0)


def _command(
    path: Path, name: str, suite: str, protocol: str, scale: str, every: int, source: str, licence: str, endpoint: str,
    notes: Sequence[str],
) -> str:  # fmt: skip
    """What was typed, without folders."""
    given = {"--name": name, "--suite": suite, "--protocol": protocol, "--scale": scale, "--every": str(every or ""),
             "--source": source, "--licence": licence, "--endpoint": endpoint}  # fmt: skip
    options = [word for option, value in given.items() if value for word in (option, value)]
    options += [word for note in notes for word in ("--note", note)]
    return shlex.join(["python", "-m", "analysis.published", "import", path.name, *options])


def _of(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _digest(path: Path) -> str:
    if path.is_dir():
        lines = "".join(f"{value}  {name}\n" for name, value in digests(path).items())
        return hashlib.sha256(lines.encode()).hexdigest()
    return hashlib.sha256(content(path) or b"").hexdigest()
