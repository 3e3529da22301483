"""Settings picked on validation prompts: the same runs with `prompt_split=validation`, beside those on test prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from analysis.choices import average
from analysis.judged import Judged, each
from analysis.records.files import RecordError
from analysis.records.labels import labelled
from analysis.records.load import Records, only
from analysis.records.runs import Run, named
from analysis.select import headline
from core.knobs import Knobs

VALIDATION, TEST = "validation", "test"
"""Splits of prompts; the first is a rule of choice, too."""
AT_TEST_TIME = ("rollouts", "rollout_engine", "respond_batch", "prompt_split")
"""Settings in which a run on validation prompts may differ from that on test prompts, beside the lists `test_*`."""
ANSWERING = ("rollouts", "responses", "verdicts")
"""Stages that train nothing; each split has its own."""

Key = tuple[str, str, str, str, str]
"""(suite, task, judge, method, the settings of what was trained and of how it answers, as JSON)."""


class Ranked(NamedTuple):
    """A run on validation prompts."""

    one: Judged
    order: list[str]
    """Its settings, those that win most first."""


Picks = dict[Key, list[Ranked]]


def parted(records: Records) -> tuple[Records, Records]:
    """(the runs on validation prompts, those on test prompts), called by what tells them apart among their own; so
    are those on test prompts in notes.

    Raises: RecordError: one of the two is empty.
    """
    _, of_both = labelled(run for run in records.runs if run.rows.start < run.rows.stop)
    validation, _ = _of_split(records, VALIDATION)
    test, told = _of_split(records, TEST)
    return validation, replace(test, notes=[note for note in records.notes if note not in of_both] + told)


def _of_split(records: Records, split: str) -> tuple[Records, list[str]]:
    """(its runs, a note on each series of several)."""
    runs = [run for run in records.runs if run.settings.get("prompt_split") == split]
    if not runs:
        raise RecordError(f"--select {VALIDATION}: no run with prompt_split={split}")
    labels, notes = labelled(runs)
    return only(records, runs, {run.label: labels.get(run.key, run.series) for run in runs}), notes


def shared(one: Judged) -> Key:
    """What the runs of the two splits share, beside the trained models (`apart`)."""
    settings: dict[str, Any] = {
        name: value for name, value in one.run.settings.items()
        if name not in AT_TEST_TIME and not name.startswith("test_")
    }  # fmt: skip
    return one.run.suite, one.run.task, one.judge, one.run.method, json.dumps(settings, sort_keys=True, default=str)


def picks(
    validation: Records, judge: str, notes: list[str], knobs: Knobs | None = None, most: float | None = None
) -> Picks:
    """Of every run on validation prompts the settings of at most `most` passes, by how often they win."""
    found: Picks = {}
    for one in each(validation, judge, notes, knobs):
        spent, scores = passes(validation, one.run), one.values["score"]
        limit = np.inf if most is None else most
        affordable = np.array([spent.get(name, np.inf) <= limit for name in one.settings])
        there = np.asarray(~np.isnan(scores).all(axis=(1, 2)) & affordable)
        if not there.any():
            why = "no valid verdict" if most is None else f"no setting of at most {most:g} passes with a verdict"
            notes.append(f"{one.run.name}, {one.judge}, on validation prompts: {why}")
            continue
        won = np.where(there, average(average(scores, 2), 1), -np.inf)
        order = [one.settings[k] for k in np.argsort(-won, kind="stable") if there[k]]
        found.setdefault(shared(one), []).append(Ranked(one, order))
    return found


def first_of(ranked: list[Ranked], one: Judged) -> str:
    """Of a run's settings on test prompts the one that wins most on validation prompts; "" without one."""
    alike = [other for other in ranked if not apart(other.one, one)]
    return next((name for name in alike[0].order if name in one.settings), "") if len(alike) == 1 else ""


def apart(one: Judged, other: Judged) -> str:
    """What their records say differs of the models that they share by seed: "the corpus, the stage sft"; "" if nothing
    does."""
    mine, theirs = _metas(one), _metas(other)
    seeds = sorted(mine.keys() & theirs.keys())
    found: dict[str, list[int]] = {}
    for seed in seeds:
        for what in _differing(mine[seed], theirs[seed]):
            found.setdefault(what, []).append(seed)
    said = [what + (f" of {named(at)}" if len(at) < len(seeds) else "") for what, at in found.items()]
    return ", ".join(said) if seeds else "every seed"


def _metas(one: Judged) -> dict[int, Mapping[str, Any]]:
    """Seed that was judged -> the run.json that it is of."""
    judged = set(one.seeds.tolist())
    return {seed: source.meta for source in one.run.sources for seed in source.seeds if seed in judged}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """Of two run.json what their trained models differ in: data, fingerprints, or, of those that are equal, the code of
    a file that both name."""
    if len({(meta.get("dataset") or {}).get("sha256") for meta in (one, other)}) > 1:
        yield "the corpus"
    a, b = ({stage["name"]: stage for stage in meta.get("stages") or []} for meta in (one, other))
    for name in sorted({*a, *b} - {*ANSWERING}):
        mine, its = a.get(name, {}), b.get(name, {})
        if mine.get("fingerprint") != its.get("fingerprint"):
            yield f"the stage {name}"
            continue
        code, of = mine.get("code") or {}, its.get("code") or {}
        if any(code[file] != of[file] for file in code.keys() & of.keys()):
            yield f"the code of the stage {name}"


def passes(records: Records, run: Run) -> dict[str, float]:
    """Setting -> passes of one sequence that an answer took, the mean of the evaluation that counts."""
    rows = headline(records.measured(run))
    return {} if "compute" not in rows else rows.groupby("setting", observed=True)["compute"].mean().to_dict()


def remark(ranked: list[Ranked], one: Judged) -> str:
    """What is to be said of a run on test prompts; "" where it has what wins most on validation prompts."""
    if not ranked:
        return "no run on validation prompts has its settings"
    differ = [apart(other.one, one) for other in ranked]
    if all(differ):
        whose = "the run on validation prompts picks nothing, as it has"
        if len(ranked) > 1:
            whose = f"{len(ranked)} runs on validation prompts pick nothing, as they have"
        return f"{whose} other models (what differs: {'; '.join(dict.fromkeys(differ))})"
    alike = [other for other, what in zip(ranked, differ, strict=True) if not what]
    if len(alike) > 1:
        return f"{len(alike)} runs on validation prompts have its settings, so none of them picks"
    wanted = alike[0].order[0]
    return (
        "" if wanted in one.settings else f"{wanted} wins most on validation prompts, and was not run on test prompts"
    )
