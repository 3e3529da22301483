"""`python -m analysis.verdicts` on records with known effects, and on files that are not what they should be."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.load import load
from analysis.verdicts import app, tabulate
from tests.analysis.synthetic_language import best_of_n, plain, vgf, write_language

LEVELS = {"L_test": [0, 1, 16]}


def write_verdicts(folder: Path, judge: str = "http-m-1", knobs: tuple[str, ...] = (), **outcome: str) -> None:
    """A judge's verdicts on two seeds of four prompts: `outcome`, by prompt (p0=...), says all, with a tie else."""
    with (folder / f"verdicts-{judge}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["seed", *knobs, "episode", "verdict", "swap_consistent", "cost"])
        for seed in (0, 1):
            for prompt in range(4):
                verdict = outcome.get(f"p{prompt}", "tie")
                table.writerow([seed, *[0 for _ in knobs], prompt, verdict, int(prompt != 3), 0.25])


def test_rows_by_hand(tmp_path: Path) -> None:
    """A judge's win, loss, invalid and (inconsistent) tie, and the recorded scores of the same responses."""
    folder = write_language(tmp_path, "sft", lambda _: plain(2.0), seeds=2, prompts=4, noise=0.0)
    write_verdicts(folder, p0="win", p1="loss", p2="invalid")
    table, _, notes = tabulate(load(tmp_path))
    assert notes == []
    rows = table.set_index("judge")
    mine = rows.loc["http-m-1"]
    assert (mine["verdicts"], mine["prompts"], mine["seeds"]) == (8, 4, 2)
    assert (mine["win"], mine["tie"], mine["loss"], mine["invalid"]) == (0.25, 0.25, 0.25, 0.25)
    assert mine["win_rate"] == 0.5 and mine["consistent"] == pytest.approx(2 / 3) and mine["cost"] == 2.0
    assert mine["longer"] == 0 and mine["controlled"] == pytest.approx(0.5)  # 5 x 30 characters, as the reference
    recorded = rows.loc["recorded"]
    assert recorded["win_rate"] == 1 and pd.isna(recorded["consistent"]) and recorded["invalid"] == 0


def test_held_out_choice_and_paired_difference(tmp_path: Path) -> None:
    """L_test=1 is best on either half; against best-of-N at its best, its lead has an interval above zero."""
    write_language(tmp_path, "vgf", vgf(0.9, 0.5), LEVELS, prompts=200)
    write_language(tmp_path, "best_of_n", lambda s: plain(best_of_n(s)["gold"] - 0.5), {"N": [1, 5]}, prompts=200)
    table, differences, notes = tabulate(load(tmp_path), compare=("vgf", "best_of_n", "ppo"))
    rows = table.set_index("row")
    chosen = rows.loc["vgf (held-out)"]
    assert chosen["picks"] == "L_test=1" and chosen["win_rate"] == rows.loc["vgf L_test=1", "win_rate"]
    assert rows.loc["vgf L_test=16", "win_rate"] < rows.loc["vgf L_test=1", "win_rate"] - 0.1
    one = differences.iloc[0]
    assert len(differences) == 1 and one["prompts"] == 200 and one["low"] > 0
    by_hand = chosen["win_rate"] - rows.loc["best_of_n (held-out)", "win_rate"]
    assert one["value"] == pytest.approx(by_hand, abs=1e-6)
    assert notes == ["tldr-synthetic/tldr-synthetic, recorded: not one run each of vgf and ppo, so no difference"]


def test_a_held_out_row_takes_each_half_from_its_own_pick(tmp_path: Path) -> None:
    """On even prompts (the first half of the pick) L_test=0 wins, on odd ones L_test=1: each is scored on the other."""
    folder = write_language(tmp_path, "vgf", vgf(0, 0), {"L_test": [0, 1]}, seeds=1, prompts=4, noise=0.0)
    rows = ["seed,L_test,episode,verdict,swap_consistent,cost"]
    for level in (0, 1):
        rows += [f"0,{level},{e},{'win' if e % 2 == level else 'loss'},1,0" for e in range(4)]
    (folder / "verdicts-j.csv").write_text("\n".join(rows) + "\n")
    table, _, _ = tabulate(load(tmp_path), judge="j")
    chosen = table.set_index("row").loc["vgf (held-out)"]
    assert chosen["picks"] == "L_test=0 / L_test=1" and chosen["win_rate"] == 0


def test_the_command_and_its_files(tmp_path: Path) -> None:
    write_language(tmp_path, "vgf", vgf(0.7, 0.5), LEVELS)
    write_language(tmp_path, "sft", lambda _: plain(0.2))
    result = CliRunner().invoke(app, [str(tmp_path), "--compare", "vgf,sft"])
    assert result.exit_code == 0 and "tldr-synthetic / recorded" in result.output
    assert "vgf (held-out) - sft = +" in result.output and "over 40 prompts" in result.output
    assert len(pd.read_csv(tmp_path / "tables" / "winrates.csv")) == 5
    assert pd.read_csv(tmp_path / "tables" / "winrate-differences.csv")["low"].iloc[0] > 0
    nobody = CliRunner().invoke(app, [str(tmp_path), "--judge", "nobody"])
    assert nobody.exit_code == 2 and "no verdicts of nobody" in nobody.stderr


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("verdicts-j.csv", "seed,episode,verdict\n", "verdicts-j.csv:1: the header is seed,episode,verdict"),
        ("verdicts-j.csv", "seed,episode,verdict,swap_consistent,cost\n0,0,won,1,0\n", "'won' is no verdict"),
        ("verdicts-j.csv", "", "No columns to parse"),
        ("responses.jsonl", '{"seed": 0\n', "responses.jsonl:1: "),
        ("responses.jsonl", '{"seed": 0, "episode": 1}\n', "KeyError('response')"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named_and_left_out(tmp_path: Path, name: str, content: str, note: str) -> None:
    folder = write_language(tmp_path, "sft", lambda _: plain(0.2), prompts=4)
    write_language(tmp_path, "dpo", lambda _: plain(0.7), prompts=4)
    (folder / name).write_text(content)
    table, _, notes = tabulate(load(tmp_path))
    assert set(table["method"]) == {"dpo"} and len(notes) == 1 and note in notes[0] and "left out" in notes[0]
