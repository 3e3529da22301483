"""`python -m tasks.judge` with options that cannot be meant, and as a process that is stopped or not listened to."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.judges.server import KEY, Server
from tests.tasks.judges.test_command import judge, server, verdicts, write_responses

__all__ = ["server"]  # the fixture
pytestmark = pytest.mark.usefixtures("no_waiting")
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"timeout": "nan"}, "--timeout nan: expected seconds"), ({"timeout": "inf"}, "--timeout inf: expected"),
        ({"timeout": 0}, "--timeout 0.0: expected"), ({"max_cost": "nan"}, "--max-cost nan: expected USD"),
        ({"max_cost": -1}, "--max-cost -1.0: expected USD"), ({"price": "nan,1"}, "price 'nan,1': expected USD"),
        ({"price": "inf,1"}, "price 'inf,1': expected USD"), ({"episodes": 0}, "--episodes 0: expected 1 or more"),
        ({"concurrency": 10**9}, "--concurrency 1000000000: expected from 1 to 256"),
        ({"body": "3"}, "--body '3' is no JSON object"), ({"body": "{"}, "--body '{' is no JSON object"),
        ({"body": '{"a":' * 5000}, "is no JSON object"), ({"body": '{"a": NaN}'}, "is no JSON object"),
        ({"body": '{"a": "\\ud800"}'}, "is no JSON object"),
        ({"body": '{"messages": []}'}, "messages are the judge's own"),
        ({"body": '{"stream": true}'}, "an answer comes whole"), ({"body": '{"model": 3}'}, "model is a name"),
        ({"body": '{"max_tokens": "many"}'}, "are whole numbers above 0, not 'many'"),
        ({"body": '{"max_tokens": true}'}, "are whole numbers above 0, not True"),
        ({"body": '{"max_tokens": 0}'}, "are whole numbers above 0, not 0"),
        ({"body": '{"n": 1.5}'}, "are whole numbers above 0, not 1.5"),
        ({"body": '{"max_tokens": null}'}, "needs max_tokens or max_completion_tokens"),
        ({"base_url": "http://[::1"}, "judge's address 'http://[::1'"), ({"model": "\ud800"}, "is no text"),
        ({"key_variable": KEY}, "variable that --key-variable names is not set"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(server: Server, tmp_path: Path, options: dict[str, Any], line: str) -> None:
    folder = write_responses(tmp_path / "vgf")
    result = judge(server, folder, **options)
    assert result.exit_code == 2 and line in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert server.requests == [] and KEY not in result.stderr and len(result.stderr) < 300


def test_a_proxy_of_the_environment_is_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "carrier-pigeon://coop")
    result = judge(server, write_responses(tmp_path / "vgf"))
    assert result.exit_code == 2 and "error: the environment variable ALL_PROXY cannot be used" in result.stderr


def test_a_tilde_is_the_home_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In quotes and after "=", where no shell says so."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = write_responses(tmp_path / "home" / "runs" / "vgf")
    result = judge(server, Path("~/runs"), cache="~/kept.sqlite", episodes=1)
    assert result.exit_code == 0 and len(verdicts(folder)) == 4, result.stderr
    assert (tmp_path / "home" / "kept.sqlite").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_run_that_cannot_be_written_to_costs_nothing(server: Server, tmp_path: Path) -> None:
    folder = write_responses(tmp_path / "vgf")
    folder.chmod(0o555)
    result = judge(server, folder)
    assert result.exit_code == 2 and "is not writable" in result.stderr and server.requests == []


# the command in a process of its own


def command(server: Server, *runs: Path) -> list[str]:
    options = ["--judge", "http", "--model", "m", "--base-url", server.url, "--price", "10,100", "--concurrency", "1"]
    cache = str(server.folder / "answers.sqlite")  # type: ignore[attr-defined]
    return [sys.executable, "-m", "tasks.judge", *map(str, runs), *options, "--cache", cache]


def test_ctrl_c_is_one_line_and_keeps_what_was_answered(server: Server, tmp_path: Path) -> None:
    folder, server.delay = write_responses(tmp_path / "vgf"), 0.05
    process = subprocess.Popen(command(server, folder), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(server.requests) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.splitlines()[0] == "stopped; the same command continues"
    assert len(said.splitlines()) == 2 and "spent" in said and not list(folder.glob("verdicts-*"))
    asked = len(server.requests)
    with sqlite3.connect(tmp_path / "answers.sqlite") as connection:
        assert connection.execute("select count(*) from answers").fetchone() == (asked,)


def test_nobody_reads_what_is_said(server: Server, tmp_path: Path) -> None:
    """`2>&1 | head`: the runs are judged all the same."""
    one, other = write_responses(tmp_path / "a"), write_responses(tmp_path / "b")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(server, one, other), cwd=ROOT, stdout=writing, stderr=writing, timeout=120)
    os.close(writing)
    assert len(verdicts(one)) == len(verdicts(other)) == 24
    assert done.returncode in (0, 141)
