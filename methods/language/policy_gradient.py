"""What policy-gradient methods with groups of responses share: `group` responses to each prompt of a batch, scored by
the reward model beside the reference's log-probabilities. `rloo.py` and `grpo.py` bring what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from methods.core import BadInput, PositiveFloat, PositiveInt, Weight
from methods.language.core import LanguageConfig
from methods.language.models import token_logprobs
from methods.language.policies import PolicyMethod, Sampled, SamplingJob


@dataclass(frozen=True)
class GroupConfig(LanguageConfig):
    steps: PositiveInt = 100  # batches of responses
    batch_size: PositiveInt = 64  # responses a step
    group: PositiveInt = 4  # of them to one prompt
    learning_rate: PositiveFloat = 3e-6
    kl: Weight = 0.05  # beta
    train_temperature: PositiveFloat = 0.7


class GroupJob(SamplingJob):
    """A step is a batch of responses, a prompt's beside each other, and `epochs` passes over it. Subclasses bring
    `advantages` and `objective`."""

    epochs = 1

    def advantages(self, group: Sampled) -> Tensor:
        """`[b]`."""
        raise NotImplementedError

    def objective(self, logprobs: Tensor, group: Sampled, advantages: Tensor) -> Tensor:
        """What is minimised, a mean over responses, at the policy's present `logprobs` `[b, l]`."""
        raise NotImplementedError

    def gather(self, step: int) -> tuple[Sampled, dict[str, float]]:
        """The step's responses, with their scores."""
        chosen = self.indices(step)[: self.batch_size // self.config.group]
        return self.sampled(step, [self.data[i] for i in chosen for _ in range(self.config.group)])

    def update(self, step: int) -> dict[str, float]:
        with self.mixed():
            group, metrics = self.gather(step)
        advantages = self.advantages(group)
        for _ in range(self.epochs):
            for rows in self.micro(list(range(self.batch_size))):
                part = group.rows(rows)
                with self.mixed():
                    logprobs = token_logprobs(self.policy, part.batch, self.config.train_temperature)
                self.backward(self.objective(logprobs, part, advantages[rows]), len(rows) / self.batch_size)
            self.descend(self.falling(step))
        return metrics


@dataclass(frozen=True)
class GroupMethod(PolicyMethod):
    """Base of methods whose policy learns from groups of responses."""

    own: ClassVar[tuple[str, ...]] = ("group", "kl", "train_temperature", "missing_eos_penalty")
    rewarded: ClassVar[bool] = True

    def stages(self) -> tuple[Any, ...]:
        config = self.config
        if config.group < 2 or config.batch_size % config.group:
            raise BadInput(f"{self.name}.group={config.group} is not 2 or more, or does not divide batch_size="
                           f"{config.batch_size}")  # fmt: skip
        return super().stages()
