"""Lanes: each seed and setting is a piece of work of its own, whatever trains beside it, fails or is asked for later.

A lane's numbers depend on the size of its batch to rounding alone: XLA may sum the products of a batch of matrices in
another order than those of one, and Adam divides by the gradient's size, so rounding of a small gradient counts as much
as of a large one. Within a batch of one size they depend on nothing that is not the lane's own, bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import methods
from harness.config import RunSettings
from harness.plan import plan_run
from harness.programs import Stored, order, programs
from harness.store import LaneStore
from harness.train import Trainer
from tasks.toy.suite import ToyTask
from tests.harness.command import invoke

IQL = ("--preset", "smoke", "--methods", "iql", "--steps", "30", "--evaluate-every", "10", "--episodes", "3",
       "--set", "hidden_dims=8")  # fmt: skip
STEPS = 30
CLOSE = 1e-4
"""Largest difference of a parameter after STEPS steps of Adam at 3e-4, which move it by up to 9e-3, in batches of other
sizes: sums in another order differ by a few 1e-8, of which Adam, dividing by the gradient's size, makes more where a
gradient is small. Measured: 3e-5."""


class Killed(BaseException):
    """Ends a session as a kill does: nothing is put on record of it."""


def carried_out(results: Path, *arguments: str) -> list[str]:
    """The command, which must succeed; what it said."""
    done = invoke(*IQL, *arguments, "--results", str(results))
    assert done.exit_code == 0, done.stderr
    return done.stderr.splitlines()


def runs(results: Path) -> list[Path]:
    return sorted((results / "runs" / "toy" / "toy" / "iql").iterdir())


def trial(results: Path, seed: int) -> Path:
    (run,) = runs(results)
    return run / f"seed-{seed}"


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def states(results: Path, folder: Path) -> list[Path]:
    """The final states of a trial's lanes, in order."""
    return [results / "artifacts" / one / "state" / f"{STEPS}.safetensors"
            for one in (folder / "stages").read_text().split()]  # fmt: skip


def result(results: Path, folder: Path) -> dict[str, bytes]:
    """All numbers that a trial led to."""
    names = ("episodes.csv", "train.csv", "stages")
    arrays = np.load(folder / "candidates.npz")
    parts = {path.parents[1].name: path for path in states(results, folder)}
    return {
        **{name: (folder / name).read_bytes() for name in names},
        **{name: arrays[name].tobytes() for name in arrays.files},
        **{f"{name} parts": path.read_bytes() for name, path in parts.items()},
        **{f"{name} rows": (path.parents[1] / "train.csv").read_bytes()
           for name, path in parts.items() if (path.parents[1] / "train.csv").exists()},
    }  # fmt: skip


def assert_close(results: Path, folder: Path, other_results: Path, other: Path) -> None:
    """Equal work, and equal parts to rounding."""
    assert (folder / "stages").read_text() == (other / "stages").read_text()
    for one, two in zip(states(results, folder), states(other_results, other), strict=True):
        mine, theirs = load_file(one), load_file(two)
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            np.testing.assert_allclose(array, theirs[name], atol=CLOSE, rtol=0, err_msg=name)


def snapshot(results: Path) -> dict[str, bytes]:
    return {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seeds that trained side by side, uninterrupted. Not to be changed."""
    results = tmp_path_factory.mktemp("five")
    carried_out(results, "--seeds", "5")
    return results


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """Fills with every program that trains."""
    made, make = list[Trainer](), Trainer.__init__

    def noted(self: Trainer, *arguments: Any) -> None:
        make(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Trainer, "__init__", noted)
    return made


def sizes(trainers: list[Trainer]) -> list[tuple[str, int]]:
    """Stage and lanes of each program; the list starts anew."""
    found = [(trainer.stage.name, len(trainer.lanes.keys)) for trainer in trainers]
    trainers.clear()
    return found


# ---- what is carried out, and when ----


def test_all_methods_together_have_an_order() -> None:
    """A program comes after all that the policies read which are evaluated while it trains."""
    settings = RunSettings(seeds=(0, 1), episodes=1, evaluate_every=10, log_every=5)
    runs = [plan_run(ToyTask(), "?", name, (), settings) for name in methods.REGISTRY]
    made = programs([one for run in runs for one in run.trials()], lambda lane: Stored(), lambda lane: 10)
    number = {lane.fingerprint: place for place, program in enumerate(made) for lane in program.lanes}
    turn = {place: time for time, place in enumerate(order(made).static_order())}
    for place, program in enumerate(made):
        for one in program.trials:
            assert all(turn[number[lane.fingerprint]] <= turn[place] for lane in one.lanes()), one.label


# ---- more seeds, fewer, others ----


def test_seeds_that_are_added_train_alone_and_touch_no_file(
    five: Path, tmp_path: Path, trainers: list[Trainer]
) -> None:
    carried_out(tmp_path, "--seeds", "2")
    before = snapshot(tmp_path)
    assert sizes(trainers) == [("critic", 2), ("actor", 2)]
    said = carried_out(tmp_path, "--seeds", "3")
    assert sizes(trainers) == [("critic", 1), ("actor", 1)] and "seeds 0-1: finished before" in said[0]
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before and len(after) > len(before)
    for seed in range(3):  # beside one, and alone: as beside four
        assert_close(tmp_path, trial(tmp_path, seed), five, trial(five, seed))
    carried_out(tmp_path, "--seeds", "0,2")
    assert sizes(trainers) == [] and snapshot(tmp_path) == after


@pytest.mark.slow
def test_lanes_bounds_how_many_train_in_one_program(five: Path, tmp_path: Path, trainers: list[Trainer]) -> None:
    carried_out(tmp_path, "--seeds", "5", "--lanes", "2")
    assert Counter(sizes(trainers)) == {(stage, size): 3 - size + (size == 2) for stage in ("critic", "actor")
                                        for size in (1, 2)} | {("critic", 1): 1, ("actor", 1): 1}  # fmt: skip
    for seed in range(5):
        assert_close(tmp_path, trial(tmp_path, seed), five, trial(five, seed))
        assert [stage["batch"] for stage in record_of(trial(five, seed))["stages"]] == [5, 5]


# ---- sweeps ----


@pytest.mark.slow
def test_a_sweep_of_a_float_setting_is_one_program_a_stage(tmp_path: Path, trainers: list[Trainer]) -> None:
    carried_out(tmp_path / "sweep", "--seeds", "2", "--sweep", "iql.alpha=1,3,10")
    compiled = [len(trainer._compiled) for trainer in trainers]
    assert sizes(trainers) == [("critic", 2), ("actor", 6)] and compiled == [1, 1]
    swept = {record_of(run / "seed-0")["config"]["alpha"]["value"]: run for run in runs(tmp_path / "sweep")}
    assert sorted(swept) == [1, 3, 10]
    carried_out(tmp_path / "one", "--seeds", "2", "--set", "iql.alpha=3")
    (run,) = runs(tmp_path / "one")
    assert run.name == swept[3].name
    for seed in range(2):
        assert_close(tmp_path / "sweep", swept[3] / f"seed-{seed}", tmp_path / "one", run / f"seed-{seed}")
    actors = [load_file(states(tmp_path / "sweep", run / "seed-0")[-1]) for run in swept.values()]
    assert any((actors[0][name] != actors[1][name]).any() for name in actors[0])


# ---- failures ----


def strike(monkeypatch: pytest.MonkeyPatch, stage: str, lane: int, at: int) -> None:
    """Puts NaN into all that a stage trains of a lane, after step `at`."""
    run = Trainer.run

    def struck(self: Trainer, state: Any, first: int, count: int) -> Any:
        if self.stage.name == stage and first == at:
            bad = lambda leaf: leaf.at[lane].set(jnp.nan) if leaf.dtype.kind == "f" else leaf  # noqa: E731
            state = {name: jax.tree.map(bad, part) if name in self.stage.trains else part
                     for name, part in state.items()}  # fmt: skip
        return run(self, state, first, count)

    monkeypatch.setattr(Trainer, "run", struck)


@pytest.mark.parametrize("stage", ["critic", pytest.param("actor", marks=pytest.mark.slow)])
def test_nan_in_one_lane_ends_that_one_alone(
    five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainers: list[Trainer], stage: str
) -> None:
    """Also the lanes that were to read it; they hold its place, so that the others' numbers stay what they are."""
    with monkeypatch.context() as patch:
        strike(patch, stage, lane=3, at=10)
        done = invoke(*IQL, "--seeds", "5", "--results", str(tmp_path))
    assert done.exit_code == 1 and "0 of 1 runs finished" in done.stderr
    assert sizes(trainers) == [("critic", 5), ("actor", 5)]
    for seed in (0, 1, 2, 4):
        assert record_of(trial(tmp_path, seed))["status"] == "finished"
        assert result(tmp_path, trial(tmp_path, seed)) == result(five, trial(five, seed))
    failed = record_of(trial(tmp_path, 3))
    (line,) = [line for line in done.stderr.splitlines() if "iql on toy, seed 3: failed: " in line]
    assert failed["status"] == "failed" and f"stage {stage}: " in failed["error"] and failed["error"] in line
    assert "not finite at step 11, seed 3" in failed["error"]
    assert failed["error"].startswith("its " if stage == "critic" else "stage actor: ")
    carried_out(tmp_path, "--seeds", "5")  # what it failed of is gone: it is made up for, and it alone
    assert_close(tmp_path, trial(tmp_path, 3), five, trial(five, 3))
    for seed in (0, 1, 2, 4):
        assert result(tmp_path, trial(tmp_path, seed)) == result(five, trial(five, seed))


# ---- kills ----


def killed(monkeypatch: pytest.MonkeyPatch, results: Path, number: int, *arguments: str) -> None:
    """The command, killed as it is about to save a lane for the n-th time."""
    save, calls = LaneStore.save, 0

    def counted(self: LaneStore, *positional: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        save(self, *positional, **named)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LaneStore, "save", counted)
        invoke(*IQL, *arguments, "--results", str(results))


@pytest.mark.slow
def test_lanes_that_were_saved_at_different_steps_go_on_to_the_same_bits(
    five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainers: list[Trainer]
) -> None:
    """A session saves the five lanes one after the other: at the critic's end, and at the actor's steps 10, 20, 30."""
    kills = (
        3,  # two critics are finished, three not begun
        3 + 2,  # three critics more; two actors are at step 10, three at none
        5 + 3,  # all are at step 10, two at step 20
        5 + 4,  # all are at step 20, three at the end
    )
    for number in kills:
        killed(monkeypatch, tmp_path, number, "--seeds", "5")
    carried_out(tmp_path, "--seeds", "5")
    assert {size for _, size in sizes(trainers)} == {5}
    for seed in range(5):
        assert result(tmp_path, trial(tmp_path, seed)) == result(five, trial(five, seed))


@pytest.mark.slow
def test_a_batch_begun_as_five_goes_on_as_five_though_two_are_asked_for(
    five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainers: list[Trainer]
) -> None:
    killed(monkeypatch, tmp_path, 5 + 5 + 1, "--seeds", "5")  # all actors are at step 10
    sizes(trainers)
    carried_out(tmp_path, "--seeds", "1,3")
    assert sizes(trainers) == [("actor", 5)]
    for seed in (1, 3):
        assert result(tmp_path, trial(tmp_path, seed)) == result(five, trial(five, seed))
    assert {seed: record_of(trial(tmp_path, seed))["status"] for seed in range(5)} == {
        seed: "finished" if seed in (1, 3) else "running" for seed in range(5)}  # fmt: skip
    carried_out(tmp_path, "--seeds", "5")
    for seed in range(5):
        assert result(tmp_path, trial(tmp_path, seed)) == result(five, trial(five, seed))


def test_a_lane_that_was_deleted_is_trained_anew(five: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(five, tmp_path / "copy"))
    folder = trial(results, 2)
    for path in (folder, *(state.parents[1] for state in states(results, folder))):
        shutil.rmtree(path)
    before = snapshot(results)
    carried_out(results, "--seeds", "5")
    after = snapshot(results)
    assert {name: after[name] for name in before} == before
    assert_close(results, folder, five, trial(five, 2))
