"""What the gold reward of tldr-local says of answers that are easy to make: python -m tests.tasks.local_gold

Prints the table of docs/local-models.md, of the first 300 validation pairs of this machine.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np

from tasks.language.core import UNFINISHED, Example
from tasks.language.tldr_local.gold import _STOP, GOLD, description
from tasks.language.tldr_local.suite import PAIRS, home, read_examples

PAIRS_READ, RESAMPLED = 300, 2000


def content(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W\d_]+", text) if word.lower() not in _STOP]


def answers() -> dict[str, Callable[[Example, str], str]]:
    """Name -> (pair, another pair's reference) -> an answer."""
    draw = random.Random(0)

    def first(count: int) -> Callable[[Example, str], str]:
        return lambda row, other: " ".join(description(row.prompt).split()[:count])

    def some(text: str, count: int) -> str:
        words = list(dict.fromkeys(content(text)))
        return " ".join(draw.sample(words, min(count, len(words))))

    return {
        "the reference": lambda row, other: row.reference,
        "its words shuffled": lambda row, other: " ".join(sorted(row.reference.split(), key=lambda _: draw.random())),
        "the text's first 6 words": first(6),
        "the text's first 10 words": first(10),
        "the text's first 14 words": first(14),
        "the text's first sentence": lambda row, other: re.split(r"(?<=[.!?])\s", description(row.prompt))[0],
        "ten content words of the text": lambda row, other: some(description(row.prompt), 10),
        "the reference and four words of the text":
            lambda row, other: f"{row.reference} {some(description(row.prompt), 4)}",
        "the name": lambda row, other: row.prompt.partition("\n\n")[0],
        "another pair's reference": lambda row, other: other,
        "the reference, cut off": lambda row, other: row.reference + UNFINISHED,
    }  # fmt: skip


def main() -> None:
    rows = read_examples(home() / PAIRS)["validation"][:PAIRS_READ]
    others = [row.reference for row in (*rows[1:], rows[0])]
    reference = np.array(GOLD.many([(row.prompt, row.reference) for row in rows]))
    generator = np.random.default_rng(0)
    chosen = generator.integers(len(rows), size=(RESAMPLED, len(rows)))
    print("| answer | gold | wins against the reference [%] |\n|---|---|---|")
    for name, make in answers().items():
        asked = [(row.prompt, make(row, other)) for row, other in zip(rows, others, strict=True)]
        gold = np.array(GOLD.many(asked))
        wins = 50.0 * (1.0 + np.sign(gold - reference))
        low, high = np.percentile(wins[chosen].mean(1), (2.5, 97.5))
        print(f"| {name} | {gold.mean():.2f} | {wins.mean():.1f} [{low:.1f}, {high:.1f}] |")


if __name__ == "__main__":
    main()
