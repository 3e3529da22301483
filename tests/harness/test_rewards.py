"""Rewards: what each method learns from, offline and online alike, and that it is part of what its stages are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import methods
from harness.config import parse_set, resolve
from harness.control import learned
from harness.plan import plan_online, plan_run
from harness.session import Session
from harness.train import take
from methods.core import REWARD_SETTINGS, ControlConfig, Method, MethodConfig, Rewards
from tasks.core import Dataset, RewardTransform, Task
from tasks.d4rl import suite as d4rl
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
