"""What a local folder of a lane or of a seed holds of one that stands in remote storage (`harness.storage`).

`remote.json` there says which note (stage.json, run.json) it is of, and, as long as the note alone was copied, which
states of the lane are there and not here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from core.files import read_plain, write_json

NAME = "remote.json"


class Partial(NamedTuple):
    note: str  # SHA-256 of the note that was last seen there, or was written there
    whole: bool  # whether all files of the folder were copied here
    states: tuple[str, ...] = ()  # where they were not: names of the states there
    tables: tuple[str, ...] = ()  # where they were: the other files there


def read(folder: Path) -> Partial | None:
    """None where the folder stands in no remote storage."""
    try:
        found = json.loads(read_plain(folder / NAME))
        lists = (tuple(map(str, found[name])) for name in ("states", "tables"))
        return Partial(str(found["note"]), bool(found["whole"]), *lists)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(folder: Path, about: Partial) -> None:
    content: dict[str, Any] = {**about._asdict(), "states": list(about.states), "tables": list(about.tables)}
    write_json(folder / NAME, content)


def states(folder: Path) -> frozenset[str]:
    """Names of states that can be had, though they are not here."""
    about = read(folder)
    return frozenset(about.states) if about and not about.whole else frozenset()
