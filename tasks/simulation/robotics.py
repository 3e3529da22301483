"""gymnasium-robotics, of whose advice nothing is shown here."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings

import gymnasium

ADVICE = threading.Lock()  # held by who changes where advice goes, which is the whole process's affair


def register_robotics() -> None:
    """Makes gymnasium-robotics' environments known, without its news about others of them."""
    with ADVICE, contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
