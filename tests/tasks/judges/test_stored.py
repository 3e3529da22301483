"""`python -m tasks.judge` where answers, verdicts or records cannot be read, kept or written: one line, at no cost."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.judges import files
from tasks.judges.spending import Cache
from tests.tasks.judges.server import Server, lines
from tests.tasks.judges.test_command import RECORD, judge, server, verdicts, write_responses

__all__ = ["server"]  # the fixture
pytestmark = pytest.mark.usefixtures("no_waiting")


def read_only(path: Path) -> None:
    Cache(path).close()
    path.chmod(0o444)


def damaged(path: Path) -> None:
    cache = Cache(path)
    cache.close()
    with sqlite3.connect(path) as connection:
        rows = [(f"{i}", "Verdict: A" * 9, 1, 1) for i in range(2000)]
        connection.executemany("insert into answers values (?, ?, ?, ?)", rows)
    content = bytearray(path.read_bytes())
    content[8192:60_000] = b"\x07" * (60_000 - 8192)
    path.write_bytes(content)


def other_columns(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table answers (hash text primary key, answer text)")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (damaged, ""), (other_columns, "answers has 2 columns"), (Path.mkdir, "unable to open database file"),
        (lambda path: path.write_bytes(b"\0" * 5000), "file is not a database"),
        pytest.param(read_only, "attempt to write a readonly database",
                     marks=pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")),
    ],
)  # fmt: skip
def test_a_cache_that_keeps_nothing_is_found_before_anything_is_paid(
    server: Server, tmp_path: Path, damage: Callable[[Path], Any], line: str
) -> None:
    folder = write_responses(tmp_path / "vgf")
    damage(tmp_path / "answers.sqlite")
    result = judge(server, folder)
    assert result.exit_code == 2 and server.requests == [] and len(lines(result)) == 1
    assert f"error: cannot keep answers in {tmp_path / 'answers.sqlite'}: " in result.stderr and line in result.stderr


def test_a_cache_that_another_process_holds(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    Cache(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin exclusive")
    with pytest.raises(ValueError, match=r"cannot keep answers in .*: database is locked"):
        Cache(path, timeout=0.1)
    other.execute("rollback")
    Cache(path).close()


def test_a_kept_answer_of_another_type_is_one_line(server: Server, tmp_path: Path) -> None:
    folder = write_responses(tmp_path / "vgf", knobs=(), seeds=(0,))
    assert judge(server, folder).exit_code == 0
    with sqlite3.connect(tmp_path / "answers.sqlite") as connection:
        connection.execute("update answers set answer = x'ff00'")
    result = judge(server, folder)
    assert result.exit_code == 2 and "an answer in it is no text with two numbers" in result.stderr


def test_a_disk_that_fills_up_costs_one_run_its_verdicts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files, as the system has it; the answers are kept before."""
    small, large = write_responses(tmp_path / "b", knobs=(), seeds=(0,)), write_responses(tmp_path / "a")
    assert judge(server, small, large, episodes=1).exit_code == 0  # answers of the first prompt
    for folder in (small, large):
        for path in folder.glob("verdicts-*"):
            path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    real, limit = files.write_text, 200

    def limited(path: Path, text: str) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            real(path, text)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(files, "write_text", limited)
    result = judge(server, large, small, episodes=1)
    limit = 90
    assert result.exit_code == 0 and len(verdicts(large)) == 4
    result = judge(server, large, small, episodes=1)
    assert result.exit_code == 1 and lines(result)[0] == f"{large}: its verdicts cannot be written: File too large"
    assert len(verdicts(large)) == 4 and len(verdicts(small)) == 1, "those before, and the other run's"
    assert sorted(path.name[:8] for path in large.iterdir()) == ["response", "run.json", "verdicts", "verdicts"]


# records of runs


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[]", "dictionary"), ("null", "dictionary"), ("3", "dictionary"), ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "too many digits"), ("\ud800", "run.json"), ('{"suite": 1}', "suite"), ({"task": 0}, "task"),
        ('{"suite": "tldr"}', "task: Field required"), ({"suite": "../.."}, "cannot be part of a file"),
        ({"knobs": "abc"}, "knobs"), ({"status": "done"}, "status"), ({"format": 2}, "seed: Field required"),
        ({"knobs": ["prompt"]}, "knobs prompt are not to be told from other columns"),
        ({"stages": [{"name": "reward_model", "fingerprint": "../../x"}]}, "stages.0"), ({"config": []}, "config"),
    ],
)  # fmt: skip
def test_a_record_of_another_shape_takes_no_other_run_down(
    server: Server, tmp_path: Path, content: str | dict[str, Any], line: str
) -> None:
    """What the analysis would not read is not judged either: it would be paid for, and count for nothing."""
    content = content if isinstance(content, str) else json.dumps(RECORD | content)
    bad, good = write_responses(tmp_path / "runs" / "a"), write_responses(tmp_path / "runs" / "b")
    (bad / "run.json").write_bytes(content.encode(errors="surrogatepass"))
    result = judge(server, tmp_path / "runs", episodes=1)
    assert result.exit_code == 1 and len(verdicts(good)) == 4 and not list(bad.glob("verdicts-*"))
    (said,) = [text for text in result.stderr.splitlines() if "left out: " in text]
    assert str(bad / "run.json") in said and line in said


@pytest.mark.parametrize("setting", [3, [], {"value": [1]}, {"value": 7}, {}])
def test_settings_of_any_shape_can_be_judged(server: Server, tmp_path: Path, setting: Any) -> None:
    folder = write_responses(tmp_path / "a", config={"reward_checkpoint": setting})
    assert files.read(folder).optimised == set()


@pytest.mark.parametrize(
    "row",
    [{"seed": 2**70}, {"seed": -1}, {"episode": 0.5}, {"L_test": 1e400}, {"L_test": 10**400}, {"L_test": True},
     {"prompt": None}, {"episode": "0"}],
)  # fmt: skip
def test_rows_that_cannot_be_told_apart_are_named(tmp_path: Path, row: dict[str, Any]) -> None:
    folder = write_responses(tmp_path / "a")
    path = folder / "responses.jsonl"
    first = {"seed": 0, "L_test": 0, "episode": 0, "prompt": "", "response": "", "reference": ""} | row
    path.write_text(json.dumps(first) + "\n")
    with pytest.raises(ValueError, match=rf"responses\.jsonl:1: {next(iter(row))}(:.* \(it)? is "):
        files.read(folder)


def test_large_seeds_keep_their_digits(server: Server, tmp_path: Path) -> None:
    folder = write_responses(tmp_path / "a", knobs=(), seeds=(123456789, 123456788))
    assert judge(server, folder, episodes=1).exit_code == 0
    assert [row["seed"] for row in verdicts(folder)] == ["123456789", "123456788"]


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"rows": "many", "responses": 3}', "{"])
def test_verdicts_of_another_shape_count_for_nothing(server: Server, tmp_path: Path, content: str) -> None:
    folder = write_responses(tmp_path / "a")
    assert judge(server, folder, episodes=1).exit_code == 0
    (about,) = folder.glob("verdicts-*.json")
    about.write_text(content)
    assert judge(server, folder, episodes=1).exit_code == 0 and json.loads(about.read_text())["rows"] == 4


def test_verdicts_on_more_prompts_stay(server: Server, tmp_path: Path) -> None:
    one, other = write_responses(tmp_path / "a"), write_responses(tmp_path / "b")
    assert judge(server, one, episodes=2).exit_code == 0
    assert judge(server, one, other, episodes=1).exit_code == 0
    assert len(verdicts(one)) == 8 and len(verdicts(other)) == 4


def test_gold_on_prompts_of_another_world(tmp_path: Path) -> None:
    """No other run is taken down by them."""
    from typer.testing import CliRunner

    from tasks.judge import app
    from tasks.language.hh_synthetic.suite import TASK as HH_TASK

    for name, suite in (("a", "tldr-synthetic"), ("b", "hh-synthetic"), ("c", "hh-synthetic")):
        write_responses(tmp_path / name, knobs=(), seeds=(0,), suite=suite, task=suite)
    (prompt, reference) = HH_TASK.load("auto").examples("test")[0]
    row = {"seed": 0, "episode": 0, "prompt": prompt, "response": reference, "reference": reference}
    (tmp_path / "c" / "responses.jsonl").write_text(json.dumps(row) + "\n")
    result = CliRunner().invoke(app, [str(tmp_path), "--judge", "gold"])
    assert result.exit_code == 1 and [row["verdict"] for row in verdicts(tmp_path / "c")] == ["tie"]
    for name, suite in (("a", "tldr-synthetic"), ("b", "hh-synthetic")):
        assert f"left out: {tmp_path / name}: 'POST: my cat number 0' is no prompt of {suite}" in result.stderr
