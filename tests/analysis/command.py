"""The commands in this process, as `python -m analysis...` runs them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import typer

from core.command import guarded


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def invoke(app: typer.Typer, *arguments: str | Path) -> Result:
    """Runs a command to its end; what is a fault of ours passes."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = guarded(lambda: app([*map(str, arguments)], standalone_mode=False))
    return Result(code, out.getvalue(), err.getvalue())


def refused(app: typer.Typer, *arguments: str | Path) -> str:
    """The one line on stderr of a command that must exit with 2."""
    done = invoke(app, *arguments)
    assert done.exit_code == 2 and done.stdout == "", done
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")
