"""Which of several processes carries out what, where all they share is a folder of results, or storage at a URL.

A claim is a file, `claims/<name>/<generation>`, which only one process can create (`harness.claim_files`). Its owner
writes it anew every few seconds. The next generation may be created by whoever sees it
unchanged for `silence` seconds by his own clock, or knows that its process is gone, or finds that its owner let go of
it. Generations only rise. An owner that finds another's, or one newer than its own, has lost the claim, and stops. So
nothing rests on equal clocks or on locks.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from core.errors import BadInput
from harness.claim_files import ClaimFiles

SILENCE_S = 120.0  # of an owner, after which it counts as gone
_BEATS = 6  # in that time
_AT_ONCE = 8  # claims that are asked for
_LET_GO = '{"owner": null}\n'


class Claims(Protocol):
    """What a process may take for itself."""

    shared: bool
    """Whether others may have taken what this process asks for."""

    def take(self, names: Sequence[str]) -> bool:
        """Whether all of these are this process's now: all or none."""

    def release(self, names: Sequence[str]) -> None: ...

    def free(self, names: Iterable[str]) -> bool:
        """Whether `take` would take them."""

    def sure(self) -> bool:
        """Whether nobody else can have taken what this process holds."""

    def preferred(self, numbers: Sequence[int]) -> list[int]:
        """Numbers of programs in the order in which this process asks for them."""


class Alone:
    """Nobody else is there."""

    shared = False

    def take(self, names: Sequence[str]) -> bool:
        del names
        return True

    def release(self, names: Sequence[str]) -> None: ...

    def free(self, names: Iterable[str]) -> bool:
        del names
        return True

    def sure(self) -> bool:
        return True

    def preferred(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers)


@dataclass(frozen=True)
class Shard:
    """The place of a process among others of the same command."""

    number: int = 0
    of: int = 1

    def preferred(self, numbers: Sequence[int]) -> list[int]:
        """Its own share first, then what it may take of the others'."""
        return sorted(numbers, key=lambda number: ((number - self.number) % self.of, number))


@dataclass
class Shared:
    """Claims that several processes see. Use it as a context: it beats meanwhile, and lets go of everything at the
    end."""

    files: ClaimFiles
    shard: Shard = field(default_factory=Shard)
    silence: float = SILENCE_S
    lost: Callable[[str], None] = lambda name: None
    """Hears of a claim that is no longer this process's."""
    dead: Mapping[str, int] = field(default_factory=dict)
    """Generations of claims that somebody has watched long enough (`abandoned`), for a process that is too young to."""
    shared = True

    def __post_init__(self) -> None:
        self._held: dict[str, int] = {}  # generations
        self._brief = self.files.brief(self.silence)
        self._dead = dict(self.dead)
        self._seen: dict[tuple[str, int], tuple[bytes, float]] = {}
        self._beats, self._me = 0, uuid4().hex
        self._guard, self._over = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._renewed = time.monotonic()
        """A moment since when all that is held was renewed."""

    def __enter__(self) -> Shared:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(self.silence / _BEATS)  # it may be waiting for storage that does not answer
        self.release(list(self._held))

    def sure(self) -> bool:
        """By half of the silence: the rest is for what is under way when this was asked."""
        return time.monotonic() - self._renewed < self.silence / 2

    def preferred(self, numbers: Sequence[int]) -> list[int]:
        return self.shard.preferred(numbers)

    def take(self, names: Sequence[str]) -> bool:
        if not self.free(names):
            return False
        taken: list[str] = []
        for name in sorted(names):  # in one order: two who want the same do not each get a half
            if not self._take(name):
                self.release(taken)
                return False
            taken.append(name)
        return True

    def release(self, names: Sequence[str]) -> None:
        with self._guard:
            held = {name: self._held.pop(name) for name in names if name in self._held}
            with contextlib.suppress(OSError, BadInput):  # storage that does not answer is not asked for each
                for name, generation in held.items():
                    if self._mine(name, generation):
                        self._brief.write(name, generation, _LET_GO)  # stays, so that numbers rise

    def free(self, names: Iterable[str]) -> bool:
        # each is looked at: the silences of all owners count from the same moment
        every = list(names)
        if len(every) == 1:
            return self._owned(every[0]) is None
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return not any([owned is not None for owned in pool.map(self._owned, every)])

    def abandoned(self, names: Iterable[str]) -> dict[str, int]:
        """Of claims that nobody stands behind any more, as far as this process has watched: their generations."""
        newest = {name: found[-1] for name in names if (found := self.files.generations(name))}
        return {name: generation for name, generation in newest.items() if self._gone(name, generation)}

    # one claim

    def _take(self, name: str) -> bool:
        found = self.files.generations(name)
        if found and not self._gone(name, found[-1]):
            return False
        generation = found[-1] + 1 if found else 0
        with self._guard:
            if not self.files.create(name, generation, self._text()):
                return False
            now = self.files.generations(name)
            if now[-1:] != [generation]:  # others were faster, and beyond it already
                self.files.remove(name, generation)
                return False
            self._held[name] = generation
        for old in found:
            self.files.remove(name, old)
        return True

    def _owned(self, name: str) -> int | None:
        """The claim that somebody holds."""
        found = self.files.generations(name)
        return found[-1] if found and not self._gone(name, found[-1]) else None

    def _gone(self, name: str, generation: int) -> bool:
        """Whether nobody stands behind a claim any more."""
        if self._dead.get(name) == generation:
            return True
        try:
            there = self.files.read(name, generation)
        except FileNotFoundError:  # a newer one is there
            return False
        silence = self.silence
        with contextlib.suppress(ValueError, KeyError, TypeError):
            owner = json.loads(there)
            if owner["owner"] is None or (owner["machine"] == machine() and not _runs(int(owner["process"]))):
                return True
            silence = max(silence, float(owner["silence"]))  # it may beat more slowly than this process would
        known = self._seen.get((name, generation))
        if known is None or known[0] != there:
            self._seen[name, generation] = there, time.monotonic()
            return False
        return time.monotonic() - known[1] > silence

    def _mine(self, name: str, generation: int) -> bool:
        """Whether a claim is this process's, and the newest."""
        if self._brief.generations(name)[-1:] != [generation]:
            return False
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
            return bool(json.loads(self._brief.read(name, generation))["owner"] == self._me)
        return False

    def _text(self) -> str:
        return json.dumps({"owner": self._me, "machine": machine(), "process": os.getpid(), "silence": self.silence,
                           "beat": self._beats})  # fmt: skip

    # the beat

    def _beat(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while not self._over.wait(self.silence / _BEATS):
                self._beats += 1
                began = time.monotonic()
                try:
                    list(pool.map(self._renew, list(self._held)))
                    self._renewed = began
                except Exception:  # storage that does not answer for a while; others see no beat
                    if not self.sure():
                        for name in list(self._held):
                            self._give_up(name)

    def _renew(self, name: str) -> None:
        if (generation := self._held.get(name)) is None:
            return
        mine = self._mine(name, generation)
        with self._guard:  # what is let go of meanwhile is not to be renewed
            if self._held.get(name) != generation:
                return
            if mine:
                self._brief.write(name, generation, self._text())
                return
        self._give_up(name)

    def _give_up(self, name: str) -> None:
        with self._guard:
            if self._held.pop(name, None) is None:
                return
        self.lost(name)


@functools.cache
def machine() -> str:
    """Where a process number means something: a boot of a machine, and a container in it."""
    marks = [platform.node()]
    for mark in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                 lambda: os.readlink("/proc/self/ns/pid")):  # fmt: skip
        with contextlib.suppress(OSError):
            marks.append(mark())
    return " ".join(marks)


def _runs(process: int) -> bool:
    """Whether a process of this machine is there, and more than an entry that its parent has not read."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
