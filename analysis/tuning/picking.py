"""The declared rules that pick a setting, of every sweep or of a suite, and the rows for the table of settings."""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.records.files import RecordError, content, shown
from analysis.records.runs import PROTOCOLS
from analysis.records.runs import named as seed_names
from analysis.statistics.estimates import generator
from analysis.tuning.sweeps import (
    ONLINE,
    SPLITS,
    Held,
    Setting,
    Sweep,
    as_text,
    common_seeds,
    heldout_seeds,
    heldout_tasks,
    named,
    splits,
)
from core.errors import reason

SEEDS, TASKS = "heldout-seeds", "heldout-tasks"
HEADER = ("tasks", "method", "key", "value", "source")
"""Of a table of settings: `tasks/<suite>/settings.csv`, or `settings_online.csv` beside it for online runs."""
ABREAST = 4  # tasks that a line names
MOST_SEEDS = 10_000  # that an option can name


class Row(NamedTuple):
    """A row of a table of settings."""

    tasks: str
    method: str
    key: str
    value: str
    source: str


class Picked(NamedTuple):
    """What a rule came to for one method: on a task, or for a suite."""

    place: str
    """ "toy/toy", or of a suite "ogbench"."""
    label: str
    name: str
    """Of the setting."""
    held: Held
    rule: str
    """In words: by what was chosen and reported."""
    rows: list[Row]
    online: bool
    protocol: str = ""

    @property
    def table(self) -> str:
        """Where its rows belong: "toy/settings.csv"; "ogbench/settings_qam.csv" under another protocol than the suite's
        default one, as no value is carried from one to another."""
        suite = self.place.partition("/")[0]
        by = f"_{self.protocol}" if self.protocol not in ("", PROTOCOLS.get(suite)) else ""
        return f"{suite}/settings{by}{'_online' * self.online}.csv"

    @property
    def splits(self) -> int:
        return int(self.held.counts.sum())


def by_seeds(found: Sequence[Sweep], choose_on: str | None, notes: list[str]) -> Iterator[Picked]:
    """Of every sweep, the setting that some seeds choose, reported on the others. Adds to `notes` why none is picked.

    Raises: RecordError: `choose_on` names no seeds.
    """
    stated = seeds_of(choose_on) if choose_on is not None else None
    for sweep in found:
        place = f"{sweep.suite}/{sweep.task}"
        if len(sweep.settings) < 2:
            notes.append(f"{place} {sweep.label}: {_few(sweep)}")
            continue
        scores, seeds = common_seeds(sweep.settings)
        dropped = sorted({int(seed) for one in sweep.settings for seed in one.means.index}.difference(seeds))
        if dropped:
            notes.append(f"{place} {sweep.label}: picked without {seed_names(dropped)}, which not all settings have")
        if len(seeds) < 2:
            notes.append(f"{place} {sweep.label}: settings share {len(seeds)} seeds; choosing and reporting takes two")
            continue
        on, how = splits(len(seeds), generator(sweep.suite, sweep.task)), ""
        if stated is not None:
            on, how = np.isin(seeds, list(stated))[None], f"chosen on {seed_names(sorted(stated))}"
            if on.all() or not stated.issubset(seeds):
                why = "none is left to report" if on.all() else f"settings share {seed_names(seeds)}"
                notes.append(f"{place} {sweep.label}: --choose-on {choose_on}: {why}")
                continue
        held = heldout_seeds(scores, on, generator(sweep.suite, sweep.task))
        setting = sweep.settings[held.pick]
        source = f"{SEEDS}, {how or _all(on)}; {len(sweep.settings)} settings, {len(seeds)} seeds"
        rows = _rows(sweep.task, setting, tuple(setting.values), source, notes)
        said = _rule(SEEDS, held, "seeds", how or _all(on))
        yield Picked(place, sweep.label, setting.name, held, said, rows, sweep.online, sweep.protocol)


def by_tasks(found: Sequence[Sweep], choose_on: str | None, notes: list[str]) -> Iterator[Picked]:
    """Of every method of a suite, the setting that some tasks choose for all, reported on the others. Adds to `notes`
    why none is picked."""
    for suite, label in dict.fromkeys((one.suite, one.label) for one in found):
        here = [one for one in found if (one.suite, one.label) == (suite, label)]
        name, method, tasks = f"{suite} {label}", here[0].method, [one.task for one in here]
        names, chosen, keys = _on_all(here, name, notes)
        if len(here) < 2 or len(names) < 2:
            notes.append(f"{name}: {len(names)} settings on {len(here)} tasks; {TASKS} takes two of each")
            continue
        on, how = splits(len(tasks), generator(suite, method)), ""
        if choose_on is not None:
            patterns = [one.strip() for one in choose_on.split(",")]
            on = np.array([[any(fnmatchcase(task, one) for one in patterns) for task in tasks]])
            how = f"chosen on {_listed([task for task, yes in zip(tasks, on[0], strict=True) if yes])}"
            if on.all() or not on.any():
                why = "no task is left to report" if on.all() else f"none of {_listed(tasks)}"
                notes.append(f"{name}: --choose-on {choose_on}: {why}")
                continue
        tables = [common_seeds(settings) for settings in chosen]
        if lacking := [task for task, (_, seeds) in zip(tasks, tables, strict=True) if not seeds]:
            notes.append(f"{name}: its settings share no seed on {_listed(lacking)}")
            continue
        held = heldout_tasks([scores for scores, _ in tables], on, generator(suite, method))
        count = sorted({len(seeds) for _, seeds in tables})
        source = f"{TASKS}, {how or _all(on)}; {len(names)} settings, {len(tasks)} tasks, "
        source += f"{'-'.join(map(str, dict.fromkeys((count[0], count[-1]))))} seeds"
        rows = _rows("*", chosen[0][held.pick], keys, source, notes)
        said = _rule(TASKS, held, "tasks", how or _all(on))
        yield Picked(suite, label, names[held.pick], held, said, rows, here[0].online, here[0].protocol)


def _on_all(
    here: Sequence[Sweep], name: str, notes: list[str]
) -> tuple[list[str], list[list[Setting]], tuple[str, ...]]:
    """(the settings with a score on all tasks, by name; on each task; the keys in which settings differ on any)."""
    keys = tuple(sorted({key for one in here for setting in one.tried for key in setting.values}))
    each = [{named({key: s.run.settings.get(key) for key in keys}): s for s in one.settings} for one in here]
    names = [one for one in each[0] if all(one in settings for settings in each)]
    tried = [named({key: s.run.settings.get(key) for key in keys}) for one in here for s in one.tried]
    if some := [one for one in dict.fromkeys(tried) if one not in names]:
        notes.append(f"{name}: without a score on some of its {len(here)} tasks, so not picked: {_listed(some)}")
    return names, [[settings[one] for one in names] for settings in each], keys


def _few(sweep: Sweep) -> str:
    """Why nothing is picked of a sweep with fewer than two scores."""
    why = "; ".join(f"{one.name}: {one.why}" for one in sweep.unscored[:ABREAST])
    return f"{len(sweep.settings)} of {len(sweep.tried)} settings have a score, picking takes two ({why})"


def _rule(rule: str, held: Held, units: str, how: str) -> str:
    total = held.chosen_on + held.reported_on
    return f"{rule} ({how}): chosen on {held.chosen_on} of {total} {units}, reported on the other {held.reported_on}"


def _all(on: np.ndarray) -> str:
    return f"{'all' if len(on) < SPLITS else 'random'} {len(on)} splits"


def _rows(tasks: str, setting: Setting, keys: Sequence[str], source: str, notes: list[str]) -> list[Row]:
    """The rows of a table of settings that make the pick what the method has there."""
    method, phase = setting.run.method, " offline to online" * setting.run.online
    source = f"tuned here{phase}: {source}, {datetime.datetime.now(datetime.UTC).date()}"
    if online := [key for key in keys if key.startswith(ONLINE)]:
        notes.append(f"{method}: {', '.join(online)} can stand in no table of settings")
    return [
        Row(tasks, method, key, as_text(setting.run.settings.get(key)), source) for key in keys if key not in online
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:ABREAST]) + (f" and {len(names) - ABREAST} more" if len(names) > ABREAST else "")


def seeds_of(text: str) -> set[int]:
    """Of "0-2,5". Raises: RecordError for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip(), re.ASCII)
        if not match or not 0 <= int(match[2] or match[1]) - int(match[1]) < MOST_SEEDS:
            raise RecordError(f"--choose-on {shown(text)}: expected seeds, as 0-2 or 0,1")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


def table_at(path: Path) -> str:
    """What a table of settings holds already, "" where there is none. Raises: RecordError: it is something else."""
    try:
        text = (content(path) or b"").decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"--out {path} is no table of settings: {reason(error)}") from None
    if not text.strip():
        return ""
    if rows[0] != list(HEADER):
        raise RecordError(f"--out {path} is no table of settings ({','.join(HEADER)})")
    return text if text.endswith("\n") else f"{text}\n"


def merged(text: str, rows: Sequence[Row], notes: list[str]) -> str:
    """A table of settings with these rows at its end, where they win over all others; they replace those of the same
    tasks, method and key, which `notes` then names. The other rows stay as they are, to the letter."""
    lines, start, kept = list(io.StringIO(text, newline="")), 0, list[str]()
    mine, reader = {row[:3] for row in rows}, csv.reader(lines)
    for cells in reader:
        if tuple(cells[:3]) in mine:
            notes.append(f"replaced in the table: {','.join(cells[:4])} ({shown(' '.join(cells[4:]), quote=False)})")
        else:
            kept += lines[start : reader.line_num]
        start = reader.line_num
    return "".join(kept) + csv_of(rows, header=not text)


def csv_of(rows: Sequence[Row], header: bool = True) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows] if header else rows)
    return text.getvalue()
