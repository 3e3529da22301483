"""What language methods declare of an answer: by hand, and counted while they answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import methods
from methods.inference import Cost
from methods.language.best_of_n import BestOfNConfig, Choosing
from methods.language.core import LanguageConfig
from methods.language.respond import First, Rollouts, spent
from methods.language.vgf import Flowing, VGFConfig
from tests.methods.language.common import EXAMPLES, SMALL, Bench

PROMPTS = len(EXAMPLES)


@pytest.mark.parametrize(
    ("name", "settings", "knobs", "cost", "compute"),
    [
        ("sft", {}, {}, Cost(1), 1), ("dpo", {}, {}, Cost(1), 1), ("ppo", {}, {}, Cost(1), 1),
        ("best_of_n", {}, {"N": 40}, Cost(40 + 40), 80),
        ("vgf", {}, {"L_test": 0}, Cost(5 + 5), 10),
        ("vgf", {"test_temperatures": (0.0, 1.0)}, {"T": 0, "L_test": 2}, Cost(1 + 1 + 1 + 2, 2), 5 + 2 * 2),
        ("vgf", {"n_particles": 3}, {"L_test": 4, "eps": 0.3}, Cost(3 + 3 + 3 * 4 + 3, 12), 3 * (2 + 1 + 3 * 4)),
    ],
)  # fmt: skip
def test_costs_by_hand(name: str, settings: Any, knobs: Any, cost: Cost, compute: int) -> None:
    cls = methods.get(name, "language")
    assert cls(cls.Config(**settings), None).cost(knobs) == cost
    rows = spent([cost], 2)
    assert rows["compute"].tolist() == [[compute]] * 2 and rows["gradients"].tolist() == [[cost.gradients]] * 2


@pytest.mark.parametrize("name", methods.LANGUAGE)
def test_every_knob_is_declared(name: str) -> None:
    cls = methods.get(name, "language")
    several: dict[str, Any] = {"test_step_sizes": (0.3, 1.0)} if name == "vgf" else {}
    method = cls(cls.Config(test_temperatures=(0.0, 1.0), **several), None)
    assert {knob.name for knob in method.inference} == set(method.knobs[0])
    assert all(knob.label and knob.unit for knob in method.inference)


@pytest.mark.parametrize(("name", "steps"), [("best_of_n", 0), ("vgf", 2)])
def test_a_declared_cost_is_what_answering_takes(name: str, steps: int) -> None:
    """Sequences that pass through either model, and those whose pass a gradient goes back through; without the
    likelihood of the answer, which is measured and not needed to give it."""
    n = 3
    settings: Any = {"test_n": (n,)} if name == "best_of_n" else {"n_particles": n, "test_flow_steps": (steps,)}
    config = (BestOfNConfig if name == "best_of_n" else VGFConfig)(**SMALL, **settings)
    bench = Bench(config).untrained()
    draws = Rollouts(bench.context, config, PROMPTS, "sft", n)
    draws.run(0, draws.total)
    bench.parts |= draws.parts()
    job: Any = (Choosing if name == "best_of_n" else Flowing)(bench.context, config, PROMPTS)
    passed, back = [0], [0]

    def seen(module: Any, inputs: Any, rest: Any, out: Any) -> None:
        (ids,) = [rest[name] for name in ("input_ids", "inputs_embeds") if rest.get(name) is not None]
        rows = len(ids)
        passed[0] += rows
        back[0] += rows * torch.is_grad_enabled()

    for body in (job.sft.base_model, job.reward.backbone):  # heads read what comes out
        body.register_forward_hook(seen, with_kwargs=True)
    job.run(0, job.total)
    cls = methods.get(name, "language")
    samples, likelihoods = n * PROMPTS, PROMPTS
    total = Cost((passed[0] + samples - likelihoods) / PROMPTS, back[0] / PROMPTS)
    method = cls(config, None)
    assert total == method.cost(method.knobs[0])
    measured = job.parts()["responses"].tensors["compute"]
    assert measured.unique().tolist() == [total.passes + 2 * total.gradients]


def test_a_first_sample_costs_one() -> None:
    config = LanguageConfig(**SMALL)
    bench = Bench(config).untrained()
    draws = Rollouts(bench.context, config, PROMPTS, "sft", 1)
    draws.run(0, draws.total)
    bench.parts |= draws.parts()
    job = First(bench.context, config, PROMPTS, "sft")
    job.run(0, job.total)
    found = job.parts()["responses"].tensors
    assert found["compute"].tolist() == [[1]] * PROMPTS and found["gradients"].tolist() == [[0]] * PROMPTS
