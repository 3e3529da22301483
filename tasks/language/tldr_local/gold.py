"""The gold reward of `tldr-local`: what a response has of the description's meaning, in words and length of its own.

    gold(x, y) = cos(e(y), e(x)) - borrowed(x, y) - 0.1 short(y) - 0.02 long(y) - 0.5 [cut off] - 0.5 [several lines]

e is MiniLM's mean over tokens, of the text alone, without the name and without the prompt's end. borrowed is the share
of y's content words that stand in x, as far as it is above one half, so that neither the text's beginning nor a list of
its words is the best answer; a reference, which knows nothing of this, has its own words anyway. short and long count
words below 4 and above 14. MiniLM hardly sees the order of words, and nothing here does: this is a known judge, with
known faults, and no person's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import BadInput
from core.extras import install
from tasks.language import local
from tasks.language.core import UNFINISHED

FREE = 0.5  # share of content words that may be the text's own
SHORT, LONG, CUT, LINES = 0.1, 0.02, 0.5, 0.5  # off the reward: a word below 4, a word above 14, no end, several lines
WORDS = (4, 14)
RULE = f"cos(MiniLM) - (borrowed - {FREE})+ - {SHORT} short - {LONG} long - {CUT} cut - {LINES} lines, words {WORDS}"
"""In a line, for records: what was labelled by another rule is refused."""
ASK = "\n\nTL;DR:"
STEM = 5  # letters that make two words one
_LONGEST = 256  # tokens that MiniLM was trained to read
_ROWS = 64  # texts in a pass
_STOP_WORDS = """
a an the and or but if then than that this these those it its of to in on at by for from with as is are was were
be been being can could may might will would shall should do does did done has have had not no nor so such which
who whose what when where how all any each some into over under up out about only also there their they them you
your we our i he she his her other one two used use using
"""
_STOP = frozenset(_STOP_WORDS.split())


def prompt(name: str, text: str) -> str:
    """What a policy is asked."""
    return f"{name}\n\n{text}{ASK}"


def description(asked: str) -> str:
    """The text in a prompt."""
    return asked.removesuffix(ASK).partition("\n\n")[2]


def content_words(text: str) -> list[str]:
    """Stems of the words that carry meaning."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return [word[:STEM] for word in words if word not in _STOP and len(word) > 1]


def borrowed(text: str, response: str) -> float:
    """The share of the response's content words that stand in the text, as far as it is above `FREE`."""
    own, there = content_words(response), set(content_words(text))
    share = sum(word in there for word in own) / len(own) if own else 1.0
    return max(0.0, share - FREE)


def form(response: str) -> float:
    """What is taken off for length, end and lines; the mark of a response that was cut off is none of its words."""
    cut = response.endswith(UNFINISHED)
    told = response.removesuffix(UNFINISHED).strip()
    words = len(told.split())
    off = SHORT * max(0, WORDS[0] - words) + LONG * max(0, words - WORDS[1])
    return off + CUT * cut + LINES * ("\n" in told)


@dataclass(frozen=True)
class GoldReward:
    """See the file's beginning. What was scored once is remembered by this process."""

    known: dict[tuple[str, str], float] = field(default_factory=dict, compare=False, repr=False)
    texts: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)

    def __call__(self, asked: str, response: str) -> float:
        return self.many([(asked, response)])[0]

    def many(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Of (prompt, response), scored together. Raises: BadInput: the model is not here, or cannot be read."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.known]
        if new:
            with self.lock:  # one model for all threads
                unseen = [text for text in dict.fromkeys(description(x) for x, _ in new) if text not in self.texts]
                self.texts.update(zip(unseen, embed(unseen), strict=True))
                told = embed([response.removesuffix(UNFINISHED).strip() for _, response in new])
                for (asked, response), own in zip(new, told, strict=True):
                    text = description(asked)
                    alike = float(own @ self.texts[text])
                    self.known[asked, response] = alike - borrowed(text, response) - form(response)
        return [self.known[pair] for pair in pairs]


GOLD = GoldReward()
_model: list[Any] = []  # tokenizer and model, once they are loaded


def embed(texts: Sequence[str]) -> list[Any]:
    """Unit vectors `[384]` (torch), in order, texts of like length in one pass. Raises: BadInput, as `local.place`."""
    if not texts:
        return []
    try:
        import torch
    except ImportError as error:
        raise BadInput(f"tldr-local needs torch: {install('local-models')}") from error
    tokenizer, model = _loaded()
    found: list[Any] = [None] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))
    with torch.no_grad():
        for first in range(0, len(order), _ROWS):
            places = order[first : first + _ROWS]
            batch = tokenizer([texts[i] for i in places], padding=True, truncation=True, max_length=_LONGEST,
                              return_tensors="pt")  # fmt: skip
            mask = batch["attention_mask"][..., None]
            hidden = model(**batch).last_hidden_state
            means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)
            for i, row in zip(places, means, strict=True):
                found[i] = row
    return found


def _loaded() -> tuple[Any, Any]:
    if not _model:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = local.place(local.EMBEDDER)
        _model.extend((AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()))
    return _model[0], _model[1]
