"""How long programs take on workers of which some die: events in order of time, on a clock that nobody waits for.

Two ways to carry programs out. A `Driver` gives each free worker the ready program with the longest path ahead, in a
process of its own, and hears of a death at once. `Shards` are processes that look for themselves and claim what they
find (`harness.claims`), task by task as `harness.carry_out` goes through a plan; one that dies is missed only after a
silence. In both, what a worker had done since the last save is lost with it, and the program goes on elsewhere from
there.

Left out: that a process learns what others have finished only when it looks, and numbers anew what is left; that a
dead process's last beat comes before its end, which counts as one here.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from harness.claims import SILENCE_S, Shard
from harness.programs import longest
from harness.training import SAVE_EVERY_S

LOOK_S = (2.0, 30.0)  # pauses between looks, the shortest and the longest, as in `harness.carry_out`
LOOK_GROWS = 1.3  # from one pause to the next
_LOOKING_S = 1e-3  # that a look takes more than: after pauses of a silence together, a claim is dead


@dataclass(frozen=True)
class Timed:
    """A program, as far as its time is concerned."""

    seconds: float  # of work
    before: tuple[int, ...] = ()  # numbers of those that it has to wait for
    task: int = 0  # whose data it needs: shards go through the tasks in order


@dataclass(frozen=True)
class Cluster:
    """Workers, and what a death costs. All in seconds but for their number."""

    workers: int
    start: float = 20.0  # from the start of a process to its first program
    restart: float = 300.0  # from a death until the worker can start a process again
    save_every: float = SAVE_EVERY_S
    silence: float = SILENCE_S  # after which the claim of a dead process is free


class Bound(NamedTuple):
    """What no order of the programs can beat, in seconds."""

    total: float  # work
    path: float  # the longest chain of programs that wait for each other
    least: float  # of the makespan


class Span(NamedTuple):
    """One worker at one program, in seconds from the beginning."""

    worker: int
    number: int
    begin: float
    end: float
    finished: bool  # or the worker died


@dataclass(frozen=True)
class Outcome:
    """Of one simulation, in seconds."""

    spans: list[Span]  # in the order in which they ended
    lost: float  # work that was done again

    @property
    def makespan(self) -> float:
        """When the last program was finished."""
        return max((span.end for span in self.spans), default=0.0)

    @property
    def deaths(self) -> int:
        return sum(not span.finished for span in self.spans)


Deaths = Sequence[Sequence[float]]
"""Of each program, how far into what was then left of it workers died, as shares in [0, 1); one later finishes it."""


def drawn(count: int, probability: float, seed: int) -> Deaths:
    """Deaths that do not depend on who carries out what, and when: each time that a worker takes a program up it dies
    with this probability, anywhere on the way to the end."""
    rng = np.random.default_rng(seed)
    times = rng.geometric(1.0 - probability, count) - 1
    shares = iter(rng.random(int(times.sum())).tolist())
    return [list(itertools.islice(shares, each)) for each in times.tolist()]


def synthetic(count: int, seed: int) -> list[Timed]:
    """Lanes of one task in chains of two, a behaviour and the critic that reads it, 5 minutes to an hour each; numbered
    as a plan numbers them, all of one structure before those of the next."""
    chains = count - count // 2
    seconds = np.random.default_rng(seed).uniform(300.0, 3600.0, count).tolist()
    return [Timed(s, (number - chains,) if number >= chains else ()) for number, s in enumerate(seconds)]


def ahead(programs: Sequence[Timed]) -> list[float]:
    """Of each program the seconds of the longest path that it begins, its own among them."""
    return longest([one.seconds for one in programs], [one.before for one in programs])


def bound(programs: Sequence[Timed], workers: int) -> Bound:
    total, path = math.fsum(one.seconds for one in programs), max(ahead(programs), default=0.0)
    return Bound(total, path, max(total / workers, path))


class Simulation:
    """What both ways have in common: the clock, what is done of each program, who dies. Each is used once."""

    apart = False
    """Whether each program has a process of its own, with a start of its own; or a worker is one process."""

    def __init__(self, programs: Sequence[Timed], cluster: Cluster, deaths: Deaths) -> None:
        self.programs, self.cluster = programs, cluster
        self.now = 0.0
        self.left = [one.seconds for one in programs]
        self._start, self._each = (0.0, cluster.start) if self.apart else (cluster.start, 0.0)
        self._deaths = [iter(shares) for shares in deaths]
        self._waits = [len(set(one.before)) for one in programs]
        self._after: list[list[int]] = [[] for _ in programs]
        for number, one in enumerate(programs):
            for earlier in set(one.before):
                self._after[earlier].append(number)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()  # events of one time happen in the order in which they were set
        self._spans: list[Span] = []
        self._lost = 0.0

    def run(self) -> Outcome:
        """From the start of all workers to the end of the last program."""
        for number, waits in enumerate(self._waits):
            if not waits:
                self.ready(number)
        for worker in range(self.cluster.workers):
            self.at(self._start, partial(self.free, worker))
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        return Outcome(self._spans, self._lost)

    def at(self, time: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._count), happen))

    def begin(self, worker: int, number: int) -> None:
        """A worker takes up a program that nobody has, and either finishes it or dies."""
        share, left, begin = next(self._deaths[number], None), self.left[number], self.now + self._each
        happen = partial(self._finished if share is None else self._died, worker, number, begin)
        self.at(begin + (left if share is None else share * left), happen)

    def _finished(self, worker: int, number: int, begin: float) -> None:
        self._spans.append(Span(worker, number, begin, self.now, True))
        for later in self._after[number]:
            self._waits[later] -= 1
            if not self._waits[later]:
                self.ready(later)
        self.free(worker)

    def _died(self, worker: int, number: int, begin: float) -> None:
        self._spans.append(Span(worker, number, begin, self.now, False))
        done, every = self.now - begin, self.cluster.save_every
        kept = min(done // every * every, self.left[number])
        self.left[number] -= kept
        self._lost += done - kept
        self.abandoned(worker, number)
        self.at(self.now + self.cluster.restart + self._start, partial(self.free, worker))

    # what tells the ways apart

    def ready(self, number: int) -> None:
        """All that a program waited for is finished."""
        raise NotImplementedError

    def free(self, worker: int) -> None:
        """A worker has started, or finished a program."""
        raise NotImplementedError

    def abandoned(self, worker: int, number: int) -> None:
        """A worker has died at a program."""
        raise NotImplementedError


class Driver(Simulation):
    """Greedy list scheduling over all tasks at once."""

    apart = True

    def __init__(self, programs: Sequence[Timed], cluster: Cluster, deaths: Deaths) -> None:
        super().__init__(programs, cluster, deaths)
        self._behind = [path - one.seconds for path, one in zip(ahead(programs), programs, strict=True)]
        self._ready: list[tuple[float, int]] = []
        self._idle: list[int] = []

    def ready(self, number: int) -> None:
        heapq.heappush(self._ready, (-self.left[number] - self._behind[number], number))
        self._give()

    def free(self, worker: int) -> None:
        heapq.heappush(self._idle, worker)
        self._give()

    def abandoned(self, worker: int, number: int) -> None:
        del worker
        self.ready(number)

    def _give(self) -> None:
        while self._ready and self._idle:
            self.begin(heapq.heappop(self._idle), heapq.heappop(self._ready)[1])


class _Shelf:
    """Programs of one task that wait for nothing, by the shard whose own share they are."""

    def __init__(self, shards: int) -> None:
        self.free: list[list[int]] = [[] for _ in range(shards)]  # heaps of those that nobody has claimed
        self.dead: list[dict[int, float]] = [{} for _ in range(shards)]  # when the owners of the others' claims died
        self.size = 0

    def put(self, number: int) -> None:
        heapq.heappush(self.free[number % len(self.free)], number)
        self.size += 1

    def leave(self, number: int, now: float) -> None:
        self.dead[number % len(self.dead)][number] = now
        self.size += 1


class Shards(Simulation):
    """Processes that claim. Each goes through the tasks, takes in each what it finds, in the order of
    `Shard.preferred`, and after the last looks again from the first on. A claim is dead to a process that has known of
    it, without a beat, for as long as the silence: what a process knows dies with it.

    Nothing happens on a look at what has not changed. So a process that found nothing sleeps until something does, and
    then looks when it would have anyway, after pauses that grow (`turn_after`)."""

    def __init__(self, programs: Sequence[Timed], cluster: Cluster, deaths: Deaths) -> None:
        super().__init__(programs, cluster, deaths)
        count = cluster.workers
        # numbers of equal rest are one shard's share, so the order of the rests is that of the numbers
        self._orders = [Shard(worker, count).preferred(range(count)) for worker in range(count)]
        tasks = 1 + max((one.task for one in programs), default=-1)
        self._shelves = [_Shelf(count) for _ in range(tasks)]
        self._place: list[int] = []  # of each program among those of its task: shards number them so
        members: list[list[int]] = [[] for _ in range(tasks)]
        for number, one in enumerate(programs):
            self._place.append(len(members[one.task]))
            members[one.task].append(number)
        self._members = members
        self._task = [0] * count  # how many tasks a process has gone through, from one of its own on
        self._seen: list[dict[tuple[int, int], tuple[float, float]]] = [{} for _ in range(count)]
        self._idle: dict[int, float] = {}  # since when
        self._pause = [LOOK_S[0]] * count  # before the next look of one that finds nothing
        self._next = [math.inf] * count  # look of an idle one

    def ready(self, number: int) -> None:
        self._shelves[self.programs[number].task].put(self._place[number])
        self._wake()

    def free(self, worker: int) -> None:
        self._look(worker)

    def abandoned(self, worker: int, number: int) -> None:
        self._shelves[self.programs[number].task].leave(self._place[number], self.now)
        self._seen[worker], self._task[worker], self._pause[worker] = {}, 0, LOOK_S[0]
        self._wake()

    def _look(self, worker: int) -> None:
        """Takes the first program that can be had, from the task that the process is at on, once round."""
        while self._task[worker] < len(self._shelves):
            task = (self._task[worker] + worker * len(self._shelves) // len(self._orders)) % len(self._shelves)
            place = self._found(worker, task) if self._shelves[task].size else None
            if place is not None:
                self._idle.pop(worker, None)
                self._shelves[task].size -= 1
                self.begin(worker, self._members[task][place])
                return
            self._task[worker] += 1
        self._task[worker] = 0
        self._idle[worker] = self.now
        self._sleep(worker)

    def _found(self, worker: int, task: int) -> int | None:
        """The first program of a task that can be had, by its place; it is no longer on the shelf."""
        shelf = self._shelves[task]
        for rest in self._orders[worker]:
            free, dead = shelf.free[rest], shelf.dead[rest]
            for place in sorted(dead):
                if free and free[0] < place:
                    break
                if self._gone(worker, task, place, dead[place]):
                    del dead[place]
                    return place
            if free:
                return heapq.heappop(free)
        return None

    def _gone(self, worker: int, task: int, place: int, died: float) -> bool:
        """Whether a dead process's claim is so to this one, which knows of it from now on."""
        known = self._seen[worker].get((task, place))
        if known is None or known[0] != died:  # of an earlier owner
            self._seen[worker][task, place] = died, self.now
            return False
        return self.now >= self._dead_at(known[1])

    def _dead_at(self, known: float) -> float:
        """When a claim is dead to a process that has known of it since then."""
        return known + self.cluster.silence - _LOOKING_S

    # idle ones

    def _sleep(self, worker: int) -> None:
        """Until something is there that it has not looked at, or a claim that it knows is dead to it."""
        self._next[worker] = math.inf
        for task, shelf in enumerate(self._shelves):
            if not shelf.size:
                continue
            if any(shelf.free):  # since it was at that task
                self._look_after(worker, self.now)
            for place, died in itertools.chain(*(dead.items() for dead in shelf.dead)):
                known = self._seen[worker].get((task, place))
                later = known is not None and known[0] == died
                self._look_after(worker, self._dead_at(known[1]) if known and later else self.now)

    def _wake(self) -> None:
        for worker in self._idle:
            self._look_after(worker, self.now)

    def _look_after(self, worker: int, time: float) -> None:
        """The idle process looks at its first turn after a time, unless it does so earlier."""
        turn, pause = turn_after(self._idle[worker], self._pause[worker], time)
        if turn < self._next[worker]:
            self._next[worker] = turn
            self.at(turn, partial(self._turn, worker, turn, pause))

    def _turn(self, worker: int, turn: float, pause: float) -> None:
        if worker in self._idle and self._next[worker] == turn:  # or it has looked meanwhile
            self._pause[worker] = pause
            self._look(worker)


def turn_after(since: float, pause: float, time: float) -> tuple[float, float]:
    """When a process looks first after a time, if it waits since `since`, at first for `pause`; and its pause then.
    Seconds; `time` is not before `since`."""
    turn = since
    while turn <= time:
        turn += pause
        pause = min(LOOK_GROWS * pause, LOOK_S[1])
        if pause == LOOK_S[1] and turn < time:  # from here on they are equal
            turn += (time - turn) // pause * pause
    return turn, pause
