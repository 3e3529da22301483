"""Reads the records that runs wrote (`results/README.md`), of either layout, into one tidy frame of episodes.

Nothing is dropped in silence: whatever is left out, unfinished or ambiguous becomes a line of `Records.notes`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.records.episodes import AFTER, BEFORE, PHASES, Rows, read_episodes
from analysis.records.external import external
from analysis.records.files import RecordError, last_written, read_npz
from analysis.records.folders import Place, differences, odd_ones, places, read_source, unite
from analysis.records.labels import labelled, natural
from analysis.records.protocols import asked, chosen
from analysis.records.runs import KILLED, Run, Source, named
from analysis.records.scale import small_scores
from core.errors import BadInput, reason

NAMES = ("suite", "task", "method", "label", "fingerprint")
"""Columns that are one value a run, in front of its rows' own; so is `status`, which is one value a seed's folder."""


@dataclass(frozen=True)
class Records:
    """What `load` found.

    `episodes` has a row an episode: suite, task, method, label, fingerprint, status (its seed's), seed, phase, step, a
    column a knob (NaN where the method has no such knob), setting ("L_test=1", "" without knobs), episode, return,
    length, success, score, and complete (False in an evaluation that was still being written, or that seeds which may
    go on have not reached yet). `label` tells the runs of a task apart: the method's name, with "online" for a run that
    goes on from an offline one, and with the settings that differ where some task has several of those
    (`labels.labelled`).
    """

    root: Path
    episodes: pd.DataFrame
    runs: tuple[Run, ...]
    knobs: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    extras: Mapping[tuple[Path, bool], Mapping[str, np.ndarray]] = field(default_factory=dict)
    """Key of a run -> its columns after those that every suite has, NaN where empty; of those that have any."""
    order: Sequence[str] = ()
    """Labels in the order to show them; others follow by name, numbers in them by size."""

    def position(self, label: str) -> tuple[int, list[tuple[int, float, str]]]:
        """Where a label stands among others: a key to sort by."""
        return (self.order.index(label) if label in self.order else len(self.order)), natural(label)

    def each(self, scored: bool = True) -> Iterator[tuple[Run, pd.DataFrame]]:
        """(run, its complete evaluations) of every run that has some, by suite, task and `order`; views, not copies.

        `scored`: without the episodes that nobody has judged.
        """
        for run in sorted(self.runs, key=lambda run: (run.suite, run.task, *self.position(run.label))):
            rows = self.episodes.iloc[run.rows]
            kept = rows["complete"].to_numpy()
            if scored:
                kept = kept & ~np.isnan(rows["score"].to_numpy())
            if kept.any():
                yield run, rows if kept.all() else rows[kept]

    def measured(self, run: Run) -> pd.DataFrame:
        """The run's rows of `episodes`, with the columns that only its suite has."""
        return self.episodes.iloc[run.rows].assign(**self.extras.get(run.key, {}))

    def landscape(self, suite: str, task: str) -> dict[str, np.ndarray] | None:
        """The task's own landscape, None if it has none. Raises: RecordError if it cannot be read."""
        return read_npz(self.root / "tasks" / suite / f"{task}.npz")


def only(records: Records, runs: Sequence[Run], names: Mapping[str, str], order: Sequence[str] = ()) -> Records:
    """The records of some of the runs. `names`: label -> the one to show instead; `order`: labels as they were."""
    kept, start = list[Run](), 0
    for run in runs:
        stop = start + run.rows.stop - run.rows.start
        label = names.get(run.label) or run.label
        kept.append(replace(run, label=label, renamed=run.label if label != run.label else "", rows=slice(start, stop)))
        start = stop
    rows = [records.episodes.iloc[run.rows] for run in runs]
    episodes = pd.concat([records.episodes.iloc[:0], *rows], ignore_index=True)  # of equal categories, which it keeps
    values, index = np.unique(np.array([run.label for run in kept], dtype=object), return_inverse=True)
    sizes = [len(one) for one in rows]
    episodes["label"] = pd.Categorical.from_codes(np.repeat(index.astype("int16"), sizes), values)
    knobs = tuple(knob for knob in records.knobs if any(knob in run.knobs for run in kept))
    return replace(records, runs=tuple(kept), episodes=episodes, knobs=knobs,
                   order=list(dict.fromkeys(names.get(one, one) for one in order)))  # fmt: skip


class Read(NamedTuple):
    """What a folder with a run.json came to: a source with its rows, or why it cannot be read."""

    place: Place
    source: Source | None = None
    rows: Rows | None = None
    notes: Sequence[str] = ()
    wrong: str = ""


def load(results: Path, empty: bool = False, protocol: str | None = None) -> Records:
    """Reads every `results/runs/<suite>/<task>/<method>/<fingerprint>/[seed-<k>/]`, and keeps those of the protocols
    that `protocol` names ("fql,qam", EVERY); `tests/analysis/load_speed.py` times it.

    Raises: RecordError if there is no folder `results`, or no run folder in it, unless `empty` allows that; or if a
    suite has runs of several protocols and none is named. A seed, or a run of the old layout, that cannot be read is a
    note and left out.
    """
    wanted = asked(protocol)
    if not results.is_dir():
        raise RecordError(f"no folder {results}")
    folders, notes = places(results / "runs")
    elsewhere, remarks = external(results)
    notes += remarks
    if not folders and not elsewhere:
        notes = [f"no runs under {results / 'runs'}", *notes]
        if not empty:
            raise RecordError("; ".join(notes[:3]))
    read, told = list[Run](), dict[tuple[Path, bool], tuple[list[Rows], list[str]]]()
    for other, found_there in elsewhere:
        read.append(other)
        told[other.key] = found_there, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        groups = groupby(folders, lambda one: (one.run, one.seed is None))
        for run, rows, remarks in pool.map(_one_run, [list(group) for _, group in groups]):
            if run is None:
                notes += remarks
            else:
                read.append(run)
                told[run.key] = rows, remarks
    kept, of_protocols = chosen(read, wanted)
    runs, found, extras = list[Run](), list[Rows](), {}
    for run in kept:
        rows, remarks = told[run.key]
        notes += remarks
        start = runs[-1].rows.stop if runs else 0
        runs.append(replace(run, rows=slice(start, start + sum(map(len, rows)))))
        found += rows
        if of_suite := _extras(rows):
            extras[run.key] = of_suite
    notes += of_protocols
    labels, remarks = labelled(run for run in runs if run.rows.start < run.rows.stop)
    runs = [replace(run, label=labels.get(run.key, run.label)) for run in runs]
    knobs = tuple(dict.fromkeys(knob for run in runs for knob in run.knobs))
    own = {run.key: [rows.columns["score"] for rows in told[run.key][0]] for run in runs}
    remarks += small_scores(runs, {key: np.concatenate(some) for key, some in own.items() if some})
    return Records(results, _concat(runs, found, knobs), tuple(runs), knobs, notes + remarks, extras)


def _one_run(folders: Sequence[Place]) -> tuple[Run | None, list[Rows], list[str]]:
    """(the run of its folders, the rows of its sources, notes); no run where none can be read."""
    group = _read(folders)
    notes = [note for one in group for note in ([f"left out: {one.wrong}"] if one.wrong else one.notes)]
    read = {one.source: one.rows for one in group if one.source is not None and one.rows is not None}
    if not read:
        return None, [], notes
    odd = odd_ones(list(read))
    notes += [f"left out: {source.name}: {odd[source]}" for source in read if source in odd]
    lost = {one.place.seed: _brief(one.wrong, one.place) for one in group if one.wrong and one.place.seed is not None}
    lost |= {source.seeds[0]: why for source, why in odd.items()}
    sources = [source for source in read if source not in odd]
    run, found = unite(folders[0].run, sources, lost), [read[source] for source in sources]
    notes += [*_common_end(run, found), *_status_notes(run, found)]
    ends = {source: _evaluations(rows) for source, rows in zip(sources, found, strict=True)}
    return run, found, notes + list(filter(None, [differences(run, ends)]))


def _read(folders: Sequence[Place]) -> list[Read]:
    """What the folders of one run came to."""
    found = list[Read]()
    for place in folders:
        try:
            found.append(Read(place, read_source(place)))
        except (BadInput, OSError) as error:
            found.append(Read(place, wrong=reason(error)))
    tables = iter(read_episodes([one.source for one in found if one.source is not None]))
    for i, one in enumerate(found):
        if one.source is not None:
            table = next(tables)
            if isinstance(table, BadInput):
                found[i] = Read(one.place, wrong=reason(table))
            else:
                found[i] = one._replace(rows=table[0], notes=table[1])
    return found


def _brief(wrong: str, place: Place) -> str:
    return wrong.replace(f"{place.folder}/", "").replace(f"{place.folder} ", "")


def _common_end(run: Run, found: Sequence[Rows]) -> list[str]:
    """Marks (in place) what some seeds of a run without a final evaluation have beyond the others; a note if it does.

    Seeds that failed do not hold the others up.
    """
    going = [rows for source, rows in zip(run.sources, found, strict=True) if source.status != "failed"]
    ends = [
        int(rows.columns["step"][rows.columns["complete"]].max()) for rows in going if rows.columns["complete"].any()
    ]
    final = PHASES.index("final")
    if len(set(ends)) < 2 or any((rows.columns["phase"][rows.columns["complete"]] == final).any() for rows in found):
        return []
    for rows in found:
        rows.columns["complete"] &= rows.columns["step"] <= min(ends)
    return [f"{run.name} is shown up to step {min(ends)}, which all its seeds that may go on have reached; one is at "
            f"step {max(ends)}"]  # fmt: skip


def _status_notes(run: Run, found: Sequence[Rows]) -> list[str]:
    """A line on the seeds of an unfinished run that ended alike: what happened, and how far their rows reach."""
    groups: dict[str, list[int]] = {}
    for source, rows in zip(run.sources, found, strict=True):
        if source.status == "finished":
            continue
        what = source.ending + (f": {source.error}" if source.error else "")
        if source.status in ("running", KILLED):
            what += f", last written {last_written(source.folder)}"
        steps = rows.columns["step"][rows.columns["complete"]]
        reach = "shown as of" if run.old else "evaluated up to"
        reach = f"{reach} step {steps.max()}" if len(steps) else "nothing to show"
        groups.setdefault(f"{what}; {reach}", []).extend(source.seeds)
    return [f"{run.name}{'' if run.old else f' {named(seeds)}'} {what}" for what, seeds in groups.items()]


def _evaluations(rows: Rows) -> str:
    """ "10 up to step 1000000"."""
    steps = np.unique(rows.columns["step"])
    return f"{len(steps)} up to step {steps[-1]}" if len(steps) else "none"


def _extras(found: Sequence[Rows]) -> dict[str, np.ndarray]:
    """The columns that only a suite has, over all sources of a run; NaN where one lacks a column."""
    names = dict.fromkeys(name for rows in found for name in rows.extras)
    if len(found) == 1:
        return found[0].extras
    return {
        name: np.concatenate([rows.extras.get(name, np.full(len(rows), np.nan, "float32")) for rows in found])
        for name in names
    }


def _concat(runs: Sequence[Run], found: Sequence[Rows], knobs: Sequence[str]) -> pd.DataFrame:
    """All runs' rows under one set of columns. Column by column, so that little stands in memory twice."""
    sizes = [len(rows) for rows in found]
    sources = [(run, source) for run in runs for source in run.sources]
    columns: dict[str, Any] = {}
    for name in (*NAMES, "status"):
        each = [source.status if name == "status" else getattr(run, name) for run, source in sources]
        values, index = np.unique(np.array(each, dtype=object), return_inverse=True)
        columns[name] = pd.Categorical.from_codes(np.repeat(index.astype("int16"), sizes), values)
    settings = sorted({name for rows in found for name in rows.settings})
    for rows in found:
        rename = np.array([settings.index(name) for name in rows.settings], dtype="int16")
        rows.columns["setting"] = rename[rows.columns["setting"]]
    categories = {"phase": list(PHASES), "setting": settings}
    for name in (*BEFORE, *knobs, "setting", *AFTER, "complete"):
        missing = [np.broadcast_to(np.nan, size) for size in sizes]  # a knob that the method does not have
        parts = [rows.columns.pop(name, none) for rows, none in zip(found, missing, strict=True)]
        values = np.concatenate(parts) if parts else np.empty(0, int)
        columns[name] = pd.Categorical.from_codes(values, categories[name]) if name in categories else values
    return pd.DataFrame(columns, copy=False)
