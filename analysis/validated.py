"""Settings picked on validation prompts: the same runs with `prompt_split=validation`, beside those on test prompts."""

from __future__ import annotations

from analysis.choices import best
from analysis.judged import each
from analysis.records.files import RecordError
from analysis.records.labels import labelled
from analysis.records.load import Records, only
from core.knobs import Knobs

VALIDATION = "validation"
"""A rule of choice, and the split of prompts that it is made on."""

Picks = dict[tuple[str, str, str, str], str]
"""(suite, task, judge, label) -> a setting."""


def parted(records: Records) -> tuple[Records, Records]:
    """(the runs on validation prompts, those on others), called by what tells them apart among their own.

    Raises: RecordError: one of the two is empty.
    """
    return _of_split(records, validation=True), _of_split(records, validation=False)


def _of_split(records: Records, *, validation: bool) -> Records:
    runs = [run for run in records.runs if (run.settings.get("prompt_split") == VALIDATION) == validation]
    if not runs:
        which = "with" if validation else "without"
        raise RecordError(f"--select {VALIDATION}: no run {which} prompt_split={VALIDATION}")
    labels, _ = labelled(runs)
    return only(records, runs, {run.label: labels.get(run.key, run.series) for run in runs})


def picks(validation: Records, judge: str, notes: list[str], knobs: Knobs | None = None) -> Picks:
    """Of every run on validation prompts the setting that wins most."""
    return {
        (one.run.suite, one.run.task, one.judge, one.run.label): one.settings[best(one.values["score"])]
        for one in each(validation, judge, notes, knobs)
    }
