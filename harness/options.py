"""What the command line may say: nothing is passed over in silence."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from core import options
from core.extras import install
from harness.config import LARGEST
from harness.track import TRACKERS
from methods.core import BadInput

MOST_JOBS = 1000
_LISTING = {"what", "listing", "suite", "results"}
_CARRYING_OUT = {
    "lanes",
    "resume",
    "stale",
    "adopt",
    "dry_run",
    "show_config",
    "on",
    "cpus_per_program",
    "gpus_per_program",
    "silence",
    "shard",
    "stop_after",
    "track",
}  # no plan's file has them
_FLAGS = {"names": "--methods", "patterns": "--tasks", "sets": "--set", "swept": "--sweep", "listing": "--list",
          "what": "METHOD", "resume": "--resume/--fresh", "timed": "--time"}  # fmt: skip
_TWICE = "harness.options.twice"
_DURATION = r"(?:(\d{1,4})d)?(?:(\d{1,6})h)?(?:(\d{1,7})m)?(?:(\d{1,9})s)?"
_UNITS = (86400, 3600, 60, 1)  # of a day, an hour, a minute
ONLINE = ("online_warmup", "updates_per_step", "online_evaluate_every", "replay_capacity")
"""Sizes of an online phase, which mean nothing without one."""


@dataclass(frozen=True)
class Execution:
    """How a plan is carried out here: none of it changes a number."""

    results: Path
    fresh: bool
    lanes: int | None
    stale: str
    data: str
    adopt: tuple[Path, ...]
    shard: tuple[int, int] | None = None  # (i, n): one of n processes that carry out the same plan
    stop_after: float = math.inf  # seconds
    silence: float = 120.0  # seconds without a word, after which another process counts as gone
    url: str = ""  # where results stay, if that is no folder; `results` stands in for it
    track: str = ""  # who is told of what runs log: one of `track.TRACKERS`

    @property
    def place(self) -> str:
        """Where results stay, in words."""
        return self.url or str(self.results)


def flag(name: str) -> str:
    """How a parameter is spelled on the command line."""
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


class Command(TyperCommand):
    """A command that notes which options were given twice where the last would silently count: see `check_once`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        *_, order = self.make_parser(ctx).parse_args(list(args))
        times = Counter(one.name for one in order if not getattr(one, "multiple", True))
        ctx.meta[_TWICE] = [name for name, count in times.items() if count > 1]
        return super().parse_args(ctx, args)


def check_once(context: Any) -> None:
    """Refuses an option of one value that was given twice to a `Command`.

    Raises:
      BadInput: names the option.
    """
    for name in context.meta[_TWICE]:
        raise BadInput(f"{flag(name)}: is given twice, and has one value")


def check(given: Mapping[str, Any]) -> None:
    """Refuses what was given empty, or has no meaning beside the rest. `given`: parameters that stand on the command
    line, and their values.

    Raises:
      BadInput: names the option.
    """
    for name, value in given.items():
        texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if not all(text.strip() for text in texts):
            raise BadInput(f"{flag(name)}: is empty")
    if "timed" in given and "dry_run" not in given:
        raise BadInput("--time has no meaning without --dry-run")
    one = next((name for name in ("listing", "save_plan", "show_config") if name in given), None)
    for name in given:
        if (one == "listing" and name not in _LISTING) or (one == "show_config" and name == "dry_run"):
            raise BadInput(f"{flag(name)} has no meaning with {flag(one)}")
        if one == "save_plan" and name in _CARRYING_OUT:
            raise BadInput(f"{flag(name)} has no meaning with --save-plan: "
                           "it belongs to the command that carries the plan out")  # fmt: skip


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Refuses numbers that cannot be, and those of an online phase where there is none.

    Raises:
      BadInput: names the option.
    """
    for name, value in sizes.items():
        least = 0 if name in ("online_steps", "online_warmup") else 1
        most = MOST_JOBS if name == "jobs" else LARGEST
        if value < least:
            raise BadInput(f"{flag(name)} {value}: expected at least {least}")
        if value > most:
            raise BadInput(f"{flag(name)} {value}: expected at most {most}")
        if name in ONLINE and not sizes.get("online_steps"):
            raise BadInput(f"{flag(name)} has no meaning without --online-steps")


def lanes(text: str) -> int | None:
    """The most lanes of a program; None: as many as memory holds. Raises: BadInput."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and 0 < int(text) <= LARGEST):
        raise BadInput(f"--lanes {text}: expected a whole number above 0, or auto")
    return int(text)


def shard(text: str) -> tuple[int, int] | None:
    """(i, n) of "i/n", i from 0 to n - 1; None of "". Raises: BadInput."""
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    number, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not number < of:
        raise BadInput(f"--shard {text}: expected i/n, i from 0 to n - 1 (0/4, 1/4, 2/4, 3/4)")
    return number, of


def seconds(name: str, text: str) -> float:
    """Of "3h50m", "90s", "2d", "45m30s"; "" has no end. Raises: BadInput."""
    if not text:
        return math.inf
    found = re.fullmatch(_DURATION, text.replace(" ", ""), re.ASCII)
    whole = sum(int(number or 0) * unit for number, unit in zip(found.groups(), _UNITS, strict=True)) if found else 0
    if not whole:
        raise BadInput(f"{flag(name)} {text}: expected days, hours, minutes or seconds, such as 3h50m")
    return float(whole)


def check_elsewhere(given: Mapping[str, Any], on: str, url: str = "") -> None:
    """Refuses what has no meaning without others, or with them. `given`: see `check`.

    Raises:
      BadInput: names the option.
    """
    if on and on.partition(":")[0] != "ray":
        raise BadInput(f"--on {on}: expected ray or ray:ADDRESS")
    waits = "--shard, --on or results at a URL"
    for name, why in (("cpus_per_program", "--on"), ("gpus_per_program", "--on"), ("silence", waits)):
        if name in given and not on and not (name == "silence" and ("shard" in given or url)):
            raise BadInput(f"{flag(name)} has no meaning without {why}")
    if on and "jobs" in given:
        raise BadInput("--jobs has no meaning with --on: the cluster says how many programs run at a time")


def silence(text: str) -> float:
    """Seconds; "" is the default. Raises: BadInput."""
    return Execution.silence if not text else seconds("silence", text)


def track(text: str, url: str) -> str:
    """Who is to be told of what runs log; "" for nobody. Raises: BadInput."""
    if text and text not in TRACKERS:
        raise BadInput(f"--track {text}: expected {' or '.join(TRACKERS)}")
    if text and importlib.util.find_spec(TRACKERS[text]) is None:
        raise BadInput(f"--track {text}: is not installed: {install('track')}")
    if text and url:
        raise BadInput(f"--track {text}: has no meaning with results at a URL: event files are written beside results")
    return text


def stale(text: str) -> str:
    """What to do with what other code made. Raises: BadInput."""
    if text not in ("", "reuse", "redo"):
        raise BadInput(f"--stale {text}: expected reuse or redo")
    return text


def parts(name: str, text: str, of: str) -> list[str]:
    """The different pieces of a comma-separated list.

    Raises:
      BadInput: there are none.
    """
    return options.parts(flag(name), text, of) if text else []


def check_out(path: Path) -> None:
    """Refuses a file that could not be written after all the work. Raises: BadInput."""
    if not path.parent.is_dir():
        raise BadInput(f"--out {path}: no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise BadInput(f"--out {path}: is not a plain file")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"--out {path}: {path.parent} is not writable")


def on_command_line(context: Any, parameters: Collection[str]) -> set[str]:
    """Those parameters that the user gave."""
    return {name for name in parameters if context.get_parameter_source(name).name == "COMMANDLINE"}
