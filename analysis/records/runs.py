"""A run: what ran, by the records of its seeds, and its other files, read on demand (`results/README.md`).

A run has a folder a seed; one of the old layout is a single folder with all of them. `Source` is either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analysis.records.files import RecordError, content, read_npz, shown, table
from core.errors import reason

KILLED = "killed"
"""Status of a run whose record says that it runs, while no process holds its lock."""
PARTLY = "partly finished"
"""Status of a run of which some seeds are finished."""
ENDINGS = {
    "running": "is still running", "interrupted": "was interrupted", KILLED: "was killed (or stopped) before its end",
    "failed": "failed", "finished": "is finished", PARTLY: "is finished in part",
}  # fmt: skip
"""By how likely it is to go on."""
STATES = {
    "running": "still running", "interrupted": "interrupted", KILLED: "killed", "failed": "failed", "finished": "",
}  # fmt: skip
SEEDED = ("candidates", "valid", "actions")
"""Arrays of candidates.npz that are each seed's own."""
DIAGNOSIS = ("quantity", "meaning", "unit", "lines", "line", "panels", "panel", "xs", "x", "mean", "std", "states")
"""Columns of diagnosis.csv."""
_WORDS = DIAGNOSIS[:8]
OFFLINE = ("value", "disagreement", "data_value", "data_disagreement", "td_error", "transport", "bound", "fqe",
           "members", "transitions", "updates", "split", "data")  # fmt: skip
"""Columns of offline.csv, after the knobs'."""
_OF_OFFLINE = OFFLINE[-2:]
BEGINNING = ("continues", "from_step")
"""Of an online phase: the run that it goes on from, and at which step of it."""
T = TypeVar("T")
MOST = 1e15  # of a setting that a figure counts with

FRAME = ("suite", "task", "method", "label", "fingerprint", "status", "seed", "phase", "step", "setting", "episode",
         "return", "length", "success", "score", "complete")  # fmt: skip
"""Columns of `Records.episodes` beside the knobs'."""
TAKEN = frozenset(FRAME) | {
    "row", "rule", "picks", "mean", "std", "low", "high", "over", "seeds", "episodes", "bias", "line", "gradients",
    "passes", "knob",
    "L_train", "accuracy", "verdict", "swap_consistent", "consistent", "cost", "longer", "prompt", "response",
    "reference", "observations", "protocol", "candidates", "valid", "actions", "meant", "told",
}  # fmt: skip
"""What else stands in a table or file that has a column a knob."""


SHARES = frozenset({"tldr", "hh", "tldr-synthetic", "hh-synthetic"})
"""Suites whose score is a share of a win, where records do not say."""
PROTOCOLS = {"ogbench": "fql"}
"""Suite -> its default protocol, of which runs are whose records do not say."""


@dataclass(frozen=True, eq=False)
class Source:
    """A folder with a run.json: of one seed, or of the old layout, with all seeds of a run."""

    folder: Path
    name: str
    """Of the run, and of the seed if it is one seed's."""
    seeds: tuple[int, ...]
    status: str
    """That of run.json, or KILLED."""
    ending: str
    """What became of it, as the rest of a sentence."""
    meta: Mapping[str, Any]
    """The whole run.json, without control characters."""

    @property
    def old(self) -> bool:
        """Whether it is of the old layout."""
        return "format" not in self.meta

    @property
    def suite(self) -> str:
        return str(self.meta["suite"])

    @property
    def share(self) -> bool:
        """Whether the recorded score is a share of a win (win 1, tie 0.5, loss 0). It is read in percent, as all
        others."""
        return bool(self.meta.get("share", self.suite in SHARES))

    @property
    def knobs(self) -> tuple[str, ...]:
        return tuple(self.meta["knobs"])

    @property
    def error(self) -> str:
        """The last line of what it failed with, or ""."""
        return next(reversed(str(self.meta.get("error") or "").strip().splitlines()), "")

    @property
    def state(self) -> str:
        """What became of it, in a few words; "" if it is finished."""
        if self.status == "running" and self.ending != ENDINGS["running"]:
            return self.ending
        said = STATES[self.status]
        return f"{said}: {shown(self.error, quote=False, longest=100)}" if said and self.error else said


@dataclass(frozen=True)
class Run:
    """One run: what ran, without its episodes."""

    folder: Path
    suite: str
    task: str
    method: str
    fingerprint: str
    label: str
    knobs: tuple[str, ...]
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    """Its run.json; of several seeds, what they have in common, their times added up."""
    sources: tuple[Source, ...]
    """By seed."""
    lost: Mapping[int, str] = field(default_factory=dict)
    """Seed -> what is wrong with its folder, of those that cannot be read."""
    mark: str = ""
    """ " [qam]" where runs of several protocols of the suite are shown; its label ends with it."""
    rows: slice = field(default_factory=lambda: slice(0, 0))
    """Where its episodes stand in `Records.episodes`."""
    renamed: str = ""
    """Its label before it was given another name to show."""

    @property
    def stem(self) -> str:
        """Its method, with "online" where it goes on from an offline run."""
        return f"{self.method} online" if self.online else self.method

    @property
    def series(self) -> str:
        """What its label is where nothing but settings, data or code sets it apart: "vgf online [qam]"."""
        return self.stem + self.mark

    @property
    def called(self) -> frozenset[str]:
        """Every name by which an option may ask for it, beside others of its series."""
        return frozenset({self.label, self.renamed or self.label, self.series, self.stem})

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.task}/{self.method}/{self.fingerprint[:12]}"

    @property
    def old(self) -> bool:
        """Whether it is of the old layout."""
        return self.sources[0].old

    @property
    def key(self) -> tuple[Path, bool]:
        """What tells it from all others: a folder may hold a run of either layout."""
        return self.folder, self.old

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those with a record that can be read."""
        return tuple(seed for source in self.sources for seed in source.seeds)

    @property
    def meant(self) -> tuple[int, ...]:
        """Those that have a folder, whatever became of them."""
        return tuple(sorted({*self.seeds, *self.lost}))

    @property
    def status(self) -> str:
        """That of all seeds; PARTLY where some are finished; else that of the seed which may still go on."""
        found = {source.status for source in self.sources} | ({"failed"} if self.lost else set())
        if len(found) > 1 and "finished" in found:
            return PARTLY
        return next(status for status in ENDINGS if status in found)

    @property
    def ending(self) -> str:
        """What became of it, as the rest of a sentence."""
        return next((one.ending for one in self.sources if one.status == self.status), ENDINGS[self.status])

    @property
    def elsewhere(self) -> Mapping[str, Any]:
        """Of results of another code base: their file and what is known of it (`external.About`); else empty."""
        return self.meta.get("external") or {}

    @property
    def protocol(self) -> str:
        """Its name; "" where the suite has no names for protocols."""
        return self.meta.get("protocol") or PROTOCOLS.get(self.suite, "")

    @property
    def online(self) -> bool:
        """Whether it goes on online from an offline run, whose rows then stand before its own."""
        return bool(self.meta.get("online"))

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration's values, without their origins, those of the task ("task.goals"), and those of an online
        phase; not where that began, which follows from the offline run."""
        config = {k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in self.config.items()}
        online = self.meta.get("online") or {}
        options = self.meta.get("task_options")
        task = {f"task.{key}": value for key, value in options.items()} if isinstance(options, dict) else {}
        return config | task | {f"online.{key}": value for key, value in online.items() if key not in BEGINNING}

    @property
    def inference(self) -> Mapping[str, Any]:
        """What the method declares of its knobs and of the cost of acting (`inference.py`); empty in older records."""
        return self.meta.get("inference") or {}

    def number(self, setting: str) -> float | None:
        """A setting's value, if that is a finite number."""
        value = self.settings.get(setting)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
            return None
        return float(value)

    @property
    def unfinished(self) -> str:
        """What became of the seeds that are not finished, or ""."""
        return self.absent(seed for one in self.sources if one.status == "finished" for seed in one.seeds)

    def absent(self, present: Iterable[int], lacking: str = "without this evaluation") -> str:
        """What became of the seeds that are not `present`: "seed 3 failed: no memory; seeds 4-6 still running", or "".
        `lacking`: said of those that are finished."""
        states = {seed: f"cannot be read: {shown(why, quote=False, longest=100)}" for seed, why in self.lost.items()}
        states |= {seed: source.state or lacking for source in self.sources for seed in source.seeds}
        groups: dict[str, list[int]] = {}
        for seed in sorted(set(self.meant).difference(present)):
            groups.setdefault(states[seed], []).append(seed)
        return "; ".join(f"{named(seeds)} {state}" for state, seeds in groups.items())

    def told(self, present: Iterable[int], lacking: str = "without this evaluation") -> str:
        """ "n = 4 of 5 (seed 3 failed: no memory)" where not all seeds are `present`, else ""."""
        present = {*present}
        absent = self.absent(present, lacking)
        return f"n = {len(present)} of {len(present | {*self.meant})} ({absent})" if absent else ""

    def status_of(self, present: Iterable[int]) -> str:
        """The status of the seeds that are `present`: "finished" if it is that of all."""
        found = {source.status for source in self.sources if not {*present}.isdisjoint(source.seeds)}
        return next((status for status in ENDINGS if status in found and status != "finished"), "finished")

    def train(self, notes: list[str]) -> pd.DataFrame:
        """`seed, step, <part>/<quantity>...` of train.csv, read when asked for; empty if there is none.

        A half-written last line is left out; so is a seed whose file is no table, with a note. Raises: RecordError if
        none is one.
        """
        frames = self._each(lambda source: _train(source.folder / "train.csv"), notes)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["seed", "step"])

    def diagnosis(self, notes: list[str]) -> pd.DataFrame:
        """What `python -m harness.diagnose` wrote: `seed` and the columns of DIAGNOSIS; empty if there is nothing.

        A seed whose file is no such table is left out, with a note. Raises: RecordError if none is one.
        """

        def read(source: Source) -> pd.DataFrame | None:
            path = source.folder / "diagnosis.csv"
            if (text := content(path)) is None:
                return None
            # what tells lines and panels apart may be a word or a number
            found = table(path, text, dtype=dict.fromkeys(_WORDS, str), keep_default_na=False)
            if missing := [name for name in DIAGNOSIS if name not in found]:
                raise RecordError(f"{path}: has no column {missing[0]}")
            try:
                numbers = [name for name in DIAGNOSIS if name not in _WORDS]
                found[numbers] = found[numbers].replace("", np.nan).astype(float)
            except ValueError as error:
                raise RecordError(f"{path}: {shown(reason(error), quote=False)}") from error
            return found[list(DIAGNOSIS)].assign(seed=source.seeds[0])

        frames = [] if self.old else self._each(read, notes)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["seed", *DIAGNOSIS])

    def estimates(self, notes: list[str]) -> pd.DataFrame:
        """What `python -m harness.offline` wrote: `seed`, the knobs and the columns of OFFLINE; empty if there is
        nothing.

        A seed whose file is no such table is left out, with a note. Raises: RecordError if none is one.
        """

        def read(source: Source) -> pd.DataFrame | None:
            path = source.folder / "offline.csv"
            if (text := content(path)) is None:
                return None
            found = table(path, text, dtype=dict.fromkeys(_OF_OFFLINE, str))
            if missing := [name for name in (*self.knobs, *OFFLINE) if name not in found]:
                raise RecordError(f"{path}: has no column {missing[0]}")
            try:
                numbers = [name for name in (*self.knobs, *OFFLINE) if name not in _OF_OFFLINE]
                found[numbers] = found[numbers].astype(float)
            except (ValueError, TypeError) as error:
                raise RecordError(f"{path}: {shown(reason(error), quote=False)}") from error
            if np.isinf(found[numbers]).any(axis=None) or found[list(self.knobs)].isna().any(axis=None):
                raise RecordError(f"{path}: a number is not finite, or a knob is missing")
            if found.duplicated(list(self.knobs)).any() if self.knobs else len(found) != 1:
                raise RecordError(f"{path} has two rows of one setting, or none")
            return found[[*self.knobs, *OFFLINE]].assign(seed=source.seeds[0])

        frames = [] if self.old else self._each(read, notes)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["seed", *self.knobs, *OFFLINE])

    def candidates(self, notes: list[str]) -> dict[str, np.ndarray] | None:
        """The arrays of candidates.npz, seeds first in those that have them (SEEDED), None if there is none.

        A seed whose file cannot be read, or is of another shape, is left out, with a note. Raises: RecordError if none
        can be read.
        """
        found = self._each(lambda source: read_npz(source.folder / "candidates.npz"), notes)
        if not found or self.old:
            return found[0] if found else None
        shapes = [{name: array.shape for name, array in arrays.items()} for arrays in found]
        alike = [arrays for arrays, shape in zip(found, shapes, strict=True) if shape == shapes[0]]
        if len(alike) < len(found):
            other = f"{len(found) - len(alike)} of {len(found)} seeds have candidates of other shapes"
            notes.append(f"{self.name}: {other}, left out")
        stacked = {name: np.stack([arrays[name] for arrays in alike]) for name in SEEDED if name in alike[0]}
        return alike[0] | stacked

    def _each(self, read: Callable[[Source], T | None], notes: list[str]) -> list[T]:
        """What the sources have. Raises: RecordError if it can be read of none that have it."""
        found, wrong = list[T](), list[RecordError]()
        for source in self.sources:
            try:
                one = read(source)
            except RecordError as error:
                wrong.append(error)
            else:
                found += [] if one is None else [one]
        if wrong and not found:
            raise wrong[0]
        notes += [f"left out: {error}" for error in wrong]
        return found


def named(seeds: Sequence[int]) -> str:
    """ "seed 3", "seeds 0-2, 4"; of ascending numbers."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    spans = [f"{one[0]}-{one[-1]}" if len(one) > 2 else ", ".join(map(str, one)) for one in runs]
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(spans)}"


def _train(path: Path) -> pd.DataFrame | None:
    text = (content(path) or b"").decode("utf-8-sig", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    return table(path, whole.encode()) if whole.strip() else None
