"""Rewards: what each method learns from, offline and online alike, and that it is part of what its stages are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import methods
from harness.config import parse_set, resolve
from harness.control import check_rewards, learned
from harness.online import Rollout
from harness.plan import plan_online, plan_run
from harness.session import Session
from harness.train import take
from methods.core import REWARD_SETTINGS, BadInput, ControlConfig, Method, MethodConfig, Rewards
from tasks.core import Dataset, RewardTransform, Task
from tasks.d4rl import suite as d4rl
from tasks.ogbench import suite as ogbench
from tests.harness.line import Line, LineTask
from tests.harness.test_plan import SETTINGS, plan, stages
from tests.tasks.d4rl_file import d4rl_file

ONLINE = replace(SETTINGS, online_steps=50, online_warmup=5)


def method(name: str, task: Task) -> Method:
    made: Method = methods.get(name)(resolve(name, "d4rl", task.name, ()).config, task.spec)
    return made


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Dataset]:
    """Two sets of seven transitions: locomotion pays 10 .. 16 and scales by 50, the maze pays 1 in its rows 2 and 3."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    goal = np.isin(np.arange(10), [2, 3]) * 1.0
    files = {"hopper-medium-v2": d4rl_file(tmp_path / "hopper.hdf5"),
             "antmaze-medium-play-v2": d4rl_file(tmp_path / "maze.hdf5", obs=29, action=8, rewards=goal)}  # fmt: skip
    return {name: d4rl.get(name).load(str(path)) for name, path in files.items()}


HOPPER = np.arange(10.0, 17.0)
MAZE = np.array([0, 0, 1, 1, 0, 0, 0.0])
LEARNED = {  # by the code of each method
    "vgf": (50 * HOPPER, MAZE - 1), "fql": (50 * HOPPER, MAZE - 1), "iql": (50 * HOPPER, MAZE - 1),
    "ivr": (50 * HOPPER, MAZE - 1), "td3bc": (HOPPER, MAZE), "sfbc": (HOPPER, MAZE), "rebrac": (HOPPER, 100 * MAZE),
    "diffusion_ql": (HOPPER, (MAZE - 0.5) * 4),
}  # fmt: skip


@pytest.mark.parametrize("name", LEARNED)
def test_each_method_learns_from_the_rewards_of_its_code(name: str, data: dict[str, Dataset], tmp_path: Path) -> None:
    for (task, dataset), expected, raw in zip(data.items(), LEARNED[name], (HOPPER, MAZE), strict=True):
        transform = learned(method(name, d4rl.get(task)), dataset.reward)
        offline = Session(tmp_path, None).columns(dataset, frozenset({"rewards"}), take, transform)  # type: ignore[arg-type]
        np.testing.assert_allclose(offline["rewards"], expected, rtol=1e-7)
        np.testing.assert_allclose(transform(raw), expected, rtol=1e-7)  # of the simulator's, online


def test_only_rewards_are_kept_more_than_once(data: dict[str, Dataset], tmp_path: Path) -> None:
    dataset, task = data["hopper-medium-v2"], d4rl.get("hopper-medium-v2")
    session = Session(tmp_path, None)  # type: ignore[arg-type]
    kept = [
        session.columns(dataset, made.fields, take, learned(made, dataset.reward))
        for made in (method(name, task) for name in ("vgf", "td3bc", "fql", "diffusion_ql"))
    ]  # type: ignore[arg-type]
    assert all(columns[name] is kept[0][name] for columns in kept for name in columns if name != "rewards")
    assert kept[0]["rewards"] is kept[2]["rewards"] and kept[1]["rewards"] is kept[3]["rewards"]
    assert kept[0]["rewards"] is not kept[1]["rewards"]


def test_a_task_without_a_transform_has_one_column_of_rewards(data: dict[str, Dataset], tmp_path: Path) -> None:
    dataset = Dataset(data["hopper-medium-v2"].transitions, data["hopper-medium-v2"].provenance)
    raw = methods.get("vgf")(methods.get("vgf").Config(rewards="raw"), d4rl.get("hopper-medium-v2").spec)
    assert learned(raw, dataset.reward) == dataset.reward == RewardTransform()


def test_rewards_are_part_of_what_learns_from_them_and_of_nothing_else() -> None:
    base = plan("vgf")
    for setting in ("rewards=raw", "reward_scale=2", "reward_shift=-1"):
        other = plan("vgf", setting)
        assert stages(other)["behavior"] == stages(base)["behavior"] and other.fingerprint != base.fingerprint
        assert stages(other)["critic"] != stages(base)["critic"]
        assert stages(plan("iql", setting))["critic"] != stages(plan("iql"))["critic"]
        assert stages(plan("bc", setting)) == stages(plan("bc"))


def test_a_method_that_keeps_the_task_s_rewards_is_what_it_was() -> None:
    """Before there was a choice: neither stages nor runs name it, offline or online."""
    base = plan("td3bc")
    assert plan("td3bc", "rewards=task", "reward_scale=1", "reward_shift=0").fingerprint == base.fingerprint
    for run in (base, plan_online(plan("td3bc", settings=ONLINE))):
        assert not any(REWARD_SETTINGS & node.identity["config"].keys() for node in run.nodes)
    online = plan_online(plan("td3bc", "reward_scale=2", settings=ONLINE)).nodes[-1]
    assert online.identity["config"]["reward_scale"] == 2.0


def test_a_scale_that_the_data_say_is_part_of_their_identity(data: dict[str, Dataset]) -> None:
    """The rule by which they say it may change; a constant is the task's."""
    hopper, maze = data.values()
    assert hopper.identity == f"{hopper.provenance.sha256}, rewards x 50" and maze.identity == maze.provenance.sha256


def test_every_method_that_acts_has_the_settings_and_no_method_that_writes() -> None:
    assert all(issubclass(methods.get(name).Config, ControlConfig) for name in methods.REGISTRY)
    assert not REWARD_SETTINGS & set(vars(MethodConfig())) and set(vars(ControlConfig())) >= REWARD_SETTINGS
    run = plan_run(d4rl.get("hopper-medium-v2"), "?", "diffusion_ql", parse_set(["rewards=task"]), SETTINGS)
    assert run.method.rewards == Rewards() and run.resolved.origins["rewards"] == "--set"


# ---- sparse rewards, and what stops the bootstrap ----

PUZZLE = ogbench.get("puzzle-3x3-play-singletask-v0")  # whose goal is that all nine buttons are lit
UNMET = [9, 3, 0, 1, 2, 4, 2, 1, 1, 0]  # buttons that are not, by state: episodes of 6 and 4 states


@pytest.fixture(scope="module")
def puzzle(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A file of OGBench's own format, rewarded by its own relabelling: of eight transitions, the states acted in count
    as 9, 3, 0, 1, 2 and 2, 1, 1."""
    path, rng, states = tmp_path_factory.mktemp("puzzle") / "puzzle-3x3-play-v0.npz", np.random.default_rng(0), 10
    lit = np.arange(9) >= np.array(UNMET)[:, None]
    np.savez(path, observations=rng.normal(size=(states, PUZZLE.spec.obs_dim)).astype(np.float32),
             actions=rng.uniform(-0.9, 0.9, (states, PUZZLE.spec.action_dim)).astype(np.float32),
             terminals=np.isin(np.arange(states), [5, 9]), qpos=np.zeros((states, 23), np.float32),
             button_states=lit.astype(np.int64))  # fmt: skip
    return PUZZLE.load(str(path))


def made(**settings: Any) -> Method:
    return methods.get("fql")(methods.get("fql").Config(**settings), PUZZLE.spec)


@pytest.mark.parametrize(
    ("settings", "rewards", "masks"),
    [({}, [-9, -3, 0, -1, -2, -2, -1, -1], [1, 1, 0, 1, 1, 1, 1, 1]),
     ({"rewards": "sparse"}, [-1, -1, 0, -1, -1, -1, -1, -1], [1, 1, 0, 1, 1, 1, 1, 1]),
     ({"rewards": "sparse", "masks": "trajectory"}, [-1, -1, 0, -1, -1, -1, -1, -1], [1, 1, 1, 1, 0, 1, 1, 0]),
     ({"masks": "trajectory"}, [-9, -3, 0, -1, -2, -2, -1, -1], [1, 1, 1, 1, 0, 1, 1, 0]),
     ({"rewards": "sparse", "reward_scale": 2.0, "reward_shift": 1.0}, [-1, -1, 1, -1, -1, -1, -1, -1],
      [1, 1, 0, 1, 1, 1, 1, 1])],
)  # fmt: skip
def test_sparse_rewards_and_masks_of_a_dataset(
    settings: dict[str, Any], rewards: list[float], masks: list[float], puzzle: Dataset, tmp_path: Path
) -> None:
    method = made(**settings)
    session = Session(tmp_path, None)  # type: ignore[arg-type]
    session.columns(puzzle, frozenset({"rewards", "masks"}), take, puzzle.reward)  # the task's own are kept beside
    found = session.columns(puzzle, method.fields, take, learned(method, puzzle.reward), method.rewards.masks)
    assert found["rewards"].tolist() == rewards and found["masks"].tolist() == masks
    assert found["rewards"].dtype == found["masks"].dtype == np.float32
    check_rewards(method, puzzle)


class Counting(Line):
    """Two things to do on a line: to be at x >= 2, and at x >= 4, which ends it; it pays for what is undone."""

    def step(self, action: np.ndarray) -> Any:
        obs, _, success, truncated, info = super().step(action)
        return obs, float(-(self.x < 2) - (self.x < 4)), success, truncated, info


@dataclass(frozen=True)
class CountingTask(LineTask):
    """Its time limit is six steps."""

    def make_online_env(self) -> Any:
        return Counting()


@pytest.mark.parametrize(("settings", "ends"), [({}, [1, 0, 0]), ({"masks": "trajectory"}, [1, 1, 1])])
def test_sparse_rewards_and_masks_online(settings: dict[str, Any], ends: list[int]) -> None:
    """Three seeds, of which one solves the task, one stands still until time is up, one is cut off at x <= -2. Masks
    are 0 at the first's end, or at every end; what is reported is the simulator's own."""
    method = made(rewards="sparse", **settings)
    how = {"masks": method.rewards.masks}
    reward = learned(method, RewardTransform())
    with Rollout(CountingTask(), (0, 1, 2), np.zeros(3, np.int32), reward, {"simulate": 0.0}, **how) as rollout:
        begun, rows, over = rollout.obs[:, 0].copy(), [], np.zeros((6, 3), bool)
        for number in range(6):
            row, _ = rollout.step(np.array([[1.0], [0.0], [-1.0]], np.float32))
            rows.append(row)
            over[number] = rollout.starting
        returns = rollout.report()["explore/return"]
    first = [int(np.argmax(over[:, seed])) for seed in range(3)]  # the step that ended each one's first episode
    assert first == [3 - int(begun[0]), 5, 1 + int(begun[2])]
    rewards, masks = (np.array([row[name] for row in rows]) for name in ("rewards", "masks"))
    for seed, end in enumerate(first):
        own = [-1.0] * (end + 1)
        own[end] = 0.0 if seed == 0 else -1.0
        if seed != 1:  # which stands at 0, 1 or 2, and never at 4
            assert rewards[: end + 1, seed].tolist() == own
        assert masks[: end + 1, seed].tolist() == [1.0] * end + [1.0 - ends[seed]]
    assert set(rewards[:, 1]) == {-1.0} and returns[1] == -6.0 * (2 - (begun[1] >= 2))


def test_sparse_rewards_of_a_task_that_pays_are_refused(data: dict[str, Dataset]) -> None:
    for dataset, paid in zip(data.values(), ("16", "1"), strict=True):
        with pytest.raises(BadInput, match=rf"^fql.rewards=sparse: .* its data have a reward of {paid}$"):
            check_rewards(made(rewards="sparse"), dataset)
        check_rewards(made(), dataset)


def test_records_say_of_rewards_what_they_said_before_they_could_be_sparse() -> None:
    assert RewardTransform(2.0, -1.0).record == {"scale": 2.0, "shift": -1.0}
    assert RewardTransform(sparse=True).record == {"scale": 1.0, "shift": 0.0, "sparse": True}
