"""Files of the working folder that are imported in the place of ours, of a library or of Python's own modules.

`python -m` looks for modules in the working folder first, so a `tasks.py` or `numpy.py` there comes before what is
meant. Imports the standard library alone, and is run by its path (see `harness/__init__.py`): `core` may be what is
replaced.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def refuse_strangers(*packages: str) -> None:
    """Ends the command, with a line, where something else stands in the place of one of our own packages."""
    for name in packages:
        place = _place(importlib.util.find_spec(name))
        if place and place.parent != _ROOT:
            print(f"error: {_line(name, place)}", file=sys.stderr)
            raise SystemExit(2)


def culprit() -> str | None:
    """A line about an imported module of the working folder that stands in the place of another one; None where there
    is none. For errors that such a file may be the cause of."""
    folder = Path.cwd()
    if folder == _ROOT:
        return None
    elsewhere = [path for path in sys.path if path and Path(path).resolve() != folder]
    for name, module in list(sys.modules.items()):
        if "." in name or name == "__main__":
            continue
        place = _place(getattr(module, "__spec__", None))
        if place and place.parent == folder and _known(name, elsewhere):
            return _line(name, place)
    return None


def _known(name: str, folders: list[str]) -> bool:
    return name in sys.stdlib_module_names or importlib.machinery.PathFinder.find_spec(name, folders) is not None


def _place(spec: importlib.machinery.ModuleSpec | None) -> Path | None:
    """A top-level module's file, or its folder."""
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:
        return next((Path(folder).resolve() for folder in spec.submodule_search_locations), None)
    return Path(spec.origin).resolve() if spec.has_location and spec.origin else None


def _line(name: str, place: Path) -> str:
    return f"{place} is imported in the place of {name!r}: rename it, or run the command in another folder"
