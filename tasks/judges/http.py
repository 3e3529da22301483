"""A language model behind an OpenAI-compatible server as the judge.

Each pair is asked about in both orders, since such judges favour what comes first; where the orders disagree the
verdict is a tie. Answers are kept on disk by the hash of all that was sent, so nothing is asked, or paid for, twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, NamedTuple

from core.text import printable
from methods.core import BadInput
from tasks.judges.chat import Body, Chat, Unreachable, bound
from tasks.judges.core import Pair, Progress, Verdict
from tasks.judges.prompts import Template
from tasks.judges.spending import Cache, Kept, Usage
from tasks.judges.verdicts import read_choice
from tasks.language import UNFINISHED

MAX_TOKENS = 160  # of an answer: a sentence and a line
EXPECTED = 60  # of them, on average
BYTES = 4  # of English text a token, on average
GIVE_UP = 5  # questions in a row that the server fails, or answers without a verdict
MOST_FAILED, ASKED = 0.2, 20  # share of all that it may fail, or so answer, once so many were asked
SHOWN = 160  # characters of an answer that is given as an example


class NoVerdicts(BadInput):
    """The judge answers, but its answers hold no verdict that can be read."""


class Estimate(NamedTuple):
    """What judging would take."""

    calls: int  # that are yet to be made
    kept: int  # that were made before
    usage: Usage  # tokens expected
    cost: float  # USD expected
    most: float  # USD, if every text were as many tokens as bytes, every answer as long as it may be, and none failed


@dataclass
class Tally:
    """How often something went badly."""

    asked: int = 0
    bad: int = 0
    in_a_row: int = 0

    def count(self, bad: bool) -> str:
        """Counts one more time; how often it was bad, where that is too often, else ""."""
        self.asked, self.bad, self.in_a_row = self.asked + 1, self.bad + bad, (self.in_a_row + 1) * bad
        if bad and self.asked >= ASKED and self.bad > MOST_FAILED * self.asked:
            return f"{self.bad} times of {self.asked}"
        return f"{GIVE_UP} times in a row" if self.in_a_row >= GIVE_UP else ""


def example(answer: str) -> str:
    """An answer, shortened to a line that is safe to print: its end, where a verdict would be."""
    line = " ".join(answer.removesuffix(UNFINISHED).split())
    shown = line if len(line) <= SHOWN else f"... {line[-SHOWN:]}"
    cut = (
        " (cut off at its limit of tokens: --body '{\"max_tokens\": ...}' raises it)"
        if answer.endswith(UNFINISHED)
        else ""
    )
    return (printable(repr(shown)) if shown else "nothing") + cut


class HttpJudge:
    """See `tasks.judges.core.Judge`."""

    def __init__(
        self,
        chat: Chat,
        model: str,
        template: Template,
        cache: Cache,
        concurrency: int = 8,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        """`body`: further fields of each request, e.g. {"max_completion_tokens": 400, "max_tokens": None}; None takes
        a field away.

        Raises: BadInput for a body that does not limit its answer.
        """
        self.chat, self.template, self.cache, self.concurrency = chat, template, cache, concurrency
        fields = {"model": model, "temperature": 0, "max_tokens": MAX_TOKENS, **(body or {})}
        self._fields = {name: value for name, value in fields.items() if value is not None}
        empty = self._request("", "", "")
        bound(empty)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")[:60]
        self.id = f"http-{slug}-{self._hash(empty)[:8]}"

    def verdicts(self, pairs: Sequence[Pair], progress: Progress | None = None) -> list[Verdict]:
        """See `Judge.verdicts`. Identical texts tie unasked. A pair is invalid if either order got no valid answer:
        for good if the judge answered something else `ANSWERS` times, for now (`unanswered`) if the server failed.

        Raises:
          OverBudget: what is yet to be asked could exceed the budget. What was answered is kept.
          NoVerdicts: time and again no verdict can be read.
          BadInput: the server refuses, or fails time and again.
        """
        orders = [self._orders(pair) for pair in pairs]
        requests = {self._hash(body): body for both in orders for body in both}
        kept = self.cache.get(requests)
        missing = {key: body for key, body in requests.items() if key not in kept}
        done = len(kept)
        report = progress or (lambda done, of: None)
        report(len(pairs) * done // max(len(requests), 1), len(pairs))
        self.chat.stopping.clear()
        self._failures, self._unread, self._lock = Tally(), Tally(), threading.Lock()
        for one in kept.values() if missing else ():  # before more is paid for
            self._count_answer(one)
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = {pool.submit(self._ask, key, body): key for key, body in missing.items()}
            try:
                for future in as_completed(futures):
                    if (found := future.result()) is not None:
                        kept[futures[future]] = found
                    done += 1
                    report(len(pairs) * done // len(requests), len(pairs))
            except BaseException:  # Ctrl-C too: what is under way is awaited and kept, nothing else is begun
                self.chat.stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self._verdict([kept.get(self._hash(body)) for body in both]) for both in orders]

    @property
    def about(self) -> dict[str, Any]:
        """What the judge is, for a record: the address, everything that is sent, and an empty question."""
        return {"kind": "http", "url": self.chat.url, **self._request("", "", ""), "template": self.template.name}

    def estimate(self, pairs: Sequence[Pair]) -> Estimate:
        """What `verdicts(pairs)` would take from here."""
        requests = {self._hash(body): body for pair in pairs for body in self._orders(pair)}
        kept = self.cache.get(requests)
        most = [bound(body) for key, body in requests.items() if key not in kept]
        usage = Usage(sum(-(-one.prompt // BYTES) for one in most), sum(min(EXPECTED, one.completion) for one in most))
        price = self.chat.price
        return Estimate(len(most), len(kept), usage, price.of(usage), sum(map(price.of, most)))

    def _orders(self, pair: Pair) -> list[Body]:
        """The two requests about a pair; none if its texts are the same."""
        prompt, a, b = pair
        if a.strip() == b.strip():
            return []
        return [self._request(prompt, a, b), self._request(prompt, b, a)]

    def _request(self, prompt: str, first: str, second: str) -> Body:
        return {**self._fields, "messages": self.template.messages(prompt, first, second)}

    def _hash(self, body: Body) -> str:
        """SHA-256 of the address and of everything that is sent but the key."""
        return hashlib.sha256(json.dumps([self.chat.url, body], sort_keys=True).encode()).hexdigest()

    def _ask(self, key: str, body: Body) -> Kept | None:
        """Asks and keeps; None if the server failed."""
        try:
            found = self.chat.ask(body, lambda answer: read_choice(answer) is not None)
        except Unreachable as error:
            if often := self._count(self._failures, True):
                raise BadInput(f"judge at {self.chat.host} failed {often}, the last time: {error}; what it answered is "
                               "kept, and the same command continues") from None  # fmt: skip
            return None
        except BaseException:
            self.chat.stopping.set()  # at once: this thread would begin another call before the main one has read of it
            raise
        self._count(self._failures, False)
        self.cache.put(key, found)
        self._count_answer(found)
        return found

    def _count_answer(self, found: Kept) -> None:
        """Raises: NoVerdicts where too many answers have none; what a content filter refused is no answer."""
        if found == Kept("", Usage()):
            return
        if often := self._count(self._unread, read_choice(found.answer) is None):
            raise NoVerdicts(f"judge at {self.chat.host}: no verdict could be read {often}; an answer of it: "
                             f"{example(found.answer)}")  # fmt: skip

    def _count(self, tally: Tally, bad: bool) -> str:
        """Counts a question; how often it went badly where that is too often, and nobody has said so yet, else ""."""
        with self._lock:
            often = tally.count(bad)
            if not often or self.chat.stopping.is_set():
                return ""
            self.chat.stopping.set()
            return often

    def _verdict(self, both: Sequence[Kept | None]) -> Verdict:
        """The verdict of the answers in both orders, (a, b) and (b, a); of none, identical texts' tie."""
        if not both:
            return Verdict("tie")
        cost = sum(self.chat.price.of(one.usage) for one in both if one is not None)
        first, second = (read_choice(one.answer) if one is not None else None for one in both)
        if first is None or second is None:
            return Verdict("invalid", False, cost, unanswered=None in both)
        swapped = {"a": "b", "b": "a", "tie": "tie"}[second]
        if first != swapped:
            return Verdict("tie", False, cost)
        return Verdict({"a": "win", "b": "loss", "tie": "tie"}[first], True, cost)  # type: ignore[arg-type]
