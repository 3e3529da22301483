"""What methods share that train a policy, beginning with the SFT model, and answer with one sample of it.

`dpo.py` and `simpo.py` fit preferences; `ppo.py`, and `rloo.py` and `grpo.py` through `policy_gradient.py`, learn from
the reward of what they sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from methods.language.core import WEIGHTS, Context, Job, LanguageStage, Part, derived_seed
from methods.language.method import LanguageMethod
from methods.language.models import adapted, causal, merged, reward, sample, token_logprobs, weights
from methods.language.respond import first_of, rollouts
from methods.language.reward_model import reward_stage
from methods.language.scoring import Scorer
from methods.language.sft import sft_stage
from methods.language.tokens import Batch, join
from methods.language.training import Training, prepared

SAMPLED = 64  # responses at a time


class PolicyJob(Training):
    """Trains `policy`, which starts as the SFT model, on `data`."""

    config: Any

    def __init__(self, context: Context, config: Any, name: str, data: Sequence[Any], **others: nn.Module) -> None:
        """`others`: modules that are trained with the policy."""
        start = causal(context, "sft")
        torch.manual_seed(context.seed)  # of adapters
        self.policy, self.data = prepared(adapted(start, config.lora_rank), context, config), data
        super().__init__(context, config, name, {"policy": self.policy, **others}, config.steps, config.batch_size,
                         config.learning_rate, len(data))  # fmt: skip

    def parts(self) -> dict[str, Part]:
        return {"policy": weights(merged(self.policy))}


class PreferringJob(PolicyJob):
    """Fits preferences. Subclasses bring `pair_loss`."""

    def __init__(self, context: Context, config: Any, name: str) -> None:
        super().__init__(context, config, name, [tokens for tokens, _ in context.texts.preferences("train")])

    def pair_loss(self, rows: Sequence[tuple[Any, Any, Any]]) -> tuple[Tensor, Tensor]:
        """The loss of (prompt, chosen, rejected), and by how much each chosen response leads, `[b]`."""
        raise NotImplementedError

    def loss(self, indices: Sequence[int], step: int) -> tuple[Tensor, dict[str, float]]:
        del step
        loss, lead = self.pair_loss([self.data[i] for i in indices])
        found = {"accuracy": (lead > 0).float().mean(), "margin": lead.detach().mean()}
        return loss, {f"{self.name}/{name}": float(value) for name, value in found.items()}


class Sampled(NamedTuple):
    """Responses of a step, and what was thought of them when they were made."""

    batch: Batch
    score: Tensor  # `[b]`, of the reward model, less the penalty of what was cut off
    logprobs: Tensor  # `[b, l]`
    reference: Tensor  # `[b, l]`, of the SFT model

    def rows(self, chosen: Sequence[int]) -> Sampled:
        return Sampled(Batch(*(x[chosen] for x in self.batch)), *(x[chosen] for x in self[1:]))


class SamplingJob(PolicyJob):
    """Learns from the reward of its own samples, with AdamW as in N+ (2403.17031); its data are training prompts."""

    def __init__(self, context: Context, config: Any, name: str, **others: nn.Module) -> None:
        self.reference = causal(context, "sft")
        self.scorer = Scorer(reward(context), context.texts.eos, context.texts.pad)
        super().__init__(context, config, name, [tokens.prompt for tokens, _ in context.texts.examples("train")],
                         **others)  # fmt: skip
        for group in self.optimizer.param_groups:
            group.update(eps=1e-5, weight_decay=0.0, betas=(0.9, 0.999))

    def falling(self, step: int) -> float:
        """The rate of a step: by a line to 0, without a warm-up, as in N+."""
        return self.learning_rate * (self.total - step + 1) / self.total

    @torch.no_grad()
    def sampled(self, step: int, prompts: Sequence[Any]) -> tuple[Sampled, dict[str, float]]:
        """A response of the policy to each prompt, and what to report of them."""
        texts, config, device = self.context.texts, self.config, self.context.device
        self.policy.eval()
        responses: list[list[int]] = []
        for first in range(0, len(prompts), SAMPLED):
            seed = derived_seed(self.context.seed, f"{self.name}/sample", step, first)
            responses += sample(
                self.policy, prompts[first : first + SAMPLED], texts.max_response, torch.Generator().manual_seed(seed),
                eos=texts.eos, pad=texts.pad, banned=texts.banned, tokens=texts.size,
                temperature=config.train_temperature,
            )  # fmt: skip
        self.policy.train()
        proxy = self.scorer(prompts, responses)
        ended = torch.tensor([response[-1] == texts.eos for response in responses])
        batch = join(prompts, responses, texts.pad, device)
        logprobs, reference = (
            token_logprobs(model, batch, config.train_temperature) for model in (self.policy, self.reference)
        )
        score = (proxy - config.missing_eos_penalty * ~ended).to(device)
        metrics = {"proxy": proxy.mean(), "kl": (logprobs - reference).sum(1).mean(), "eos": ended.float().mean()}
        named = {f"{self.name}/{name}": float(value) for name, value in metrics.items()}
        return Sampled(batch, score, logprobs, reference), named


@dataclass(frozen=True)
class PolicyMethod(LanguageMethod):
    """Base of methods that answer with one sample of the policy that they trained."""

    config: Any
    rule: ClassVar[str]  # of the stage that trains it
    own: ClassVar[tuple[str, ...]]  # settings it depends on, beside those of weights, steps and batches
    rewarded: ClassVar[bool]  # whether it learns from the reward model

    def begin(self, context: Context) -> Job:
        """The job of training."""
        raise NotImplementedError

    def stages(self) -> tuple[Any, ...]:
        config, reads = self.config, {"sft", "reward"} if self.rewarded else {"sft"}
        kept = self.settings(*WEIGHTS, "steps", "batch_size", "learning_rate", *self.own)
        training = LanguageStage(self.name, frozenset({"policy"}), config.steps, self.rule, kept, self.begin,
                                 config.batch_size, reads=frozenset(reads))  # fmt: skip
        if self.rewarded:
            return sft_stage(config), reward_stage(config), training
        return (sft_stage(config), training, *([reward_stage(config)] if config.measure_proxy else []))

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        return rollouts(self.config, prompts, "policy"), first_of(self.config, prompts, "policy")
