"""Results of other code bases: `external/<name>.csv` beside `runs/`, a row an evaluation of one seed, and what is known
of them all in `external/<name>.toml`.

    suite, task, method, protocol    protocol: "" where the suite has no names for them
    phase                            offline | online, or online_only: without an offline phase before
    step, seed, score                score in percent or in the suite's points; a seed is a number in its file, no more

They become runs like any others, of methods called "FQL (name)", so that nobody takes them for runs of this harness. A
seed has one "episode" an evaluation, its mean: nothing is paired, and the spread is that of the seeds alone.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.records.episodes import AFTER, BEFORE, PHASES, Rows
from analysis.records.files import RecordError, content, shown, table
from analysis.records.runs import ENDINGS, Run, Source
from core.errors import BadInput
from core.records import file_name

COLUMNS = ("suite", "task", "method", "protocol", "phase", "step", "seed", "score")
WORDS = COLUMNS[:5]
FOREIGN_PHASES = ("offline", "online", "online_only")
LARGEST = 1e6  # of a score
MOST_SEED, MOST_STEP = 2**31 - 1, 2**60
NAMED = 3  # faults that a line names


class About(NamedTuple):
    """What is known of all rows of a file."""

    source: str = ""
    licence: str = ""
    endpoint: str = ""  # what a score is the mean of
    notes: tuple[str, ...] = ()  # for whoever compares
    command: str = ""  # that imported them

    @property
    def text(self) -> str:
        """In a line."""
        return "; ".join(filter(None, (self.source, self.licence, self.endpoint)))


def folder_of(results: Path) -> Path:
    return results / "external"


def read(path: Path) -> pd.DataFrame:
    """A file's rows, COLUMNS in order. Raises: RecordError: the file and the line that is not of the schema."""
    if (text := content(path)) is None:
        raise RecordError(f"{path}: there is no such file")
    rows = table(path, text, dtype=str, keep_default_na=False)
    if tuple(rows.columns) != COLUMNS:
        raise RecordError(f"{path}:1: the columns are {shown(','.join(map(str, rows.columns)), quote=False)}, expected "
                          f"{','.join(COLUMNS)}")  # fmt: skip
    return checked(rows, str(path))


def checked(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Rows of text with numbers in the place of what should be some; `where`: the file they stand in, header first.

    Raises: RecordError: the first line that is wrong, and why.
    """
    if rows.empty:
        raise RecordError(f"{where}: has no rows")
    found = rows.reset_index(drop=True).copy()
    for name, whole, least, most in (("step", True, 0, MOST_STEP), ("seed", True, 0, MOST_SEED),
                                     ("score", False, -LARGEST, LARGEST)):  # fmt: skip
        numbers = pd.to_numeric(found[name], errors="coerce").to_numpy(float)
        bad = ~((numbers >= least) & (numbers <= most)) | (whole & (numbers != np.floor(numbers)))
        if bad.any():
            i = int(np.argmax(bad))
            kind = "a whole number from 0" if whole else "a number"
            raise RecordError(f"{where}:{i + 2}: {name} is {shown(str(found[name][i]))}, expected {kind}")
        found[name] = numbers.astype("int64") if whole else numbers
    for name in ("suite", "task", "method"):
        for value in found[name].unique():
            try:
                file_name(value)
            except ValueError as error:
                line = int(np.argmax((found[name] == value).to_numpy())) + 2
                raise RecordError(f"{where}:{line}: {name} {shown(value)} {error}") from None
    if (wrong := ~found["phase"].isin(FOREIGN_PHASES)).any():
        i = int(np.argmax(wrong.to_numpy()))
        raise RecordError(f"{where}:{i + 2}: phase is {shown(found['phase'][i])}, expected one of "
                          f"{', '.join(FOREIGN_PHASES)}")  # fmt: skip
    key = ["suite", "task", "method", "protocol", "phase", "step", "seed"]
    if (again := found.duplicated(key)).any():
        i = int(np.argmax(again.to_numpy()))
        first = int(np.argmax((found[key] == found.loc[i, key]).all(axis=1).to_numpy()))
        raise RecordError(f"{where}:{i + 2}: the same method, task, seed and step as in line {first + 2}")
    spelled: dict[str, str] = {}
    for value in found["method"].unique():
        other = spelled.setdefault("".join(filter(str.isalnum, value.lower())) or value, value)
        if other != value:
            raise RecordError(f"{where}: methods {shown(other)} and {shown(value)} differ in signs and case alone; "
                              "give them the same, or two")  # fmt: skip
    return found


def about(path: Path) -> About:
    """What stands beside a file. Raises: RecordError: it cannot be read."""
    if (text := content(path.with_suffix(".toml"))) is None:
        return About()
    try:
        found = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecordError(f"{path.with_suffix('.toml')}: {shown(str(error), quote=False)}") from None
    words = {name: str(found.get(name, "")) for name in ("source", "licence", "endpoint", "command")}
    return About(**words, notes=tuple(map(str, found.get("notes") or ())))


def external(results: Path) -> tuple[list[tuple[Run, list[Rows]]], list[str]]:
    """Runs of all files there with the rows of their seeds, and notes; a file that cannot be read is a note."""
    found, notes = list[tuple[Run, list[Rows]]](), list[str]()
    paths = sorted(folder_of(results).glob("*.csv"))
    for path in paths:
        try:
            file_name(path.stem)
            known, rows = about(path), read(path)
        except (BadInput, ValueError) as error:
            notes.append(f"left out: {error}")
            continue
        found += _runs(path, rows, known)
        notes.append(f"{path.name}: {known.text or 'nobody says where it is from'}: results of another code base; its "
                     "seeds pair with nothing")  # fmt: skip
        notes += [f"{path.name}: {note}" for note in known.notes]
    return found, notes


def _runs(path: Path, rows: pd.DataFrame, known: About) -> Iterator[tuple[Run, list[Rows]]]:
    """A run of each method and task, and one more of each with an online phase: it begins with the offline rows."""
    for (suite, task, method, protocol), of in rows.groupby(["suite", "task", "method", "protocol"], sort=False):
        who = dict(zip(("suite", "task", "method", "protocol"), map(str, (suite, task, method, protocol)), strict=True))
        offline, online = of[of["phase"] == "offline"], of[of["phase"] == "online"]
        if len(offline):
            yield _run(path, who, offline, known, online=False)
        if len(online):
            yield _run(path, who, pd.concat([offline, online]), known, online=True)
        if len(alone := of[of["phase"] == "online_only"]):
            yield _run(path, who, alone.assign(phase="online"), known, online=True)


def _run(
    path: Path, who: Mapping[str, str], rows: pd.DataFrame, known: About, *, online: bool
) -> tuple[Run, list[Rows]]:
    suite, task, protocol = who["suite"], who["task"], who["protocol"]
    method = f"{who['method']} ({path.stem})"
    words = "/".join((*who.values(), path.stem, "online" if online else ""))
    fingerprint = hashlib.sha256(words.encode()).hexdigest()[:12]
    folder = path.with_suffix("") / suite / task / method / fingerprint
    meta: dict[str, Any] = {
        "suite": suite, "task": task, "method": method, "fingerprint": fingerprint, "protocol": protocol, "format": 2,
        "knobs": [], "config": {}, "episodes": 1, "status": "finished", "unit": "score",
        "external": {"file": str(path), **known._asdict()},
    }  # fmt: skip
    if online:
        first = int(rows.loc[rows["phase"] == "online", "step"].min())
        meta["online"] = {"continues": "", "from_step": first}
    sources, found = list[Source](), list[Rows]()
    last = int(rows["step"].max())
    for seed, of in rows.sort_values("step", kind="stable").groupby("seed"):
        seeds = (int(str(seed)),)
        one = {**meta, "seed": seeds[0]}
        sources.append(
            Source(folder, f"{suite}/{task}/{method} seed {seed}", seeds, "finished", ENDINGS["finished"], one)
        )
        found.append(_rows(of, last))
    run = Run(folder, suite, task, method, fingerprint, label="", knobs=(), config={},
              meta={**meta, "seeds": [source.seeds[0] for source in sources]}, sources=tuple(sources))  # fmt: skip
    return Run(**{**vars(run), "label": run.series}), found


def _rows(of: pd.DataFrame, last: int) -> Rows:
    """Of one seed; the evaluation at the run's last step is its final one."""
    count = len(of)
    phase = np.where(of["step"] == last, PHASES.index("final"), [PHASES.index(one) for one in of["phase"]])
    columns: dict[str, np.ndarray] = dict.fromkeys((*BEFORE, "setting", *AFTER), np.zeros(0))
    columns |= {
        "seed": of["seed"].to_numpy("int32"), "phase": phase.astype("int8"), "step": of["step"].to_numpy("int64"),
        "setting": np.zeros(count, "int16"), "episode": np.zeros(count, "int32"),
        "return": np.full(count, np.nan, "float32"), "length": np.full(count, np.nan, "float32"),
        "success": np.full(count, np.nan, "float32"), "score": of["score"].to_numpy("float32"),
        "complete": np.ones(count, bool),
    }  # fmt: skip
    return Rows(columns, [""], {})
