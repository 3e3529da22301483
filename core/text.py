"""Text for people: names that may be meant, and what is safe to print."""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Sequence

MANY = 30  # names in an error line
_ASCII = {"±": "+-", "×": "x", "—": "-", "–": "-", "−": "-", "…": "...", "≤": "<=", "≥": ">=", "→": "->", "·": "*",
          "é": "e", "²": "^2", "’": "'", "‘": "'", "“": '"', "”": '"', "│": "|", "┃": "|", "─": "-", "━": "-",
          "╸": "-", "╺": "-", "•": "*", "√": "sqrt", "α": "alpha", "β": "beta", "γ": "gamma", "μ": "mu"}  # fmt: skip


def nearest(name: str, valid: Sequence[str], more: str = "--list") -> str:
    """A hint for an error line: the closest valid name, or when none is close all of them, as far as a line goes;
    `more`: the option that shows the rest, if there is one."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    left = f"and {len(valid) - MANY} more{f' ({more})' if more else ''}"
    shown = valid if len(valid) <= MANY else [*valid[:MANY], left]
    return f"did you mean {close[0]!r}?" if close else "valid: " + ", ".join(shown)


def printable(text: str) -> str:
    """The text with control characters and lone surrogates escaped: what a stranger named cannot steer a terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: signs that an encoding lacks are spelled out, or escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(one) or one.encode("unicode_escape").decode() for one in missing), error.end


PLAIN = "vgf-plain"
"""Name of the error handler with which a stream prints everything, whatever its encoding."""

codecs.register_error(PLAIN, _plain)
