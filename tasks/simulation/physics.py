"""MuJoCo, of which nothing is rendered here."""

from __future__ import annotations

import importlib
import os
from typing import Any

NOTHING = {"MUJOCO_GL": "disable"}


def load() -> Any:
    """The module. It loads a rendering backend (`MUJOCO_GL`) as it is imported: one that does not work here is done
    without, and none is loaded unless one is asked for, which spares a warning where there is no display."""
    os.environ |= NOTHING | os.environ
    try:
        return importlib.import_module("mujoco")
    except Exception:  # of OpenGL's many
        if os.environ["MUJOCO_GL"] == NOTHING["MUJOCO_GL"]:
            raise
    os.environ |= NOTHING
    return importlib.import_module("mujoco")
