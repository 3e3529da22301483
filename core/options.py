"""What options of every command have in common: nothing that is empty is taken for something, "~" is a home.

Imports typer, which every command does.
"""

from __future__ import annotations

from pathlib import Path

import typer

from core.errors import BadInput
from core.files import expanded


def filled(option: str, text: str) -> str:
    """The text of an option. Raises: BadInput: it is empty."""
    if not text.strip():
        raise BadInput(f"{option}: is empty")
    return text


def parts(option: str, text: str, of: str) -> list[str]:
    """The different pieces of a comma-separated list. `of`: what they are called.

    Raises:
      BadInput: there are none.
    """
    found = list(dict.fromkeys(filter(None, map(str.strip, filled(option, text).split(",")))))
    if not found:
        raise BadInput(f"{option} {text!r} names no {of}")
    return found


def path(text: str | Path) -> Path:
    """Parser (of typer) of an option or argument that names a file or folder; "~" is spelled out.

    Raises:
      typer.BadParameter: it is empty, which would mean the current folder, or in a home that nobody knows.
    """
    if not str(text).strip():
        raise typer.BadParameter("is empty; the current folder is '.'")
    try:
        return expanded(Path(text))
    except BadInput as error:
        raise typer.BadParameter(str(error)) from None
