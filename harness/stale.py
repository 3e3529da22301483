"""What is stored and was made by other code than this."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.records import StageRecord
from core.records import read as read_record
from harness import provenance, record
from harness.plan import Lane, Trial
from harness.session import seeds_text
from methods.core import BadInput

OUTCOMES = {"": "--stale redo makes it anew, --stale reuse takes what is there", "reuse": "reused", "redo": "made anew"}
"""What becomes of it, by what --stale says."""


class Stale:
    """Of some trials, those that are on record, and their lanes, which other code made: of files that this method
    reaches, comments and docstrings aside. Who reads such a lane is stale, too. Lanes that the user adopted are not: it
    is known that they come from elsewhere."""

    def __init__(self, results: Path, trials: Sequence[Trial]) -> None:
        self.files: set[str] = set()  # that changed
        self.trials: list[Trial] = []
        self.lanes: list[Lane] = []
        self._results = results
        codes = {method: provenance.code_of(method) for method in {type(trial.run.method) for trial in trials}}
        reached = {trial: codes[type(trial.run.method)] for trial in trials}
        chains = {trial: trial.lanes() for trial in trials}
        records = {trial for trial in trials if self._differ(self._code_of(trial), reached[trial])}
        made_by = {lane.fingerprint: self._made_by(lane) for chain in chains.values() for lane in chain}
        # first whatever differs for anybody who asks: all who read it must find it the same
        changed = {lane.fingerprint for trial, chain in chains.items() for lane in chain
                   if self._differ(made_by[lane.fingerprint], reached[trial])}  # fmt: skip
        found: dict[str, bool] = {}
        for trial, chain in chains.items():
            for lane in (lane for lane in chain if lane.fingerprint not in found):
                before = any(found[one.fingerprint] for one in lane.reads.values())
                found[lane.fingerprint] = before or lane.fingerprint in changed
                self.lanes += [lane] * found[lane.fingerprint]
            if trial in records or any(found[lane.fingerprint] for lane in chain):
                self.trials.append(trial)

    def _code_of(self, trial: Trial) -> list[Mapping[str, str]]:
        with contextlib.suppress(BadInput, OSError):
            found = record.read_run(trial.folder(self._results))
            if found and found.get("evaluation_steps"):  # else it holds nothing that code made
                return _codes(found)
        return []

    def _made_by(self, lane: Lane) -> list[Mapping[str, str]]:
        with contextlib.suppress(BadInput, OSError):
            note = read_record(self._results / "artifacts" / lane.fingerprint / "stage.json", StageRecord)
            return [] if "adopted_from" in note else _codes(note)
        return []

    def _differ(self, made_by: Sequence[Mapping[str, str]], reached: Mapping[str, str]) -> bool:
        files = {
            file
            for code in made_by
            for file in provenance.changed({file: one for file, one in code.items() if file in reached})
        }
        self.files |= files
        return bool(files)

    @property
    def gone(self) -> set[Trial | str]:
        """The trials, and the lanes' fingerprints, that there are not if all of it is made anew."""
        return {*self.trials, *(lane.fingerprint for lane in self.lanes)}

    def line(self) -> str:
        """Names the changed files and whose work it was; "" where nothing is stale."""
        if not self.files:
            return ""
        names = sorted(self.files)
        more = f" and {len(names) - 3} more files" if len(names) > 3 else ""
        labels = {trial.run.label: sorted(other.seed for other in self.trials if other.run is trial.run)
                  for trial in self.trials}  # fmt: skip
        (label, seeds), *others = labels.items()
        whose = f"{label}, {seeds_text(seeds)}" + (f" and {len(others)} more runs" if others else "")
        return f"{', '.join(names[:3])}{more} changed since {whose} was trained"


def _codes(note: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The code that began it, and the code that went on with it: it is of both."""
    return [code for key in ("code", "code_later") if (code := note.get(key))]
