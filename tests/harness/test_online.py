"""Offline to online: goes on from where offline training ended, gathers what it should, and can be stopped."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import methods
from harness.config import parse_set
from harness.online import OnlineTrainer
from harness.plan import RunNode, plan_all, plan_online
from harness.train import NotFinite
from methods.core import BadInput
from tasks.ogbench.collect import collect
from tasks.toy.suite import ToyTask
from tests.harness.command import SMALL, Command, invoke, refused
from tests.harness.test_plan import SETTINGS, stages
from tests.harness.test_resume import parameters, snapshot

ONLINE = (*SMALL, "--online-steps", "35", "--online-warmup", "10")

# ---- whole runs ----


def online_run(results: Path) -> tuple[Path, dict[str, Any]]:
    """Folder and record of the run that went on online."""
    for folder in (results / "runs" / "toy" / "toy" / "vgf").iterdir():
        record = json.loads((folder / "run.json").read_text())
        if "online" in record:
            return folder, record
    raise AssertionError("no online run")


def artifact(results: Path) -> Path:
    """The folder of the online stage."""
    return results / "artifacts" / (online_run(results)[0] / "stages").read_text().split()[-1]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An offline run that was finished before, gone on from."""
    results = tmp_path_factory.mktemp("online") / "results"
    shutil.copytree(reference, results)
    before = snapshot(results)
    done = invoke(*ONLINE, "--results", str(results))
    assert done.exit_code == 0 and "vgf on toy: finished before" in done.stderr, done.stderr
    after = snapshot(results)
    assert {path: after[path] for path in before} == before  # nothing is trained or evaluated again
    return results


def test_fresh_forgets_what_went_on_from_what_is_redone(whole: Path, tmp_path: Path) -> None:
    """Without --online-steps, too: the online run's first half would be gone."""
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    own = artifact(results)
    done = invoke(*SMALL, "--fresh", "--results", str(results))
    assert done.exit_code == 0, done.stderr
    assert not own.exists()
    (left,) = (results / "runs" / "toy" / "toy" / "vgf").iterdir()
    assert "online" not in json.loads((left / "run.json").read_text())


def test_its_record_goes_on_from_the_offline_one(whole: Path, reference: Path) -> None:
    folder, record = online_run(whole)
    (offline,) = (reference / "runs" / "toy" / "toy" / "vgf").iterdir()
    assert record["online"] == {"continues": offline.name, "from_step": 40, "steps": 35, "warmup": 10, "updates": 1,
                                "capacity": 0}  # fmt: skip
    assert record["status"] == "finished" and record["evaluation_steps"] == [10, 20, 30, 40, 50, 60, 70, 75]
    origins = [(stage["name"], stage["steps"], stage["origin"]) for stage in record["stages"]]
    assert origins == [("behavior", 20, "shared"), ("critic", 40, "shared"), ("online", 35, "trained")]
    rows, before = table(folder / "episodes.csv"), table(offline / "episodes.csv")
    assert rows[: len(before)] == [row | {"phase": "offline"} for row in before]
    phases = Counter((int(row["step"]), row["phase"]) for row in rows[len(before) :])
    assert phases == {(50, "online"): 12, (60, "online"): 12, (70, "online"): 12, (75, "final"): 12}
    train, earlier = table(folder / "train.csv"), table(offline / "train.csv")
    assert [{name: row[name] for name in earlier[0]} for row in train[: len(earlier)]] == earlier
    after = train[len(earlier) :]
    assert [(row["seed"], row["step"]) for row in after] == [(s, k) for k in ("50", "60", "70", "75") for s in "01"]
    assert {row["explore/episodes"] for row in after} == {"10", "5"}  # the bandit's episodes have one step
    losses = [float(row["critic/loss"]) for row in after]
    assert np.isnan(losses[:2]).all() and np.isfinite(losses[2:]).all()  # the warm-up learns nothing
    assert (folder / "candidates.npz").exists() and not list(whole.rglob("*.tmp"))


def test_its_parts_are_the_offline_ones_trained_on(whole: Path) -> None:
    """Adam has counted every update of either phase; the buffer is gone once nobody needs it."""
    behavior, critic, online = (parameters(whole / "artifacts" / name)
                                for name in (online_run(whole)[0] / "stages").read_text().split())  # fmt: skip
    assert online.keys() == {"behavior", "critic"}

    def updates(part: Any) -> list[int]:
        return np.asarray(part["opt_state"][0]["count"]).tolist()

    assert updates(behavior["behavior"]) == [20, 20] and updates(critic["critic"]) == [40, 40]
    assert updates(online["behavior"]) == [45, 45] and updates(online["critic"]) == [65, 65]


def test_the_same_command_twice_is_the_same_run_and_once_more_is_none(
    whole: Path, reference: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    assert invoke(*ONLINE, "--results", str(results)).exit_code == 0
    for name in ("episodes.csv", "train.csv", "stages"):
        assert (online_run(results)[0] / name).read_bytes() == (online_run(whole)[0] / name).read_bytes()
    for one, two in zip(*(jax.tree.leaves(parameters(artifact(r))) for r in (results, whole)), strict=True):
        np.testing.assert_array_equal(one, two)
    before = snapshot(results)
    again = invoke(*ONLINE, "--results", str(results))
    assert again.stderr.count("finished before") == 2 and snapshot(results) == before


class Killed(BaseException):
    """Ends a process's work as SIGKILL does: nobody catches it."""


def at_step(number: int, accident: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Has the accident before the trainer's n-th step in this process."""
    step, calls = OnlineTrainer.step, itertools.count(1)

    def wrapped(self: OnlineTrainer, *arguments: Any) -> Any:
        if next(calls) == number:
            accident()
        return step(self, *arguments)

    patch.setattr(OnlineTrainer, "step", wrapped)


def check_leftovers(results: Path) -> None:
    """Killed at environment step 25, it has what it kept at 20: the parts, and all it had gathered."""
    kept = parameters(artifact(results))["besides"]
    assert kept["own"]["rewards"].shape == (2, 20) and kept["episode"].tolist() == [20, 20]
    assert online_run(results)[1]["status"] == "running"
    episodes = online_run(results)[0] / "episodes.csv"
    os.truncate(episodes, episodes.stat().st_size - 9)  # as if the last row had been half-written


def check_resumed(results: Path, whole: Path) -> None:
    """The record has every evaluation once; step 60 is evaluated anew, from the parts that were kept."""
    assert invoke(*ONLINE, "--results", str(results)).exit_code == 0
    ours, theirs = (table(online_run(folder)[0] / "episodes.csv") for folder in (results, whole))
    assert [(row["seed"], row["step"]) for row in ours] == [(row["seed"], row["step"]) for row in theirs]
    until = [row for row in theirs if int(row["step"]) <= 60]
    assert ours[: len(until)] == until and ours != theirs  # the simulators began anew
    train = table(online_run(results)[0] / "train.csv")
    assert [row["step"] for row in train[-8:]] == ["50", "50", "60", "60", "70", "70", "75", "75"]


@pytest.mark.slow
def test_broken_off_and_continued(
    reference: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise Killed

    results = tmp_path / "results"
    shutil.copytree(reference, results)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_step(25, die, patch)
        invoke(*ONLINE, "--results", str(results))
    check_leftovers(results)
    check_resumed(results, whole)


@pytest.mark.slow
def test_killed_and_continued(command: Command, reference: Path, whole: Path, tmp_path: Path) -> None:
    """Whoever resumes the same leftovers gets the same results."""
    results, twin = tmp_path / "results", tmp_path / "twin"
    shutil.copytree(reference, results)
    accident = "harness.online:OnlineTrainer.step 25 after SIGKILL"
    killed = command.run(*ONLINE, "--results", str(results), accident=accident)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    check_leftovers(results)
    shutil.copytree(results, twin)
    for folder in (results, twin):
        check_resumed(folder, whole)
    for name in ("episodes.csv", "train.csv"):
        assert (online_run(results)[0] / name).read_bytes() == (online_run(twin)[0] / name).read_bytes()


@pytest.mark.slow
def test_with_real_simulators_in_workers_it_goes_on_after_a_kill(command: Command, tmp_path: Path) -> None:
    data = collect("cube-single-play-v0", 4, 0, 2, tmp_path / "cube-single-play-v0.npz", steps=61, progress=False)
    task = "cube-single-play-singletask-v0"
    arguments = ("--suite", "ogbench", "--tasks", task, "--data", str(data), "--results", str(tmp_path / "results"),
                 *ONLINE)  # fmt: skip
    killed = command.run(*arguments, accident="harness.online:OnlineTrainer.step 25 after SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    runs = tmp_path / "results" / "runs" / "ogbench" / task / "vgf"
    (offline,) = (run for run in runs.iterdir() if "online" not in json.loads((run / "run.json").read_text()))
    ended = command.run(*arguments)
    assert ended.returncode == 0 and "finished before" in ended.stderr, ended.stderr
    (online,) = (run for run in runs.iterdir() if run != offline)
    rows, before = table(online / "episodes.csv"), table(offline / "episodes.csv")
    assert rows[: len(before)] == [row | {"phase": "offline"} for row in before]  # its curve begins where that one ends
    assert Counter(int(row["step"]) for row in rows[len(before) :]) == {50: 12, 60: 12, 70: 12, 75: 12}
    assert len({(row["seed"], row["step"], row["L_test"], row["episode"]) for row in rows}) == len(rows)
    assert {int(row["length"]) for row in rows} <= set(range(1, 201))


@pytest.mark.slow
def test_stopped_it_keeps_the_step_in_hand(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    with monkeypatch.context() as patch:
        at_step(13, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        stopped = invoke(*ONLINE, "--results", str(results))
    assert stopped.exit_code == 130 and "the same command continues" in stopped.stderr
    assert online_run(results)[1]["status"] == "interrupted"
    tally = parameters(artifact(results))["besides"]["tally"]["critic/loss"]
    assert [path.name for path in (artifact(results) / "state").iterdir()] == ["13"] and tally[1].tolist() == [3, 3]
    assert invoke(*ONLINE, "--results", str(results)).exit_code == 0
    assert online_run(results)[1]["status"] == "finished"
    # the three updates before the stop and the seven after it are in one row
    rows = [row for row in table(online_run(results)[0] / "train.csv") if row["step"] == "60"]
    assert len(rows) == 2 and all(np.isfinite(float(row["critic/loss"])) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [("--methods vgf,bc --online-steps 50", "--online-steps 50: bc has no rule for an online phase"),
     ("--methods sfbc --online-steps 50", "--online-steps 50: sfbc has no rule for an online phase"),
     ("--methods vgf --online-steps 9", "--online-steps 9: nothing is learned in them, as --online-warmup is 10"),
     ("--methods vgf --online-warmup 5", "--online-warmup has no meaning without --online-steps"),
     ("--methods vgf --online-steps -1", "--online-steps -1: expected at least 0"),
     ("--methods vgf --online-steps 50 --updates-per-step 0", "--updates-per-step 0: expected at least 1")],
)  # fmt: skip
def test_refused(arguments: str, line: str, tmp_path: Path) -> None:
    assert refused("--preset", "smoke", *arguments.split(), "--results", str(tmp_path / "r")) == line
    assert not (tmp_path / "r").exists()


def test_an_online_phase_waits_for_its_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an offline end there is nothing to go on from."""
    monkeypatch.setattr(
        "harness.train.Trainer.run", lambda *_: (_ for _ in ()).throw(NotFinite("behavior", 3, 0, ["x"]))
    )
    done = invoke(*ONLINE, "--results", str(tmp_path))
    assert done.exit_code == 1 and "0 of 2 runs finished" in done.stderr
    assert "vgf online on toy: passed over: the offline run it goes on from is unfinished" in done.stderr


# ---- the plan ----


def plan(*sets: str, **changes: Any) -> tuple[RunNode, RunNode]:
    """VGF offline, and gone on from."""
    settings = replace(SETTINGS, **{"online_steps": 50, "online_warmup": 5, **changes})
    sets = ("steps=50", "behavior=pretrained", "bank=4", *sets)
    offline, online = plan_all(ToyTask(), "digest", ["vgf"], parse_set(sets), settings)
    return offline, online


def test_the_online_phase_is_one_more_node() -> None:
    offline, online = plan()
    assert online.nodes[:-1] == offline.nodes and online.continues is offline
    assert offline.fingerprint == plan_all(ToyTask(), "digest", ["vgf"], parse_set(["steps=50", "behavior=pretrained",
        "bank=4"]), SETTINGS)[0].fingerprint  # fmt: skip
    node = online.nodes[-1]
    assert node.stage.prepare is None and node.stage.trains == {"behavior", "critic"}  # joint, and without the bank
    assert online.evaluation_steps() == (70, 90, 100) and (node.first, node.updates) == (50, 45)


@pytest.mark.parametrize(
    "change", [{"online_steps": 60}, {"online_warmup": 6}, {"updates_per_step": 2}, {"replay_capacity": 9}]
)
def test_settings_of_the_online_phase_leave_the_offline_run_alone(change: dict[str, int]) -> None:
    (offline, online), (same, other) = plan(), plan(**change)
    assert offline.fingerprint == same.fingerprint and online.fingerprint != other.fingerprint
    assert online.nodes[-1].fingerprint != other.nodes[-1].fingerprint


def test_how_it_explores_is_the_online_phase_s_alone_and_what_is_evaluated_none_of_its() -> None:
    (offline, online), (same, other) = plan(), plan("vgf.explore_flow_steps=1")
    assert offline.fingerprint == same.fingerprint and online.nodes[-1].fingerprint != other.nodes[-1].fingerprint
    other = plan("vgf.test_flow_steps=0,7")[1]
    assert stages(online) == stages(other) and online.fingerprint != other.fingerprint
    every = plan(online_evaluate_every=7)[1]
    assert stages(every) == stages(online) and every.fingerprint != online.fingerprint


def test_methods_without_a_rule_are_left_out_only_where_nobody_named_them() -> None:
    settings = replace(SETTINGS, online_steps=50, online_warmup=5)
    runs = plan_all(ToyTask(), "digest", list(methods.REGISTRY), (), settings, chosen=False)
    gone_on = {run.method.name for run in runs if run.continues}
    assert set(methods.REGISTRY) - gone_on == {"bc", "bc_gaussian", "sfbc"}
    with pytest.raises(BadInput, match="bc has no rule"):
        plan_online(next(run for run in runs if run.method.name == "bc"))
