"""`python -m analysis.tune` on records with known answers: what is picked, what that is worth, what it cost."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import tune
from analysis.records.load import load
from analysis.select import Endpoint, Rule
from analysis.tuning.spending import spent
from analysis.tuning.sweeps import common_seeds, heldout_seeds, heldout_tasks, splits, sweeps
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import split, write_run

TODAY = datetime.datetime.now(datetime.UTC).date()
A, B = [10.0, 0.0, 5.0], [4.0, 6.0, 8.0]
"""Scores of two settings by seed. Chosen on seed 0, A is reported on seeds 1 and 2 (0, 5); chosen on 1, B on 0 and 2
(4, 8); chosen on 2, B on 0 and 1 (4, 6): of the seeds held out 4, 3 and 6.5, their mean 4.5."""


def write_setting(
    root: Path, scores: Sequence[float], task: str = "toy", method: str = "fql", old: bool = False, shared: str = "",
    status: Mapping[int, str] | None = None, suite: str = "toy", **settings: Any,
) -> Path:  # fmt: skip
    """A run whose every episode of a seed has that seed's score. A seed trains a behaviour stage of 400 steps in 10 s,
    which has the fingerprint `shared` and the seed's number if that is given, and an actor of 600 in 20 s; it evaluates
    for 5 s."""
    name = "".join(f"{value}" for value in settings.values()).encode().hex()[:10].rjust(12, "e")
    folder = write_run(root, method, suite, task, name, seeds=len(scores), episodes=4, evaluations=1, settings=settings)
    header, *lines = (folder / "episodes.csv").read_text().splitlines()
    made = [f"{line.rpartition(',')[0]},{scores[int(line.split(',')[0])]}" for line in lines]
    (folder / "episodes.csv").write_text("\n".join([header, *made]) + "\n")

    def stages(seed: str) -> list[dict[str, Any]]:
        behavior = {"name": "behavior", "fingerprint": f"{shared}-{seed}" if shared else f"{name}-{task}-b{seed}"}
        actor = {"name": "actor", "fingerprint": f"{name}-{task}-a{seed}", "steps": 600, "seconds": 20.0}
        return [behavior | {"steps": 400, "seconds": 10.0}, actor]

    if old:
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(
            json.dumps(record | {"stages": stages("all"), "wall_clock_s": {"evaluate": 5.0}})
        )
        return folder
    each = {"wall_clock_s": {"train": 30.0, "evaluate": 5.0}, "evaluation_steps": [600]}
    states = status or {}
    records = {
        f"seed{seed}": each | {"stages": stages(str(seed)), "status": states.get(seed, "finished")}
        for seed in range(len(scores))
    }
    split(folder, **records)
    return folder


def table(stdout: str) -> list[list[str]]:
    """The rows of a table of settings on the screen."""
    lines = stdout.splitlines()
    start = lines.index("tasks,method,key,value,source")
    return list(csv.reader(io.StringIO("\n".join(lines[start + 1 : lines.index("", start)]))))


def test_held_out_seeds_by_hand() -> None:
    scores, rng = np.array([A, B]), np.random.default_rng(0)
    held = heldout_seeds(scores, splits(3, rng), rng)
    assert (held.pick, held.counts.tolist(), held.chosen_on, held.reported_on) == (1, [1, 2], 1, 2)
    assert held.value.value == pytest.approx(4.5) and held.value.low < 4.5 < held.value.high
    stated = heldout_seeds(scores, np.array([[True, False, False]]), rng)
    assert (stated.pick, stated.counts.tolist(), float(stated.value.value)) == (0, [1, 0], 2.5)
    alone = heldout_seeds(scores, np.array([[True, True, False]]), rng)
    assert float(alone.value.value) == 5.0 and np.isnan(alone.value.low)  # one seed has no interval


def test_held_out_tasks_by_hand() -> None:
    """Means of A 5, 1, 3 and of B 2, 4, 2 on three tasks: chosen on the first A has 1 and 3, on the second B 2 and 2,
    on the third A 5 and 1. Held out, the tasks have (2 + 5) / 2, 1 and (3 + 2) / 2."""
    scores = [np.array([[4.0, 6.0], [1.0, 3.0]]), np.array([[0.0, 2.0], [4.0, 4.0]]), np.array([[3.0], [2.0]])]
    rng = np.random.default_rng(0)
    held = heldout_tasks(scores, splits(3, rng), rng)
    assert (held.pick, held.counts.tolist()) == (0, [2, 1])
    assert held.value.value == pytest.approx((3.5 + 1 + 2.5) / 3) and np.isnan(held.value.low)
    stated = heldout_tasks(scores, np.array([[False, True, False]]), rng)
    assert (stated.pick, float(stated.value.value)) == (1, 2.0)


@pytest.mark.parametrize("rule", ["seeds", "tasks"])
def test_the_report_is_unbiased_where_all_settings_are_equal(rule: str) -> None:
    """Eight settings that are all worth 50: the best of them seems to be worth more on what it was chosen on."""
    rng = np.random.default_rng(0)
    held, best = [], []
    on = splits(4, rng)
    for _ in range(400):
        scores = 50 + 10 * rng.normal(size=(8, 4))
        few = np.random.default_rng(0)
        found = (
            heldout_seeds(scores, on, few) if rule == "seeds" else heldout_tasks(list(scores.T[:, :, None]), on, few)
        )
        held.append(float(found.value.value))
        best.append(scores[found.pick].mean())
    error = np.std(held, ddof=1) / np.sqrt(len(held))
    assert abs(np.mean(held) - 50) < 3.5 * error < 1.5
    assert np.mean(best) > 55  # which would have been reported without a rule


def test_splits_are_all_halves_and_random_ones_of_many() -> None:
    rng = np.random.default_rng(0)
    assert {tuple(np.flatnonzero(one)) for one in splits(4, rng)} == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert splits(5, rng).sum(axis=1).tolist() == [2] * 10 and splits(2, rng).tolist() == [[True, False], [False, True]]
    many = splits(30, rng)
    assert many.shape == (1000, 30) and (many.sum(axis=1) == 15).all()


def test_the_command_by_seeds(tmp_path: Path) -> None:
    write_setting(tmp_path, A, alpha=3.0)
    write_setting(tmp_path, B, alpha=10.0)
    write_setting(tmp_path, [50.0, 50.0, 50.0], method="bc", alpha=1.0)  # one setting: nothing to tune
    done = invoke(tune.app, tmp_path, "--rule", "heldout-seeds")
    said = " ".join(done.stdout.split())
    assert done.exit_code == 0, done.stderr
    assert "alpha=3.0 5.0 ± 5.0 [-7.4, 17.4] 3 1 of 3" in said and "alpha=10.0 6.0 ± 2.0 [1.0, 11.0] 3 2 of 3" in said
    assert "heldout-seeds (all 3 splits): chosen on 1 of 3 seeds, reported on the other 2." in said
    assert "picked: alpha=10.0 (the best over all); held-out score 4.5 [3.0, 6.5]" in said
    assert "spent: 2 settings x 3 seeds x 1,000 gradient steps = 6,000; 180 s of training, 30 s of evaluation" in said
    source = f"tuned here: heldout-seeds, all 3 splits; 2 settings, 3 seeds, {TODAY}"
    assert table(done.stdout) == [["toy", "fql", "alpha", "10.0", source]] and "bc" not in said


def test_a_stated_split(tmp_path: Path) -> None:
    write_setting(tmp_path, A, alpha=3.0)
    write_setting(tmp_path, B, alpha=10.0)
    done = invoke(tune.app, tmp_path, "--rule", "heldout-seeds", "--choose-on", "0")
    assert "picked: alpha=3.0; held-out score 2.5 [0.0, 5.0]" in done.stdout
    assert table(done.stdout)[0][3:] == [
        "3.0",
        f"tuned here: heldout-seeds, chosen on seed 0; 2 settings, 3 seeds, {TODAY}",
    ]


def test_the_command_by_tasks(tmp_path: Path) -> None:
    """One setting for the suite; a setting that a task lacks is not picked, and its cost is charged."""
    for task, a, b in (
        ("one", [4.0, 6.0], [1.0, 3.0]),
        ("two", [0.0, 2.0], [4.0, 4.0]),
        ("three", [3.0, 3.0], [2.0, 2.0]),
    ):
        write_setting(tmp_path, a, task, alpha=3.0, q_aggregation="mean")
        write_setting(tmp_path, b, task, alpha=3.0, q_aggregation="min")
    write_setting(tmp_path, [99.0, 99.0], "one", alpha=9.0, q_aggregation="min")
    done = invoke(tune.app, tmp_path, "--rule", "heldout-tasks")
    said = " ".join(done.stdout.split())
    assert done.exit_code == 0 and "toy, fql: heldout-tasks (all 3 splits): chosen on 1 of 3 tasks" in said
    assert "picked: alpha=3.0, q_aggregation=mean (the best over all); held-out score 2.3 [" in said
    assert "without a score on some of its 3 tasks, so not picked: alpha=9.0, q_aggregation=min" in said
    assert "spent: 3 settings, 14 seeds in all, 14,000 gradient steps; 420 s of training, 70 s of evaluation" in said
    source = f"tuned here: heldout-tasks, all 3 splits; 2 settings, 3 tasks, 2 seeds, {TODAY}"
    assert table(done.stdout) == [["*", "fql", "alpha", "3.0", source], ["*", "fql", "q_aggregation", "mean", source]]
    stated = invoke(tune.app, tmp_path, "--rule", "heldout-tasks", "--choose-on", "tw*")
    assert "picked: alpha=3.0, q_aggregation=min; held-out score 2.0 [" in stated.stdout
    assert "heldout-tasks, chosen on two; 2 settings" in table(stated.stdout)[0][4]


def test_without_a_rule_nothing_is_picked(tmp_path: Path) -> None:
    write_setting(tmp_path, A, alpha=3.0)
    write_setting(tmp_path, B, alpha=10.0)
    done = invoke(tune.app, tmp_path)
    assert done.exit_code == 0 and "alpha=10.0" in done.stdout and "picked: alpha" not in done.stdout
    assert "No --rule was stated, so none is picked: heldout-seeds or heldout-tasks." in done.stdout


def test_what_settings_share_is_charged_once(tmp_path: Path) -> None:
    """One behaviour model a seed for both; a seed that failed at step 300 of its actor cost that much."""
    write_setting(tmp_path, A, alpha=3.0, shared="bc")
    folder = write_setting(tmp_path, B, alpha=10.0, shared="bc", status={1: "failed"})
    record = json.loads((folder / "seed-1" / "run.json").read_text())
    (folder / "seed-1" / "run.json").write_text(json.dumps(record | {"evaluation_steps": [300]}))
    found = spent(load(tmp_path).runs)
    assert (found.settings, found.seeds, found.each) == (2, 6, None)
    assert found.steps == 3 * 400 + 5 * 600 + 300 and found.training == 3 * 10 + 6 * 20 and found.evaluation == 30


def test_online_settings_are_named_without_where_they_began(tmp_path: Path) -> None:
    """Each goes on from another run, on each task; so the names are those of the settings, and tasks share them."""
    for task in ("one", "two"):
        for alpha, level in ((1.0, 40.0), (3.0, 60.0)):
            went_on = {"continues": f"{task}{alpha}", "from_step": int(alpha) * 1000, "steps": 7000}
            write_run(tmp_path, task=task, fingerprint=f"{task}{alpha:g}", seeds=2, episodes=4, offline=3,
                      effect=lambda t, s, level=level: level, settings={"alpha": alpha}, online=went_on)  # fmt: skip
    done = invoke(tune.app, tmp_path, "--rule", "heldout-tasks")
    assert done.exit_code == 0 and "continues" not in done.output and "from_step" not in done.output, done.output
    assert "picked: alpha=3.0 (the best over all)" in done.stdout and "not on all" not in done.stdout


def test_the_old_layout_is_charged_for_all_its_seeds(tmp_path: Path) -> None:
    """Its stages say the time of all seeds together. Beside a new run of one setting it does not count, and is said."""
    write_setting(tmp_path, A, alpha=3.0, old=True)
    write_setting(tmp_path, B, alpha=10.0, old=True)
    found = spent(load(tmp_path).runs)
    assert (found.settings, found.seeds, found.steps, found.each) == (2, 3 + 3, 6000, 1000)
    assert found.training == 60 and found.evaluation == 10
    aside = write_setting(tmp_path / "aside", [7.0, 7.0, 7.0], alpha=3.0)
    for path in aside.iterdir():
        path.rename(tmp_path / aside.relative_to(tmp_path / "aside") / path.name)
    (sweep,), notes = sweeps(load(tmp_path), Endpoint(), Rule())
    assert sweep.settings[0].means.tolist() == [7.0, 7.0, 7.0]
    assert len(notes) == 1 and "alpha=3.0: 2 runs (" in notes[0] and "(old layout)" in notes[0]


def test_settings_are_compared_on_seeds_that_all_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that failed in one setting is left out of the choice, and said; it still has its cost."""
    monkeypatch.setattr(tune, "WIDTH", 200)
    write_setting(tmp_path, [*A, 100.0], alpha=3.0)
    folder = write_setting(tmp_path, [*B, 0.0], alpha=10.0, status={3: "failed"})
    (folder / "seed-3" / "episodes.csv").unlink()
    write_setting(tmp_path, [1.0, 1.0, 1.0, 1.0], alpha=30.0, status=dict.fromkeys(range(4), "failed"))
    for path in tmp_path.glob("runs/toy/toy/fql/*33302e30/seed-*/episodes.csv"):
        path.unlink()
    (sweep,), notes = sweeps(load(tmp_path), Endpoint(), Rule())
    scores, seeds = common_seeds(sweep.settings)
    assert seeds == [0, 1, 2] and scores.tolist() == [A, B]
    done = invoke(tune.app, tmp_path, "--rule", "heldout-seeds")
    assert "picked: alpha=10.0 (the best over all); held-out score 4.5" in done.stdout and "3 of 4" in done.stdout
    assert any("alpha=10.0: n = 3 of 4 (seed 3 failed)" in note for note in notes)
    assert "alpha=30.0 (nothing evaluated; seeds 0-3 failed) 0 of 4" in " ".join(done.stdout.split())
    assert "toy/toy fql: picked without seed 3, which not all settings have" in done.stdout
    assert "spent: 3 settings x 4 seeds x 1,000 gradient steps = 12,000" in done.stdout


def write_failed(root: Path, *seconds: float, error: str = "critic/loss not finite at step 2", **settings: Any) -> None:
    """A run of which no seed was evaluated: each failed in its first stage after so many seconds."""
    folder = write_setting(root, [0.0] * len(seconds), **settings)
    for seed, each in enumerate(seconds):
        (folder / f"seed-{seed}" / "episodes.csv").unlink()
        path = folder / f"seed-{seed}" / "run.json"
        record = json.loads(path.read_text()) | {"status": "failed", "error": error, "evaluation_steps": []}
        behavior, actor = record["stages"]
        stages = [behavior | {"seconds": each}, actor | {"seconds": None}]
        path.write_text(json.dumps(record | {"stages": stages, "wall_clock_s": {}}))


def test_a_setting_whose_seeds_all_failed_is_a_row_and_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one other, too: then all is shown, and nothing can be picked."""
    monkeypatch.setattr(tune, "WIDTH", 200)
    write_setting(tmp_path, A, alpha=3.0)
    write_failed(tmp_path, 2.0, 2.0, 0.0, alpha=1e30)
    done = invoke(tune.app, tmp_path)
    said = " ".join(done.stdout.split())
    assert done.exit_code == 0, done.stderr
    assert "alpha=3.0 5.0 ± 5.0 [-7.4, 17.4] 3 " in said
    why = "nothing evaluated; seeds 0-2 failed: critic/loss not finite at step 2"
    assert f"alpha=1e+30 ({why}) 0 of 3" in said
    assert "2 settings, 6 seeds in all, 3,800 gradient steps; 94 s of training, 15 s of evaluation" in said
    line = refused(tune.app, tmp_path, "--rule", "heldout-seeds")
    assert f"toy/toy fql: 1 of 2 settings have a score, picking takes two (alpha=1e+30: {why})" in line
    write_setting(tmp_path, B, alpha=10.0)
    picked = invoke(tune.app, tmp_path, "--rule", "heldout-seeds").stdout
    assert "picked: alpha=10.0" in picked and "0 of 3" in picked


def test_a_setting_that_failed_on_a_task_is_not_picked_for_the_suite(tmp_path: Path) -> None:
    """Though it is the best on the others, and but one has a score there."""
    for task in ("one", "three"):
        write_setting(tmp_path, B, task, alpha=10.0)
        write_setting(tmp_path, [90.0, 90.0, 90.0], task, alpha=99.0)
    write_setting(tmp_path, B, "two", alpha=10.0)
    write_failed(tmp_path, 2.0, 2.0, 2.0, task="two", alpha=99.0)
    line = refused(tune.app, tmp_path, "--rule", "heldout-tasks")
    assert "without a score on some of its 3 tasks, so not picked: alpha=99.0; " in line
    assert "toy fql: 1 settings on 3 tasks; heldout-tasks takes two of each" in line
    done = invoke(tune.app, tmp_path, "--rule", "heldout-tasks", "--tasks", "one,three")
    assert "picked: alpha=99.0" in done.stdout


def test_runs_that_differ_in_more_than_the_keys_are_left_out(tmp_path: Path) -> None:
    """A later run of fewer steps is no fourth setting."""
    for alpha, scores in ((3.0, A), (10.0, B), (30.0, [1.0, 1.0, 1.0])):
        write_setting(tmp_path, scores, alpha=alpha, steps=600)
    write_setting(tmp_path, [99.0, 99.0, 99.0], alpha=3.0, steps=20)
    (mixed,), _ = sweeps(load(tmp_path), Endpoint(), Rule())
    assert len(mixed.tried) == 4
    write_setting(tmp_path, [98.0, 98.0, 98.0], tau=0.5, alpha=3.0, steps=600)  # a key that the others lack
    done = invoke(tune.app, tmp_path, "--keys", "alpha,kernel", "--rule", "heldout-seeds")
    assert done.exit_code == 0 and "steps=600" not in done.stdout and "picked: alpha=10.0" in done.stdout
    assert "spent: 3 settings x 3 seeds" in done.stdout
    said = " ".join(done.stdout.split())
    assert "toy/toy fql: left out, as they differ in more than alpha, kernel: " in said
    assert " (steps=20)" in said and " (tau=0.5)" in said
    line = refused(tune.app, tmp_path, "--keys", "alhpa")
    assert line == "--keys 'alhpa': no run has such a setting; did you mean 'alpha'?"
    assert "no method has two settings on a task" in refused(tune.app, tmp_path, "--keys", "kernel")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--rule", "best"], "--rule 'best' is none of: heldout-seeds, heldout-tasks"),
        (["--choose-on", "0"], "--choose-on goes with --rule: nothing is picked without one"),
        (["--rule", "heldout-seeds", "--choose-on", "first"], "--choose-on 'first': expected seeds, as 0-2 or 0,1"),
        (["--rule", "heldout-seeds", "--choose-on", "2-0"], "--choose-on '2-0': expected seeds, as 0-2 or 0,1"),
        (["--rule", "heldout-seeds", "--choose-on", " "], "--choose-on: is empty"),
        (["--rule", "heldout-seeds", "--choose-on", "0-2"], "--choose-on 0-2: none is left to report"),
        (["--rule", "heldout-seeds", "--choose-on", "7"], "--choose-on 7: settings share seeds 0-2"),
        (["--rule", "heldout-tasks"], "toy fql: 2 settings on 1 tasks; heldout-tasks takes two of each"),
        (["--methods", "vgf"], "--methods 'vgf': two settings have fql"),
        (["--tasks", "cube-*"], "--tasks 'cube-*': two settings have toy"),
        (["--select", "oracle"], "--select oracle: a score that is chosen on its own episodes cannot be tuned on"),
        (["--endpoint", "first"], "--endpoint 'first' is none of"),
        (["--rule", "heldout-seeds", "--out", "{root}/notes.csv"], "is no table of settings (tasks,method,key,value,"),
        (["--rule", "heldout-seeds", "--out", "{root}/runs"], "runs"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(tmp_path: Path, options: list[str], line: str) -> None:
    write_setting(tmp_path, A, alpha=3.0)
    write_setting(tmp_path, B, alpha=10.0)
    (tmp_path / "notes.csv").write_text("my,notes\n")
    assert line in refused(tune.app, tmp_path, *(one.format(root=tmp_path) for one in options))
    assert (tmp_path / "notes.csv").read_text() == "my,notes\n"


def test_nothing_to_tune_is_one_line(tmp_path: Path) -> None:
    write_setting(tmp_path, A, alpha=3.0)
    assert "no method has two settings on a task under" in refused(tune.app, tmp_path)
    assert "no folder" in refused(tune.app, tmp_path / "none")
