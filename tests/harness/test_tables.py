"""What the tables hold: values as the methods' papers, READMEs and codes have them, each with where it was read."""

from __future__ import annotations

import csv
from typing import Any

import pytest

import tasks
from harness.config import preset, resolve
from tasks.d4rl import suite as d4rl
from tasks.ogbench import suite as ogbench
from tests.harness.test_config import TABLES

LOCOMOTION = [task for task in d4rl.PAPER_TASKS if not task.startswith("antmaze")]
ANTMAZE = [task for task in d4rl.PAPER_TASKS if task.startswith("antmaze")]
STEPS = {"vgf": 1, "avgf": 1, "iql": 1, "ivr": 1, "td3bc": 1, "rebrac": 1, "fql": 0.5}  # millions


def values(method: str, task: str, *keys: str, suite: str = "d4rl", online: bool = False) -> dict[str, Any]:
    """Each setting's value and source, under the preset that papers' sizes have."""
    found = resolve(method, suite, task, preset(suite, "paper")[1], online=online)
    return {key: (getattr(found.config, key), found.origins[key]) for key in keys}


@pytest.mark.parametrize("task", d4rl.PAPER_TASKS)
def test_steps_on_d4rl_are_each_method_s_own(task: str) -> None:
    for method, millions in STEPS.items():
        steps, source = values(method, task, "steps")["steps"]
        assert steps == millions * 1e6 and ("code" in source or source == "FQL README")
    steps, source = values("diffusion_ql", task, "steps")["steps"]
    assert steps == (1_000_000 if task in ANTMAZE else 2_000_000) and source.startswith("Diffusion-QL code")


@pytest.mark.parametrize("task", LOCOMOTION)
def test_rewards_on_locomotion(task: str) -> None:
    for method in ("td3bc", "sfbc", "rebrac", "diffusion_ql"):
        found = values(method, task, "rewards", "reward_scale", "reward_shift")
        assert [value for value, _ in found.values()] == ["raw", 1.0, 0.0] and "code" in found["rewards"][1]
    assert {values(method, task, "rewards")["rewards"] for method in ("vgf", "fql", "iql", "ivr")} == {
        ("task", "default")}  # fmt: skip


@pytest.mark.parametrize("task", ANTMAZE)
def test_rewards_on_antmaze(task: str) -> None:
    declared = {"rebrac": ("raw", 100.0, 0.0), "diffusion_ql": ("raw", 4.0, -2.0), "td3bc": ("raw", 1.0, 0.0),
                "sfbc": ("raw", 1.0, 0.0), "vgf": ("task", 1.0, 0.0), "iql": ("task", 1.0, 0.0)}  # fmt: skip
    for method, expected in declared.items():
        found = values(method, task, "rewards", "reward_scale", "reward_shift")
        assert tuple(value for value, _ in found.values()) == expected


@pytest.mark.parametrize("task", d4rl.PAPER_TASKS)
def test_fql_and_rebrac_on_d4rl(task: str) -> None:
    how, source = values("fql", task, "q_aggregation")["q_aggregation"]
    assert how == ("mean" if task in ANTMAZE else "min")
    assert source.startswith("FQL README" if task in ANTMAZE else "VGF paper")
    assert values("rebrac", task, "activation", "hidden_dims") == {
        "activation": ("relu", "ReBRAC code"), "hidden_dims": ((256, 256, 256), "ReBRAC code")}  # fmt: skip


@pytest.mark.parametrize("task", ANTMAZE)
def test_whose_learning_rate_it_is(task: str) -> None:
    """ReBRAC's critic is the slower one; Diffusion-QL's 1e-3 on medium-play is its actor's alone."""
    rebrac = resolve("rebrac", "d4rl", task, ()).config
    assert (rebrac.actor_rate, rebrac.critic_rate) == (3e-4, 5e-5)  # type: ignore[attr-defined]
    found = resolve("diffusion_ql", "d4rl", task, ()).config
    expected = (1e-3 if task == "antmaze-medium-play-v2" else 3e-4, 3e-4)
    assert (found.actor_rate, found.critic_rate) == expected  # type: ignore[attr-defined]


def test_verified_values_are_called_so() -> None:
    """FQL's README has its alphas for offline to online; nothing of VGF's or FQL's own is from memory."""
    for task, alpha in (("humanoidmaze-medium", 100), ("antsoccer-arena", 30)):
        name = f"{task}-navigate-singletask-v0"
        found = values("fql", name, "alpha", suite="ogbench", online=True)["alpha"]
        assert found == (alpha, "FQL README: offline to online")
    for table in TABLES:
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                recalled = "recalled" in row["source"] or "unverified" in row["source"]
                assert not (recalled and row["method"] in ("vgf", "avgf", "fql", "*")), row
                assert ("recalled" in row["source"]) == ("unverified" in row["source"]), row


def test_what_is_recalled_is_iql_s_and_rebrac_s_alone() -> None:
    """And one N of IFQL, whose others are its code's default."""
    with (tasks.about("ogbench").folder / "settings.csv").open(newline="") as file:
        recalled = [row for row in csv.DictReader(file) if "recalled" in row["source"]]
    assert {(row["method"], row["key"]) for row in recalled} == {
        ("iql", "alpha"), ("rebrac", "alpha_actor"), ("rebrac", "alpha_critic"), ("ifql", "test_n")}  # fmt: skip
    assert [row["tasks"] for row in recalled if row["method"] == "ifql"] == ["antsoccer-arena-*"]


def test_no_value_is_carried_from_another_protocol() -> None:
    """QAM's alphas of FBRAC are for ten critics (docs/methods.md)."""
    for task in ogbench.PAPER_TASKS:
        assert values("fbrac", task, "alpha", suite="ogbench")["alpha"] == (10.0, "default")
