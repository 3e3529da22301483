"""How the work of a run can end before it is done."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from core.command import STOPS
from core.errors import BadInput, reason
from core.remote import Unreachable
from tasks.simulation.simulators import SimulatorError

STORAGE = {errno.ENOSPC: "is full", errno.EDQUOT: "is over quota", errno.EROFS: "is read-only",
           errno.EACCES: "is not writable", errno.EPERM: "is not writable",
           errno.ENOTDIR: "is not a folder", errno.EEXIST: "is not a folder",
           errno.EMFILE: "needs more open files than are allowed (ulimit -n)",
           errno.EFBIG: "may not have files as large as are needed (ulimit -f)"}  # fmt: skip
"""What keeps every run from writing its records, by the system's number."""


class Interrupted(Exception):
    """The user asked to stop."""


class NotFinite(ArithmeticError):
    """A metric became NaN or infinite."""

    def __init__(self, stage: str, step: int, seed: int, metrics: Sequence[str]) -> None:
        super().__init__(f"stage {stage}: {', '.join(metrics)} not finite at step {step}, seed {seed}")
        self.step, self.seed = step, seed


def is_of_one_run(error: Exception) -> bool:
    """Whether other runs can go on: not after the user's wish to stop, nor where no run can write."""
    storage = isinstance(error, Unreachable) or (isinstance(error, OSError) and error.errno in STORAGE)
    return not isinstance(error, Interrupted) and not storage


def is_expected(error: Exception) -> bool:
    """Whether its message says everything, so that no traceback is needed."""
    if isinstance(error, SimulatorError):
        return error.__cause__ is None  # else it was raised in this process, and holds no traceback as a worker's does
    return isinstance(error, NotFinite | BadInput)


def summary(error: Exception) -> str:
    """One line for what a run failed of."""
    if isinstance(error, SimulatorError):  # a worker's whole traceback
        return str(error).strip().splitlines()[-1]
    if is_expected(error):
        return reason(error)
    words = reason(error)[:300]
    short = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in words or "OutOfMemory" in type(error).__name__
    return f"out of memory ({words})" if short else f"{type(error).__name__}: {words}"


class Stop:
    """Turns the first Ctrl-C, SIGTERM, SIGHUP, ... (`STOPS`) into a wish to stop after the current span. A second
    Ctrl-C kills, and so does a second SIGTERM that does not come with the first, as `timeout` sends it; the others, by
    which batch systems warn, may come as often as they like."""

    PATIENCE_S = 10.0  # with work that does not look for the wish, before it is given up
    _TWICE_S = 1.0

    def __init__(self) -> None:
        self._since = math.inf
        self.asked = False
        """Whether the user, or what he said beforehand, is behind the wish."""

    def __call__(self) -> bool:
        return self._since < math.inf

    def after(self, seconds: float) -> None:
        """A wish to stop so many seconds from now; with infinity none."""
        if seconds < math.inf:
            timer = threading.Timer(seconds, self._on_time)
            timer.daemon = True
            timer.start()

    def wish(self) -> None:
        self._since = min(self._since, time.monotonic())

    def heed(self) -> None:
        """For work that takes long and cannot be broken off without a loss.

        Raises:
          Interrupted: the wish is older than `PATIENCE_S`.
        """
        if time.monotonic() - self._since > self.PATIENCE_S:
            raise Interrupted

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        # what was started by `nohup` is to outlive its terminal
        heard = [one for one in STOPS if one == signal.SIGINT or signal.getsignal(one) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_time(self) -> None:
        self.asked = True
        self.wish()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = True
        self.wish()
        others = self._on_another if number == signal.SIGTERM else signal.SIG_IGN
        signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else others)

    def _on_another(self, number: int, frame: FrameType | None) -> None:
        del frame
        if time.monotonic() - self._since > self._TWICE_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
