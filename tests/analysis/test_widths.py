"""What commands print at 60, 80, 100 and 120 columns: no number is cut, and sentences keep their words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from analysis import stats, tables, tune, verdicts
from analysis.layout import fits, joined, listed, wrapped
from analysis.output import short
from analysis.stats import p_of
from tests.analysis.command import invoke
from tests.analysis.synthetic import write_run
from tests.analysis.synthetic_language import plain, write_language

WIDTHS = (60, 80, 100, 120)
TASKS = [f"antmaze-large-navigate-singletask-task{i}-v0" for i in (1, 2, 3)]
SIZE = {"seeds": 5, "episodes": 10, "evaluations": 1, "steps": 1_000_000}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long names of tasks and labels, numbers of many digits; two settings of avgf; fql and vgf, which print has."""
    root = tmp_path_factory.mktemp("results")
    for i, task in enumerate(TASKS):
        for j, (method, settings) in enumerate((
            ("avgf", {"train_flow_steps": 2}), ("avgf", {"train_flow_steps": 10}), ("fql", {}),
        )):  # fmt: skip
            write_run(root, method, "ogbench", task, f"{j}{i}".ljust(12, "a"), settings=settings, **SIZE,  # type: ignore[arg-type]
                      seed_std=20.0, episode_std=9.0, effect=lambda t, s, j=j: 100.0 - 30 * (j == 2))  # fmt: skip
    for i in range(1, 6):
        task = f"cube-single-play-singletask-task{i}-v0"
        write_run(root, "vgf", "ogbench", task, f"{i}".ljust(12, "b"), **{**SIZE, "seeds": 2}, effect=lambda t, s: 97.0,  # type: ignore[arg-type]
                  dataset={"name": task, "origin": "generated", "path": "a.npz", "transitions": 160_000})  # fmt: skip
    return root


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    for module in (stats, tables, tune, verdicts):
        monkeypatch.setattr(module, "WIDTH", request.param)
    return int(request.param)


def block(said: str, width: int) -> str:
    """What was printed up to the legend, whose lines a terminal wraps; none is too long."""
    lines = said.splitlines()
    found = list(_until(lines))
    assert found and max(len(line.rstrip()) for line in found) <= width
    return "\n".join(found)


def _until(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith(("Endpoint ", "Measured: ", "mean ", "heldout-", "spent: ")):
            return
        yield line


def test_stats(results: Path, width: int, tmp_path: Path) -> None:
    done = invoke(stats.app, results, "--compare", "avgf train_flow_steps=2,fql", "--out", tmp_path)
    assert done.exit_code == 0, done
    shown = block(done.stdout, width)
    rows = pd.read_csv(next(tmp_path.glob("compare-*.csv")))
    for row in rows.to_dict("records"):
        whole = [f"{row['first_mean']:.1f}", f"{row['second_mean']:.1f}", f"{row['difference']:+.1f}",
                 f"[{row['low']:.1f}, {row['high']:.1f}]", f"{row['improvement']:.2f}"]  # fmt: skip
        whole += [
            p_of(row[f"p_{test}{corrected}"]) for test in ("welch", "rank", "paired") for corrected in ("", "_holm")
        ]
        for one in whole:
            assert re.search(rf"(?<![\d.]){re.escape(one)}(?![\d.])", shown), (one, shown)
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout
    over = done.stdout[done.stdout.index("ogbench: over 3 tasks") :]
    for line in over[: over.index("Can be concluded")].splitlines():
        assert len(line.rstrip()) <= width
    words = ("new seeds", "tasks as units", "environments as units", "IQM of avgf", "its smallest")
    assert all(word in " ".join(over.split()) for word in words)


def test_tables(results: Path, width: int, tmp_path: Path) -> None:
    done = invoke(tables.app, results, "--out", tmp_path)
    assert done.exit_code == 0 and "\N{HORIZONTAL ELLIPSIS}" not in done.stdout, done
    shown = block(done.stdout, width)
    for _, row in pd.read_csv(tmp_path / "scores.csv", keep_default_na=False).astype({"std": float}).iterrows():
        value, interval = tables.cell(row)
        assert value in shown and interval in shown, (value, interval)
    assert "avgf train_flow_steps=10" in shown


def test_the_paper_s_verdicts(results: Path, width: int, tmp_path: Path) -> None:
    """They keep a line of some length for themselves, with every word whole."""
    done = invoke(tables.app, results, "--out", tmp_path, "--paper", "table7")
    assert done.exit_code == 0 and "\N{HORIZONTAL ELLIPSIS}" not in done.stdout, done
    shown = block(done.stdout, width)
    rows = pd.read_csv(tmp_path / "table7.csv")
    rows = rows[rows["runs"] > 0]
    assert len(rows) == 5
    for row in rows.to_dict("records"):
        for one in (f"{row['measured']:.1f} \N{PLUS-MINUS SIGN} {row['std']:.1f}", f"{row['difference']:+.1f}"):
            assert one in shown, (one, shown)
        for word in f"{row['why']} {row['remark']}".split():
            assert word.strip("();,") in shown, (word, shown)
        assert short(row["task"]) in shown
    assert any(len(line.strip()) >= 28 for line in shown.splitlines() if "generated" in line)


def test_settings(results: Path, width: int) -> None:
    done = invoke(tune.app, results, "--rule", "heldout-seeds")
    assert done.exit_code == 0 and "\N{HORIZONTAL ELLIPSIS}" not in done.stdout, done
    shown = " ".join(block(done.stdout, width).split())
    numbers = r"\d+\.\d \u00b1 \d+\.\d,?(?: 95% interval)? \[-?\d+\.\d, \d+\.\d\],?(?: n)? 5,?"
    for setting in ("train_flow_steps=2", "train_flow_steps=10"):
        assert re.search(rf"{setting}(?: \(picked\))? {numbers}", shown), shown
    assert len(re.findall(r"\b\d+ of 10\b", shown)) == 2


def test_win_rates(width: int, tmp_path: Path) -> None:
    write_language(tmp_path, "sft", lambda _: plain(1.0), seeds=3, prompts=6)
    done = invoke(verdicts.app, tmp_path)
    assert done.exit_code == 0 and "\N{HORIZONTAL ELLIPSIS}" not in done.stdout, done
    row = pd.read_csv(tmp_path / "tables" / "winrates.csv").iloc[0]
    rate = f"{100 * row['win_rate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    lines = done.stdout[: done.stdout.index("\n\n")].splitlines()
    assert any(rate in line for line in lines) and max(map(len, map(str.rstrip, lines))) <= width
    assert math.isfinite(row["win_rate"]) and "6 x 3" in done.stdout


def test_lines_break_at_words() -> None:
    assert wrapped("one two-three four", 12) == "one\n  two-three\n  four"
    text = wrapped(f"difference {joined('+1.0 [0.5, 1.5]')} and so on", 20, 2)
    assert text.split("\n") == ["  difference", "    +1.0 [0.5, 1.5]", "    and so on"]
    assert listed("t", [("a", ["b", ""]), ("", ["c"])], 60).plain == "t\na\n  b\n  c"
    table = tables.Table("abc", "d")  # with its lines and margins 3 + 1 + 4 + 3 wide
    assert [fits(Console(width=width), table) for width in (10, 11)] == [False, True]
