"""Action chunks executed open loop: in order, to their end or the episode's, offline and online, and after a resume."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness import budget, estimate
from harness.config import RunSettings, parse_set
from harness.evaluate import Evaluator
from harness.execute import Executor
from harness.measure import distinct_stages, measure, random_transitions
from harness.online import OnlineTrainer, Rollout, metric_names
from harness.openloop import OpenLoop
from harness.plan import RunNode, describe, plan_online, plan_run
from harness.programs import Stored, programs
from harness.train import needed, take
from methods.core import ControlConfig, Method, TaskSpec
from tasks.d4rl import suite as d4rl
from tests.harness.command import invoke, refused
from tests.harness.line import LineTask
from tests.tasks.d4rl_file import d4rl_file

HOPPER = d4rl.get("hopper-medium-v2")
SETTINGS = RunSettings(seeds=(0, 1), episodes=5, evaluate_every=20, log_every=10)

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

H = 5
TINY = ("--suite", "d4rl", "--tasks", "hopper-medium-v2", "--preset", "smoke", "--seeds", "2", "--steps", "10",
        "--evaluate-every", "10", "--episodes", "1", "--set", "hidden_dims=8", "--set", "flow_steps=2",
        "--set", "batch_size=16")  # fmt: skip
CHUNKS = ("--methods", "best_of_n", "--set", f"chunk={H}", "--set", "best_of_n.test_n=2")
ONLINE = ("--online-steps", "40", "--online-warmup", "6", "--online-evaluate-every", "40")


def hopper_file(path: Path) -> Path:
    """Four episodes of 10 steps that time out, with random actions."""
    rng, rows = np.random.default_rng(0), 40
    obs = rng.normal(size=(rows, 11)).astype(np.float32)
    return d4rl_file(path, observations=obs, next_observations=obs + 0.1, actions=rng.uniform(-1, 1, (rows, 3)),
                     rewards=np.arange(rows), terminals=np.zeros(rows, bool), timeouts=np.arange(rows) % 10 == 9,
                     **{"infos/qpos": np.zeros((rows, 2))})  # fmt: skip


@pytest.fixture
def hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return (*TINY, "--data", str(hopper_file(tmp_path / "mine.hdf5")), "--results", str(tmp_path / "results"))


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


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("arguments", "line"),
    [("--suite toy --methods vgf --set chunk=2", "vgf.chunk=2: an episode of toy has at most 1 step"),
     ("--suite toy --methods iql,fql --set fql.n_step=3",
      "fql.n_step=3: no episode of the data has so many transitions, the longest 1"),
     ("--suite toy --methods fql --set chunk=5 --set n_step=2",
      "n_step=2 is less than chunk=5: values go on where a chunk ends at the earliest; n_step=1 stands for that"),
     ("--suite toy --methods sfbc --set n_step=3",
      "sfbc takes single actions and whole returns: chunk=1, n_step=3"),
     ("--suite toy --methods vgf --set rewards=sparse",
      "vgf.rewards=sparse: the task must count what is unsolved (0, -1, ...), and its data have a reward of 0.807236"),
     ("--suite d4rl --tasks hopper-medium-v2 --methods fql --set chunk=5 --online-steps 20 --replay-capacity 4",
      "--replay-capacity 4: fql learns from 5 consecutive transitions (chunk, n_step)")],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_before_anything_is_written(
    arguments: str, line: str, tmp_path: Path
) -> None:
    assert refused("--preset", "smoke", *arguments.split(), "--results", str(tmp_path / "r")) == line
    assert not (tmp_path / "r").exists()


def test_data_with_fewer_rows_than_a_chunk_are_refused(hopper: tuple[str, ...], tmp_path: Path) -> None:
    """As are those without an episode of so many; also by what only looks."""
    short = d4rl_file(tmp_path / "short.hdf5")  # episodes of 3, 1, 4 and 1 rows, of which 7 are kept
    for chunk, rest in ((8, ()), (5, ("--dry-run",))):
        done = invoke(*hopper, *CHUNKS, "--data", str(short), "--set", f"chunk={chunk}", *rest)
        assert done.exit_code == 2 and done.stderr.splitlines()[-1] == (
            f"error: best_of_n.chunk={chunk}: no episode of the data has so many transitions, the longest 3"
        )
        assert not (tmp_path / "results").exists()


def test_a_task_whose_data_do_not_serve_is_passed_over_beside_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a line, as one whose data cannot be had; the exit code says that not all is done."""
    for variable in ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for name, make in (("hopper-medium-v2", hopper_file), ("hopper-medium-replay-v2", d4rl_file)):
        make(tmp_path / "D4RL_DATASET_DIR" / Path(d4rl.FILES[name]).name)
    ran: list[str] = []

    def run(self: Executor, runs: Sequence[RunNode], *rest: Any, **how: Any) -> list[str]:
        ran.extend(run.task.name for run in runs)
        return ["finished"] * len(runs)

    monkeypatch.setattr(Executor, "run", run)
    done = invoke("--suite", "d4rl", "--tasks", "hopper-medium-replay-v2,hopper-medium-v2", "--preset", "smoke",
                  *CHUNKS, "--results", str(tmp_path / "results"))  # fmt: skip
    assert ran == ["hopper-medium-v2"] and done.exit_code == 1, done.stderr
    assert "hopper-medium-replay-v2: passed over: best_of_n.chunk=5: no episode of the data" in done.stderr


# ---- what is said and measured of them ----


def test_an_action_costs_its_share_of_a_chunk_s() -> None:
    """Best of 4, five Euler steps and a judge each: 24 passes for one action, or for five."""
    sets = parse_set(["best_of_n.test_n=4", "flow_steps=5"])
    costs = [describe(plan_run(HOPPER, "?", "best_of_n", (*sets, *parse_set([f"chunk={h}"])), SETTINGS).trials()[0])
             ["inference"]["costs"] for h in (1, 5)]  # fmt: skip
    assert costs == [[{"setting": {"N": 4}, "passes": 24, "gradients": 0.0}],
                     [{"setting": {"N": 4}, "passes": 4.8, "gradients": 0.0}]]  # fmt: skip


def test_batches_are_weighed_with_their_chunks_and_buffers_without() -> None:
    """float32: two observations of 11, the actions, a reward and a mask."""
    settings = replace(SETTINGS, online_steps=1000, online_warmup=10)
    sets = parse_set(["chunk=5", "batch_size=100"])
    run = plan_online(plan_run(HOPPER, "?", "fql", sets, settings))
    assert budget._batch(run) == 100 * 4 * (22 + 5 * 3 + 2) and budget._buffer(run) == 1000 * 4 * (22 + 3 + 2)


def test_windows_of_other_lengths_are_measured_apart() -> None:
    """Their updates take other times, though the critic is one of single actions; other discounts do not."""

    def kind(*sets: str) -> str:
        run = plan_run(HOPPER, "?", "iql", parse_set(["steps=10", *sets]), SETTINGS)
        trials = run.trials()
        first, *_ = programs(trials, lambda lane: Stored(), lambda lane: 10)
        return estimate._kind(first)

    assert len({kind(), kind("n_step=3"), kind("n_step=5")}) == 3
    assert kind("n_step=3") == kind("n_step=3", "discount=0.9")


def test_chunked_methods_are_timed_on_transitions_of_single_actions() -> None:
    """As throughput does it, through every stage."""
    overrides = ("hidden_dims=8", "flow_steps=2", "batch_size=8", "chunk=2", "n_step=3")
    for _, method, number in distinct_stages(["fql", "iql"], overrides, HOPPER.spec, 4):
        assert method.spec.action_dim == 6
        found = measure(method, number, (0, 1), steps=2, repeats=1, loop=False)
        assert found.ms_scan > 0


def test_an_online_phase_knows_the_names_of_its_metrics_from_windows() -> None:
    method = plan_run(HOPPER, "?", "rebrac", parse_set(["chunk=3", "hidden_dims=8"]), SETTINGS).method
    columns = take(random_transitions(HOPPER.spec, 20), needed(method))
    stage, shapes = method.online(), jax.eval_shape(method.init, jax.random.key(0))
    assert stage
    names = metric_names(stage, shapes, columns)
    assert {"critic/loss", "actor/loss", "actor/distance"} <= set(names)
