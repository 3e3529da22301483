"""What the work of one program is, whatever computes: its lanes go on from where their stores left off, are saved on
the way and fail alone; then the trials that end with them are evaluated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness.attempts import Attempt, Cohort
from harness.ending import Interrupted, is_of_one_run, summary
from harness.plan import Lane
from harness.programs import Program
from harness.session import Session
from harness.store import LaneStore

Stores = Callable[[Lane], LaneStore]


class ProgramWork:
    """The rest of one program. A subclass brings the training of its lanes (`train`)."""

    columns: tuple[str, ...] = ()  # of train.csv, where they must be known beforehand

    def __init__(self, session: Session, program: Program, stores: Stores, cohorts: Sequence[Cohort]) -> None:
        self.session, self.program, self.stores, self.cohorts = session, program, stores, cohorts
        self.node, self.stage = program.first.node, program.first.node.stage
        self.places = {slot.fingerprint: place for place, slot in enumerate(program.slots)}
        self.batch = list(self.places)
        finished = {lane.fingerprint: stores(lane).finished for lane in program.lanes}
        self.live: dict[int, Lane] = {  # the lanes that train, by their places
            self.places[lane.fingerprint]: lane for lane in program.lanes if not finished[lane.fingerprint]
        }
        self.step = self._common_step()
        for cohort in cohorts:
            rows = 0
            with cohort.failing():
                rows = cohort.evaluator.rows
            for attempt in cohort.running:
                done = finished[attempt.last.fingerprint]
                with cohort.failing_one(attempt):
                    attempt.open(self.stage.steps if done else self.step, rows,
                                 adopted=stores(attempt.last).adopted, columns=self.columns)  # fmt: skip

    def _common_step(self) -> int:
        """The last step of which every lane has its state; states after it are given up."""
        there = [{0, *self.stores(lane).steps} for lane in self.live.values()]
        step = max(set.intersection(*there)) if there else self.stage.steps
        for lane in self.live.values():
            self.stores(lane).go_back(step)
        return step

    def train(self) -> None:
        """Trains the lanes in `live` to their ends; those that fail leave it."""
        raise NotImplementedError

    def finish(self) -> None:
        """Trains and evaluates to the stage's end, saving on the way. What fails is a lane and its trials."""
        self.drop_unwatched()
        if self.live:
            self.train()
        for cohort in self.cohorts:  # of lanes that were finished before, or are evaluated at their ends alone
            with cohort.failing():
                cohort.evaluate(self.last, partial(cohort.parts, last=True), self.ready(cohort), self.shared)

    @property
    def last(self) -> int:
        """The stage's last step, as records count."""
        return self.node.first + self.stage.steps

    @property
    def shared(self) -> bool:
        """Whether several runs are evaluated by turns."""
        return len(self.cohorts) > 1

    def watching(self, lane: Lane) -> list[tuple[Cohort, Attempt]]:
        """The running trials that end with a lane."""
        return [(cohort, attempt) for cohort in self.cohorts for attempt in cohort.running
                if attempt.last.fingerprint == lane.fingerprint]  # fmt: skip

    def ready(self, cohort: Cohort, training: bool = False) -> list[int]:
        """Seeds of a cohort whose lanes train, or are finished."""
        lanes = {lane.fingerprint for lane in self.live.values()}
        return [attempt.trial.seed for attempt in cohort.running
                if (attempt.last.fingerprint in lanes if training else self.stores(attempt.last).finished)]  # fmt: skip

    def drop_unwatched(self) -> None:
        """Lanes whose trials have all failed (of their records, say) are not trained on for nobody."""
        for place, lane in list(self.live.items()):
            if lane.fingerprint not in self.program.needed and not self.watching(lane):
                del self.live[place]

    def each(self, do: Callable[[Lane], Any]) -> dict[int, Any]:
        """What `do` finds for each lane that trains, by its place. A lane for which it fails does so alone."""
        found = {}
        for place, lane in list(self.live.items()):
            try:
                found[place] = do(lane)
            except Exception as error:
                if not is_of_one_run(error):
                    raise
                self.fail(place, error)
        return found

    def fail(self, place: int, error: Exception) -> None:
        """A lane fails alone: it holds its place, and the trials that need it end."""
        lane = self.live.pop(place)
        self.session.fail(lane, summary(error))
        watching = self.watching(lane)
        for cohort, attempt in watching:
            cohort.fail(error, [attempt.trial.seed])
        if not watching:
            self.session.progress.say(f"{lane.label}, seed {lane.seed}: failed: {summary(error)}")

    def store(self, parts: Callable[[int], Mapping[str, Any]], seconds: Mapping[str, float], *, finished: bool) -> None:
        """Stores the parts of every lane that trains, by its place, as they are after `step`. The states before go once
        every lane has its new one. `seconds`: of each lane since the last time, by what was done."""

        if self.session.lost:  # another process saves there by now
            raise Interrupted

        def save(lane: Lane) -> None:
            self.stores(lane).save(self.step, parts(self.places[lane.fingerprint]), finished=finished,
                                   seconds=sum(seconds.values()), batch=self.batch)  # fmt: skip

        for place in self.each(save):
            self.stores(self.live[place]).prune()
        for lane in self.live.values():  # a lane's time goes on record of the first trial that watches it
            for cohort, attempt in itertools.islice(self.watching(lane), 1):
                with cohort.failing_one(attempt):
                    attempt.record.add_seconds(seconds)
                    attempt.record.save()
        trials = [attempt.folder for cohort in self.cohorts for attempt in cohort.attempts.values()]
        self.session.publish([*(self.stores(lane).folder for lane in self.live.values()), *trials])
