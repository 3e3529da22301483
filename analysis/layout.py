"""How tables fit a terminal: none that cuts a number or squeezes a sentence is printed; lines stand in its place."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

JOINED = "\N{NO-BREAK SPACE}"


def fits(console: Console, table: Table) -> bool:
    """Whether a table needs no more than the console's width to show all its cells unbroken."""
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width


def broken(name: str, width: int) -> str:
    """A name on several lines, parted at its hyphens and spaces, none longer than `width` where that can be."""
    return "\n".join(textwrap.wrap(name, width, break_long_words=False) or [""])


def joined(text: str) -> str:
    """A text that no line break parts."""
    return text.replace(" ", JOINED)


def wrapped(text: str, width: int, indent: int = 0) -> str:
    """A text over several lines, what follows the first set in; parted at spaces alone."""
    return textwrap.fill(text, max(width, indent + 10), initial_indent=" " * indent,
                         subsequent_indent=" " * (indent + 2), break_long_words=False,
                         break_on_hyphens=False).replace(JOINED, " ")  # fmt: skip


def listed(title: str, entries: Iterable[tuple[str, Iterable[str]]], width: int) -> Text:
    """What a table would hold, as text: a title, then each entry's name with its sentences below it."""
    found = [Text(wrapped(title, width), style="italic")] if title else []
    for name, sentences in entries:
        found += [Text(wrapped(name, width), style="bold")] if name else []
        found += [Text(wrapped(one, width, 2)) for one in sentences if one]
    return Text("\n").join(found)
