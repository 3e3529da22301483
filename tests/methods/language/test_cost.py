"""What language methods declare of an answer: by hand, and counted while they answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import methods
from methods.inference import Cost
from methods.language import scoring
from methods.language.core import LanguageConfig
from methods.language.prefixes import Reader
from methods.language.respond import First, Rollouts, spent
from tests.methods.language.common import EXAMPLES, SMALL, Bench

PROMPTS = len(EXAMPLES)


@pytest.mark.parametrize(
    ("name", "settings", "knobs", "cost", "compute"),
    [
        ("sft", {}, {}, Cost(1), 1), ("dpo", {}, {}, Cost(1), 1), ("ppo", {}, {}, Cost(1), 1),
        ("best_of_n", {}, {"N": 40}, Cost(40 + 40), 80),
        ("vgf", {}, {"L_test": 0}, Cost(5 + 5), 10),
        ("vgf", {"test_temperatures": (0.0, 1.0)}, {"T": 0, "L_test": 2}, Cost(1 + 1 + 1 + 4 + 2, 2), 9 + 2 * 2),
        ("vgf", {"n_particles": 3, "decoder": "argmax"}, {"L_test": 4, "eps": 0.3}, Cost(3 * (1 + 1 + 1 + 4), 12),
         3 * (3 + 3 * 4)),
        ("soft_best_of_n", {}, {"N": 16, "lambda": 0.3}, Cost(16 + 16), 32),
        ("simpo", {}, {}, Cost(1), 1), ("rloo", {}, {}, Cost(1), 1), ("grpo", {}, {}, Cost(1), 1),
        ("args", {}, {"w": 0.0}, Cost(1), 1), ("args", {"candidates": 5}, {"w": 2.0}, Cost(1 + 2 * 5), 11),
        ("args", {"candidates": 5, "partial": "open"}, {"w": 2.0}, Cost(1 + 5), 6),
        ("hotflip", {"trials": 2}, {"S": 0}, Cost(5 + 5), 10),
        ("hotflip", {"trials": 2}, {"S": 3}, Cost(5 * (2 + 1 + 3 * 3), 15), 5 * (3 + 3 * (3 + 2))),
        ("random_swaps", {"trials": 2}, {"S": 3}, Cost(5 * (2 + 1 + 3 * 2)), 45),
        ("likely_swaps", {}, {"S": 2}, Cost(5 * (2 + 1 + 2 * 4)), 55),
        ("quest", {}, {"S": 3}, Cost(5 * (2 + 3 * 2)), 40), ("optimum", {}, {}, Cost(0), 0),
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
    several: dict[str, Any] = {"vgf": {"test_step_sizes": (0.3, 1.0)}, "quest": {"test_betas": (0.1, 1.0)}}.get(
        name, {}
    )
    method = cls(cls.Config(test_temperatures=(1.0, 0.0), **several), None)
    assert {knob.name for knob in method.inference} == set(method.knobs[0])
    assert all(knob.label and knob.unit for knob in method.inference)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("best_of_n", {"test_n": (3,)}), ("soft_best_of_n", {"test_n": (3,), "test_lambdas": (0.3,)}),
        ("vgf", {"test_flow_steps": (2,)}), ("vgf", {"test_flow_steps": (2,), "decoder": "argmax"}),
        ("random_swaps", {"test_steps": (2,), "trials": 2}), ("hotflip", {"test_steps": (2,), "trials": 2}),
        ("likely_swaps", {"test_steps": (2,)}), ("quest", {"test_steps": (2,)}),
    ],
)  # fmt: skip
def test_a_declared_cost_is_what_answering_takes(name: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses that either model reads, and those whose pass a gradient goes back through; without what is measured
    and not needed to give an answer: its likelihood, and VGF's reward before decoding. Prompts are read once for all
    of them, and what occurs twice is read once, which no cost counts on."""
    n = 3
    cls = methods.get(name, "language")
    own = {"n_particles": n} if name == "vgf" else {"n_starts": n} if "test_steps" in settings else {}
    config = cls.Config(**SMALL, **settings, **own)
    method, bench = cls(config, None), Bench(config).untrained()
    draws = Rollouts(bench.context, config, PROMPTS, "sft", n)
    draws.run(0, draws.total)
    bench.parts |= draws.parts()
    job: Any = method.responding(PROMPTS)[-1].begin(bench.context)
    passed, back, writing = [0], [0], [False]
    if name == "quest":  # writes token by token, which is no pass of a sequence
        ends = job.ends

        def unseen(*arguments: Any) -> Any:
            writing[0] = True
            found = ends(*arguments)
            writing[0] = False
            return found

        job.ends = unseen

    def counted(rows: int) -> None:
        passed[0] += rows
        back[0] += rows * torch.is_grad_enabled()

    def behind(reader: Reader, prompts: Any, **given: Any) -> Any:
        counted(len(prompts))
        writing[0] = True  # below here a pass is part of this one
        found = hidden(reader, prompts, **given)
        writing[0] = False
        return found

    hidden = Reader.hidden
    monkeypatch.setattr(Reader, "hidden", behind)
    monkeypatch.setattr(scoring, "_of_each", lambda prompts, responses, score: score(prompts, responses))
    job.sft.base_model.register_forward_hook(
        lambda module, given, rest, out: None if writing[0] else counted(len(rest["input_ids"])), with_kwargs=True
    )
    job.run(0, job.total)
    samples = n * PROMPTS * (1 + (2 if name == "quest" else 0))  # a new end is a sample: a step
    measured = PROMPTS + (n * PROMPTS if name == "vgf" else 0)
    total = Cost((passed[0] + samples - measured) / PROMPTS, back[0] / PROMPTS)
    assert total == method.cost(method.knobs[0])
    found = job.parts()["responses"].tensors["compute"]
    assert found.unique().tolist() == [total.passes + 2 * total.gradients]
    assert job.parts()["responses"].tensors["samples"].unique().tolist() == [samples / PROMPTS]


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
