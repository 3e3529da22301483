"""Settings picked on validation prompts: the same runs with `prompt_split=validation`, beside those on test prompts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from analysis.choices import average
from analysis.judged import Judged, each
from analysis.records.files import RecordError
from analysis.records.labels import labelled
from analysis.records.load import Records, only
from analysis.records.runs import Run
from analysis.select import headline
from core.knobs import Knobs

VALIDATION, TEST = "validation", "test"
"""Splits of prompts; the first is a rule of choice, too."""
AT_TEST_TIME = ("rollouts", "rollout_engine", "respond_batch", "prompt_split")
"""Settings in which a run on validation prompts may differ from that on test prompts, beside the lists `test_*`."""

Key = tuple[str, str, str, str, str]
"""(suite, task, judge, method, what was trained and how it answers, as JSON)."""
Picks = dict[Key, list[list[str]]]
"""Of each run on validation prompts its settings, those that win most first."""


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
        found.setdefault(shared(one), []).append(order)
    return found


def first_of(ranked: list[list[str]], there: list[str]) -> str:
    """Of the settings that are there the one that wins most on validation prompts; "" without one."""
    return next((name for name in ranked[0] if name in there), "") if len(ranked) == 1 else ""


def passes(records: Records, run: Run) -> dict[str, float]:
    """Setting -> passes of one sequence that an answer took, the mean of the evaluation that counts."""
    rows = headline(records.measured(run))
    return {} if "compute" not in rows else rows.groupby("setting", observed=True)["compute"].mean().to_dict()


def remark(ranked: list[list[str]], there: list[str]) -> str:
    """What is to be said of a run on test prompts with the settings `there`; "" where it has what wins most."""
    if not ranked:
        return "no run on validation prompts has its settings"
    if len(ranked) > 1:
        return f"{len(ranked)} runs on validation prompts have its settings, so none of them picks"
    wanted = ranked[0][0]
    return "" if wanted in there else f"{wanted} wins most on validation prompts, and was not run on test prompts"
