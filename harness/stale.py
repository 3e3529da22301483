"""What is stored and was made by other code than this."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from core.records import StageRecord
from core.records import read as read_record
from harness import provenance, record
from harness.plan import Lane, Trial
from harness.session import seeds_text
from methods.core import BadInput


class Stale:
    """Of some trials, those that are on record, and their lanes, which other code made: of files that this method
    reaches, comments and docstrings aside. Who reads such a lane is stale, too. Lanes that the user adopted are not: it
    is known that they come from elsewhere."""

    def __init__(self, results: Path, trials: Sequence[Trial]) -> None:
        self.files: dict[str, list[Trial]] = {}  # changed file -> trials
        self.trials: list[Trial] = []
        self.lanes: list[Lane] = []
        self._results = results
        found: dict[str, bool] = {}
        codes: dict[type, dict[str, str]] = {}
        for trial in trials:
            method = type(trial.run.method)
            if method not in codes:
                codes[method] = provenance.code_of(method)
            reached = codes[method]
            stale = self._stale_record(trial, reached)
            for lane in trial.lanes():
                if lane.fingerprint not in found:
                    mine = self._stale_lane(trial, lane, reached)
                    found[lane.fingerprint] = mine or any(found.get(one.fingerprint) for one in lane.reads.values())
                    if found[lane.fingerprint]:
                        self.lanes.append(lane)
                stale |= found[lane.fingerprint]
            if stale:
                self.trials.append(trial)

    def _stale_record(self, trial: Trial, reached: dict[str, str]) -> bool:
        with contextlib.suppress(BadInput, OSError):
            if found := record.read_run(trial.folder(self._results)):
                return self._noted(trial, found.get("code"), reached)
        return False

    def _stale_lane(self, trial: Trial, lane: Lane, reached: dict[str, str]) -> bool:
        with contextlib.suppress(BadInput, OSError):
            note = read_record(self._results / "artifacts" / lane.fingerprint / "stage.json", StageRecord)
            return "adopted_from" not in note and self._noted(trial, note.get("code"), reached)
        return False

    def _noted(self, trial: Trial, made_by: dict[str, str] | None, reached: dict[str, str]) -> bool:
        files = provenance.changed({file: one for file, one in (made_by or {}).items() if file in reached})
        for file in files:
            self.files.setdefault(file, []).append(trial)
        return bool(files)

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
