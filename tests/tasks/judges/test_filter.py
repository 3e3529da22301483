"""`python -m tasks.judge --knob`: only some settings are judged, what was judged before stays, and the two orders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tasks.judge import app
from tests.tasks.judges.server import Server, lines
from tests.tasks.judges.test_command import judge, server, verdicts, write_responses

__all__ = ["server"]  # the fixture
pytestmark = pytest.mark.usefixtures("no_waiting")


def test_only_what_is_asked_for_is_paid_for(server: Server, tmp_path: Path) -> None:
    folder, plain = write_responses(tmp_path / "vgf"), write_responses(tmp_path / "sft", knobs=(), method="sft")
    dry = judge(server, folder, dry_run=True, knob="L_test=1")
    assert "24 calls" in dry.stderr  # 12 responses, both orders
    result = judge(server, tmp_path, knob="L_test=1", episodes=2)
    assert result.exit_code == 0, result.stderr
    assert {(row["L_test"], row["episode"]) for row in verdicts(folder)} == {("1", "0"), ("1", "1")}
    assert len(verdicts(plain)) == 4  # no such knob: as ever


def test_what_was_judged_before_stays(server: Server, tmp_path: Path) -> None:
    """In the order of the responses; on the same texts only."""
    folder = write_responses(tmp_path / "vgf")
    assert judge(server, folder, knob="L_test=1").exit_code == 0 and len(verdicts(folder)) == 12
    one = {tuple(row.values()) for row in verdicts(folder)}
    assert judge(server, folder, knob="vgf.L_test=0").exit_code == 0
    rows = verdicts(folder)
    assert len(rows) == 24 and one <= {tuple(row.values()) for row in rows}
    assert [(row["seed"], row["L_test"]) for row in rows[::6]] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    (about,) = folder.glob("verdicts-*.json")
    assert (json.loads(about.read_text())["rows"], json.loads(about.read_text())["episodes"]) == (24, 6)
    path = folder / "responses.jsonl"
    path.write_text(path.read_text().replace("bad 0", "worse 0"))
    assert judge(server, folder, knob="L_test=1").exit_code == 0 and len(verdicts(folder)) == 12


@pytest.mark.parametrize(
    "damage", ["seed,episode\n", "", "\x00", "seed,L_test,episode,verdict,swap_consistent,cost\nx\n"]
)
def test_verdicts_that_do_not_count_are_replaced(server: Server, tmp_path: Path, damage: str) -> None:
    folder = write_responses(tmp_path / "vgf")
    assert judge(server, folder, knob="L_test=1").exit_code == 0
    (path,) = folder.glob("verdicts-*.csv")
    path.write_text(damage)
    assert judge(server, folder, knob="L_test=0").exit_code == 0
    assert {row["L_test"] for row in verdicts(folder)} == {"0"} and len(verdicts(folder)) == 12


def test_a_run_without_such_a_setting_is_said(server: Server, tmp_path: Path) -> None:
    write_responses(tmp_path / "a"), write_responses(tmp_path / "b", seeds=(0,))
    path = tmp_path / "b" / "responses.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"L_test": 0' in line))
    result = judge(server, tmp_path, knob="L_test=1")
    assert result.exit_code == 0 and f"{tmp_path / 'b'}: none of its settings is asked for by --knob" in lines(result)


@pytest.mark.parametrize(
    ("knob", "line"),
    [
        ("L_test=7", "no run has it; there is 0, 1"),
        ("N=1", "no run has such a knob"),
        ("L_test", "expected KNOB=NUMBER"),
    ],
)
def test_a_filter_of_nothing_is_one_line(tmp_path: Path, knob: str, line: str) -> None:
    folder = write_responses(tmp_path / "vgf")
    result = CliRunner().invoke(app, [str(folder), "--judge", "gold", "--knob", knob])
    assert result.exit_code == 2 and line in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(folder.glob("verdicts-*"))


def test_disagreement_of_the_two_orders_is_reported(server: Server, tmp_path: Path) -> None:
    """A judge that takes the first text where neither is good: at L_test=0, so on odd prompts; 6 of 24."""
    folder = write_responses(tmp_path / "vgf")
    decide = server.prefers
    server.prefers = lambda first, second: "A" if "good" not in first + second else decide(first, second)
    result = judge(server, folder)
    assert "win rate 0.375, 24 of 24 valid, orders agree on 0.750 (least: 0.500, L_test=0)" in result.stderr
    assert sum(row["swap_consistent"] == "0" for row in verdicts(folder)) == 6
