"""Losses and sampling by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from methods.language.core import LanguageConfig
from methods.language.dpo import DPOConfig, DPOJob, dpo_loss
from methods.language.models import causal, response_logits, reward, reward_from, sample, token_logprobs
from methods.language.ppo import Experience, PPOConfig, PPOJob, advantages, ppo_loss, token_rewards, whitened
from methods.language.reward_model import RewardJob, preference_loss, scores
from methods.language.sft import SFTJob, sft_loss
from methods.language.tokens import join
from methods.language.training import NotFiniteLoss, Training
from tests.methods.language.common import SMALL, Bench, double

EOS, PAD = 1, 0
PROMPTS, RESPONSES = [[3, 4, 5], [4]], [[6, 7, EOS], [8, EOS]]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(LanguageConfig(**SMALL)).untrained()


def logprob(model: Any, prompt: list[int], response: list[int]) -> float:
    """log pi(response | prompt), one token at a time, nothing padded."""
    total = 0.0
    for t, token in enumerate(response):
        logits = model(input_ids=torch.tensor([prompt + response[:t]])).logits[0, -1]
        total += float(logits.log_softmax(-1)[token].detach())
    return total


def test_the_sft_loss_is_the_mean_over_response_tokens(bench: Bench) -> None:
    model = double(causal(bench.context, "sft"))
    by_hand = -(logprob(model, PROMPTS[0], RESPONSES[0]) + logprob(model, PROMPTS[1], RESPONSES[1])) / 5
    assert float(sft_loss(model, PROMPTS, RESPONSES, PAD).detach()) == pytest.approx(by_hand, rel=1e-9)


def test_logprobs_stand_at_the_tokens_they_are_of_and_follow_the_temperature(bench: Bench) -> None:
    model = double(causal(bench.context, "sft"))
    batch = join(PROMPTS, RESPONSES, PAD)
    found = token_logprobs(model, batch, temperature=0.7)
    logits = model(input_ids=batch.ids).logits
    assert float(found[0, 4].detach()) == pytest.approx(float((logits[0, 3].detach() / 0.7).log_softmax(-1)[7]))
    assert not found[0, :3].any() and not found[1, 3:].any()
    torch.testing.assert_close(response_logits(model, batch, 3)[1, :2], logits[1, :2])


def test_the_reward_is_read_at_the_end_of_text_wherever_that_stands(bench: Bench) -> None:
    model = double(reward(bench.context))
    hidden = model.backbone(input_ids=torch.tensor([[4, 8, EOS]])).last_hidden_state[0, -1]
    by_hand = float((hidden @ model.score.weight[0]).detach())
    together = scores(model, PROMPTS, RESPONSES, EOS, PAD)
    assert float(together[1]) == pytest.approx(by_hand)
    cut = scores(model, PROMPTS, [[6, 7], [8]], EOS, PAD)
    torch.testing.assert_close(cut, together)  # the end of text is appended where it lacks


def test_the_head_is_float32_whatever_the_weights_below_are(bench: Bench) -> None:
    model = reward_from(causal(bench.context, "sft").bfloat16())
    ids = torch.tensor([[3, 4, 5, EOS]])
    hidden = model.backbone(input_ids=ids).last_hidden_state
    assert hidden.dtype == torch.bfloat16 and model.score.weight.dtype == torch.float32
    torch.testing.assert_close(model.values(ids), hidden.float() @ model.score.weight[0])


def test_the_preference_loss_is_logistic_in_the_margin(bench: Bench) -> None:
    model = double(reward(bench.context))
    rows = [([3, 4], [5, EOS], [6, 6, EOS]), ([7], [8, 9, EOS], [EOS])]
    loss, margin = preference_loss(model, rows, EOS, PAD)
    one, other = (scores(model, [row[0] for row in rows], [row[k] for row in rows], EOS, PAD) for k in (1, 2))
    torch.testing.assert_close(margin, one - other)
    by_hand = sum(math.log1p(math.exp(-m)) for m in (one - other).tolist()) / 2
    assert float(loss.detach()) == pytest.approx(by_hand)


def test_dpo_by_hand(bench: Bench) -> None:
    reference, policy = double(causal(bench.context, "sft")), double(causal(bench.context, "sft"))
    rows = [([3, 4], [5, EOS], [6, 6, EOS])]
    loss, _ = dpo_loss(policy, reference, rows, 0.3, PAD)
    assert float(loss.detach()) == pytest.approx(math.log(2.0)), "equal models imply no preference"
    with torch.no_grad():
        head = policy.get_output_embeddings().weight
        head += 0.1 * torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
    gains = [logprob(policy, rows[0][0], y) - logprob(reference, rows[0][0], y) for y in rows[0][1:]]
    loss, margin = dpo_loss(policy, reference, rows, 0.3, PAD)
    assert float(margin[0]) == pytest.approx(0.3 * (gains[0] - gains[1]))
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-0.3 * (gains[0] - gains[1]))))


def test_advantages_by_hand() -> None:
    """Rewards 0, 0, 1 with values .5, .2, .4 at gamma 1, lambda .5, between a prompt token and padding."""
    mask = torch.tensor([[False, True, True, True, False]])
    rewards = token_rewards(torch.tensor([1.0]), torch.zeros(1, 5), mask, 0.05)
    assert rewards.tolist() == [[0.0, 0.0, 0.0, 1.0, 0.0]]
    values = torch.tensor([[9.0, 0.5, 0.2, 0.4, 9.0]]) * mask
    gained, returns = advantages(rewards, values, mask, 0.5)
    last, middle = 1.0 - 0.4, 0.4 - 0.2
    expected = [0.0, 0.2 - 0.5 + 0.5 * (middle + 0.5 * last), middle + 0.5 * last, last, 0.0]
    torch.testing.assert_close(gained, torch.tensor([expected]))
    torch.testing.assert_close(returns, torch.tensor([expected]) + values)


def test_the_kl_penalty_is_paid_token_by_token() -> None:
    mask = torch.tensor([[False, True, True], [True, True, False]])
    kl = torch.tensor([[7.0, 0.2, -0.1], [0.3, 0.4, 7.0]])
    found = token_rewards(torch.tensor([1.0, -2.0]), kl, mask, 0.5)
    torch.testing.assert_close(found, torch.tensor([[0.0, -0.1, 1.05], [-0.15, -2.2, 0.0]]))


def test_ppo_objective_by_hand() -> None:
    """Ratios 1.5 with advantage +1 (clipped to 1.2), 0.5 with -1 (clipped to 0.8), 1.1 with +1 (kept)."""
    batch = join([[3]], [[4, 5, 6]], PAD)
    ratio, gained = torch.tensor([[1.0, 1.5, 0.5, 1.1]]), torch.tensor([[0.0, 1.0, -1.0, 1.0]])
    old = Experience(batch, torch.zeros(1, 4), torch.zeros(1, 4), gained, torch.tensor([[0.0, 1.0, 0.0, -1.0]]))
    values = torch.tensor([[0.0, 0.5, 0.1, 0.0]])
    loss, clipped = ppo_loss(ratio.log(), values, old, clip=0.2, value_weight=0.1)
    policy = (-1.2 + 0.8 - 1.1) / 3
    value = 0.5 * (max(0.5**2, 0.8**2) + 0.1**2 + 1.0**2) / 3  # the first may move by 0.2 at most
    assert float(loss) == pytest.approx(policy + 0.1 * value) and float(clipped) == pytest.approx(2 / 3)


def test_whitening_leaves_out_what_is_no_response() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = whitened(torch.tensor([[1.0, 2.0, 100.0], [3.0, 100.0, 100.0]]), mask)
    assert found[~mask].abs().max() == 0.0 and float(found[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found[mask].square().mean()) == pytest.approx(1.0, rel=1e-5)


def test_samples_follow_the_model_and_end_where_it_ends(bench: Bench) -> None:
    """Of a model whose next token is distributed (.5 c, .2 d, .3 end) whatever came before, prompts of different
    lengths in one batch."""
    model = causal(bench.context, "sft")
    chances = torch.full((model.config.vocab_size,), -1e9)
    chances[[5, 6, EOS]] = torch.tensor([0.5, 0.2, 0.3]).log()
    chances[[PAD, 2, model.config.vocab_size - 1]] = 5.0  # never drawn, though likelier than all
    model.set_output_embeddings(Constant(chances))
    noise = torch.Generator().manual_seed(0)
    found = sample(
        model, [[3], [4, 5, 6, 7]] * 1500, 4, noise, eos=EOS, pad=PAD, banned=[PAD, 2], tokens=bench.texts.size
    )
    first = torch.tensor([row[0] for row in found])
    for token, chance in ((5, 0.5), (6, 0.2), (EOS, 0.3)):
        assert float((first == token).float().mean()) == pytest.approx(chance, abs=4 * math.sqrt(0.25 / 3000))
    assert all(row.count(EOS) <= 1 and EOS not in row[:-1] and len(row) <= 4 for row in found)
    whole = sum(len(row) == 4 and row[-1] != EOS for row in found) / 3000
    assert whole == pytest.approx(0.7**4, abs=0.04)


class Constant(nn.Module):
    """The same logits at every place."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.weight = nn.Parameter(torch.zeros(len(logits), 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*hidden.shape[:-1], -1)


def test_sampling_reads_left_padded_prompts_as_if_alone(bench: Bench) -> None:
    model = causal(bench.context, "sft")
    ways = [dict(eos=EOS, pad=PAD, banned=[PAD, 2], tokens=bench.texts.size, temperature=1e-4)] * 2
    alone = sample(model, [[3, 4]], 6, torch.Generator().manual_seed(0), **ways[0])
    beside = sample(model, [[3, 4], [5, 6, 7, 8, 9, 3]], 6, torch.Generator().manual_seed(1), **ways[1])
    assert beside[0] == alone[0], "greedy, so the noise has no say"


JOBS = {"sft": (SFTJob, LanguageConfig), "reward": (RewardJob, LanguageConfig), "dpo": (DPOJob, DPOConfig),
        "ppo": (PPOJob, PPOConfig)}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("rank", [0, 2])
def test_a_job_that_is_stopped_goes_on_as_if_it_had_not_been(name: str, rank: int) -> None:
    job, config = JOBS[name]
    settings = config(**SMALL, lora_rank=rank)

    def begin() -> Training:
        return job(Bench(settings).untrained().context, settings)

    whole, first, second = begin(), begin(), begin()
    whole.run(0, 4)
    first.run(0, 2)
    second.restore(first.snapshot())
    second.run(2, 2)
    (one,), (other,) = whole.parts().values(), second.parts().values()
    for key, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[key]), key
    start = Bench(settings).untrained().parts["reward" if name == "reward" else "sft"].tensors
    assert set(one.tensors) == set(start)
    assert any(not torch.equal(value, start[key]) for key, value in one.tensors.items()), "nothing was learned"


@pytest.mark.parametrize("name", JOBS)
def test_a_batch_in_pieces_is_the_batch(name: str) -> None:
    """Responses differ in length, so tokens and rows are not weighed alike."""
    job, config = JOBS[name]

    def first(micro: int) -> tuple[dict[str, float], list[dict[str, torch.Tensor]]]:
        settings = config(**SMALL, micro_batch=micro)
        one, found = job(Bench(settings).untrained().context, settings), list[dict[str, torch.Tensor]]()
        one.descend = lambda rate: found.append({key: weight.grad.clone() for key, weight in one.trained.items()})
        return one.update(1), found

    (metrics, gradients), (in_pieces, summed) = first(0), first(2)
    assert metrics == pytest.approx(in_pieces, rel=1e-4, abs=1e-5) and len(gradients) == len(summed)
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, summed[0][key], rtol=1e-3, atol=1e-5, msg=key)


def test_logprobs_of_many_rows_come_in_pieces(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = double(causal(bench.context, "sft")), join(PROMPTS * 3, RESPONSES * 3, PAD)
    whole = token_logprobs(model, batch)
    sizes: list[int] = []
    body = model.base_model
    body.register_forward_pre_hook(lambda _, __, given: sizes.append(len(given["input_ids"])), with_kwargs=True)
    monkeypatch.setattr("methods.language.heads.ACTIVATIONS", 2 * 6 * 4 * model.config.hidden_size)
    with torch.no_grad():
        torch.testing.assert_close(token_logprobs(model, batch), whole.detach())
    assert sizes == [2, 2, 2]


class WithDropout:
    """GPT-2 with random weights, and half of everything dropped."""

    def fresh(self) -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        half: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.5)
        return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, n_positions=32, **half))

    def given(self, part: str) -> Any:
        raise AssertionError(part)


def test_nothing_is_dropped_while_training() -> None:
    """Before any step of PPO the ratios are 1, in the mode that steps are made in."""
    settings = PPOConfig(**SMALL)
    bench = Bench(settings)
    bench.context = replace(bench.context, models=WithDropout())
    job = PPOJob(bench.untrained().context, settings)
    assert {"attn_dropout", "resid_dropout"} <= {name.split(".")[-1] for name, _ in job.policy.named_modules()}
    experience, _ = job.gather(1)
    for module in job.modules.values():
        module.train()
    with torch.no_grad():
        now, values = (
            token_logprobs(job.policy, experience.batch, settings.train_temperature),
            job.values(experience.batch),
        )
    torch.testing.assert_close(now, experience.logprobs)
    torch.testing.assert_close(values, experience.values)


def test_batches_are_fresh_permutations_whatever_came_before() -> None:
    bench = Bench(LanguageConfig(**SMALL))
    job = Training(bench.context, LanguageConfig(), "x", {"m": nn.Linear(1, 1)}, 10, 3, 1e-3, 5)
    drawn = [i for step in range(1, 11) for i in job.indices(step)]
    assert all(sorted(drawn[epoch : epoch + 5]) == [0, 1, 2, 3, 4] for epoch in range(0, 30, 5))
    assert job.indices(4) == drawn[9:12]


def test_a_loss_that_is_not_finite_is_refused() -> None:
    bench = Bench(LanguageConfig(**SMALL))
    job = Training(bench.context, LanguageConfig(), "x", {"m": nn.Linear(1, 1)}, 10, 3, 1e-3, 5)
    with pytest.raises(NotFiniteLoss, match="stage x: loss not finite, seed 0"):
        job.backward(torch.tensor(torch.nan, requires_grad=True), 1.0)
