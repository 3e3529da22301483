"""Settings picked on validation prompts: the same runs with `prompt_split=validation`, beside those on test prompts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from analysis.choices import best
from analysis.judged import Judged, each
from analysis.records.files import RecordError
from analysis.records.labels import labelled
from analysis.records.load import Records, only
from analysis.records.runs import Run
from analysis.select import headline
from core.knobs import Knobs

VALIDATION, TEST = "validation", "test"
"""Splits of prompts; the first is a rule of choice, too."""
AT_TEST_TIME = ("rollouts", "respond_batch", "prompt_split")
"""Settings in which a run on validation prompts may differ from that on test prompts, beside the lists `test_*`."""

Key = tuple[str, str, str, str, str]
"""(suite, task, judge, method, what was trained and how it answers, as JSON)."""
Picks = dict[Key, list[str]]
"""The setting that each run on validation prompts picks."""


def parted(records: Records) -> tuple[Records, Records]:
    """(the runs on validation prompts, those on test prompts), called by what tells them apart among their own.

    Raises: RecordError: one of the two is empty.
    """
    return _of_split(records, VALIDATION), _of_split(records, TEST)


def _of_split(records: Records, split: str) -> Records:
    runs = [run for run in records.runs if run.settings.get("prompt_split") == split]
    if not runs:
        raise RecordError(f"--select {VALIDATION}: no run with prompt_split={split}")
    labels, _ = labelled(runs)
    return only(records, runs, {run.label: labels.get(run.key, run.series) for run in runs})


def shared(one: Judged) -> Key:
    """What the runs of the two splits share."""
    settings: dict[str, Any] = {
        name: value for name, value in one.run.settings.items()
        if name not in AT_TEST_TIME and not name.startswith("test_")
    }  # fmt: skip
    return one.run.suite, one.run.task, one.judge, one.run.method, json.dumps(settings, sort_keys=True, default=str)


def picks(
    validation: Records, judge: str, notes: list[str], knobs: Knobs | None = None, most: float | None = None
) -> Picks:
    """Of every run on validation prompts the setting that wins most, of those that take at most `most` passes."""
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
        kept = [name for name, good in zip(one.settings, there, strict=True) if good]
        found.setdefault(shared(one), []).append(kept[best(scores[there])])
    return found


def passes(records: Records, run: Run) -> dict[str, float]:
    """Setting -> passes of one sequence that an answer took, the mean of the evaluation that counts."""
    rows = headline(records.measured(run))
    return {} if "compute" not in rows else rows.groupby("setting", observed=True)["compute"].mean().to_dict()


def why_not(there: list[str]) -> str:
    """Why a run on test prompts has no setting from the validation ones, which picked those."""
    if not there:
        return "no run on validation prompts has its settings"
    if len(there) > 1:
        return f"{len(there)} runs on validation prompts have its settings, and picked {', '.join(there)}"
    return f"what validation prompts picked, {there[0]}, was not run on test prompts"
