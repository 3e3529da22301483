"""What a reward model says of responses, and how well it agrees with the validation pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from methods.language.core import Context
from methods.language.models import RewardModel
from methods.language.tokens import finished, join

VALIDATED = 500  # pairs of the validation split that scores are normalised and accuracies measured on


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
