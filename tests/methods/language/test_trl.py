"""Our losses against TRL's, on one batch of the same tokens and weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from methods.core import BadInput
from methods.language.core import LanguageConfig
from methods.language.dpo import DPOConfig, DPOJob
from methods.language.reward_model import RewardJob
from methods.language.sft import SFTJob
from methods.language.trl_backend import TRLDPO, TRLSFT, TRLReward
from tests.methods.language.common import SMALL, Bench
from tests.methods.language.test_architectures import at

pytest.importorskip("trl")
PAIRS: dict[str, tuple[Any, Any, Any]] = {
    "sft": (SFTJob, TRLSFT, LanguageConfig), "reward": (RewardJob, TRLReward, LanguageConfig),
    "dpo": (DPOJob, TRLDPO, DPOConfig),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PAIRS)
def test_trl_agrees_on_a_batch_and_trains(name: str) -> None:
    ours, theirs, config = PAIRS[name]
    settings = config(**SMALL)
    bench = Bench(settings).untrained()
    job = ours(bench.context, settings)
    other = theirs(bench.context, settings)
    if name != "sft":
        with pytest.raises(BadInput, match=f"{name}: with backend=trl all weights are trained"):
            theirs(bench.context, replace(settings, lora_rank=2))
    if name == "dpo":  # at equal models the loss is log 2 whatever the data are
        noise = torch.Generator().manual_seed(5)
        for mine, other_weight in zip(job.policy.parameters(), other.trainer.model.parameters(), strict=True):
            step = 0.05 * torch.randn(mine.shape, generator=noise)
            mine.data += step
            other_weight.data += step
    else:
        model = job.model if name == "sft" else job.model.backbone
        other.trainer.model.base_model.load_state_dict((model.base_model if name == "sft" else model).state_dict())
        heads = (job.model.get_output_embeddings(), other.trainer.model.get_output_embeddings()) if name == "sft" else (
            job.model.score, other.trainer.model.score)  # fmt: skip
        heads[1].load_state_dict(heads[0].state_dict())
    rows = [2, 0, 1]
    loss = float(job.loss(rows, 1)[0].detach())
    assert other.batch_loss(rows) == pytest.approx(loss, rel=1e-5)
    before = {key: value.clone() for key, value in other.trainer.model.state_dict().items()}
    metrics = other.run(0, 1)
    assert metrics[f"{name}/loss"] > 0
    assert any(not torch.equal(value, before[key]) for key, value in other.trainer.model.state_dict().items())
    (part,), (mine,) = other.parts().values(), job.parts().values()
    assert {key: value.shape for key, value in part.tensors.items()} == {k: v.shape for k, v in mine.tensors.items()}
    assert set(part.about) == set(mine.about)


def test_a_family_without_a_classifier_is_refused_in_one_line() -> None:
    settings = LanguageConfig(**SMALL)
    with pytest.raises(BadInput, match=r"^backend=trl: a reward model of the family 'mamba' cannot .*; backend=own"):
        TRLReward(at("Mamba", settings).context, settings)
