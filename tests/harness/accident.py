"""Runs the command line, with an accident at an exact moment.

    python -m tests.harness.accident "harness.train:Trainer.run 3 after SIGTERM" --preset smoke ...

The moment: before or after the n-th call of a function. The accident: a signal to this very process, or `full:PATH`,
which fills the disk that PATH is on.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from core.command import main


def strike(what: str) -> None:
    """The accident. A signal has been seen when it returns: the work may go on in another thread than the handler."""
    if not what.startswith("full:"):
        number = signal.Signals[what]
        handler = signal.getsignal(number)
        os.kill(os.getpid(), number)
        while signal.getsignal(number) == handler:
            time.sleep(0.01)
        return
    with (Path(what.removeprefix("full:")) / "filler").open("wb", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


def arm(accident: str) -> None:
    """Wraps the function so that the accident happens at its call."""
    place, number, when, what = accident.split()
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for attribute in outer:
        owner = getattr(owner, attribute)
    original, calls = getattr(owner, name), 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if (calls, when) == (int(number), "before"):
            strike(what)
        result = original(*arguments, **named)
        if (calls, when) == (int(number), "after"):
            strike(what)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    main("harness.run_command:app")
