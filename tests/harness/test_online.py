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

import numpy as np
import pytest

import methods
from harness.arrays import ArrayFormat
from harness.config import RunSettings, parse_set
from harness.ending import NotFinite
from harness.online import OnlineTrainer
from harness.plan import RunNode, plan_all, plan_online
from methods.core import BadInput
from tasks.ogbench.collect import collect
from tasks.toy.suite import NOISE, ToyBandit, ToyTask
from tests.harness.command import SMALL, Command, invoke, refused

ONLINE = (*SMALL, "--online-steps", "35", "--online-warmup", "10")
SETTINGS = RunSettings(seeds=(0, 1), episodes=5, evaluate_every=20, log_every=10)

# ---- whole runs ----


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def seed_folders(results: Path, *, online: bool = True, task: str = "toy/toy") -> list[Path]:
    """Of the run that went on online, or of the one that it went on from; in the seeds' order."""
    found = sorted((results / "runs" / task / "vgf").glob("*/seed-*"), key=lambda folder: folder.name)
    return [folder for folder in found if ("online" in record(folder)) == online]


def artifacts(results: Path) -> list[Path]:
    """The folder of each seed's online lane."""
    return [results / "artifacts" / (one / "stages").read_text().split()[-1] for one in seed_folders(results)]


def parameters(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """What a lane has: part -> leaf -> array."""
    (path,) = (folder / "state").iterdir()
    return ArrayFormat().read(path)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def snapshot(results: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(results.rglob("*")) if path.is_file()}


def same_tables(one: Path, other: Path, *names: str) -> bool:
    """Of all online seeds."""
    pairs = zip(seed_folders(one), seed_folders(other), strict=True)
    return all((mine / name).read_bytes() == (theirs / name).read_bytes() for mine, theirs in pairs for name in names)


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


@pytest.mark.slow
def test_fresh_forgets_what_went_on_from_what_is_redone(whole: Path, tmp_path: Path) -> None:
    """Without --online-steps, too: the online run's first half would be gone. Other seeds' stay."""
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    own = artifacts(results)
    done = invoke(*SMALL, "--seeds", "1-1", "--fresh", "--results", str(results))
    assert done.exit_code == 0, done.stderr
    assert [folder.exists() for folder in own] == [True, False]
    assert [folder.name for folder in seed_folders(results)] == ["seed-0"]
    assert [folder.name for folder in seed_folders(results, online=False)] == ["seed-0", "seed-1"]


def test_its_record_goes_on_from_the_offline_one(whole: Path) -> None:
    for seed, (folder, offline) in enumerate(zip(seed_folders(whole), seed_folders(whole, online=False), strict=True)):
        mine = record(folder)
        assert mine["online"] == {"continues": offline.parent.name, "from_step": 40, "steps": 35, "warmup": 10,
                                  "updates": 1, "capacity": 0}  # fmt: skip
        assert mine["status"] == "finished" and mine["evaluation_steps"] == [10, 20, 30, 40, 50, 60, 70, 75]
        origins = [(stage["name"], stage["steps"], stage["origin"]) for stage in mine["stages"]]
        assert origins == [("behavior", 20, "shared"), ("critic", 40, "shared"), ("online", 35, "trained")]
        rows, before = table(folder / "episodes.csv"), table(offline / "episodes.csv")
        assert rows[: len(before)] == [row | {"phase": "offline"} for row in before]
        phases = Counter((int(row["step"]), row["phase"]) for row in rows[len(before) :])
        assert phases == {(50, "online"): 6, (60, "online"): 6, (70, "online"): 6, (75, "final"): 6}
        train, earlier = table(folder / "train.csv"), table(offline / "train.csv")
        assert [{name: row[name] for name in earlier[0]} for row in train[: len(earlier)]] == earlier
        after = train[len(earlier) :]
        assert [(row["seed"], row["step"]) for row in after] == [(str(seed), k) for k in ("50", "60", "70", "75")]
        assert [row["explore/episodes"] for row in after] == ["10", "10", "10", "5"]  # the bandit's have one step
        losses = [float(row["critic/loss"]) for row in after]
        assert np.isnan(losses[0]) and np.isfinite(losses[1:]).all()  # the warm-up learns nothing
        assert (folder / "candidates.npz").exists()
    assert not list(whole.rglob("*.tmp"))


def test_its_parts_are_the_offline_ones_trained_on(whole: Path) -> None:
    """Adam has counted every update of either phase; the buffer is gone once nobody needs it."""

    def updates(part: dict[str, np.ndarray]) -> set[int]:
        return {int(leaf) for name, leaf in part.items() if name.endswith("opt_state.0.count")}

    for folder in seed_folders(whole):
        behavior, critic, online = (parameters(whole / "artifacts" / name)
                                    for name in (folder / "stages").read_text().split())  # fmt: skip
        assert online.keys() == {"behavior", "critic"}
        assert updates(behavior["behavior"]) == {20} and updates(critic["critic"]) == {40}
        assert updates(online["behavior"]) == {45} and updates(online["critic"]) == {65}


def test_the_same_command_twice_is_the_same_run_and_once_more_is_none(
    whole: Path, reference: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    assert invoke(*ONLINE, "--results", str(results)).exit_code == 0
    assert same_tables(results, whole, "episodes.csv", "train.csv", "stages")
    for mine, theirs in zip(artifacts(results), artifacts(whole), strict=True):
        assert ArrayFormat().same(parameters(mine), parameters(theirs))
    before = snapshot(results)
    again = invoke(*ONLINE, "--results", str(results))
    assert again.stderr.count("finished before") == 2 and snapshot(results) == before


class Killed(BaseException):
    """Ends a process's work as SIGKILL does: nobody catches it."""


def at_step(number: int, accident: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Has the accident before the trainer's n-th step in this process."""
    step, calls = OnlineTrainer.step, itertools.count(1)

    def wrapped(self: OnlineTrainer, *arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            accident()
        return step(self, *arguments, **named)

    patch.setattr(OnlineTrainer, "step", wrapped)


def check_leftovers(results: Path) -> None:
    """Killed at environment step 25, it has what it kept at 20: the parts, and all it had gathered."""
    for folder, lane in zip(seed_folders(results), artifacts(results), strict=True):
        kept = parameters(lane)["unfinished"]
        assert kept["own.rewards"].shape == (20,) and kept["episode"] == 20
        assert record(folder)["status"] == "running"
    episodes = seed_folders(results)[0] / "episodes.csv"
    os.truncate(episodes, episodes.stat().st_size - 9)  # as if the last row had been half-written


def check_resumed(results: Path, whole: Path) -> None:
    """The records have every evaluation once; step 60 is evaluated anew, from the parts that were kept."""
    assert invoke(*ONLINE, "--results", str(results)).exit_code == 0
    for mine, other in zip(seed_folders(results), seed_folders(whole), strict=True):
        ours, theirs = (table(folder / "episodes.csv") for folder in (mine, other))
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        until = [row for row in theirs if int(row["step"]) <= 60]
        assert ours[: len(until)] == until and ours != theirs  # the simulators began anew
        assert [row["step"] for row in table(mine / "train.csv")[-4:]] == ["50", "60", "70", "75"]


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
    assert same_tables(results, twin, "episodes.csv", "train.csv")


@pytest.mark.slow
def test_with_real_simulators_in_workers_it_goes_on_after_a_kill(command: Command, tmp_path: Path) -> None:
    data = collect("cube-single-play-v0", 4, 0, 2, tmp_path / "cube-single-play-v0.npz", steps=61, progress=False)
    task, results = "cube-single-play-singletask-v0", tmp_path / "results"
    arguments = ("--suite", "ogbench", "--tasks", task, "--data", str(data), "--results", str(results), *ONLINE)
    killed = command.run(*arguments, accident="harness.online:OnlineTrainer.step 25 after SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended = command.run(*arguments)
    assert ended.returncode == 0 and "finished before" in ended.stderr, ended.stderr
    own = f"ogbench/{task}"
    pairs = zip(seed_folders(results, task=own), seed_folders(results, task=own, online=False), strict=True)
    for online, offline in pairs:
        rows, before = table(online / "episodes.csv"), table(offline / "episodes.csv")
        assert rows[: len(before)] == [row | {"phase": "offline"} for row in before]  # begins where that one ends
        assert Counter(int(row["step"]) for row in rows[len(before) :]) == {50: 6, 60: 6, 70: 6, 75: 6}
        assert len({(row["step"], row["L_test"], row["episode"]) for row in rows}) == len(rows)
        assert {int(row["length"]) for row in rows} <= set(range(1, 201))


@pytest.mark.slow
def test_stopped_it_keeps_the_step_in_hand(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    with monkeypatch.context() as patch:
        at_step(13, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        stopped = invoke(*ONLINE, "--results", str(results))
    assert stopped.exit_code == 130 and "the same command continues" in stopped.stderr
    for folder, lane in zip(seed_folders(results), artifacts(results), strict=True):
        assert record(folder)["status"] == "interrupted"
        assert [path.name for path in (lane / "state").iterdir()] == ["13.safetensors"]
        assert parameters(lane)["unfinished"]["tally.critic/loss"][1] == 3
    assert invoke(*ONLINE, "--results", str(results)).exit_code == 0
    for folder in seed_folders(results):
        assert record(folder)["status"] == "finished"
        # the three updates before the stop and the seven after it are in one row
        (row,) = (row for row in table(folder / "train.csv") if row["step"] == "60")
        assert np.isfinite(float(row["critic/loss"]))


class Fails(ToyBandit):
    """Cannot begin one episode: the 24th of seed 1, its first being number 0."""

    FATAL = int(np.random.SeedSequence((1, 23)).generate_state(1)[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed == self.FATAL:
            raise ArithmeticError("this simulator exploded")
        return super().reset(seed=seed)


@pytest.mark.slow
def test_a_simulator_that_fails_ends_its_own_seed_alone(
    whole: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's record and parts are those of a run in which nothing failed, bit by bit; the same command goes on
    with the one that failed, from its last save."""
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    with monkeypatch.context() as patch:
        patch.setattr(ToyTask, "make_online_env", lambda self: Fails(NOISE))
        done = invoke(*ONLINE, "--results", str(results))
    why = "a simulator failed: ArithmeticError: this simulator exploded"
    folders = seed_folders(results)
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr
    assert f"vgf online on toy, seed 1: failed: {why}; see {folders[1]}/traceback.txt\n" in done.stderr
    assert record(folders[0])["status"] == "finished"
    assert (record(folders[1])["status"], record(folders[1])["error"]) == ("failed", why)
    assert 'raise ArithmeticError("this simulator exploded")' in (folders[1] / "traceback.txt").read_text()
    for name in ("episodes.csv", "train.csv"):
        assert (folders[0] / name).read_bytes() == (seed_folders(whole)[0] / name).read_bytes()
    assert ArrayFormat().same(parameters(artifacts(results)[0]), parameters(artifacts(whole)[0]))
    assert [row["step"] for row in table(folders[1] / "train.csv")[-2:]] == ["50", "60"]
    assert parameters(artifacts(results)[1])["unfinished"]["own.rewards"].shape == (20,)
    again = invoke(*ONLINE, "--results", str(results))
    assert again.exit_code == 0 and "vgf online on toy, seed 0: finished before" in again.stderr
    assert [row["step"] for row in table(folders[1] / "train.csv")[-4:]] == ["50", "60", "70", "75"]
    assert not (folders[1] / "traceback.txt").exists()


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


@pytest.mark.slow
def test_an_online_phase_waits_for_its_offline_end_seed_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failure(stage: str, result: Any, lane: int, seed: int, before: int = 0) -> NotFinite | None:
        return NotFinite(stage, 3, seed, ["x"]) if seed == 1 and stage == "critic" else None

    monkeypatch.setattr("harness.training.failure", failure)
    done = invoke(*ONLINE, "--results", str(tmp_path))
    assert done.exit_code == 1 and "0 of 2 runs finished" in done.stderr
    assert "vgf on toy, seed 1: failed: stage critic: x not finite at step 3, seed 1" in done.stderr
    assert "vgf online on toy, seed 1: passed over: the offline run it goes on from is unfinished" in done.stderr
    (online,) = seed_folders(tmp_path)
    assert online.name == "seed-0" and record(online)["status"] == "finished"


# ---- the plan ----


def stages(run: RunNode) -> dict[str, str]:
    return {node.stage.name: node.fingerprint for node in run.nodes}


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
    runs = plan_all(ToyTask(), "digest", list(methods.REGISTRY), (), settings, named=False)
    gone_on = {run.method.name for run in runs if run.continues}
    assert set(methods.REGISTRY) - gone_on == {"bc", "bc_gaussian", "sfbc"}
    with pytest.raises(BadInput, match="bc has no rule"):
        plan_online(next(run for run in runs if run.method.name == "bc"))
