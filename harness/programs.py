"""Lanes -> programs: lanes of equal structure that train side by side, and the trials that end with them.

What is trained side by side makes a difference to rounding alone, and is kept for good: a lane that was begun goes on
in the batch that it was begun in (`LaneStore.batch`), whatever is asked for now. Lanes of that batch that nobody asks
for, or that are finished or have failed, hold their places in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
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
    needed: frozenset[str] = frozenset()  # fingerprints of lanes that others read, or policies of other lanes' trials
    done: bool = False  # whether the lanes are finished, and only evaluations are to do

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
    batch: tuple[str, ...] = ()  # of one that was begun


def programs(trials: Sequence[Trial], stored: Callable[[Lane], Stored], most: Callable[[Lane], int]) -> list[Program]:
    """What has to be carried out for `trials`, which are unfinished.

    Args:
      stored: what there is of a lane.
      most: how many lanes like this one may train side by side.
    """
    ends: dict[str, list[Trial]] = {}
    lanes: dict[str, Lane] = {}
    for trial in trials:
        chain = trial.lanes()
        lanes |= {lane.fingerprint: lane for lane in chain if lane.fingerprint not in lanes}
        ends.setdefault(chain[-1].fingerprint, []).append(trial)
    found = {fingerprint: stored(lane) for fingerprint, lane in lanes.items()}
    # a lane that was killed before its first save is known by those that were begun beside it
    begun = {one: there.batch for there in found.values() for one in there.batch}
    needed = frozenset(one.fingerprint for trial in trials for one in trial.lanes()[:-1])
    groups: dict[Any, list[Lane]] = {}
    for fingerprint, lane in lanes.items():
        there = found[fingerprint]
        if not there.finished or fingerprint in ends:
            batch = there.batch or begun.get(fingerprint, ())
            key = (lane.structure, there.finished, () if there.finished else batch)
            groups.setdefault(key, []).append(lane)
    made = []
    for (_, finished, batch), members in groups.items():
        size = len(members) if finished else most(members[0])
        pieces = [batch] if batch else _cut([lane.fingerprint for lane in members], size)
        asked = {lane.fingerprint: lane for lane in members}
        for piece in pieces:
            slots = tuple(Slot(one, asked.get(one)) for one in piece)
            watching = tuple(trial for one in piece if one in asked for trial in ends.get(one, ()))
            made.append(Program(slots, watching, needed & asked.keys(), finished))
    return made


def _cut(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """In pieces of at most `size`, as even as can be."""
    count = -(-len(items) // size)
    edges = [round(len(items) * number / count) for number in range(count + 1)]
    return [tuple(items[first:last]) for first, last in itertools.pairwise(edges)]


def order(made: Sequence[Program]) -> TopologicalSorter[int]:
    """Hands out the numbers of programs whose lanes read nothing that is still to be trained, nor do the policies that
    are evaluated while they train. A trial that goes on online from another comes after that one's evaluation."""
    trains = {lane.fingerprint: number for number, program in enumerate(made) for lane in program.lanes}
    evaluates: Mapping[tuple[str, int], int] = {
        (trial.run.fingerprint, trial.seed): number for number, program in enumerate(made) for trial in program.trials
    }
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for number, program in enumerate(made):
        reads = {one.fingerprint for lane in program.lanes for one in lane.reads.values()}
        reads |= {lane.fingerprint for trial in program.trials for lane in trial.lanes()}
        before = {trains[one] for one in reads if one in trains}
        earlier = [trial.before for trial in program.trials if trial.before]
        keys = [(trial.run.fingerprint, trial.seed) for trial in earlier]
        sorter.add(number, *(before | {evaluates[key] for key in keys if key in evaluates}) - {number})
    return sorter
