"""A user without a home directory or a name: containers and batch systems run commands for numbers that no list has."""

from __future__ import annotations

import os

NO_HOME = "/nonexistent"
"""Stands in for a home directory that nobody named: nothing can be kept there."""


def settle() -> None:
    """Gives this process a home directory and a user's name where the system has none. Libraries ask for both as they
    are imported, and raise."""
    entry = _entry()
    os.environ["HOME"] = _home(entry)
    if entry is None and not any(map(os.environ.get, ("LOGNAME", "USER", "LNAME", "USERNAME"))):
        os.environ["USER"] = f"user{os.getuid()}"


def homeless() -> bool:
    """Whether nobody named a home directory for this process."""
    return _home(_entry()) == NO_HOME


def _home(entry: tuple[str, str] | None) -> str:
    return os.environ.get("HOME") or (entry[1] if entry else NO_HOME)


def _entry() -> tuple[str, str] | None:
    """Name and home directory in the system's list of users."""
    import pwd  # not every system has it

    try:
        found = pwd.getpwuid(os.getuid())
    except KeyError:
        return None
    return found.pw_name, found.pw_dir
