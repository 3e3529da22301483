"""`python -m analysis.plots results/`: every figure, recomputed from the records, as PNG, SVG, PDF and CSV."""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.plots:app")

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

from analysis.figures import registry
from analysis.figures.captions import small_print, told
from analysis.figures.material import Material, cells
from analysis.figures.page import WIDTHS, Page
from analysis.figures.registry import KINDS, Job
from analysis.figures.style import FORMATS, save, theme
from analysis.notes import brief, tell
from analysis.output import below, folder, of_records, prepare, say
from analysis.query import Asked, Ends, Intervals, Methods, Names, Query, Runs, Select
from analysis.records.files import RecordError
from analysis.records.inference import axes_of, units_of
from analysis.records.load import Records
from analysis.records.mirror import default_out, spoken
from core.options import parts
from core.processes import die_with_parent
from core.text import nearest

OF_SUITE = 12  # pictures of a suite, about
FEW = 8  # runs whose pictures are not worth starting processes for

Save = Callable[[Figure, pd.DataFrame, Path], list[Path]]
"""(figure, the numbers it shows, path without suffix) -> what was written; closes the figure."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=of_records, help="The folder that holds runs/, or its URL.")] = Path(
        "results"
    ),
    out: Annotated[Path | None, typer.Option(parser=folder, help="A folder; RESULTS/figures if unset.")] = None,
    only: Annotated[str | None, typer.Option(help="Figures, by name or glob: learning,profiles or 'knob-*'.")] = None,
    width: Annotated[str | None, typer.Option(help="column (3.25 in) or text (5.5 in); each its own if unset.")] = None,
    form: Annotated[str, typer.Option("--format", help="Of png,svg,pdf.")] = ",".join(FORMATS),
    title: Annotated[bool, typer.Option("--title/--no-title", help="Whether titles stand above figures.")] = True,
    baseline: Annotated[str | None, typer.Option(help="Method that others are compared with; default: fql.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that draw; one a core if unset.")] = None,
    methods: Methods = None,
    which: Runs = None,
    protocol: Asked = None,
    endpoint: Ends = "last",
    select: Select = None,
    names: Names = None,
    interval: Intervals = "t",
) -> None:
    """Curves over training, knobs, wall-clock and gradients, transport, the landscape of 2-D bandits: a folder a task;
    profiles, aggregates, ranks, sample efficiency, forests, and sheets of all tasks: a folder a suite."""
    kinds = registry.asked_for(parts("--only", only, "figures") if only is not None else ())
    formats = _formats(form)
    if width is not None and width not in WIDTHS:
        raise RecordError(f"--width {width}: {nearest(width, list(WIDTHS))}")
    place = prepare(out or default_out(results, "figures"))
    query = Query.of(methods, which, protocol, endpoint, select, names, interval)
    records = query.load(results)
    notes = list(records.notes)
    if not records.episodes["complete"].any():
        raise RecordError(f"no episodes to show under {spoken(results)}/runs: {brief(notes, records)}")
    material = Material(records, query, _baseline(records, baseline), notes)
    page = Page(WIDTHS[width] if width else 0.0, title, units_of(records.runs), axes_of(records.runs))
    processes = jobs or (1 if len(records.runs) <= FEW else len(os.sched_getaffinity(0)))
    for paths in _drawn(planned(material, place, kinds, page), formats, processes):
        say(f"{paths[0]} (+ {', '.join(path.suffix[1:] for path in paths[1:])})")
    tell(notes, records, place / "notes.csv")


def figures(
    records: Records, out: Path, notes: list[str], save: Save = save, query: Query | None = None,
    only: Sequence[str] = (),
) -> Iterator[list[Path]]:  # fmt: skip
    """Draws every figure in this process and yields what `save` made of each; its path is
    out/<suite>/[<task>/]<figure>. Adds to `notes` what is not drawn."""
    page = Page(0.0, True, units_of(records.runs), axes_of(records.runs))
    material = Material(records, query or Query(), "", notes)
    for job in planned(material, out, registry.asked_for(only), page):
        yield save(job.draw(), job.frame, job.stem)


def planned(material: Material, out: Path, only: Sequence[str], page: Page) -> Iterator[Job]:
    """Every picture, those of a suite among those of its tasks: what takes long to plan is planned while there are
    others to draw. A page without width has each figure's own."""
    tasks = sorted(material.parts)
    scored = any(len(material.here(cells, *task)) for task in tasks)
    if not scored:
        material.notes.append("no scores, so no figures of them")
    lines = told(material.records)  # seeds that are missing are named below each

    def pictures(suite: str, task: str = "") -> Iterator[Job]:
        place = Path(suite, task) if task else Path(suite)
        for kind, stem, frame in registry.frames(material, suite, task, only, scored):
            mine = Page(page.width or KINDS[kind].width, page.title, page.units, page.axes)
            path = below(below(out, *place.parts), stem)
            yield Job(kind, frame, mine, path, small_print(lines.get(place, ()), mine.width))

    for suite in sorted({suite for suite, _ in tasks}):
        own = [task for other, task in tasks if other == suite]
        some, of_suite = -(-len(own) // OF_SUITE), pictures(suite)
        for first in range(0, len(own), some):
            for task in own[first : first + some]:
                yield from pictures(suite, task)
            yield from islice(of_suite, 1)
        yield from of_suite


def _drawn(jobs: Iterable[Job], formats: Sequence[str], processes: int) -> Iterator[list[Path]]:
    """Draws and writes pictures while further ones are planned; yields their paths in the order of `jobs`."""
    write = partial(_written, formats=formats)
    if processes == 1:
        theme()
        yield from map(write, jobs)
        return
    # what is imported is there at once in a fork, which elsewhere than on Linux, or beside JAX, libraries do not bear
    forks = sys.platform == "linux" and "jax" not in sys.modules
    context = multiprocessing.get_context("fork" if forks else "spawn")
    waiting = list[Future[list[Path]]]()
    pool = ProcessPoolExecutor(processes, context, _started)
    try:
        for job in jobs:
            waiting.append(pool.submit(write, job))
            while waiting and (waiting[0].done() or len(waiting) > 8 * processes):  # frames do not pile up
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _started() -> None:
    die_with_parent()
    theme()


def _written(job: Job, formats: Sequence[str]) -> list[Path]:
    return save(job.draw(), job.frame, job.stem, formats)


def _formats(text: str) -> list[str]:
    """Raises: RecordError: one of them is none."""
    found = parts("--format", text, "formats")
    for one in found:
        if one not in FORMATS:
            raise RecordError(f"--format {one}: {nearest(one, FORMATS)}")
    return found


def _baseline(records: Records, name: str | None) -> str:
    """Raises: RecordError: no run is of it."""
    there = list(dict.fromkeys(one for run in records.runs for one in (run.method, run.label)))
    if name is not None and name not in there:
        raise RecordError(f"--baseline {name}: no run of it; {nearest(name, there, '')}")
    return name or ""
