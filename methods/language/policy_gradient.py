"""What policy-gradient methods with groups of responses share: `group` responses to each prompt of a batch, scored by
the reward model beside the reference's log-probabilities. `rloo.py` and `grpo.py` bring what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from methods.core import BadInput, MethodConfig, PositiveFloat, PositiveInt, Weight
from methods.language.core import WEIGHTS, Context, LanguageConfig, LanguageStage, Part, derived_seed
from methods.language.method import LanguageMethod
from methods.language.models import adapted, causal, merged, reward, sample, token_logprobs, weights
from methods.language.respond import first_of, rollouts
from methods.language.reward_model import reward_stage
from methods.language.scoring import Scorer
from methods.language.sft import sft_stage
from methods.language.tokens import Batch, join
from methods.language.training import Training, prepared

SAMPLED = 64  # responses at a time


@dataclass(frozen=True)
class GroupConfig(LanguageConfig):
    steps: PositiveInt = 100  # batches of responses
    batch_size: PositiveInt = 64  # responses a step
    group: PositiveInt = 4  # of them to one prompt
    learning_rate: PositiveFloat = 3e-6
    kl: Weight = 0.05  # beta
    train_temperature: PositiveFloat = 0.7


class Group(NamedTuple):
    """A batch of responses, a prompt's beside each other, and what was thought of them when they were made."""

    batch: Batch
    score: Tensor  # `[b]`, of the reward model, less the penalty of what was cut off
    logprobs: Tensor  # `[b, l]`
    reference: Tensor  # `[b, l]`

    def rows(self, chosen: Sequence[int]) -> Group:
        return Group(Batch(*(x[chosen] for x in self.batch)), *(x[chosen] for x in self[1:]))


class GroupJob(Training):
    """A step is a batch of responses and `epochs` passes over it. Subclasses bring `advantages` and `objective`."""

    config: Any
    epochs = 1

    def __init__(self, context: Context, config: GroupConfig, name: str) -> None:
        torch.manual_seed(context.seed)  # of adapters
        self.reference = causal(context, "sft")
        self.scorer = Scorer(reward(context), context.texts.eos, context.texts.pad)
        self.policy = prepared(adapted(causal(context, "sft"), config.lora_rank), context, config)
        self.prompts = [tokens.prompt for tokens, _ in context.texts.examples("train")]
        super().__init__(context, config, name, {"policy": self.policy}, config.steps, config.batch_size,
                         config.learning_rate, len(self.prompts))  # fmt: skip
        for optimised in self.optimizer.param_groups:
            optimised.update(eps=1e-5, weight_decay=0.0, betas=(0.9, 0.999))  # as PPO's

    def advantages(self, group: Group) -> Tensor:
        """`[b]`."""
        raise NotImplementedError

    def objective(self, logprobs: Tensor, group: Group, advantages: Tensor) -> Tensor:
        """What is minimised, a mean over responses, at the policy's present `logprobs` `[b, l]`."""
        raise NotImplementedError

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
            self.descend(self.learning_rate * (self.total - step + 1) / self.total)
        return metrics

    @torch.no_grad()
    def gather(self, step: int) -> tuple[Group, dict[str, float]]:
        """The step's responses, with their scores."""
        texts, config, device = self.context.texts, self.config, self.context.device
        chosen = self.indices(step)[: self.batch_size // config.group]
        prompts: list[Any] = [self.prompts[i] for i in chosen for _ in range(config.group)]
        self.policy.eval()
        responses: list[list[int]] = []
        for first in range(0, len(prompts), SAMPLED):
            generator = torch.Generator().manual_seed(
                derived_seed(self.context.seed, f"{self.name}/sample", step, first)
            )
            responses += sample(
                self.policy, prompts[first : first + SAMPLED], texts.max_response, generator, eos=texts.eos,
                pad=texts.pad, banned=texts.banned, tokens=texts.size, temperature=config.train_temperature,
            )  # fmt: skip
        self.policy.train()
        proxy = self.scorer(prompts, responses)
        ended = torch.tensor([response[-1] == texts.eos for response in responses])
        batch = join(prompts, responses, texts.pad, device)
        logprobs = token_logprobs(self.policy, batch, config.train_temperature)
        reference = token_logprobs(self.reference, batch, config.train_temperature)
        score = (proxy - config.missing_eos_penalty * ~ended).to(device)
        metrics = {"proxy": proxy.mean(), "kl": (logprobs - reference).sum(1).mean(), "eos": ended.float().mean()}
        named = {f"{self.name}/{name}": float(value) for name, value in metrics.items()}
        return Group(batch, score, logprobs, reference), named

    def parts(self) -> dict[str, Part]:
        return {"policy": weights(merged(self.policy))}


@dataclass(frozen=True)
class GroupMethod(LanguageMethod):
    """Base of methods that sample once from a policy that was trained on groups of responses."""

    config: Any
    Config: ClassVar[type[MethodConfig]] = GroupConfig
    rule: ClassVar[str]
    Job: ClassVar[type[Any]]
    more: ClassVar[tuple[str, ...]] = ()  # settings of its own

    def stages(self) -> tuple[Any, ...]:
        config = self.config
        if config.group < 2 or config.batch_size % config.group:
            raise BadInput(f"{self.name}.group={config.group} is not 2 or more, or does not divide batch_size="
                           f"{config.batch_size}")  # fmt: skip
        kept = self.settings(*WEIGHTS, "steps", "batch_size", "learning_rate", "group", "kl", "train_temperature",
                             "missing_eos_penalty", *self.more)  # fmt: skip
        stage = LanguageStage(self.name, frozenset({"policy"}), config.steps, self.rule, kept,
                              lambda context: type(self).Job(context, config), config.batch_size,
                              reads=frozenset({"sft", "reward"}))  # fmt: skip
        return sft_stage(config), reward_stage(config), stage

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        return rollouts(self.config, prompts, "policy"), first_of(self.config, prompts, "policy")
