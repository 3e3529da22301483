"""Lanes -> programs: lanes of equal structure that train side by side, and the trials that end with them.

What is trained side by side makes a difference to rounding alone, and is kept for good: a lane that was begun goes on
in the batch that it was begun in (`LaneStore.batch`), whatever is asked for now. Lanes of that batch that nobody asks
for, or that are finished or have failed, hold their places in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from harness.plan import Lane, Trial


class Slot(NamedTuple):
    """A place in a batch."""

    fingerprint: str
    lane: Lane | None  # None: nobody asks for it now


@dataclass(frozen=True)
class Program:
    """Lanes that train side by side."""

    slots: tuple[Slot, ...]
    trials: tuple[Trial, ...]  # whose last lane is among them
    needed: frozenset[str] = frozenset()  # fingerprints of lanes that others read, or that trials act with
    done: bool = False  # whether the lanes are finished, and only evaluations are to do
    step: int = 0  # that training goes on from, by what was on disk when it was planned

    @property
    def lanes(self) -> list[Lane]:
        return [slot.lane for slot in self.slots if slot.lane]

    @property
    def training(self) -> list[Lane]:
        """Those that are to be trained."""
        return [] if self.done else self.lanes

    @property
    def first(self) -> Lane:
        """Stands for all: what shapes the program is equal."""
        return self.lanes[0]


class Stored(NamedTuple):
    """What is on disk of a lane."""

    finished: bool = False
    batch: tuple[str, ...] = ()  # that it was begun in
    steps: tuple[int, ...] = ()  # of which its state is there


def programs(
    trials: Sequence[Trial], stored: Callable[[Lane], Stored], most: Callable[[Lane], int],
    asked: Sequence[Trial] = (),
) -> list[Program]:  # fmt: skip
    """What has to be carried out for `trials`, which are unfinished.

    Args:
      stored: what there is of a lane.
      most: how many lanes like this one may train side by side.
      asked: all that the user asks for, finished or not: lanes that are too many for one program are cut as if none
        had been trained, so that a command that is stopped and gone on with has the same programs.
    """
    lanes: dict[str, Lane] = {}
    needed: set[str] = set()
    for trial in trials:
        chain = trial.lanes()
        lanes |= {lane.fingerprint: lane for lane in chain if lane.fingerprint not in lanes}
        needed |= {lane.fingerprint for lane in chain[:-1]}
    beside: dict[Any, dict[str, None]] = {}
    for trial in asked:
        for lane in trial.lanes():
            beside.setdefault(lane.structure, {})[lane.fingerprint] = None
    return grouped(list(lanes.values()), trials, needed, stored, most, beside=beside)


def grouped(
    lanes: Sequence[Lane], trials: Sequence[Trial], needed: Collection[str], stored: Callable[[Lane], Stored],
    most: Callable[[Lane], int], failed: Collection[str] = (), beside: Mapping[Any, Iterable[str]] | None = None,
) -> list[Program]:  # fmt: skip
    """The same for lanes that are looked up already.

    Args:
      needed: see `Program`.
      failed: fingerprints of lanes that hold a place and no more, so that the others' numbers are what they would be
        beside them.
      beside: fingerprints of all that is asked for, by structure; by default those of `lanes`.

    Lanes that were begun side by side, but go on from different steps, are programs of their own, in which the others
    hold their places. A batch of which nothing was saved is kept if it is not larger than `most` allows.
    """
    ends: dict[str, list[Trial]] = {}
    for trial in trials:
        ends.setdefault(trial.lanes()[-1].fingerprint, []).append(trial)
    found = {lane.fingerprint: stored(lane) for lane in lanes}
    # a process that was killed as it began may have noted the batch of some of its lanes alone
    batches = {one: there.batch for there in found.values() if not there.finished for one in there.batch}
    groups: dict[Any, list[Lane]] = {}
    for lane in lanes:
        there = found[lane.fingerprint]
        if not there.finished or lane.fingerprint in ends:
            batch = () if there.finished else batches.get(lane.fingerprint, ())
            if batch and len(batch) > most(lane) and not any(found[one].steps for one in batch if one in found):
                batch = ()  # it may have been more than the memory holds
            groups.setdefault((lane.structure, there.finished, batch), []).append(lane)
    made = []
    for (structure, finished, batch), members in groups.items():
        asked = {lane.fingerprint: lane for lane in members}
        if batch:
            parts = _in_step({one: found[one].steps or (0,) for one in asked})
            pieces = [(step, tuple(Slot(one, asked[one] if one in part else None) for one in batch))
                      for step, part in parts]  # fmt: skip
        else:
            every = list((beside or {}).get(structure, asked))
            pieces = [(0, tuple(Slot(one, asked[one]) for one in part if one in asked))
                      for part in _cut(every, most(members[0]))]  # fmt: skip
        for step, places in pieces:
            slots = tuple(Slot(one, None if one in failed else lane) for one, lane in places)
            mine = [slot.fingerprint for slot in slots if slot.lane]
            if not mine:
                continue
            watching = tuple(trial for one in mine for trial in ends.get(one, ()))
            made.append(Program(slots, watching, frozenset(needed).intersection(mine), finished, step))
    return made


def _in_step(steps: Mapping[str, Sequence[int]]) -> list[tuple[int, set[str]]]:
    """Lanes by steps of which their states are there, parted into those that can go on from one step together."""
    left, parts = dict(steps), list[tuple[int, set[str]]]()
    while left:
        common = min(max(there) for there in left.values())
        parts.append((common, {one for one, there in left.items() if common in there}))
        left = {one: there for one, there in left.items() if one not in parts[-1][1]}
    return parts


def _cut(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """In pieces of at most `size`, as even as can be."""
    count = -(-len(items) // size)
    edges = [round(len(items) * number / count) for number in range(count + 1)]
    return [tuple(items[first:last]) for first, last in itertools.pairwise(edges)]


def order(made: Sequence[Program]) -> TopologicalSorter[int]:
    """Hands out the numbers of programs that have nothing to wait for any more (`waits`)."""
    return TopologicalSorter(dict(enumerate(waits(made))))


def longest(weights: Sequence[float], before: Sequence[Collection[int]]) -> list[float]:
    """Of each program the weight of the longest path that it begins, its own among it; `before`: see `waits`."""
    found = list(weights)
    for number in reversed(list(TopologicalSorter(dict(enumerate(before))).static_order())):
        for earlier in before[number]:
            found[earlier] = max(found[earlier], weights[earlier] + found[number])
    return found


def waits(made: Sequence[Program]) -> list[set[int]]:
    """Of each program the numbers of those before it: they train what its lanes read, or what its trials act with. A
    trial that goes on online from another comes after that one's evaluation."""
    trains = {lane.fingerprint: number for number, program in enumerate(made) for lane in program.lanes}
    evaluates: Mapping[tuple[str, int], int] = {
        (trial.run.fingerprint, trial.seed): number for number, program in enumerate(made) for trial in program.trials
    }
    found = []
    for number, program in enumerate(made):
        reads = {one.fingerprint for lane in program.lanes for one in lane.reads.values()}
        reads |= {lane.fingerprint for trial in program.trials for lane in trial.lanes()[:-1]}
        before = {trains[one] for one in reads if one in trains}
        earlier = [trial.before for trial in program.trials if trial.before]
        keys = [(trial.run.fingerprint, trial.seed) for trial in earlier]
        found.append((before | {evaluates[key] for key in keys if key in evaluates}) - {number})
    return found
