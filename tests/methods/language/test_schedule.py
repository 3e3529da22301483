"""Rates and numbers of steps by hand, and what they change of a stage's identity."""

from __future__ import annotations

import math
from typing import Any

import pytest

from methods.language.core import WEIGHTS, LanguageConfig, kept
from methods.language.dpo import DPO, DPOConfig
from methods.language.sft import SFTJob, sft_stage
from methods.language.training import steps_of
from tests.methods.language.common import SMALL, Bench


def rates(steps: int, **settings: Any) -> list[float]:
    config = LanguageConfig(**SMALL | {"sft_steps": steps, "sft_learning_rate": 1.0}, **settings)
    job = SFTJob(Bench(config).context, config)
    return [job.rate(step) for step in range(1, steps + 1)]


def test_a_cosine_after_a_warm_up() -> None:
    found = rates(10, schedule="cosine", warm_up=0.2)
    left = [(10 - step + 1) / 9 for step in range(2, 11)]
    assert found == pytest.approx([0.5, *(0.5 - 0.5 * math.cos(math.pi * share) for share in left)])
    assert found[1] == 1.0 and found[-1] < 0.04


def test_a_line_after_a_warm_up_is_the_default() -> None:
    assert rates(10, warm_up=0.2) == pytest.approx([0.5, *((11 - step) / 9 for step in range(2, 11))])
    assert rates(40) == rates(40, schedule="linear", warm_up=0.05)


def test_steps_of_passes_over_the_data() -> None:
    assert steps_of(2, 7, 116_722, 512) == 456 and steps_of(0, 7, 116_722, 512) == 7 and steps_of(0.001, 7, 4, 4) == 1
    config = LanguageConfig(**SMALL, sft_epochs=2.5)
    assert SFTJob(Bench(config).context, config).total == 3, "2.5 passes over four rows, four at a time"
    stage = sft_stage(config)
    assert stage.steps == 0 and stage.config["sft_epochs"] == 2.5 and "sft_steps" not in stage.config


def test_what_came_later_changes_no_identity_at_its_default() -> None:
    usual = kept(LanguageConfig(), *WEIGHTS, "bos", "chat_template", "sft_epochs")
    assert usual.keys() == {*WEIGHTS}
    other = LanguageConfig(schedule="cosine", warm_up=0.1, bos="on", chat_template=True)
    assert kept(other, *WEIGHTS).keys() - {*WEIGHTS} == {"schedule", "warm_up"}
    for part in (sft_stage(other), sft_stage(LanguageConfig(chat_template=True, bos="on", sft_checkpoint="x"))):
        assert part.config["bos"] == "on" and part.config["chat_template"] is True
    stages = {stage.name: stage for stage in DPO(DPOConfig(schedule="cosine"), None).stages()}
    assert stages["dpo"].config["schedule"] == "cosine", "methods that name no schedule have it in theirs, too"
