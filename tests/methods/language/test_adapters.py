"""LoRA below bfloat16: an update smaller than half a step of bfloat16 is stored, read and trained upon whole."""

from __future__ import annotations

from typing import Any

import torch

from methods.language.dpo import DPOConfig, DPOJob
from methods.language.heads import token_logprobs
from methods.language.models import causal, reward
from methods.language.reward_model import RewardJob
from methods.language.sft import SFTJob
from methods.language.tokens import join
from tests.methods.language.common import SMALL, Bench

CONFIG = DPOConfig(**SMALL, lora_rank=2, dtype="bfloat16", sft_learning_rate=1e-4, reward_learning_rate=1e-4)


def deltas(model: Any) -> dict[str, torch.Tensor]:
    """What adapters add to each weight, by its name in the model without them."""
    names = {name: one for name, one in model.named_modules() if hasattr(one, "lora_A")}
    return {
        name.removeprefix("base_model.model.") + ".weight": one.get_delta_weight("default").detach().clone()
        for name, one in names.items()
    }


def test_a_small_update_survives() -> None:
    bench = Bench(CONFIG)
    job = SFTJob(bench.context, CONFIG)
    job.run(0, 4)
    learned = deltas(job.model)
    base = {name.replace(".base_layer", "").removeprefix("base_model.model."): weight.detach().clone()
            for name, weight in job.model.named_parameters()}  # fmt: skip
    batch = join([[3, 4], [5]], [[6, 7, 1], [8, 1]], 0)
    bench.parts |= job.parts()
    stored, model = bench.parts["sft"].tensors, causal(bench.context, "sft")
    lost_in_bfloat16 = []
    for name, delta in learned.items():
        assert base[name].dtype == torch.bfloat16 and float(delta.abs().max()) > 0
        rounded = (base[name] + delta.bfloat16()).float() - base[name].float()
        lost_in_bfloat16.append(float((rounded - delta).norm() / delta.norm()))
        kept = stored[name] - base[name].float()
        assert float((kept - delta).norm() / delta.norm()) < 0.01, name
        assert torch.equal(dict(model.named_parameters())[name], stored[name]), "read as it was stored"
    assert min(lost_in_bfloat16) > 0.3, "an update of which bfloat16 would lose much"
    with torch.no_grad():
        now = token_logprobs(model, batch)
    assert now.dtype == torch.float32

    bench.parts |= (judging := RewardJob(bench.context, CONFIG)).parts()
    assert judging.exact and {weight.dtype for weight in reward(bench.context).parameters()} == {torch.float32}
    further = DPOJob(bench.context, CONFIG)
    assert further.exact, "nor do passes of training upon it round it away"
    with torch.no_grad(), further.mixed():
        torch.testing.assert_close(token_logprobs(further.policy, batch), now)


def test_what_is_trained_whole_is_passed_in_bfloat16() -> None:
    config = DPOConfig(**SMALL, dtype="bfloat16")
    bench = Bench(config).untrained()
    assert not DPOJob(bench.context, config).exact
    assert {weight.dtype for weight in causal(bench.context, "sft").parameters()} == {torch.bfloat16}
