"""What data and simulators need at least, against what there is: what cannot fit is refused before it is begun.

The bounds are low on purpose: what passes may still run out of memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from core.errors import BadInput
from core.memory import amount, host_memory
from tasks.simulation.simulators import cores

LARGEST = 2**31 - 1  # what programs count and measure arrays with
CHEAP_SIMULATOR = 4e3  # bytes, at least
SIMULATOR = 5e5  # bytes, at least, of one in a process with others: results/measured/simulators_cpu.csv, mb_further


def check_number(option: str, value: int, least: int, most: int = LARGEST) -> None:
    """Refuses a number out of its range. Raises: BadInput: names the option."""
    if value < least:
        raise BadInput(f"{option} must be at least {least}, not {value}")
    if value > most:
        raise BadInput(f"{option} must be at most {most}, not {value}")


def check_workers(option: str, value: int) -> None:
    """Refuses more processes than have a use. Raises: BadInput: names the option."""
    check_number(option, value, 1, max(16, 4 * cores()))


def check_memory(what: str, size: float) -> None:
    """Refuses what takes `size` bytes or more, where there never are so many. Raises: BadInput: begins with `what`."""
    if size > (there := host_memory()):
        raise BadInput(f"{what} take at least {amount(size)} of memory, and there is {amount(there)}")


def check_disk(what: str, size: float, place: Path) -> None:
    """Refuses what takes `size` bytes or more on the disk that `place`, which need not be there yet, is on.

    Raises:
      BadInput: fewer are free; begins with `what`.
    """
    there = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    if size > (free := shutil.disk_usage(there).free):
        raise BadInput(f"{what} take at least {amount(size)} of disk space, and {amount(free)} are free")
