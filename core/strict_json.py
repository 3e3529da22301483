"""JSON that others wrote: whatever is wrong with it becomes one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import BadInput
from core.files import read_plain


def parse(text: str | bytes, where: str) -> Any:
    """The value that `text` (UTF-8 where it is bytes) spells out; NaN and infinities are read as Python writes them.

    Raises:
      BadInput: it is no JSON, is nested too deeply, or has a number too long to read; begins with `where`.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}:{error.lineno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None
    except ValueError:  # more digits than Python takes
        raise BadInput(f"{where}: a number has too many digits") from None


def parse_line(line: str | bytes, where: str) -> Any:
    """The value on one line of a file. Raises: BadInput, as `parse`; `where` ends with the line's number."""
    try:
        return parse(line, where)
    except BadInput as error:
        raise BadInput(str(error).replace(f"{where}:1:", f"{where}:", 1)) from None


def read(path: Path) -> Any:
    """The value in a file.

    Raises:
      BadInput: see `parse`; begins with the path.
      OSError: it is no plain file, or cannot be read; FileNotFoundError where there is none.
    """
    return parse(read_plain(path), str(path))
