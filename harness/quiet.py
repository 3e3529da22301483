"""Keeps to one line what is said of a checkpoint that could not be written.

The error reaches whoever saves. Beside that Orbax logs it once for each of its threads, and writes that were under way
find their event loop closed, which tensorstore prints: hundreds of lines.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_LATE = "Event loop is closed"
_TALKERS = ("absl", "asyncio")


@contextlib.contextmanager
def about_failed_saves() -> Iterator[None]:
    """Nothing of this reaches the terminal from inside. After an error it stays so: what the error holds on to is
    cleared up as the process ends."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels, hooks = [logger.level for logger in loggers], (sys.excepthook, sys.unraisablehook)

    def excepthook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if str(error) != _LATE:
            hooks[0](kind, error, where)

    def unraisablehook(ignored: Any) -> None:
        if str(ignored.exc_value) != _LATE:
            hooks[1](ignored)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    sys.excepthook, sys.unraisablehook = hooks
