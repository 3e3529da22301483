"""`python -m analysis.plots results/`: every figure, recomputed from the records, as PNG, SVG, PDF and CSV."""

from __future__ import annotations

if __name__ == "__main__":  # what follows is imported, which takes seconds, by `main`
    from analysis import command

    command.main("analysis.plots:app")

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from analysis.figures import aggregate, costs, curves, landscape, language, scaling
from analysis.figures.captions import Save, captioned, told
from analysis.figures.style import save, theme
from analysis.notes import brief, tell
from analysis.output import below, folder, prepare, say
from analysis.query import Asked, Ends, Methods, Names, Query, Runs, Select
from analysis.records.inference import axes_of, units_of
from analysis.records.load import Records
from analysis.records.runs import RecordError
from analysis.select import scores
from core.errors import BadInput

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(parser=folder, help="The folder that holds runs/.")] = Path("results"),
    out: Annotated[Path | None, typer.Option(parser=folder, help="A folder; RESULTS/figures if unset.")] = None,
    methods: Methods = None,
    which: Runs = None,
    endpoint: Ends = "last",
    select: Select = None,
    protocol: Asked = None,
    names: Names = None,
) -> None:
    """Curves over training, knobs, wall-clock and gradients, transport, the landscape of 2-D bandits: a folder a task;
    profiles, aggregates, who beats whom and L_test scaling: a folder a suite."""
    place = prepare(out or results / "figures")
    query = Query.of(methods, which, protocol, endpoint, select, names)
    records = query.load(results)
    notes = list(records.notes)
    if not records.episodes["complete"].any():
        raise RecordError(f"no episodes to show under {results / 'runs'}: {brief(notes, records)}")
    theme()
    for paths in figures(records, place, notes, query=query):
        say(f"{paths[0]} (+ {', '.join(path.suffix[1:] for path in paths[1:])})")
    tell(notes, records, place / "notes.csv")


def figures(
    records: Records, out: Path, notes: list[str], save: Save = save, query: Query | None = None
) -> Iterator[list[Path]]:
    """Writes out/<suite>/<task>/<figure>.{png,svg,pdf,csv} and yields the paths of each figure.

    Figures: learning (of offline runs), online (of those that go on online, from their offline start), knob-<name> for
    every knob with two values or more, l-train, wall-clock, gradients, transport, landscape; of language also
    reward-L_test, over-optimisation, gold-distance, gold-compute, gold-eps-L_test, length-eos; of a suite, in
    out/<suite>: profiles, aggregates, improvement, scaling-<knob> and, a panel for each of its tasks, knob-<name>.
    Adds to `notes` what is not drawn. `save` may be another way to keep a figure. `query`: by which evaluations and
    settings; those over tasks and over cost show what its rule picks.
    """
    query = query or Query()
    names_of, units = axes_of(records.runs), units_of(records.runs)
    save = captioned(save, told(records), out)  # seeds that are missing are named below each
    texts, remarks = language.points(records)
    notes += remarks
    for (suite, task), rows in texts.groupby(["suite", "task"], observed=True, sort=True) if len(texts) else ():
        for stem, shown, picture in language.figures(rows, notes, names_of):
            yield save(picture(shown), shown, below(out, str(suite), str(task), stem))
    cells, remarks = scores(records, endpoint=query.endpoint)
    notes += remarks
    if cells.empty:
        notes.append("no scores, so no figures of them")
        return
    yield from _suites(records, out, notes, save, names_of, units, query)
    points = curves.learning(records)
    costly, remarks = costs.clock(records, query.rule)
    notes += remarks
    moved, remarks = scaling.carried(records)
    notes += remarks
    trained, paid = scaling.trained(records, cells), costs.over_gradients(records, cells)
    notes += costs.undeclared(records)
    pictures = (
        ("l-train", trained, scaling.draw_trained),
        ("wall-clock", costly, costs.draw_clock),
        ("gradients", paid, costs.draw_gradients),
    )
    online = {(run.suite, run.task, run.label) for run in records.runs if run.online}
    keys = points[["suite", "task", "label"]].itertuples(index=False, name=None)
    going_on = np.array([key in online for key in keys], bool)
    sheets: dict[tuple[str, str], list[pd.DataFrame]] = defaultdict(list)
    for (suite, task), rows in cells.groupby(["suite", "task"], observed=True, sort=True):
        place = below(out, str(suite), str(task))
        here = (points["suite"] == suite) & (points["task"] == task)
        yield from _online(points[here & going_on], place, notes, save, units)
        path = points[here & ~going_on]
        if len(path) and path.groupby("label", observed=True)["step"].nunique().max() > 1:
            path, hidden = curves.legible(path)
            notes += hidden
            yield save(curves.draw_learning(path, units=units), path, place / "learning")
        else:
            notes.append(f"{suite}/{task}: no run has two evaluations, so no learning curve")
        for knob in records.knobs:
            curve = curves.knob_curve(rows, knob, records.knobs)
            if len(curve):
                figure = curves.draw_knob_curve(curve, knob, names_of[knob], units)
                yield save(figure, curve, below(place, f"knob-{knob}"))
                sheets[str(suite), knob].append(curve)
            elif rows[knob].notna().any():
                notes.append(f"{suite}/{task}: one value of {knob} only, so no curve over it")
        for name, frame, draw in pictures:
            one = frame[(frame["suite"] == suite) & (frame["task"] == task)] if len(frame) else frame
            if len(one) and not (name == "gradients" and one["gradients"].max() == 0):
                yield save(draw(one, units), one, place / name)
        one = moved[(moved["suite"] == suite) & (moved["task"] == task)] if len(moved) else moved
        for knob, curve in one.groupby("knob") if len(one) else ():
            stem = "transport" if len(curve) == len(one) else f"transport-{knob}"
            yield save(scaling.draw_carried(curve, names_of[str(knob)]), curve, below(place, stem))
        yield from _landscape(records, str(suite), str(task), cells, place, notes, save)
    for (suite, knob), of_tasks in sheets.items():
        if len(of_tasks) > 1:
            sheet = pd.concat(of_tasks, ignore_index=True)
            figure = curves.draw_knob_sheet(sheet, knob, names_of[knob], units)
            yield save(figure, sheet, below(out, suite, f"knob-{knob}"))


def _suites(
    records: Records, out: Path, notes: list[str], save: Save, names_of: Mapping[str, str], units: Mapping[str, str],
    query: Query,
) -> Iterator[list[Path]]:  # fmt: skip
    """The figures over the tasks of each suite."""
    found, remarks = aggregate.spoken(records, query.endpoint, query.rule)
    notes += remarks
    scaled, remarks = scaling.normalised(records, query.endpoint)
    notes += remarks
    for suite, of in sorted(found.items()):
        every, tasks, remarks = aggregate.complete(of, suite)
        notes += remarks
        place, note = below(out, suite), aggregate.covers(every, tasks)
        profile = aggregate.profiles(every, tasks, suite)
        yield save(aggregate.draw_profiles(profile, len(tasks), note, units), profile, place / "profiles")
        table = aggregate.aggregates(every, tasks, suite)
        yield save(aggregate.draw_aggregates(table, len(tasks), note, units), table, place / "aggregates")
        pairs = aggregate.matrix(of, suite)
        if len(pairs):
            yield save(aggregate.draw_matrix(pairs, note), pairs, place / "improvement")
        one = scaled[scaled["suite"] == suite] if len(scaled) else scaled
        for knob, curve in one.groupby("knob") if len(one) else ():
            figure = scaling.draw_normalised(curve, names_of[str(knob)])
            yield save(figure, curve, below(place, f"scaling-{knob}"))


def _online(
    points: pd.DataFrame, place: Path, notes: list[str], save: Save, units: Mapping[str, str]
) -> Iterator[list[Path]]:
    if points.empty:
        return
    start = curves.handover(points)
    if start is None:
        notes.append(f"{place.parent.name}/{place.name}: no evaluation in the online phase yet, so no curve of it")
        return
    path, hidden = curves.legible(points)
    notes += hidden
    yield save(curves.draw_learning(path, start, units), path, place / "online")


def _landscape(
    records: Records, suite: str, task: str, cells: pd.DataFrame, place: Path, notes: list[str], save: Save
) -> Iterator[list[Path]]:
    try:
        picture = landscape.shown(records, suite, task, cells)
    except BadInput as error:
        notes.append(f"no landscape: {error}")
        return
    if picture is not None:
        points, remarks = picture
        notes += remarks
        yield save(landscape.draw(points, suite, task), points, place / "landscape")
