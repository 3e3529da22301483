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
from typing import Any, NamedTuple

from methods.core import BadInput
from tasks.judges.chat import Body, Chat, Unreachable, bound
from tasks.judges.core import Pair, Progress, Verdict
from tasks.judges.prompts import Template, read_choice
from tasks.judges.spending import Cache, Kept, Usage

MAX_TOKENS = 160  # of an answer: a sentence and a line
EXPECTED = 60  # of them, on average
BYTES = 4  # of English text a token, on average
GIVE_UP = 5  # questions in a row that the server fails
MOST_FAILED, ASKED = 0.2, 20  # share of all that it may fail, once so many were asked


class Estimate(NamedTuple):
    """What judging would take."""

    calls: int  # that are yet to be made
    kept: int  # that were made before
    usage: Usage  # tokens expected
    cost: float  # USD expected
    most: float  # USD, if every text were as many tokens as bytes, every answer as long as it may be, and none failed


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
        self._asked = self._failed = self._in_a_row = 0
        self._lock = threading.Lock()
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
            with self._lock:
                self._asked, self._failed, self._in_a_row = self._asked + 1, self._failed + 1, self._in_a_row + 1
                often = self._asked >= ASKED and self._failed > MOST_FAILED * self._asked
                if (often or self._in_a_row >= GIVE_UP) and not self.chat.stopping.is_set():
                    self.chat.stopping.set()
                    how = f"{self._failed} times of {self._asked}" if often else f"{GIVE_UP} times in a row"
                    raise BadInput(
                        f"judge at {self.chat.host} failed {how}, the last time: {error}; what it "
                        "answered is kept, and the same command continues"
                    ) from None
            return None
        except BaseException:
            self.chat.stopping.set()  # at once: this thread would begin another call before the main one has read of it
            raise
        with self._lock:
            self._asked, self._in_a_row = self._asked + 1, 0
        self.cache.put(key, found)
        return found

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
