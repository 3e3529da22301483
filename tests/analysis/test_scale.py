"""Scores between 0 and 1 that nobody declares are told in every command; those that a real file may hold are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import plots, report, stats, tables, tune
from analysis.records.load import load
from tests.analysis.command import invoke
from tests.analysis.synthetic import Effect, write_run

SAYS = ("lie between 0 and 1; shown as points of 100, so 1 counts as 1%: if they are shares, \"share\": true in "
        "run.json says so")  # fmt: skip


def write(root: Path, method: str, effect: Effect, task: str = "reach", episodes: int = 20, **more: object) -> Path:
    return write_run(root, method, "mine", task, effect=effect, seeds=2, episodes=episodes, evaluations=1, seed_std=0.0,
                     episode_std=0.0, fingerprint=method.encode().hex().ljust(12, "0")[:12], **more)  # type: ignore[arg-type]  # fmt: skip


def told(root: Path) -> list[str]:
    return [note for note in load(root).notes if "between 0 and 1" in note]


def sometimes(folder: Path, value: str, every: int = 3) -> None:
    """Gives every third episode of a run that score."""
    path = folder / "episodes.csv"
    header, *lines = path.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    path.write_text("\n".join([header, *(",".join([*row[:-1], value if i % every == 0 else row[-1]])
                                         for i, row in enumerate(rows))]) + "\n")  # fmt: skip


def test_shares_are_told_once_for_all_runs(tmp_path: Path) -> None:
    for task in ("reach", "push"):
        write(tmp_path, "a", lambda t, s: 0.83, task)
        write(tmp_path, "b", lambda t, s: 0.0, task)
    assert told(tmp_path) == [f"mine: scores of a on 2 tasks {SAYS}"]


def test_zeros_and_ones_are_told_where_they_are_many(tmp_path: Path) -> None:
    sometimes(write(tmp_path, "a", lambda t, s: 0.0), "1")
    assert told(tmp_path) == [f"mine: scores of a on reach {SAYS}"]
    sometimes(write(tmp_path / "few", "a", lambda t, s: 0.0, episodes=4), "1")
    assert told(tmp_path / "few") == []
    write(tmp_path, "b", lambda t, s: 100.0)  # beside a run in percent, zeros and ones are no percents
    assert told(tmp_path) == [f"mine: scores of a on reach {SAYS.replace('1;', '1, beside others of more;')}"]


@pytest.mark.parametrize("declared", [{"unit": "success [0-1]"}, {"share": True}, {"share": False}])
def test_declared_scores_are_what_they_say(tmp_path: Path, declared: dict[str, object]) -> None:
    write(tmp_path, "a", lambda t, s: 0.83, **declared)
    assert told(tmp_path) == []
    assert load(tmp_path).episodes["score"].iloc[0] == pytest.approx(83.0 if declared.get("share") is True else 0.83)


def test_what_is_in_percent_is_not_told(tmp_path: Path) -> None:
    """OGBench's success is 0 or 100: a method that never succeeds, alone or beside one that does; a weak method's
    normalised score may be 0.4, and another's below 0."""
    write(tmp_path, "never", lambda t, s: 0.0)
    assert told(tmp_path) == []
    sometimes(write(tmp_path, "at times", lambda t, s: 0.0), "100")
    write(tmp_path, "weak", lambda t, s: 0.4)
    assert told(tmp_path) == []
    write(tmp_path / "d4rl", "weak", lambda t, s: 0.4)
    sometimes(write(tmp_path / "d4rl", "bad", lambda t, s: 0.1), "-0.5")
    assert told(tmp_path / "d4rl") == []


@pytest.mark.slow
def test_every_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.figures.style.FORMATS", ())
    monkeypatch.setattr("analysis.report.figures", lambda *_, **__: iter(()))
    for i, method in enumerate("ab"):
        for alpha in (1, 2):
            write_run(tmp_path, method, "mine", "reach", f"{i}{alpha}".ljust(12, "0"), effect=lambda t, s: 0.5, seeds=2,
                      episodes=4, evaluations=1, settings={"alpha": alpha}, episode_std=0.1, seed_std=0.0)  # fmt: skip
    line = f"mine: scores of a alpha=1, a alpha=2, b alpha=1, b alpha=2 on reach {SAYS}"
    for app, more in (
        (tables.app, []),
        (plots.app, []),
        (report.app, []),
        (stats.app, ["--compare", "a alpha=1,b alpha=1"]),
    ):
        done = invoke(app, tmp_path, "--out", tmp_path / "out", *more)
        assert done.exit_code == 0 and done.stdout.count(line) == 1, done
    assert invoke(tune.app, tmp_path).stdout.count(line) == 1
    path = next(tmp_path.glob("runs/*/*/a/*/run.json"))
    assert "share" not in json.loads(path.read_text())
