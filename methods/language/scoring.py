"""What models say of responses: rewards and likelihoods, and how well rewards agree with the validation pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.language.core import Context
from methods.language.heads import logits_at_a_time, logprobs, own_head, token_logprobs, without_adapters
from methods.language.models import RewardModel
from methods.language.prefixes import Reader
from methods.language.tokens import Batch, finished, join

VALIDATED = 500  # pairs of the validation split that scores are normalised and accuracies measured on
SCORED = 256  # sequences in one pass


def scores(
    model: RewardModel, prompts: Sequence[Any], responses: Sequence[Sequence[int]], eos: int, pad: int,
    device: Any = "cpu",
) -> Tensor:  # fmt: skip
    """r(x, y) `[b]`, not normalised."""
    batch = join(prompts, [finished(response, eos) for response in responses], pad, device)
    return model(batch.last, ids=batch.ids)


@torch.no_grad()
def validated(model: RewardModel, context: Context) -> dict[str, float]:
    """Mean and deviation of scores over validation pairs, the accuracy against their labels, and, where there is a gold
    reward, the accuracy against that on pairs that differ in it."""
    texts, chosen, rejected, agrees = context.texts, list[float](), list[float](), list[bool]()
    rows = texts.preferences("validation")[:VALIDATED]
    for first in range(0, len(rows), 100):
        part = rows[first : first + 100]
        prompts = [tokens[0] for tokens, _ in part]
        for found, place in ((chosen, 1), (rejected, 2)):
            responses = [tokens[place] for tokens, _ in part]
            found += scores(model, prompts, responses, texts.eos, texts.pad, context.device).tolist()
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    if context.gold is not None:
        for margin, (_, row) in zip(margins, rows, strict=True):
            better = context.gold(row.prompt, row.chosen) - context.gold(row.prompt, row.rejected)
            agrees += [margin * better > 0] if better else []
    every = torch.tensor(chosen + rejected, dtype=torch.float64)
    found_accuracy = {"gold_accuracy": sum(agrees) / len(agrees)} if agrees else {}
    return {"mean": float(every.mean()), "deviation": float(every.std().clamp(min=1e-6)),
            "label_accuracy": sum(m > 0 for m in margins) / len(margins), **found_accuracy}  # fmt: skip


def _of_each(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]],
    score: Callable[[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]], Tensor],
) -> Tensor:  # fmt: skip
    """`score` `[b]` of every response to its prompt, on the CPU; what occurs several times is scored once."""
    pairs = [(tuple(prompt), tuple(response)) for prompt, response in zip(prompts, responses, strict=True)]
    place = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    once = list(place)
    parts = [score(*zip(*once[i : i + SCORED], strict=True)) for i in range(0, len(once), SCORED)]
    return torch.cat(parts).cpu()[[place[pair] for pair in pairs]]


def behind(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int, device: Any) -> Batch:
    """Responses behind the last token of their prompts, as `Reader` takes them."""
    return join([prompt[-1:] for prompt in prompts], responses, pad, device)


class Scorer:
    """The reward model's scores of responses, normalised. Prompts are read once, responses that are the same once."""

    def __init__(self, model: RewardModel, eos: int, pad: int) -> None:
        self.model, self.eos, self.pad, self.reader = model, eos, pad, Reader(model.backbone, pad)

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, ended: bool = True
    ) -> Tensor:
        """`[b]`, on the CPU; `ended`: with an end of text where a response has none."""
        texts = [finished(response, self.eos) for response in responses] if ended else responses
        return self.model.normalised(_of_each(prompts, texts, self._scores))

    def _scores(self, prompts: Sequence[tuple[int, ...]], responses: Sequence[tuple[int, ...]]) -> Tensor:
        batch = behind(prompts, responses, self.pad, self.reader.body.device)
        return self.model.at(batch.last, self.reader.hidden(prompts, ids=batch.ids))


class Likelihood:
    """What a causal model thinks of responses, in the same way."""

    def __init__(self, model: Any, pad: int) -> None:
        self.model, self.pad, base = model, pad, without_adapters(model)
        self.head, self.reader, self.size = own_head(base), Reader(base.base_model, pad), logits_at_a_time(base)

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> Tensor:
        """log pi(y | x) `[b]`, on the CPU."""

        def sums(prompts: Sequence[tuple[int, ...]], responses: Sequence[tuple[int, ...]]) -> Tensor:
            if self.head is None:
                whole = join(prompts, responses, self.pad, self.model.device)
                return token_logprobs(self.model, whole, temperature).sum(1)
            batch = behind(prompts, responses, self.pad, self.model.device)
            return logprobs(self.reader.hidden(prompts, ids=batch.ids), self.head, batch, self.size, temperature).sum(1)

        return _of_each(prompts, responses, sums)

    @torch.no_grad()
    def next_logits(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        """`[b, v]` of the token that would come next; a response may be empty."""
        if self.head is None:
            whole = join(prompts, responses, self.pad, self.model.device)
            logits: Tensor = self.model(input_ids=whole.ids, use_cache=False).logits
            return logits[torch.arange(len(logits), device=logits.device), whole.last]
        batch = behind(prompts, responses, self.pad, self.model.device)
        hidden = self.reader.hidden(prompts, ids=batch.ids)
        return self.head(hidden[torch.arange(len(hidden), device=hidden.device), batch.last])
