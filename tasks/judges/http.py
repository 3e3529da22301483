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

from core.errors import BadInput
from core.text import printable
from tasks.judges.chat import Body, Chat, Unreachable, bound
from tasks.judges.core import Pair, Progress, Verdict
from tasks.judges.spending import Cache, Kept, Usage
from tasks.judges.tally import Failures, Readings
from tasks.judges.templates import Asks
from tasks.judges.verdicts import read_choice
from tasks.language.core import UNFINISHED

MAX_TOKENS = 160  # of an answer: a sentence and a line
EXPECTED = 60  # of them, on average
BYTES = 4  # of English text a token, on average
SHOWN = 160  # characters of an answer that is given as an example


class Estimate(NamedTuple):
    """What judging would take."""

    calls: int  # that are yet to be made
    kept: int  # that were made before
    usage: Usage  # tokens expected
    cost: float  # USD expected
    most: float  # USD, if every text were as many tokens as bytes, every answer as long as it may be, and none failed


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
        template: Asks,
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
        hashed = self._hash({**empty, "template": template.sha256} if template.sha256 else empty)
        self.id = "-".join(filter(None, ("http", slug, template.slug, hashed[:8])))

    def verdicts(self, pairs: Sequence[Pair], progress: Progress | None = None) -> list[Verdict]:
        """See `Judge.verdicts`. Identical texts tie unasked. A pair is invalid if either order got no valid answer:
        for good if the judge answered something else `ANSWERS` times, for now (`unanswered`) if the server failed.

        Raises:
          OverBudget: what is yet to be asked could exceed the budget. What was answered is kept.
          BadInput: the server refuses, or fails time and again, or no verdict can be read of too many pairs that this
            call asks about; what was answered before does not count against the judge, so the same call continues.
        """
        orders = [self._orders(pair) for pair in pairs]
        requests = {self._hash(body): body for both in orders for body in both}
        kept = self.cache.get(requests)
        missing = {key: body for key, body in requests.items() if key not in kept}
        done = len(kept)
        report = progress or (lambda done, of: None)
        report(len(pairs) * done // max(len(requests), 1), len(pairs))
        self.chat.stopping.clear()
        self._failures, self._lock = Failures(), threading.Lock()
        self._readings = self._read_before(orders, kept)
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
        written = {"template_sha256": self.template.sha256} if self.template.sha256 else {}
        return {
            "kind": "http", "url": self.chat.url, **self._request("", "", ""), "template": self.template.name, **written
        }  # fmt: skip

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
            if often := self._count(True):
                raise BadInput(f"judge at {self.chat.host} failed {often}, the last time: {error}; what it answered is "
                               "kept, and the same command continues") from None  # fmt: skip
            return None
        except BaseException:
            self.chat.stopping.set()  # at once: this thread would begin another call before the main one has read of it
            raise
        self._count(False)
        self.cache.put(key, found)
        self._count_answer(key, found)
        return found

    def _read_before(self, orders: Sequence[Sequence[Body]], kept: Mapping[str, Kept]) -> Readings:
        """No pair counted yet, but what is known of the answers that were kept."""
        partners = dict[str, str]()
        for first, second in (map(self._hash, both) for both in orders if both):
            partners |= {first: second, second: first}
        return Readings(partners, {key: _readable(one) for key, one in kept.items()})

    def _count_answer(self, key: str, found: Kept) -> None:
        """Raises: BadInput where too many pairs have no verdict."""
        with self._lock:
            often = self._first(self._readings.count(key, _readable(found)))
        if often:
            unread = found if not _readable(found) else self.cache.get([self._readings.partners[key]]).popitem()[1]
            raise BadInput(f"judge at {self.chat.host}: no verdict could be read of {often}; an answer of it: "
                           f"{example(unread.answer)}; what it answered is kept, and the same command "
                           "continues")  # fmt: skip

    def _count(self, failed: bool) -> str:
        """Counts a question; how often the server failed, where that is too often."""
        with self._lock:
            return self._first(self._failures.count(failed))

    def _first(self, often: str) -> str:
        """The reason to stop, where there is one and nobody has given one yet, else ""."""
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


def _readable(found: Kept) -> bool | None:
    """Whether an answer holds a verdict; None for what a content filter refused, which is no answer."""
    return None if found == Kept("", Usage()) else read_choice(found.answer) is not None
