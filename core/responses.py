"""`responses.jsonl` of a language run (`results/README.md`), read alike by those who judge it and who analyse it."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic needs its form of it below Python 3.12

from core import strict_json
from core.errors import BadInput
from core.records import Number, Seed, check
from core.text import printable

LARGEST_WHOLE = 2**63  # of a knob that is a whole number
LARGEST = (2 - 2**-23) * 2.0**127  # of another one: float32's largest


@with_config(ConfigDict(strict=True, extra="allow"))
class ResponseRecord(TypedDict):
    """A line, beside the knobs, which are finite numbers."""

    seed: Seed
    episode: Number
    prompt: str
    response: str
    reference: str


def parse(content: bytes, path: Path, knobs: Sequence[str]) -> list[Mapping[str, Any]]:
    """The rows of a file with that content. A byte order mark and blank lines are passed over.

    Raises:
      BadInput: it is not UTF-8, a line is no row, an episode has two prompts, or two responses stand for the same seed,
        knobs and episode; begins with the path and, where there is one, the line.
    """
    try:
        lines = content.removeprefix(codecs.BOM_UTF8).decode().split("\n")
    except UnicodeDecodeError as error:
        at = error.object[: error.start].count(b"\n") + 1
        raise BadInput(f"{path}:{at}: {error.reason}, so this is not UTF-8") from None
    rows, prompts, keys = list[Mapping[str, Any]](), dict[int, str](), set[tuple[Any, ...]]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _row(line, knobs, where)
        if prompts.setdefault(row["episode"], row["prompt"]) != row["prompt"]:
            raise BadInput(f"{where}: episode {row['episode']} has another prompt than before")
        key = tuple(row[name] for name in ("seed", *knobs, "episode"))
        if key in keys:
            raise BadInput(f"{where}: another response for the same {', '.join(('seed', *knobs, 'episode'))}")
        keys.add(key)
        rows.append(row)
    return rows


def _row(line: str, knobs: Sequence[str], where: str) -> Mapping[str, Any]:
    row: Any = check(strict_json.parse_line(line, where), ResponseRecord, where)
    for name in knobs:
        if name not in row:
            raise BadInput(f"{where}: {name}: Field required")
        if not _number(row[name]):
            raise BadInput(f"{where}: {name} is {printable(repr(row[name])[:60])}")
    return row


def _number(value: Any) -> bool:
    """Whether a knob can have the value."""
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) < LARGEST
    return type(value) is int and abs(value) < LARGEST_WHOLE
