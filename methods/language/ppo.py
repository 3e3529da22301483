"""PPO: the policy maximises the reward model, held near SFT by a KL penalty.

With the details that "The N+ Implementation Details of RLHF with PPO" (2403.17031) found to matter: reward whitened to
the reference distribution's scale, a penalty where the end of text is missing, k1 KL in every token's reward, a value
network that starts as the reward model, GAE with gamma 1, advantages whitened, clipped ratios and values, AdamW with
eps 1e-5 at a rate that falls linearly to 0, sampling at a temperature below 1 that log-probabilities share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from methods.core import Fraction, MethodConfig, PositiveFloat, PositiveInt, Weight
from methods.language.core import Context, Job, LanguageConfig, derived_seed
from methods.language.heads import in_rows
from methods.language.models import RewardModel, adapted, reward, token_logprobs
from methods.language.policies import PolicyMethod, SamplingJob
from methods.language.tokens import Batch
from methods.language.training import prepared


@dataclass(frozen=True)
class PPOConfig(LanguageConfig):
    """Defaults are N+'s for 1B models, but for the size of steps: see the presets for what the tiny model needs."""

    steps: PositiveInt = 100  # batches of responses
    learning_rate: PositiveFloat = 3e-6
    epochs: PositiveInt = 4  # over each batch
    minibatches: PositiveInt = 1  # of an epoch
    kl: Weight = 0.05  # beta of the KL penalty
    clip: PositiveFloat = 0.2  # of ratios, and of values
    value_weight: Weight = 0.1
    gae: Fraction = 0.95  # lambda
    train_temperature: PositiveFloat = 0.7


def token_rewards(score: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """`[b, l]`: -beta kl at every response token, and the score `[b]` on top at the last one."""
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * mask).argmax(1)
    rewards = -beta * kl * mask
    return rewards.scatter_add(1, last[:, None], score[:, None].to(rewards.dtype))


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns `[b, l]` at gamma 1; 0 outside the mask, one run of tokens a row."""
    found, after, value_after = (
        torch.zeros_like(rewards),
        torch.zeros_like(rewards[:, 0]),
        torch.zeros_like(rewards[:, 0]),
    )
    for t in reversed(range(rewards.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + value_after - values[:, t]
        after = torch.where(here, delta + decay * after, after)
        value_after = torch.where(here, values[:, t], value_after)
        found[:, t] = torch.where(here, after, 0.0)
    return found, (found + values) * mask


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and std 1 over the mask; 0 outside."""
    chosen = values[mask]
    return (values - chosen.mean()) / (chosen.std(correction=0) + 1e-8) * mask


class Experience(NamedTuple):
    """A batch of responses and what was thought of them when they were made."""

    batch: Batch
    logprobs: Tensor  # `[b, l]`
    values: Tensor
    advantages: Tensor
    returns: Tensor


def ppo_loss(
    logprobs: Tensor, values: Tensor, old: Experience, clip: float, value_weight: float
) -> tuple[Tensor, Tensor]:
    """The clipped objective (to be minimised), and the fraction of ratios that were clipped."""
    mask = old.batch.response_mask
    ratio = (logprobs - old.logprobs).exp()
    policy = torch.maximum(-old.advantages * ratio, -old.advantages * ratio.clamp(1.0 - clip, 1.0 + clip))[mask].mean()
    near = old.values + (values - old.values).clamp(-clip, clip)
    value = 0.5 * torch.maximum((values - old.returns) ** 2, (near - old.returns) ** 2)[mask].mean()
    return policy + value_weight * value, ((ratio - 1.0).abs() > clip)[mask].float().mean()


class PPOJob(SamplingJob):
    """A step is a batch of responses and `epochs` passes over it."""

    config: PPOConfig

    def __init__(self, context: Context, config: PPOConfig) -> None:
        self.value: RewardModel = reward(context)
        torch.manual_seed(context.seed)  # of adapters
        self.value.backbone = adapted(self.value.backbone, config.lora_rank)
        prepared(self.value.backbone, context, config)
        self.value.score.to(torch.float32)
        super().__init__(context, config, "ppo", value=self.value)

    def update(self, step: int) -> dict[str, float]:
        with self.mixed():
            experience, metrics = self.gather(step)
        order = torch.Generator().manual_seed(derived_seed(self.context.seed, "ppo/order", step))
        rate = self.falling(step)
        clipped: list[float] = []
        for _ in range(self.config.epochs):
            for rows in torch.randperm(self.batch_size, generator=order).chunk(self.config.minibatches):
                clipped.append(self.maximise(experience, rows.tolist(), rate))
        return metrics | {"ppo/clipped": sum(clipped) / len(clipped)}

    def maximise(self, experience: Experience, minibatch: Sequence[int], rate: float) -> float:
        """One step of the optimiser on these rows; the fraction of ratios that were clipped."""
        whole, clipped = int(experience.batch.response_mask[minibatch].sum()), 0.0
        for rows in self.micro(minibatch):
            part = Experience(Batch(*(x[rows] for x in experience.batch)), *(x[rows] for x in experience[1:]))
            with self.mixed():
                logprobs = token_logprobs(self.policy, part.batch, self.config.train_temperature)
                values = self.values(part.batch)
            loss, outside = ppo_loss(logprobs, values, part, self.config.clip, self.config.value_weight)
            share = int(part.batch.response_mask.sum()) / whole
            self.backward(loss, share)
            clipped += share * float(outside)
        self.descend(rate)
        return clipped

    def values(self, batch: Batch) -> Tensor:
        """What the value network expects at each response token, from the token before it; normalised as the reward."""
        found = torch.cat([self.value.values(part.ids) for part in in_rows(self.value, batch)])
        raw = (found - self.value.mean) / self.value.deviation
        return nn.functional.pad(raw[:, :-1], (1, 0)) * batch.response_mask

    @torch.no_grad()
    def gather(self, step: int) -> tuple[Experience, dict[str, float]]:
        """Responses to the step's prompts, with advantages."""
        found, metrics = self.sampled(step, [self.data[i] for i in self.indices(step)])
        mask, values, kl = found.batch.response_mask, self.values(found.batch), found.logprobs - found.reference
        rewards = token_rewards(found.score, kl, mask, self.config.kl)
        gained, returns = advantages(rewards, values, mask, self.config.gae)
        return Experience(found.batch, found.logprobs, values, whitened(gained, mask), returns), metrics


@dataclass(frozen=True)
class PPO(PolicyMethod):
    """Samples once from the policy that PPO trained."""

    config: PPOConfig
    Config: ClassVar[type[MethodConfig]] = PPOConfig
    name: ClassVar[str] = "ppo"
    rule: ClassVar[str] = "PPO on the reward model, a uniform number a token"
    own: ClassVar[tuple[str, ...]] = ("epochs", "minibatches", "kl", "clip", "value_weight", "gae",
                                      "train_temperature", "missing_eos_penalty")  # fmt: skip
    rewarded: ClassVar[bool] = True

    def begin(self, context: Context) -> Job:
        return PPOJob(context, self.config)
