"""How a dataset was made, in the file itself; and work on one that is noted in a folder, from which it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core import files, strict_json
from core.errors import BadInput
from tasks.data import files as data_files
from tasks.data.download import atomic_write


def recipe_of(path: Path) -> Mapping[str, Any]:
    """How a file was made, if `collect` made it, else nothing.

    Raises:
      BadInput: the file cannot be read, or what it says of itself is no recipe.
    """
    recipe = data_files.npz(path, ["recipe"]).get("recipe")
    if recipe is None:
        return {}
    from core.records import check  # late: processes that only simulate need no pydantic
    from tasks.data.shapes import RecipeRecord

    return check(strict_json.parse(str(recipe), f"{path}: recipe"), RecipeRecord, f"{path}: recipe")


def begin(place: Path, recipe: Mapping[str, Any], holds: str, advice: str) -> None:
    """Notes in the folder `place`, from which work goes on, what is made there; drafts of a killed process go.

    Args:
      holds, advice: words for the line that says that it "holds ... KEY VALUE, not VALUE; ...".

    Raises:
      BadInput: something else is being made there, or what is noted cannot be read.
    """
    from core.records import check  # late, as in `recipe_of`

    settings = place / "recipe.json"
    files.sweep(place)
    if not data_files.exists(settings):
        with atomic_write(settings) as file:
            file.write(json.dumps(recipe).encode())
    try:
        found = check(strict_json.read(settings), dict[str, Any], str(settings))
    except OSError as error:
        raise data_files.unreadable(settings, error) from error
    for key, value in recipe.items():
        if found.get(key) != value:
            raise BadInput(f"{place} {holds} {key} {found.get(key)}, not {value}; {advice}")


def save(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes an NPZ file, all or nothing. Uncompressed: the numbers barely shrink, and reading is much faster."""
    with atomic_write(path) as file:
        np.savez(file, **dict(columns))  # type: ignore[arg-type]
