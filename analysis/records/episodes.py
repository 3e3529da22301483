"""The rows of an episodes.csv: the whole table at once where every row is sound, else row by row to name the others."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from analysis.records.files import RecordError, content, shown
from analysis.records.runs import FRAME, Source, named
from core.errors import BadInput

T = TypeVar("T")
P = ParamSpec("P")
PHASES = ("offline", "online", "final")
BEFORE = ("seed", "phase", "step")
"""Columns before the knobs'."""
AFTER = ("episode", "return", "length", "success", "score")
OPTIONAL = frozenset({"success"})  # a task without a notion of success leaves it empty
UNJUDGED = frozenset({"return", "score"})  # of shares: a text without a known reward, without a valid verdict (yet)
INTEGERS = {"seed": "int32", "step": "int64", "episode": "int32"}
MEASURED = dict.fromkeys(("return", "length", "success", "score"), "float32")  # `%.7g` is what the records hold
LARGEST = float(np.finfo("float32").max)
MOST = {"seed": 2**31 - 1, "step": 2**60, "episode": 2**31 - 1}
SETTINGS = 2**15 - 1  # of knobs, that a run can have


@dataclass
class Rows:
    """The rows of one source as columns `[rows]`: BEFORE, the knobs, setting, AFTER, complete.

    `phase` is an index into PHASES, `setting` one into `settings` (names; [""] without knobs). `extras` holds the
    columns that a suite has after those of all suites (a language run's `gold`, `proxy`, ...), NaN where empty.
    """

    columns: dict[str, np.ndarray]
    settings: list[str]
    extras: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["score"])


class Text(NamedTuple):
    """What an episodes.csv holds."""

    path: Path
    header: list[str]
    """Its columns, [] without any line."""
    optional: frozenset[str]
    """Columns whose fields may be empty."""
    whole: bytes
    """Its lines that have ended."""
    notes: list[str]


def read_episodes(sources: Sequence[Source]) -> list[tuple[Rows, list[str]] | BadInput]:
    """The episodes.csv of each seed of a run, or of a run of the old layout, and notes on what was left out of it; what
    is wrong with those that cannot be read, or whose header is not the schema's."""
    texts = [_attempt(_text, source) for source in sources]
    tables = _together([text for text in texts if isinstance(text, Text)])
    found = list[tuple[Rows, list[str]] | BadInput]()
    for source, text in zip(sources, texts, strict=True):
        if isinstance(text, Text):
            found.append(_attempt(_episodes, source, text, tables.get(text.path)))
        else:
            found.append(text)
    return found


def _attempt(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | BadInput:
    try:
        return read(*args, **kwargs)
    except BadInput as error:
        return error


def _text(source: Source) -> Text:
    """Raises: RecordError if it cannot be read, or its header is not the schema's."""
    path = source.folder / "episodes.csv"
    columns = [*BEFORE, *source.knobs, *AFTER]
    text = (content(path) or b"").removeprefix(codecs.BOM_UTF8)
    whole = text[: text.rfind(b"\n") + 1]  # a line without its newline is still being written
    notes = [f"{path}: the last line is half-written, left out"] if len(whole) < len(text) else []
    if not whole.strip():
        return Text(path, [], frozenset(), b"", notes)
    header = _header(whole, columns, path)
    optional = OPTIONAL.union(header[len(columns) :], UNJUDGED if source.share else ())
    return Text(path, header, optional, whole, notes)


def _together(texts: Sequence[Text]) -> dict[Path, pd.DataFrame]:
    """The tables of files with one header, parsed at once, which is faster; none where a row needs a closer look."""
    texts = [text for text in texts if text.header]
    if len(texts) < 2 or any(text.header != texts[0].header for text in texts):
        return {}
    bodies = [text.whole[text.whole.index(b"\n") + 1 :] for text in texts]
    first = texts[0]
    every = _fast(first.whole + b"".join(bodies[1:]), first.header, first.optional)
    ends = np.cumsum([body.count(b"\n") for body in bodies]).tolist()
    if every is None or len(every) != ends[-1]:
        return {}
    return {text.path: every.iloc[start:end] for text, start, end in zip(texts, [0, *ends], ends, strict=False)}


def _episodes(source: Source, text: Text, table: pd.DataFrame | None) -> tuple[Rows, list[str]]:
    """`table`: the parsed text, if that is done. Raises: RecordError: more knob settings than a run can have."""
    path, notes, bad = text.path, list(text.notes), list[tuple[int, str]]()
    if not text.header:
        columns = [*BEFORE, *source.knobs, *AFTER]
        return _rows(pd.DataFrame(columns=columns), source), [*notes, f"{source.name} has no evaluation yet"]
    if table is None:
        table, bad = parse(text.whole, text.header, text.optional)
    said = [f"{path}:{line}: {reason}, left out" for line, reason in bad]
    notes += said if len(said) <= 5 else [*said[:4], f"{path}: {len(said) - 4} more corrupt rows, left out"]
    strange = ~np.isin(table["seed"].to_numpy(), source.seeds)
    if strange.any():
        others = named(sorted(table.loc[strange, "seed"].astype(int).unique()))
        notes.append(f"{path}: {int(strange.sum())} rows of {others}, which its run.json does not have, left out")
        table = table[~strange]
    rows = _rows(table, source)
    if unjudged := int(np.isnan(rows.columns["score"]).sum()):
        notes.append(f"{source.name}: {unjudged} of {len(rows)} episodes have no valid verdict, so no score")
    key = codes(*(rows.columns[name] for name in ("seed", "phase", "step", "setting", "episode")))
    if len(pd.unique(key)) < len(rows):
        again = pd.Series(key).duplicated(keep="last").to_numpy()
        notes.append(f"{path}: {int(again.sum())} episodes stand twice (a resumed run?), the later rows count")
        rows.columns = {name: values[~again] for name, values in rows.columns.items()}
        rows.extras = {name: values[~again] for name, values in rows.extras.items()}
    return rows, notes + _completeness(rows, source)


def _header(text: bytes, columns: Sequence[str], path: Path) -> list[str]:
    """The names in the first line. Raises: RecordError: they do not begin with `columns`, or one cannot be a column."""
    header = text[: text.index(b"\n")].decode(errors="replace").strip().split(",")
    if header[: len(columns)] != columns or len(set(header)) < len(header):
        raise RecordError(f"{path}:1: the header is {_listed(header)}, expected {_listed(columns)}")
    for name in header[len(columns) :]:
        if not name.strip() or not name.isprintable() or name in FRAME:
            raise RecordError(f"{path}:1: no column after those can be called {shown(name)}")
    return header


def _listed(names: Sequence[str]) -> str:
    return shown(",".join(names), quote=False, longest=200)


def parse(
    content: bytes, columns: Sequence[str], optional: frozenset[str] = OPTIONAL
) -> tuple[pd.DataFrame, list[tuple[int, str]]]:
    """Rows of a table of whole lines, its header first, and (line, what is wrong) of the rows left out.

    Fields of the columns `optional` may be empty.
    """
    rows = _fast(content, columns, optional)
    return (rows, []) if rows is not None else _carefully(content.decode(errors="replace"), columns, optional)


def setting_name(values: Mapping[str, float]) -> str:
    """`{"w": 0.02, "N": 4}` -> "w=0.02 N=4"; a setting's name everywhere. Records hold 7 digits."""
    return " ".join(f"{name}={value:.7g}" for name, value in values.items())


def _fast(content: bytes, columns: Sequence[str], optional: frozenset[str]) -> pd.DataFrame | None:
    """The whole table by pandas' C parser, or None if any row needs a closer look."""
    if content.count(b",") != content.count(b"\n") * (len(columns) - 1) or b"\0" in content:
        return None
    words = {"phase", *OPTIONAL}  # success may be a word
    numbers = [name for name in columns if name not in (*INTEGERS, *words)]
    types: dict[str, Any] = INTEGERS | dict.fromkeys(numbers, "float64") | {"phase": pd.CategoricalDtype(PHASES)}
    try:
        rows = pd.read_csv(io.BytesIO(content), dtype=types, quoting=csv.QUOTE_NONE, engine="c")  # other threads run on
    except (ValueError, OverflowError):  # of a dtype, a parser, an encoding
        return None
    if any(not pd.api.types.is_numeric_dtype(rows[name]) for name in OPTIONAL):  # bool counts as numeric
        return None
    if rows.empty:
        return rows
    sound = rows["phase"].notna().all()
    for name, most in MOST.items():
        values = rows[name].to_numpy()
        sound = sound and values.min() >= 0 and values.max() <= most
    for name in numbers:
        values = np.abs(rows[name].to_numpy())
        sound = sound and (not (values > LARGEST).any() if name in optional else (values <= LARGEST).all())
    return rows if sound else None


def _carefully(
    text: str, columns: Sequence[str], optional: frozenset[str]
) -> tuple[pd.DataFrame, list[tuple[int, str]]]:
    """The sound rows one by one, and (line, what is wrong) of the others. A score of nan is wrong: it is none."""
    good: list[list[Any]] = []
    bad: list[tuple[int, str]] = []
    for line, row in enumerate(text.split("\n")[1:-1], start=2):
        fields = row.split(",")
        if len(fields) != len(columns):
            bad.append((line, f"{len(fields)} fields instead of {len(columns)}"))
            continue
        pairs = zip(columns, fields, strict=True)
        values = [_value(column, entry.strip(), column in optional) for column, entry in pairs]
        if None in values:
            at = values.index(None)
            bad.append((line, f"{columns[at]} is {shown(fields[at].strip())}"))
        else:
            good.append(values)
    return pd.DataFrame(good, columns=list(columns)), bad


def _value(column: str, entry: str, optional: bool) -> float | int | str | None:
    """The field as a value, None if it is not one."""
    if column == "phase":
        return entry if entry in PHASES else None
    if optional and entry in ("", "nan"):
        return math.nan
    try:
        number = float({"True": "1", "False": "0"}.get(entry, entry))
    except ValueError:
        return None
    if not abs(number) <= LARGEST:
        return None
    if column not in INTEGERS:
        return number
    return int(number) if number == int(number) and 0 <= number <= MOST[column] else None


def _rows(table: pd.DataFrame, source: Source) -> Rows:
    """Compact types, and each row's knob setting; `complete` is decided later."""
    phase = table["phase"].astype(pd.CategoricalDtype(PHASES)).cat.codes.to_numpy()
    types = INTEGERS | dict.fromkeys(source.knobs, "float64") | MEASURED
    columns = {name: table[name].to_numpy().astype(kind) for name, kind in types.items()}
    if source.share:
        columns["score"] *= np.float32(100)
    key = codes(*(columns[name] for name in source.knobs)) if source.knobs else np.zeros(len(table), int)
    setting, present = pd.factorize(key)
    if len(present) > SETTINGS:
        raise RecordError(f"{source.folder / 'episodes.csv'}: {len(present)} knob settings, more than {SETTINGS}")
    firsts = [int(np.argmax(setting == i)) for i in range(len(present))]
    names = [setting_name({knob: columns[knob][first] for knob in source.knobs}) for first in firsts]
    columns |= {"phase": phase, "setting": setting.astype("int16"), "complete": np.ones(len(table), bool)}
    known = (*columns, "phase")
    return Rows(columns, names, {name: table[name].to_numpy("float32") for name in table if name not in known})


def codes(*columns: np.ndarray) -> np.ndarray:
    """`[rows]` each -> `[rows]`, an integer for each distinct combination of the columns' values."""
    total = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        index, values = pd.factorize(column)
        total = total * len(values) + index
    return total


def _completeness(rows: Rows, source: Source) -> list[str]:
    """Marks (in place) the last evaluation of an unfinished source if rows are missing; notes that and other gaps."""
    step, phase = rows.columns["step"], rows.columns["phase"]
    expected = len(source.seeds) * len(rows.settings) * source.meta["episodes"]
    at, found = pd.factorize(step * len(PHASES) + phase)
    notes = []
    for code, count in sorted(zip(found.tolist(), np.bincount(at, minlength=len(found)).tolist(), strict=True)):
        if count == expected:
            continue
        name = f"the {PHASES[code % len(PHASES)]} evaluation at step {code // len(PHASES)}"
        notes.append(f"{source.name}: {name} has {count} of {expected} episodes")
        if source.status != "finished" and code == max(found):
            rows.columns["complete"][at == np.argmax(found == code)] = False
            notes[-1] += ", left out"
    return notes
