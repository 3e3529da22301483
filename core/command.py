"""How every command starts and ends: one line for what went wrong, exit code 2, and never a traceback for a signal.

A command's file holds no more than

    if __name__ == "__main__":
        main("harness.run_command:app")

so that its imports, which take seconds, happen in here, too.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from core import account, shadows, streams
from core.errors import BadInput, reason
from core.extras import EXTRAS, install
from core.streams import NOBODY_READS, use_any_encoding
from core.text import printable

__all__ = ["INTERRUPTED", "NOBODY_READS", "STOPS", "complain", "guarded", "leave", "main", "use_any_encoding"]

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""What asks a command to stop: Ctrl-C, an administrator, a terminal that closes, and the warnings of batch systems
before they kill (SLURM and SGE: SIGUSR1; LSF: SIGUSR2; limits on processor time: SIGXCPU)."""


def main(place: str) -> NoReturn:
    """Runs the typer application at "module:attribute" and exits with its code: 2 for what the user can mend."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)  # until the imports are done: there is nothing to tidy up yet
    streams.make_steady()
    account.settle()
    leave(guarded(lambda: _run(place)))


def _run(place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        if line := shadows.culprit():
            raise BadInput(line) from error
        raise
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)
    gc.freeze()  # tracing and drawing make objects by the million, and Python would look through all again and again
    gc.set_threshold(50_000, 10, 10)
    return app(standalone_mode=False)


def guarded(call: Callable[[], Any]) -> int:
    """What `call()` returns as an exit code (None: 0), errors that a user can mend as a line on stderr and code 2.
    Others, which are ours to mend, pass."""
    try:
        return int(call() or 0)
    except BadInput as error:
        return complain(error)
    except BrokenPipeError:
        return NOBODY_READS
    except ImportError as error:
        if line := shadows.culprit():
            return complain(BadInput(line))
        if not isinstance(error, ModuleNotFoundError):
            raise
        return complain(absent(error))
    except OSError as error:
        return complain(error)
    except MemoryError as error:
        return complain(BadInput(f"out of memory ({reason(error)})"))
    except KeyboardInterrupt:
        return _stopped()
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # typer's way to pass one on
            return _stopped()
        code = getattr(error, "exit_code", None)  # of typer: a wrong option, or an exit that was asked for
        if isinstance(code, int):
            if describe := getattr(error, "format_message", None):
                _say(f"error: {describe()}")
            return code
        if isinstance(error, AttributeError) and (line := shadows.culprit()):
            return complain(BadInput(line))
        raise


def complain(error: BaseException) -> int:
    """Prints an error's one line; returns exit code 2."""
    _say(f"error: {reason(error)}")
    return 2


def leave(code: int) -> NoReturn:
    """Exits, with nothing to say where a stream has been closed meanwhile."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except SystemExit:  # of a steady stream whose reader has left
            code = code or NOBODY_READS
        except (OSError, ValueError) as error:
            code = code or (NOBODY_READS if isinstance(error, BrokenPipeError) else complain(error))
            streams.discard(stream)
    sys.exit(code)


def absent(error: ModuleNotFoundError) -> BadInput:
    """What to install for a module that is not there."""
    package = (error.name or "").partition(".")[0]
    how = install(EXTRAS[package]) if package in EXTRAS else "install the project again"
    return BadInput(f"{package or reason(error)} is not installed: {how}")


def _say(line: str) -> None:
    try:
        print(printable(" ".join(line.split())), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        streams.discard(sys.stderr)


def _stopped() -> int:
    _say("stopped")
    return INTERRUPTED


def _interrupt(number: int, frame: object) -> NoReturn:
    """The first Ctrl-C tidies up; a second one, meanwhile, kills."""
    del frame
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def _leave(number: int, frame: object) -> None:
    del number, frame
    os._exit(INTERRUPTED)
