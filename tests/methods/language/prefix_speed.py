"""Seconds of reading a prompt once, beside reading it for every response: python -m tests.methods.language.prefix_speed

With SmolLM2-135M on one thread (`python -m tasks.fetch tldr-local` brings it); tokens are drawn evenly.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from methods.language.models import reward_from, sample
from methods.language.scoring import Scorer, scores
from tasks.language import local

PROMPTS, EACH, ANSWER, WORDS = 5, 8, 19, (10, 40_000)
EOS, PAD = 2, 0


def seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    from transformers import AutoModelForCausalLM

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(local.place(local.LANGUAGE_MODEL), dtype=torch.float32).eval()
    draw = random.Random(0)

    def text(length: int) -> list[int]:
        return [draw.randrange(*WORDS) for _ in range(length)]

    lengths = [draw.randrange(50, 90) for _ in range(PROMPTS)]
    shared = [prompt for length in lengths for prompt in [text(length)] * EACH]
    apart = [text(length) for length in lengths for _ in range(EACH)]

    def drawn(prompts: list[list[int]]) -> None:
        sample(model, prompts, ANSWER + 1, torch.Generator().manual_seed(0), eos=EOS, pad=PAD, banned=[],
               tokens=WORDS[1], temperature=0.7)  # fmt: skip

    drawn(shared[:1])  # what only a first pass costs
    one_each, once = seconds(lambda: drawn(apart)), seconds(lambda: drawn(shared))
    print(f"{len(shared)} samples: {one_each:.1f} s with a prompt each, {once:.1f} s with {PROMPTS} prompts")
    judge = reward_from(model)
    scorer, answers = Scorer(judge, EOS, PAD), [text(ANSWER) for _ in shared]
    with torch.no_grad():
        whole = seconds(lambda: scores(judge, shared, answers, EOS, PAD))
    first = seconds(lambda: scorer(shared, answers))
    again = seconds(lambda: scorer(shared, [answer[::-1] for answer in answers]))
    print(
        f"scoring {len(shared)} responses: {whole:.1f} s in whole, {first:.1f} s once read, {again:.1f} s read before"
    )


if __name__ == "__main__":
    main()
