"""Responding and judging, as stages: samples of a model, what a method makes of them, and verdicts on that.

The part "responses" has tensors with a leading axis of prompts p and one of knob settings k: `ids` `[p, k, t]`,
`lengths` `[p, k]`, and one `[p, k]` for each of `MEASURES`, NaN where a measure has no meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from methods.core import BadInput
from methods.inference import Cost
from methods.language.core import ONE_SAMPLE, Context, Job, LanguageConfig, LanguageStage, Part, derived_seed
from methods.language.models import causal, reward, sample
from methods.language.scoring import Likelihood, Scorer

MEASURES = ("proxy", "nll", "edit_fraction", "eos", "gradients", "samples", "compute", "transport", "kl", "soft",
            "retokenised")  # fmt: skip
"""Of a response: normalised score of the reward model; mean negative log-likelihood a token under SFT; fraction of the
sampled tokens that were changed; 1 if it has an end; backward passes; sequences sampled; passes of one sequence through
a network (a sample or a score 1, a gradient 3); MMD^2 between particles before and after; log pi - log pi_SFT;
normalised score of the answer's particle before it is decoded; 1 if its text is read as other tokens."""

BACKWARD = 2  # forward passes that a backward one takes the time of

Responses = list[list[int]]


class Chunked:
    """A job over prompts, `respond_batch` at a time. Subclasses bring `rows`."""

    alone = False

    def __init__(self, context: Context, config: LanguageConfig, prompts: int, name: str) -> None:
        self.context, self.config, self.name = context, config, name
        self.prompts = context.texts.prompts(config.prompt_split, prompts)
        self.total = math.ceil(prompts / config.respond_batch)
        self.done: list[dict[str, Tensor]] = []

    def rows(self, number: int, chunk: slice) -> dict[str, Tensor]:
        """Tensors with a leading axis of the prompts `chunk`."""
        raise NotImplementedError

    def run(self, first: int, count: int) -> dict[str, float]:
        size = self.config.respond_batch
        for number in range(first, first + count):
            self.done.append(self.rows(number, slice(number * size, min((number + 1) * size, len(self.prompts)))))
        return {}

    def _all(self) -> dict[str, Tensor]:
        return {name: torch.cat([rows[name] for rows in self.done]) for name in self.done[0]} if self.done else {}

    def snapshot(self) -> Part:
        return Part(self._all(), {})

    def restore(self, kept: Part) -> None:
        self.done = [dict(kept.tensors)] if kept.tensors else []

    def parts(self) -> dict[str, Part]:
        return {self.name: Part(self._all(), {})}


def packed(responses: Sequence[Sequence[int]], width: int, pad: int) -> tuple[Tensor, Tensor]:
    """Ids `[b, width]` and lengths `[b]`, int32."""
    ids = torch.full((len(responses), width), pad, dtype=torch.int32)
    for row, response in zip(ids, responses, strict=True):
        row[: len(response)] = torch.tensor(response, dtype=torch.int32)
    return ids, torch.tensor([len(response) for response in responses], dtype=torch.int32)


def unpacked(ids: Tensor, lengths: Tensor) -> Responses:
    """The responses of ids `[..., t]` and lengths `[...]`, in row-major order."""
    flat = ids.reshape(-1, ids.shape[-1]).tolist()
    return [row[:length] for row, length in zip(flat, lengths.flatten().tolist(), strict=True)]


def changed(before: Sequence[int], after: Sequence[int], eos: int) -> float:
    """Fraction of places, the end of text not counted, whose token differs, or where one of the two has none."""
    a, b = ([token for token in text if token != eos] for text in (before, after))
    return sum(x != y for x, y in zip_longest(a, b)) / max(1, len(a), len(b))


def drawn(number: int, temperature: float) -> int:
    """How many of so many samples differ: of greedy decoding one."""
    return number if temperature else 1


class Rollouts(Chunked):
    """Samples of a model: at each temperature `drawn` of them, one temperature after the other."""

    def __init__(self, context: Context, config: LanguageConfig, prompts: int, policy: str, number: int) -> None:
        super().__init__(context, config, prompts, "rollouts")
        self.model, self.policy, self.number = causal(context, policy), policy, number
        self.sampler = context.sampler(self.model) if context.sampler else None

    def rows(self, number: int, chunk: slice) -> dict[str, Tensor]:
        found = [self._at(temperature, number, chunk) for temperature in self.config.test_temperatures]
        return {name: torch.cat([rows[name] for rows in found], dim=1) for name in found[0]}

    def _at(self, temperature: float, number: int, chunk: slice) -> dict[str, Tensor]:
        """At all temperatures from the same noise, so that what differs is theirs; a sample's is its own, so that the
        first are the same however many there are."""
        texts, each = self.context.texts, drawn(self.number, temperature)
        seed = derived_seed(self.context.seed, "rollouts", number)
        prompts = [tokens.prompt for tokens, _ in self.prompts[chunk]]
        if self.sampler:
            found = self.sampler(prompts, each, temperature, seed)
        else:
            repeated = [prompt for prompt in prompts for _ in range(each)]
            noise = [torch.Generator().manual_seed(derived_seed(seed, "sample", i)) for i in range(each)]
            found = sample(self.model, repeated, texts.max_response, *noise, eos=texts.eos, pad=texts.pad,
                           banned=texts.banned, tokens=texts.size, temperature=temperature)  # fmt: skip
        ids, lengths = packed(found, texts.max_response, texts.pad)
        return {"ids": ids.reshape(-1, each, texts.max_response), "lengths": lengths.reshape(-1, each)}


SAMPLING = ("test_temperatures", "prompt_split", "respond_batch", "dtype")


def samples_of(config: LanguageConfig, policy: str) -> int:
    """Rollouts a prompt of a model at each temperature."""
    return config.rollouts if policy == "sft" else 1


def enough(config: LanguageConfig, setting: str, number: int) -> None:
    """Raises `BadInput` where a setting asks for more samples than are drawn."""
    if number > config.rollouts:
        raise BadInput(f"{setting}={number} is more than rollouts={config.rollouts}")


def rollouts(config: LanguageConfig, prompts: int, policy: str = "sft") -> LanguageStage:
    """Samples of the SFT model, `rollouts` a prompt, or one a prompt of the part `policy`."""
    number = samples_of(config, policy)
    kept = {name: getattr(config, name) for name in SAMPLING} | {"prompts": prompts, "number": number}

    def begin(context: Context) -> Job:
        return Rollouts(context, config, prompts, policy, number)

    by = "a uniform number a token, each from its own noise"
    if config.rollout_engine != "own":
        by = f"by {config.rollout_engine}"
    rule = f"samples of {policy}, {by}"
    return LanguageStage("rollouts", frozenset({"rollouts"}), 0, rule, kept, begin, config.respond_batch,
                         reads=frozenset({policy}))  # fmt: skip


class Responding(Chunked):
    """What a method answers; subclasses bring `answers` and end it with `measured`."""

    def __init__(
        self, context: Context, config: LanguageConfig, prompts: int, *, scored: bool, samples: int | None = None,
        sampled: bool = True,
    ) -> None:  # fmt: skip
        """`samples`: a prompt's rollouts at a temperature, `config.rollouts` if unset; `sampled`: whether it starts
        from rollouts."""
        super().__init__(context, config, prompts, "responses")
        sizes = [drawn(samples or config.rollouts, temperature) for temperature in config.test_temperatures]
        self.places = {t: sum(sizes[:i]) for i, t in enumerate(config.test_temperatures)}
        self.sft = causal(context, "sft")
        self.likelihood = Likelihood(self.sft, context.texts.pad)
        self.scorer = Scorer(reward(context), context.texts.eos, context.texts.pad) if scored else None
        self.rollouts = context.part("rollouts").tensors if sampled else {}

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        """The chunk's rows of "responses" at all settings beside the temperature, from samples drawn at that."""
        raise NotImplementedError

    def rows(self, number: int, chunk: slice) -> dict[str, Tensor]:
        del number
        found = [self.answers(temperature, chunk) for temperature in self.config.test_temperatures]
        return {name: torch.cat([rows[name] for rows in found], dim=1) for name in found[0]}

    def sampled(self, temperature: float, chunk: slice, number: int) -> Responses:
        """The first `number` rollouts at a temperature of every prompt of the chunk, prompt by prompt."""
        there = slice(self.places[temperature], self.places[temperature] + number)
        return unpacked(self.rollouts["ids"][chunk, there], self.rollouts["lengths"][chunk, there])

    def proxies(self, prompts: Sequence[Any], responses: Sequence[Sequence[int]]) -> Tensor:
        """Normalised scores `[b]` of the reward model; NaN without one."""
        return self.scorer(prompts, responses) if self.scorer else torch.full((len(responses),), torch.nan)

    def worth(self, proxy: Tensor, responses: Sequence[Sequence[int]]) -> Tensor:
        """What methods choose by: the score, less the penalty of a response that was cut off."""
        cut = torch.tensor([response[-1] != self.context.texts.eos for response in responses])
        return proxy - self.config.missing_eos_penalty * cut

    def measured(
        self, chunk: slice, responses: Sequence[Sequence[int]], proxy: Tensor, **given: Tensor | float
    ) -> dict[str, Tensor]:
        """The chunk's rows of "responses": `responses` and `proxy` are in order of prompts, then settings; `given` are
        measures `[p, k]` or one number for all."""
        texts, prompts = self.context.texts, [tokens.prompt for tokens, _ in self.prompts[chunk]]
        settings = len(responses) // len(prompts)
        repeated = [prompt for prompt in prompts for _ in range(settings)]
        ids, lengths = packed(responses, texts.max_response, texts.pad)
        measures: dict[str, Any] = dict.fromkeys(MEASURES, torch.nan) | given
        measures["proxy"] = proxy.reshape(-1, settings)
        measures["nll"] = -self.likelihood(repeated, responses) / lengths
        measures["retokenised"] = torch.tensor(list(map(float, texts.retokenised(responses))))
        measures["eos"] = torch.tensor([float(response[-1] == texts.eos) for response in responses])
        rows = {name: torch.as_tensor(value, dtype=torch.float32).cpu() for name, value in measures.items()}
        rows = {n: (v.reshape(-1, settings) if v.ndim else v.expand(len(prompts), settings)) for n, v in rows.items()}
        return {"ids": ids.reshape(-1, settings, texts.max_response), "lengths": lengths.reshape(-1, settings),
                **{name: value.clone() for name, value in rows.items()}}  # fmt: skip


class First(Responding):
    """Answers with the first sample; of a trained policy also log pi(y) - log pi_SFT(y), whose mean estimates the KL
    divergence."""

    def __init__(self, context: Context, config: LanguageConfig, prompts: int, policy: str) -> None:
        super().__init__(context, config, prompts, scored=config.measure_proxy, samples=samples_of(config, policy))
        self.policy = Likelihood(causal(context, policy), context.texts.pad) if policy != "sft" else None

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        prompts, responses = [tokens.prompt for tokens, _ in self.prompts[chunk]], self.sampled(temperature, chunk, 1)
        kl: Tensor | float = 0.0
        if self.policy is not None and not temperature:
            kl = torch.nan  # what is not drawn has no likelihood
        elif self.policy is not None:
            both = [model(prompts, responses, temperature) for model in (self.policy, self.likelihood)]
            kl = both[0] - both[1]
        changed = {"edit_fraction": 0.0} if self.policy is None else {}
        return self.measured(chunk, responses, self.proxies(prompts, responses), kl=kl, samples=1.0, **changed,
                             **spent([ONE_SAMPLE], len(prompts)))  # fmt: skip


def spent(costs: Sequence[Cost], prompts: int) -> dict[str, Tensor]:
    """The measures "gradients" and "compute" `[p, k]` of so many prompts, from an answer's cost at each setting."""
    gradients = torch.tensor([cost.gradients for cost in costs], dtype=torch.float32)
    passes = torch.tensor([cost.passes for cost in costs], dtype=torch.float32)
    rows = {"gradients": gradients, "compute": passes + BACKWARD * gradients}
    return {name: row.expand(prompts, -1) for name, row in rows.items()}


def first_of(config: LanguageConfig, prompts: int, policy: str = "sft") -> LanguageStage:
    """Answers with the first rollout of a model."""
    scored = config.measure_proxy
    kept = {name: getattr(config, name) for name in (*SAMPLING, "measure_proxy")} | {"prompts": prompts}
    reads = frozenset({"sft", "rollouts", policy}) | (frozenset({"reward"}) if scored else frozenset())
    return responding(f"the first sample of {policy}", kept, reads, config,
                      lambda context: First(context, config, prompts, policy))  # fmt: skip


def responding(
    rule: str, kept: Mapping[str, Any], reads: frozenset[str], config: LanguageConfig, begin: Callable[[Context], Job]
) -> LanguageStage:
    """A stage that makes "responses"."""
    return LanguageStage("responses", frozenset({"responses"}), 0, rule, kept, begin, config.respond_batch, reads=reads)


class Judging:
    """Verdicts on responses against their references, 1 (win), 0.5 or 0, NaN where there is no valid one; and gold
    rewards where the task has them. One step: judges keep what they paid for themselves."""

    total, alone = 1, False

    def __init__(self, context: Context, judge: str, split: str, prompts: int) -> None:
        self.context, self.judge = context, judge
        self.prompts, self.found = context.texts.prompts(split, prompts), dict[str, Tensor]()

    def run(self, first: int, count: int) -> dict[str, float]:
        del first, count
        responses, texts = self.context.part("responses").tensors, self.context.texts
        shape = responses["lengths"].shape
        tokens = unpacked(responses["ids"], responses["lengths"])
        examples = [example for _, example in self.prompts for _ in range(shape[1])]
        answers = [(row.prompt, texts.decode(ids), row.reference) for row, ids in zip(examples, tokens, strict=True)]
        nothing = torch.full(shape, torch.nan)
        self.found = {"gold": nothing, "verdicts": nothing.clone()}
        if gold := self.context.gold:
            self.found["gold"] = torch.tensor([gold(prompt, text) for prompt, text, _ in answers]).reshape(shape)
        if self.judge == "proxy":
            mine = responses["proxy"]
            theirs = self._reference_proxies()[:, None]
            self.found["verdicts"] = 0.5 * (1.0 + torch.sign(mine - theirs))
        elif self.judge != "none":
            assert self.context.judge is not None, "the harness brings the judge"
            self.found["verdicts"] = torch.tensor(list(self.context.judge(answers)), dtype=torch.float32).reshape(shape)
        return {}

    def _reference_proxies(self) -> Tensor:
        texts = self.context.texts
        prompts, references = [t.prompt for t, _ in self.prompts], [t.response for t, _ in self.prompts]
        return Scorer(reward(self.context), texts.eos, texts.pad)(prompts, references)

    def snapshot(self) -> Part:
        return Part(self.found, {})

    def restore(self, kept: Part) -> None:
        self.found = dict(kept.tensors)

    def parts(self) -> dict[str, Part]:
        return {"verdicts": Part(self.found, {})}


def judging(config: LanguageConfig, prompts: int, judge: str) -> LanguageStage:
    """The stage that makes "verdicts"."""
    reads = frozenset({"responses"}) | (frozenset({"reward"}) if judge == "proxy" else frozenset())
    kept = {"judge": judge, "prompts": prompts, "prompt_split": config.prompt_split}
    return LanguageStage(
        "verdicts", frozenset({"verdicts"}), 0, f"against references, by {judge}", kept,
        lambda context: Judging(context, judge, config.prompt_split, prompts), 1, reads=reads,
    )  # fmt: skip
