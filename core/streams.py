"""Standard streams that nothing can break: any encoding, closed from the start, or left by whoever read them."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from core.text import PLAIN

STANDARD_OUTPUT = "standard output"  # the file that an error names where a command cannot print
NOBODY_READS = 141  # exit code of what writes into a closed pipe, as shells have it


def use_any_encoding() -> None:
    """Makes both streams print every text: signs that the terminal's encoding lacks are spelled out."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=PLAIN)


def make_steady() -> None:
    """For a command's beginning: both streams print every text, and go on, into nothing, when they can no longer be
    written. What is said on stderr is worth no failure; a stdout that breaks ends the command (`_Steady`)."""
    _open_what_is_closed()
    sys.stdout, sys.stderr = _Steady(sys.stdout, STANDARD_OUTPUT), _Steady(sys.stderr, None)


def discard(stream: TextIO) -> None:
    """What is still to be flushed goes nowhere, instead of raising at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass


class _Steady(io.TextIOWrapper):
    """A stream that is diverted to nowhere at its first failure. With a `name` that also ends the command: silently
    where the reader has left (`... | head`), as the error that it is elsewhere (a full disk)."""

    def __init__(self, stream: TextIO, name: str | None) -> None:
        super().__init__(
            stream.buffer, stream.encoding, PLAIN, line_buffering=getattr(stream, "line_buffering", True),
            write_through=getattr(stream, "write_through", False),
        )  # fmt: skip
        self._before, self._named = stream, name  # whose end would close the buffer

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._divert(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._divert(error)

    def _divert(self, error: OSError) -> None:
        discard(self)
        if self._named is None:
            return
        if isinstance(error, BrokenPipeError):
            raise SystemExit(NOBODY_READS) from None
        raise OSError(error.errno, error.strerror, self._named) from None


def _open_what_is_closed() -> None:
    """Else the next file that is opened gets a standard stream's number, and what libraries print lands in it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 (to the end)
