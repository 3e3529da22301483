"""What judging over HTTP costs, and what is kept of it: prices, a budget that is not exceeded, answers on disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from core.errors import BadInput, reason

PROBE = 1 << 16  # characters written to see whether a cache takes them


class OverBudget(BadInput):
    """The next call could exceed what may be spent."""


class Usage(NamedTuple):
    """Tokens that were paid for."""

    prompt: int = 0
    completion: int = 0

    def plus(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion)


class Price(NamedTuple):
    """USD for a million tokens."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        """USD."""
        return (self.prompt * usage.prompt + self.completion * usage.completion) / 1e6

    @classmethod
    def parse(cls, text: str) -> Price:
        """ "0.15,0.6" -> Price(0.15, 0.6). Raises: BadInput for anything else."""
        try:
            prompt, completion = (float(one) for one in text.split(","))
        except ValueError:
            prompt = completion = -1.0
        if not (0 <= prompt < float("inf") and 0 <= completion < float("inf")):
            raise BadInput(f"price {text!r}: expected USD for a million tokens of prompt and of answer, like 0.15,0.6")
        return cls(prompt, completion)


class Budget:
    """Money that concurrent calls draw on: each sets aside the most it can cost, and settles for what it did."""

    def __init__(self, limit: float) -> None:
        self.limit, self.spent = limit, 0.0  # USD
        self._aside, self._open = 0.0, 0  # USD, and calls that hold them
        self._changed = threading.Condition()

    @contextmanager
    def call(self, most: float) -> Iterator[list[float]]:
        """A call that costs at most `most`; the block appends what it did cost (without that: all of it).

        Waits while other calls hold what it would need. Raises: OverBudget if it could exceed the limit all the same.
        """
        with self._changed:
            while self.spent + self._aside + most > self.limit:
                if not self._open:
                    raise OverBudget(f"stopped at {self.spent:.4f} USD: the next call could exceed --max-cost "
                                     f"{self.limit:g}")  # fmt: skip
                self._changed.wait()
            self._aside, self._open = self._aside + most, self._open + 1
        cost: list[float] = []
        try:
            yield cost
        finally:
            with self._changed:
                self.spent += cost[0] if cost else most
                self._open -= 1
                self._aside = self._aside - most if self._open else 0.0  # no residue of rounding
                self._changed.notify_all()


class Kept(NamedTuple):
    """An answer as it is kept."""

    answer: str  # "" where there was none
    usage: Usage


class Cache:
    """Answers by the hash of what was asked, in an SQLite file; each is on disk when `put` returns.

    Several processes may use one file. Holds no texts but the answers, and no key.
    """

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        """`timeout`: seconds to wait for another process that writes.

        Raises: BadInput where nothing can be kept: no such place, no right to write, no room, or another kind of file.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=timeout, check_same_thread=False, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise BadInput(f"cannot keep answers in {path}: {reason(error)}") from error
        try:
            self._connection.execute(
                "create table if not exists answers (hash text primary key, answer text not null, "
                "prompt_tokens integer not null, completion_tokens integer not null)"
            )
            self._try_writing()
        except sqlite3.Error as error:
            self._connection.close()
            raise BadInput(f"cannot keep answers in {path}: {error}") from error

    def _try_writing(self) -> None:
        """What would keep answers from being kept shows here, before any is paid for."""
        for found in self._connection.execute("pragma quick_check(1)"):
            if found != ("ok",):
                raise sqlite3.DatabaseError(f"the file is damaged ({' '.join(str(found[0]).split())})")
        try:
            self._connection.execute("insert or replace into answers values ('', ?, 0, 0)", ("x" * PROBE,))
        finally:
            self._connection.execute("delete from answers where hash = ''")

    def get(self, hashes: Iterable[str]) -> dict[str, Kept]:
        """Hash -> what is kept of it, for those that are there."""
        found = {}
        with self._lock, self._errors():
            for one in hashes:
                query = "select answer, prompt_tokens, completion_tokens from answers where hash = ?"
                with closing(self._connection.execute(query, (one,))) as rows:
                    for answer, *tokens in rows:
                        if not isinstance(answer, str) or any(type(count) is not int for count in tokens):
                            raise sqlite3.DatabaseError("an answer in it is no text with two numbers")
                        found[one] = Kept(answer, Usage(*tokens))
        return found

    def put(self, key: str, kept: Kept) -> None:
        """Keeps an answer; it survives a kill right after."""
        with self._lock, self._errors():
            row = (key, kept.answer, *kept.usage)
            self._connection.execute("insert or replace into answers values (?, ?, ?, ?)", row)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise BadInput(f"{self.path}: {error}") from error
