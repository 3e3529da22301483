"""A server's key: read from the environment, and kept out of everything that is shown or stored."""

from __future__ import annotations

import base64
import html
import math
import os
import re
import string
from collections.abc import Callable, Iterator
from itertools import groupby
from urllib.parse import quote

from core.errors import BadInput

SHORTEST = 8  # characters in a row of a key that are looked for; a placeholder shorter than that stands in many words
HIDDEN = "***"
_NAME = re.compile(r"[A-Z]{1,12}(_[A-Z]{1,12}){0,5}")  # of a variable, and hardly of a key, which has digits
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # unlike str.lower, it keeps the length


def of(variable: str) -> str:
    """The key in an environment variable; "" for the variable "", or where there is none."""
    return os.environ.get(variable, "").strip() if variable and "\0" not in variable else ""


def check(variable: str) -> None:
    """Refuses a variable that holds no key ("": none is needed).

    Raises:
      BadInput: it is not set, or holds what no header can. A name that may be the key itself, given in the wrong place,
        is not repeated.
    """
    if not variable:
        return
    named = f"variable {variable}" if _NAME.fullmatch(variable) else "variable that --key-variable names"
    key = of(variable)
    if not key:
        hint = "" if _NAME.fullmatch(variable) else " (it takes the name of a variable, not the key)"
        raise BadInput(f"no key for the judge: the environment {named} is not set{hint}")
    if not (key.isascii() and key.isprintable()):
        raise BadInput(f"no key for the judge: the environment {named} holds something else")


def scrubbed(text: str, key: str) -> str:
    """The text without the key, should a server repeat it: whole or in part, in upper case, backwards, or encoded."""
    if len(key) < SHORTEST:
        return text
    lower, hidden = text.translate(_LOWER), bytearray(len(text))
    pieces: dict[int, set[str]] = {}
    for spelled, length in _spellings(key):
        spelled = spelled.translate(_LOWER)
        pieces.setdefault(length, set()).update(spelled[i : i + length] for i in range(len(spelled) - length + 1))
    for length, some in pieces.items():
        for i in range(len(text) - length + 1):
            if lower[i : i + length] in some:
                hidden[i : i + length] = b"\1" * length
    runs = groupby(zip(text, hidden, strict=True), key=lambda one: one[1])
    return "".join(HIDDEN if covered else "".join(sign for sign, _ in run) for covered, run in runs)


def _spellings(key: str) -> Iterator[tuple[str, int]]:
    """Ways to write the key, each with the length that `SHORTEST` characters of the key have at least there."""
    for plain in (key, key[::-1], quote(key, safe=""), html.escape(key)):
        yield plain, SHORTEST
    for raw in {key.encode(), key.upper().encode(), key.lower().encode()}:
        yield from _encodings(raw)


def _encodings(raw: bytes) -> Iterator[tuple[str, int]]:
    """Of `_spellings`, those that depend on whether the key was in upper or lower case."""
    for coded in _grouped(raw, base64.b64encode, 3, 6):
        for one in (coded, coded.replace("+", "-").replace("/", "_")):
            yield one, SHORTEST * 8 // 6 - 1
    for coded in _grouped(raw, base64.b32encode, 5, 5):
        yield coded, SHORTEST * 8 // 5 - 1
    for between in ("", " ", ":", "-", ",", ", ", " 0x", ", 0x", ",0x"):
        yield between.join(f"{byte:02x}" for byte in raw), SHORTEST * (2 + len(between)) - len(between)
    for form in ("%{:02x}", "\\x{:02x}", "\\u{:04x}", "&#{};", "&#x{:x};"):
        yield "".join(form.format(byte) for byte in raw), SHORTEST * len(form.format(32))


def _grouped(raw: bytes, encode: Callable[[bytes], bytes], group: int, bits: int) -> Iterator[str]:
    """What `raw` alone decides of an encoding of groups of bytes, wherever in a group it begins, as in "user:key"."""
    for before in range(group):
        coded = encode(bytes(before) + raw).decode().rstrip("=")
        yield coded[math.ceil(before * 8 / bits) : (before + len(raw)) * 8 // bits]
