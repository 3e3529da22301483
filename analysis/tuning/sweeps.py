"""Settings of one method against each other: what each scores, which a declared rule picks, and what trying them cost.

The best of k settings scores above its true mean on the very seeds that made it the best. So a setting is chosen on
some units (seeds, or tasks) and reported on the others, which had no say: that is unbiased, however many there were.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.records.load import Records
from analysis.records.runs import Run
from analysis.select import Endpoint, Rule, choose
from analysis.statistics.estimates import Estimate, Summary, across, generator, mean_of

SPLITS = 1000  # at most; of more, so many are drawn
ONLINE = "online."


@dataclass(frozen=True)
class Setting:
    """One setting of a method on a task, and what it scored."""

    run: Run
    values: Mapping[str, Any]
    """Of the keys in which the settings differ."""
    means: pd.Series
    """Mean score of each seed that counts, by its number."""
    summary: Summary
    told: str
    """Which seeds are missing, as `Run.told`."""
    unfinished: str
    """What became of seeds that count and are not finished, or ""."""

    @property
    def name(self) -> str:
        """ "alpha=10, tau=0.01"."""
        return named(self.values)


@dataclass(frozen=True)
class Unscored:
    """One setting of a method on a task that was tried and has no score."""

    run: Run
    values: Mapping[str, Any]
    why: str

    @property
    def name(self) -> str:
        """As that of a setting with a score."""
        return named(self.values)


@dataclass(frozen=True)
class Sweep:
    """The settings of one method on one task."""

    suite: str
    task: str
    method: str
    online: bool
    protocol: str
    mark: str
    """Of its runs."""
    settings: tuple[Setting, ...]
    """Those with a score, in the order of their values."""
    unscored: tuple[Unscored, ...]
    """The others."""
    runs: tuple[Run, ...]
    """All that were tried, with a score or without."""

    @property
    def label(self) -> str:
        return _label(self.method, self.online) + self.mark

    @property
    def tried(self) -> list[Setting | Unscored]:
        """All settings, two or more, in the order of their values."""
        return sorted([*self.settings, *self.unscored], key=lambda one: _order(one.values))


class Held(NamedTuple):
    """What a rule picked among k settings, and what that is worth on units that had no say."""

    pick: int
    """By the units chosen on: of a stated split those; else all."""
    counts: np.ndarray
    """`[k]`: in how many splits each was picked."""
    chosen_on: int
    reported_on: int
    value: Estimate
    """Mean over the units that a choice was not made on, over all splits; interval over seeds, NaN with one."""


def sweeps(
    records: Records, endpoint: Endpoint, rule: Rule, only: Collection[str] = ()
) -> tuple[list[Sweep], list[str]]:
    """Every method and task with two settings or more, and notes on what does not count.

    `rule` chooses test-time knobs within a run. Of two runs with one setting (other data or seeds, or the old layout),
    the one with more seeds counts, the new one among equals. `only`: keys in which settings may differ; any if empty.
    """
    groups: dict[tuple[str, str, str, bool, str], list[Run]] = defaultdict(list)
    for run in records.runs:
        groups[run.suite, run.task, run.method, run.online, run.protocol].append(run)
    rows = {run.key: of for run, of in records.each()}
    found, notes = [], []
    for (suite, task, method, online, protocol), runs in sorted(groups.items()):
        mark = runs[0].mark
        place = f"{suite}/{task} {_label(method, online)}{mark}"
        if only:
            runs, note = _differing_only(runs, only)
            notes += [f"{place}: {note}"] if note else []
        keys = differing(runs)
        settings, unscored = list[Setting](), list[Unscored]()
        for name, same in _by_setting(runs, keys).items() if keys else ():
            run = max(same, key=lambda one: (one.key in rows, len(one.seeds), not one.old, one.fingerprint))
            if len(same) > 1:
                prints = ", ".join(f"{one.fingerprint[:8]}{' (old layout)' * one.old}" for one in same)
                notes.append(f"{place} {name}: {len(same)} runs ({prints}); {run.fingerprint[:8]} counts")
            setting = _scored(run, keys, rows.get(run.key), endpoint, rule)
            if isinstance(setting, Unscored):
                unscored.append(setting)
                continue
            settings.append(setting)
            said = "; ".join(filter(None, (setting.told, setting.unfinished)))
            notes += [f"{place} {name}: {said}"] if said else []
        if settings or unscored:
            order = sorted(settings, key=lambda one: _order(one.values))
            found.append(Sweep(suite, task, method, online, protocol, mark, tuple(order), tuple(unscored), tuple(runs)))
    return found, notes


def _differing_only(runs: Sequence[Run], keys: Collection[str]) -> tuple[list[Run], str]:
    """(the runs that have beside `keys` what most runs have; a line that names the others, or "")."""
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        alike[as_json({key: value for key, value in run.settings.items() if key not in keys})].append(run)
    kept = max(alike.values(), key=lambda some: (len(some), sum(len(run.seeds) for run in some)))
    counted = {run.key for run in kept}
    others = [f"{run.fingerprint[:8]} ({named(_apart(run, kept[0], keys))})" for run in runs if run.key not in counted]
    return kept, f"left out, as they differ in more than {', '.join(keys)}: {', '.join(others)}" if others else ""


def _apart(run: Run, other: Run, beside: Collection[str]) -> dict[str, Any]:
    """The settings of a run that another does not have, or has otherwise, beside some."""
    mine, its = run.settings, other.settings
    keys = sorted({*mine, *its}.difference(beside))
    return {key: mine.get(key) for key in keys if as_json(mine.get(key)) != as_json(its.get(key))}


def _label(method: str, online: bool) -> str:
    return f"{method} online" if online else method


def differing(runs: Sequence[Run]) -> tuple[str, ...]:
    """The keys in whose values runs differ."""
    values: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for key, value in run.settings.items():
            values[key].add(as_json(value))
    return tuple(sorted(key for key, seen in values.items() if len(seen) > 1))


def named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={as_text(value)}" for key, value in values.items())


def as_text(value: Any) -> str:
    """A setting's value as `--set` and the tables of settings take it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(as_text, value)) if isinstance(value, list | tuple) else str(value)


def common_seeds(settings: Sequence[Setting]) -> tuple[np.ndarray, list[int]]:
    """(scores `[k, s]` of the seeds that all settings have, these seeds)."""
    table = pd.concat([one.means for one in settings], axis=1).dropna().sort_index()
    return table.to_numpy(float).T, [int(seed) for seed in table.index]


def splits(units: int, rng: np.random.Generator) -> np.ndarray:
    """`[m, units]` (bool): every way to choose on half of the units, rounded down; SPLITS random ones of more."""
    size = units // 2
    if math.comb(units, size) <= SPLITS:
        chosen = list(itertools.combinations(range(units), size))
        on = np.zeros((len(chosen), units), bool)
        np.put_along_axis(on, np.array(chosen).reshape(len(chosen), size), True, axis=1)
        return on
    return rng.permuted(np.tile(np.arange(units) < size, (SPLITS, 1)), axis=1)


def heldout_seeds(scores: np.ndarray, on: np.ndarray, rng: np.random.Generator) -> Held:
    """Chooses among settings on some seeds and reports the others. Scores `[k, s]`, splits `on [m, s]`.

    A seed's number is the mean, over the splits that did not choose on it, of what it scores at the setting picked.
    """
    picks = _best(scores @ on.T / on.sum(axis=1))  # [m]
    held = (
        np.ma.masked_array(scores[picks], mask=on).mean(axis=0).compressed()
    )  # of seeds that are never held out: none
    return _held(picks, on, scores, [held], rng)


def heldout_tasks(scores: Sequence[np.ndarray], on: np.ndarray, rng: np.random.Generator) -> Held:
    """Chooses one setting for all tasks on some of them and reports the others: scores `[k, s]` a task, splits `on
    [m, t]`. Tasks weigh alike; the interval speaks of new seeds on these tasks."""
    means = np.stack([task.mean(axis=1) for task in scores], axis=1)  # [k, t]
    picks = _best(means @ on.T / on.sum(axis=1))
    strata = [task[picks[~on[:, t]]].mean(axis=0) for t, task in enumerate(scores) if not on[:, t].all()]
    return _held(picks, on, means, strata, rng)


def _held(
    picks: np.ndarray, on: np.ndarray, scores: np.ndarray, strata: list[np.ndarray], rng: np.random.Generator
) -> Held:
    pick = picks[0] if len(on) == 1 else _best(scores.mean(axis=1))
    value = across(strata, rng, mean_of)
    if min(map(len, strata)) < 2:
        value = value._replace(low=np.asarray(np.nan), high=np.asarray(np.nan))
    counts = np.bincount(picks, minlength=len(scores))
    return Held(int(pick), counts, int(on[0].sum()), int((~on[0]).sum()), value)


def _best(means: np.ndarray) -> Any:
    """The setting with the largest mean, of `[k, ...]`; the first of equals."""
    return np.round(means, 9).argmax(axis=0)  # equal sums in another order stay equal


def _scored(
    run: Run, keys: Sequence[str], rows: pd.DataFrame | None, endpoint: Endpoint, rule: Rule
) -> Setting | Unscored:
    """The setting, with its score or why it has none."""
    values = {key: run.settings.get(key) for key in keys}
    if rows is None:
        return Unscored(run, values, "; ".join(filter(None, ("nothing evaluated", run.unfinished))))
    rows, missing = endpoint.of(run, rows)
    if rows.empty:
        return Unscored(run, values, "; ".join(filter(None, (missing or "nothing evaluated", run.unfinished))))
    choice = choose(run, rows, rule)
    if isinstance(choice, str):
        return Unscored(run, values, choice)
    shown = "" if choice.status == "finished" else f"{run.unfinished}, as of step {rows['step'].max()}"
    summary = choice.summary(generator(run.suite, run.task))
    return Setting(run, values, choice.means().dropna(), summary, choice.told, shown)


def _by_setting(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[named({key: run.settings.get(key) for key in keys})].append(run)
    return found


def _order(values: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Numbers by size, before words."""
    return [
        (float(one) if isinstance(one, int | float) and not isinstance(one, bool) else math.inf, as_text(one))
        for one in values.values()
    ]


def as_json(value: Any) -> str:
    """A setting's value, to compare."""
    return json.dumps(value, sort_keys=True, default=str)
