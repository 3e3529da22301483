"""The paper's presets against five settings that its Appendix B.2 (arXiv 2604.14265) states of language models.

`paper_b2.csv` has them as they were noted from the appendix, whose text was not at hand here.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from harness.config import RunSettings, preset
from harness.plan import RunNode, plan_run
from tasks import select

STATED = Path(__file__).with_name("paper_b2.csv")
SUITES = ("tldr", "hh")


def stated(suite: str) -> dict[str, str]:
    with STATED.open(newline="") as file:
        return {row["setting"]: row["value"] for row in csv.DictReader(file) if row["suite"] == suite}


def lines(suite: str) -> dict[str, tuple[str, str]]:
    """Setting -> (value, comment) of the file's own lines."""
    text = (Path("tasks/language") / suite / "presets.toml").read_text()
    section = text.split("[paper.set]\n")[1].split("\n\n")[0]
    found = [re.fullmatch(r"(\S+) = (\S+)  # (.+)", line) for line in section.splitlines()]
    assert all(found), "every line says where it is from"
    return {one[1].strip('"'): (one[2].strip('"'), one[3]) for one in found if one}


def planned(suite: str, method: str) -> RunNode:
    (task,) = select(suite, [suite])
    overrides = tuple(one for one in preset(suite, "paper")[1] if one.key != "model")  # nothing is fetched here
    return plan_run(task, "x", method, overrides, RunSettings((0,), 4, 2, 2))


@pytest.mark.parametrize("suite", SUITES)
def test_what_the_paper_states_is_what_the_preset_sets(suite: str) -> None:
    set_there = {one.key: one.value for one in preset(suite, "paper")[1] if one.method is None}
    for setting, value in stated(suite).items():
        kind = type(set_there[setting])
        assert set_there[setting] == (value if kind is str else float(value)), setting
    config = planned(suite, "vgf").method.config
    for setting in stated(suite).keys() - {"model"}:
        assert getattr(config, setting) == set_there[setting], "and the method has it"


@pytest.mark.parametrize("suite", SUITES)
def test_each_line_of_the_preset_is_the_paper_s_or_marked_as_ours(suite: str) -> None:
    from_paper = {setting for setting, (_, said) in lines(suite).items() if said == "B.2"}
    assert from_paper == stated(suite).keys()
    assert all(said == "B.2" or said.startswith("ours: ") for _, said in lines(suite).values())


@pytest.mark.parametrize("suite", SUITES)
def test_its_stages_are_trained_by_it(suite: str) -> None:
    stages = {node.stage.name: node.stage for node in planned(suite, "dpo").nodes}
    sft, judge, dpo = (stages[name].config for name in ("sft", "reward_model", "dpo"))
    assert (sft["sft_epochs"], sft["schedule"], sft["warm_up"]) == (2, "cosine", 0.03) and "sft_steps" not in sft
    assert (judge["reward_learning_rate"], judge["schedule"], judge["warm_up"]) == (1e-5, "cosine", 0.03)
    assert (dpo["schedule"], dpo["warm_up"]) == ("cosine", 0.03), "DPO's, too: one schedule a run"
    others = {node.stage.name: node.fingerprint for node in planned(suite, "ppo").nodes}
    shared = {node.stage.name: node.fingerprint for node in planned(suite, "dpo").nodes}
    assert all(others[name] == shared[name] for name in ("sft", "reward_model")), "one SFT and reward model for all"
