"""How every command starts and ends: one line for what went wrong, exit code 2, and never a traceback for a signal.

A command's file holds no more than

    if __name__ == "__main__":
        main("analysis.tables_command:app")

so that its imports, which take seconds, happen in here, too.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from core.errors import BadInput, reason
from core.text import PLAIN, printable

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
NOBODY_READS = 141  # of a closed pipe, likewise


def main(place: str) -> NoReturn:
    """Runs the typer application at "module:attribute" and exits with its code: 2 for what the user can mend."""
    signal.signal(signal.SIGINT, _leave)  # until the imports are done: an import that is broken off has no use
    use_any_encoding()
    try:
        module, _, attribute = place.partition(":")
        app = getattr(importlib.import_module(module), attribute)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = guarded(lambda: app(standalone_mode=False))
    except BaseException as error:
        if not isinstance(error, BadInput):
            raise
        code = complain(error)
    leave(code)


def guarded(call: Callable[[], Any]) -> int:
    """What `call()` returns as an exit code (None: 0), errors that a user can mend as a line on stderr and code 2.
    Others, which are ours to mend, pass."""
    try:
        return int(call() or 0)
    except BadInput as error:
        return complain(error)
    except BrokenPipeError:
        return NOBODY_READS
    except OSError as error:
        return complain(error)
    except MemoryError as error:
        return complain(BadInput(f"out of memory ({reason(error)})"))
    except KeyboardInterrupt:
        _say("stopped")
        return INTERRUPTED
    except Exception as error:
        code = getattr(error, "exit_code", None)  # of typer: a wrong option, or an exit that was asked for
        if not isinstance(code, int):
            raise
        if describe := getattr(error, "format_message", None):
            _say(f"error: {describe()}")
        return code


def complain(error: BaseException) -> int:
    """Prints an error's one line; returns exit code 2."""
    _say(f"error: {reason(error)}")
    return 2


def leave(code: int) -> NoReturn:
    """Exits, with nothing to say where a stream has been closed meanwhile."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or NOBODY_READS
            _discard(stream)
    sys.exit(code)


def use_any_encoding() -> None:
    """Makes both streams print every text: signs that the terminal's encoding lacks are spelled out."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=PLAIN)


def _say(line: str) -> None:
    try:
        print(printable(" ".join(line.split())), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _discard(sys.stderr)


def _discard(stream: Any) -> None:
    """What is still to be flushed at exit goes nowhere, instead of raising there."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass


def _leave(number: int, frame: object) -> None:
    del number, frame
    os._exit(INTERRUPTED)
