"""How the commands of this folder start: as `core.command` has it, with Matplotlib told what it needs to know.

It reads MPLBACKEND, which in a notebook's terminal names what need not exist here, and the folder of a user's settings,
for which there must be a home directory, while it is imported: so this comes first.
"""

from __future__ import annotations

import gc
import os
import tempfile
from typing import NoReturn

from core import account, command


def main(place: str) -> NoReturn:
    """Runs the typer application at "module:attribute"; see `core.command.main`."""
    os.environ["MPLBACKEND"] = "agg"
    # imports and figures make objects by the thousand that live on; Python would look through them again and again
    gc.set_threshold(200_000, 20, 100)
    if account.homeless() and not os.environ.get("MPLCONFIGDIR"):
        with tempfile.TemporaryDirectory(prefix="matplotlib-") as folder:
            os.environ["MPLCONFIGDIR"] = folder
            command.main(place)
    command.main(place)
