"""Ways to use the command line: in this process, in another, and in one that meets with an accident."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from harness.run_command import app

ROOT = Path(__file__).parents[2]
TINY = ("--preset", "smoke", "--seeds", "2", "--steps", "40", "--evaluate-every", "10", "--episodes", "3",
        "--set", "behavior_steps=20", "--set", "hidden_dims=8", "--set", "flow_steps=2")  # fmt: skip
SMALL = (*TINY, "--methods", "vgf", "--set", "vgf.train_flow_steps=1", "--set", "vgf.test_flow_steps=0,2")

_ONCE = {word for one in get_command(app).params for word in one.opts
         if not (getattr(one, "multiple", True) or getattr(one, "is_flag", True))}  # fmt: skip

_HOLD = """
import sys
from pathlib import Path
from harness.record import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def over(arguments: Sequence[str]) -> list[str]:
    """Without what a later one replaces: tests put options on top of `TINY`'s, and the command takes each once."""
    words = list(arguments)
    again = [place for place, word in enumerate(words) if word in _ONCE and word in words[place + 1 :]]
    return [word for place, word in enumerate(words) if not {place, place - 1} & set(again)]


def invoke(*arguments: str) -> Any:
    """The command in this process: its `exit_code`, `stdout` and `stderr`."""
    return CliRunner().invoke(app, over(arguments), catch_exceptions=False)


def refused(*arguments: str) -> str:
    """The one line on stderr of a command that must exit with 2."""
    done = invoke(*arguments)
    assert done.exit_code == 2 and done.stdout == "", (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


class Command:
    """The command in processes of its own; programs compiled once are kept in a folder."""

    def __init__(self, compiled: Path) -> None:
        self.environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def start(self, *arguments: str, accident: str = "", prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """`accident`: see `tests/harness/accident.py`; `prefix`: a command that runs this one."""
        module = ("tests.harness.accident", accident) if accident else ("harness.run",)
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", *module, *over(arguments)], cwd=ROOT, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str, accident: str = "") -> subprocess.CompletedProcess[str]:
        """To its end."""
        process = self.start(*arguments, accident=accident)
        out, err = process.communicate(timeout=900)  # far beyond a slow machine's need; a hang must end
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder's lock until the block ends or it is killed."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(folder)], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()
