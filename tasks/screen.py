"""What the commands of this folder say while they work: lines on stderr, which nothing named in them can steer."""

from __future__ import annotations

import contextlib
import functools

from rich.console import Console

from core.text import printable

console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(line: str) -> None:
    """Prints a line as it stands, but for control characters; nothing where nobody reads it any more."""
    with contextlib.suppress(OSError, ValueError):
        console.print(printable(line))


@functools.cache
def say_once(line: str) -> None:
    """Says it the first time in this process."""
    say(line)
