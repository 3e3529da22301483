"""When to give a judge up: its server fails too often, or too many of its answers hold no verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GIVE_UP = 5  # questions in a row that the server fails; pairs without a verdict, while no answer had any
MOST_FAILED, ASKED = 0.2, 20  # share of the questions that it may fail, once so many were asked
MOST_UNREAD, JUDGED = 1 / 3, 50  # share of the pairs that may have no verdict, once so many were asked about


@dataclass
class Failures:
    """How often a server failed."""

    asked: int = 0
    failed: int = 0
    in_a_row: int = 0

    def count(self, failed: bool) -> str:
        """Counts one more question; how often it failed, where that is too often, else ""."""
        self.asked, self.failed = self.asked + 1, self.failed + failed
        self.in_a_row = (self.in_a_row + 1) * failed
        if failed and self.asked >= ASKED and self.failed > MOST_FAILED * self.asked:
            return f"{self.failed} times of {self.asked}"
        return f"{GIVE_UP} times in a row" if self.in_a_row >= GIVE_UP else ""


@dataclass
class Readings:
    """How many pairs have no verdict that can be read. Pairs are counted, not answers: what cannot be compared in one
    order seldom can in the other."""

    partners: Mapping[str, str]  # a question -> the same pair in the other order
    readable: dict[str, bool | None] = field(default_factory=dict)  # None: a content filter's refusal, which is neither
    judged: int = 0  # pairs
    unread: int = 0

    def count(self, question: str, readable: bool | None) -> str:
        """Counts one more answer; of how many pairs no verdict can be read, where they are too many, else ""."""
        self.readable[question] = readable
        both = {readable, self.readable.get(self.partners[question])}
        if None in both:
            return ""
        self.judged, self.unread = self.judged + 1, self.unread + (False in both)
        if self.unread >= GIVE_UP and True not in self.readable.values():
            return f"any of {self.unread} pairs"
        if self.judged >= JUDGED and self.unread > MOST_UNREAD * self.judged:
            return f"{self.unread} of {self.judged} pairs"
        return ""
