"""Action chunks executed open loop: in order, to their end or the episode's, offline and online, and after a resume."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from harness.evaluate import Evaluator
from harness.online import OnlineTrainer, Rollout
from harness.openloop import OpenLoop
from methods.core import ControlConfig, Method, TaskSpec
from tests.harness.command import invoke
from tests.harness.hopper import CHUNKS, ONLINE, H, command
from tests.harness.line import LineTask

# ---- the queue ----


def test_chunks_are_executed_step_by_step_and_an_episode_s_start_empties_one() -> None:
    """Of two steps and two dimensions; the second simulator's episode starts anew after its first step."""
    loop = OpenLoop(2, width=4, action_dim=2)
    assert loop.length == 2
    executed = []
    for starts, chosen in [
        ([True, True], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([False, True], [[-1, -1, -1, -1], [9, 10, 11, 12]]),  # the first one's is not due, and not looked at
        ([False, False], [[13, 14, 15, 16], [-1, -1, -1, -1]]),
        ([False, False], [[-1, -1, -1, -1], [17, 18, 19, 20]]),
    ]:
        due = loop.due(np.array(starts))
        executed.append((due.tolist(), loop.step(due, np.array(chosen, np.float32)).tolist()))
    assert executed == [
        ([True, True], [[1, 2], [5, 6]]),
        ([False, True], [[3, 4], [9, 10]]),
        ([True, False], [[13, 14], [11, 12]]),
        ([False, True], [[15, 16], [17, 18]]),
    ]


def test_single_actions_are_due_at_every_step() -> None:
    loop = OpenLoop(3, width=2, action_dim=2)
    for number in range(3):
        due = loop.due(np.zeros(3, bool))
        assert due.all()
        actions = np.full((3, 2), number, np.float32)
        np.testing.assert_array_equal(loop.step(due, actions), actions)


# ---- evaluation ----


class Clock(gymnasium.Env):
    """Shows how many steps it has made and keeps what was done in each; episode k ends after `ends[k]`."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    ends = (7, 2, 5)
    done: ClassVar[dict[int, list[float]]] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        assert seed is not None
        self.seed, self.steps = seed, 0
        self.done[seed] = []
        return self._obs(), {}

    def step(self, action: np.ndarray) -> Any:
        self.done[self.seed].append(round(100 * float(action[0])))
        self.steps += 1
        return self._obs(), 0.0, self.steps == self.ends[self.seed], False, {"success": False}

    def _obs(self) -> np.ndarray:
        return np.array([self.steps, self.seed], np.float32)


@dataclass(frozen=True)
class ClockTask(LineTask):
    """Seven steps at most."""

    spec: TaskSpec = TaskSpec(2, 1, 7)  # noqa: RUF009 (frozen)

    def make_env(self) -> gymnasium.Env:
        return Clock()


@dataclass(frozen=True)
class Planner(Method):
    """A chunk chosen at step t is 10 t, 10 t + 1, ..., in hundredths."""

    config: Any = ControlConfig(chunk=3)  # noqa: RUF009 (frozen)
    spec: Any = ClockTask.spec.chunked(3)  # noqa: RUF009
    name: ClassVar[str] = "planner"

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        return ({},)

    def candidates(self, state: Any, obs: Any, key: Any, knobs: Any) -> Any:
        chunk = (10.0 * obs[:, :1] + jnp.arange(self.config.chunk)) / 100.0
        return chunk[:, None], jnp.ones((len(obs), 1), bool)


@pytest.mark.parametrize(
    ("h", "first", "last"),
    [(1, [0, 10, 20, 30, 40, 50, 60], [0, 10, 20, 30, 40]), (3, [0, 1, 2, 30, 31, 32, 60], [0, 1, 2, 30, 31]),
     (5, [0, 1, 2, 3, 4, 50, 51], [0, 1, 2, 3, 4]), (7, [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4])],
)  # fmt: skip
def test_an_evaluation_asks_the_policy_once_a_chunk(h: int, first: list[int], last: list[int]) -> None:
    """Of three episodes of 7, 2 and 5 steps, whether or not h divides them."""
    calls: list[int] = []
    method = Planner(ControlConfig(chunk=h), ClockTask.spec.chunked(h))
    with Evaluator(method, ClockTask(), (0,), episodes=3) as evaluator:
        act = evaluator._act

        def counted(lanes: Any, state: Any, obs: Any, knobs: Any, number: int) -> Any:
            calls.append(number)
            return act(lanes, state, obs, knobs, number)

        evaluator._act = counted  # type: ignore[assignment]
        found = evaluator.run({"none": jnp.zeros(1)}, 1, [0], stop=lambda: False, progress=lambda done: None)
        lengths = [row["length"] for row in found[0]]  # type: ignore[union-attr]
    assert lengths == [7, 2, 5]
    assert calls == list(range(0, 7, h)) and len(calls) == ceil(7 / h)
    assert Clock.done[0] == first and Clock.done[2] == last and Clock.done[1] == first[:2]


# ---- whole runs on a real simulator ----


@pytest.fixture
def hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    return command(tmp_path, monkeypatch)


class Watched:
    """What an online phase does, step by step: which chunks are chosen, and what is executed and kept."""

    def __init__(self, patch: pytest.MonkeyPatch, stop_at: int = 0) -> None:
        self.chosen: list[np.ndarray] = []  # before each step
        self.rows: list[dict[str, np.ndarray]] = []
        self.starts: list[np.ndarray] = []
        self.acting: list[bool] = [True]
        act, learn, step = OnlineTrainer.act, OnlineTrainer.step, Rollout.step

        def acted(trainer: OnlineTrainer, obs: np.ndarray, number: int) -> np.ndarray:
            self.chosen.append(act(trainer, obs, number))
            return self.chosen[-1]

        def learned(trainer: OnlineTrainer, *arguments: Any, acting: Any) -> Any:
            actions, sound = learn(trainer, *arguments, acting=acting)
            self.chosen.append(actions)
            self.acting.append(bool(acting))
            self.own = {name: np.array(block) for name, block in trainer.own.items()}
            return actions, sound

        def stepped(rollout: Rollout, actions: np.ndarray) -> Any:
            if stop_at and len(self.rows) + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            row, starts = step(rollout, actions)
            self.rows.append({name: np.array(column) for name, column in row.items()})
            self.starts.append(starts)
            return row, starts

        patch.setattr(OnlineTrainer, "act", acted)
        patch.setattr(OnlineTrainer, "step", learned)
        patch.setattr(Rollout, "step", stepped)

    def check(self) -> int:
        """Every action is the next of its simulator's chunk, and a chunk begins with each episode. Returns how many
        chunks an episode's end broke off."""
        broken = 0
        for seed in range(2):
            done, chunk = H, np.zeros((H, 3))
            for number, row in enumerate(self.rows):
                if self.starts[number][seed] or done == H:
                    broken += done < H
                    assert self.acting[number]
                    done, chunk = 0, self.chosen[number][seed].reshape(H, 3)
                np.testing.assert_array_equal(row["actions"][seed], chunk[done])
                done += 1
        return broken


def seed_records(results: Path) -> dict[bool, list[Path]]:
    """Folders of the seeds, by whether they are of the online phase."""
    found: dict[bool, list[Path]] = {False: [], True: []}
    for folder in sorted((results / "runs/d4rl/hopper-medium-v2/best_of_n").glob("*/seed-*")):
        found["online" in json.loads((folder / "run.json").read_text())].append(folder)
    return found


@pytest.mark.slow
def test_chunks_on_a_real_simulator_offline_and_online(
    hopper: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    done = invoke(*hopper, *CHUNKS, *ONLINE)
    assert done.exit_code == 0, done.stderr
    assert len(watched.rows) == 40 and watched.check() > 0  # a hopper that falls breaks a chunk off
    assert 0 < sum(watched.acting[:40]) < 40  # where nobody chooses, nothing is computed
    # what is kept are single steps, each with what followed it
    for number, row in enumerate(watched.rows):
        assert row["actions"].shape == (2, 3) and row["next_observations"].shape == (2, 11)
        for name, column in row.items():
            np.testing.assert_array_equal(watched.own[name][:, number], column.astype(np.float32))
        going_on = ~watched.starts[number + 1] if number < 39 else np.zeros(2, bool)
        assert (watched.own["terminals"][:, number] == 1 - going_on).all()
        if number < 39:
            np.testing.assert_array_equal(row["next_observations"][going_on],
                                          watched.rows[number + 1]["observations"][going_on])  # fmt: skip
    records = seed_records(tmp_path / "results")
    assert len(records[False]) == len(records[True]) == 2
    for folder in records[False] + records[True]:
        about = json.loads((folder / "run.json").read_text())
        assert about["status"] == "finished" and about["config"]["chunk"] == {"value": H, "origin": "--set"}
        with np.load(folder / "candidates.npz") as arrays:
            assert arrays["candidates"].shape[1:] == (16, 2, 3 * H) and arrays["actions"].shape[1:] == (16, 3 * H)
        with (folder / "episodes.csv").open(newline="") as file:
            assert {int(row["length"]) for row in csv.DictReader(file)} <= set(range(1, 1001))


@pytest.mark.slow
def test_a_stop_in_the_midst_of_a_chunk_and_what_goes_on_from_there(
    hopper: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever resumes begins a new episode with a new chunk; from the same leftovers it is the same run."""
    with monkeypatch.context() as patch:
        first = Watched(patch, stop_at=13)
        assert invoke(*hopper, *CHUNKS, *ONLINE).exit_code == 130
    assert len(first.rows) == 13
    results, twin = tmp_path / "results", tmp_path / "twin"
    shutil.copytree(results, twin)
    rows = []
    for folder in (results, twin):
        with monkeypatch.context() as patch:
            rest = Watched(patch)
            done = invoke(*hopper[:-1], str(folder), *CHUNKS, *ONLINE)
        assert done.exit_code == 0, done.stderr
        assert len(rest.rows) == 27 and rest.starts[0].all()
        rest.check()
        for number, row in enumerate(first.rows):  # nothing of what was gathered is lost
            np.testing.assert_array_equal(rest.own["actions"][:, number], row["actions"].astype(np.float32))
        assert (rest.own["terminals"][:, 12] == 1).all()  # the episode that was broken off
        rows.append(rest.rows)
    for one, other in zip(*rows, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    for mine, theirs in zip(seed_records(results)[True], seed_records(twin)[True], strict=True):
        assert (mine / "episodes.csv").read_bytes() == (theirs / "episodes.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fql", "vgf", "ifql", "rebrac"])
def test_other_methods_with_chunks_and_longer_returns(method: str, hopper: tuple[str, ...], tmp_path: Path) -> None:
    done = invoke(*hopper, *ONLINE, "--methods", method, "--set", "chunk=2", "--set", "n_step=3", "--set",
                  "masks=trajectory")  # fmt: skip
    assert done.exit_code == 0, done.stderr
