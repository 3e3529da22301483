"""One program's work: training spans, saves, and the evaluations of the trials whose last stage it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from harness.arrays import fitted, single, stacked
from harness.attempts import Cohort
from harness.ending import Interrupted
from harness.plan import Lane
from harness.programs import Program
from harness.session import Session
from harness.table import Table
from harness.train import Algorithm, ChunkResult, Lanes, Trainer, failure, initial_state, lanes_of, spans
from harness.work import ProgramWork, Stores
from methods.core import Columns, State
from tasks.data.series import Series

SAVE_EVERY_S = 120.0  # between saves; a crash loses that much and the span (`log_every` steps) in hand


class Training(ProgramWork):
    """Of methods that act in an environment: all lanes in one compiled program."""

    def __init__(
        self, session: Session, program: Program, stores: Stores, cohorts: Sequence[Cohort], columns: Columns,
        log_every: int, series: Series | None = None, file_of: Callable[[int], Columns] | None = None,
    ) -> None:  # fmt: skip
        """`columns`: the dataset's, on the device; `log_every`: steps in one dispatched span; `file_of`: of a
        `series` of files, the columns of one."""
        super().__init__(session, program, stores, cohorts)
        self.data, self.log_every = columns, log_every
        self.series, self.file_of = series, file_of
        self.rows: dict[int, list[dict[str, Any]]] = {}  # of train.csv, by place, since the last save
        self.algorithm = Algorithm(program.first.method, self.node.number)
        self.lanes = self._lanes()
        watched = {attempt.last.fingerprint for cohort in cohorts for attempt in cohort.attempts.values()}
        self.own = {
            place: Table(stores(lane).folder / "train.csv", self.step)
            for place, lane in self.live.items() if lane.fingerprint not in watched
        }  # fmt: skip

    def _lanes(self) -> Lanes:
        """Places that nobody asks for are held by copies of the first lane."""
        lanes = [slot.lane or self.program.first for slot in self.program.slots]
        return lanes_of([lane.seed for lane in lanes], [lane.method for lane in lanes])

    def train(self) -> None:
        if state := self._begin():
            self._train(state)

    # the state

    def _begin(self) -> State:
        """The parts that the stage trains or reads, `[l, ...]`, as they are after `step`; {} if no lane has them.
        Places that do not train are held by copies of one that does."""
        method = self.program.first.method
        like = jax.eval_shape(method.init, jax.eval_shape(lambda: jax.random.key(0)))
        shapes = self._like({name: part for name, part in like.items() if name in self.stage.trains})
        found = self.each(lambda lane: {**self._read(lane, like), **(self._load(lane, shapes) if self.step else {})})
        if not found:
            return {}
        filler = next(iter(found.values()))
        state = stacked([found.get(place, filler) for place in range(len(self.program.slots))]) if filler else {}
        return state if self.step else self._started(state)

    def _read(self, lane: Lane, like: State) -> State:
        """What earlier lanes made for this one."""
        found: State = {}
        for before in {one.fingerprint: one for one in lane.reads.values()}.values():
            store = self.stores(before)
            parts = {part: like[part] for part, one in lane.reads.items() if one.fingerprint == before.fingerprint}
            found |= fitted(store.load(), parts, str(store.folder))
        return found

    def _load(self, lane: Lane, like: State) -> State:
        store = self.stores(lane)
        return fitted(store.load(self.step), like, str(store.folder))

    def _started(self, before: State) -> State:
        """The state before the first step; `before`: the parts of earlier lanes."""
        return {**before, **initial_state(self.program.first.method, self.lanes, sorted(self.stage.trains))}

    def _like(self, trained: State) -> State:
        """The shapes of what a lane's store holds of the step resumed from."""
        return trained

    # the way

    def _train(self, state: State) -> None:
        for lane in self.live.values():
            self.stores(lane).begin(self.batch)
        compiled = self.session.kept(("spans", self.program.first.structure, len(self.batch)), dict)
        with self._looking() as watch:
            trainer = Trainer(self.algorithm, self.lanes, self.data, state, compiled, watch)
        state = trainer.complete(state)
        held = 0  # the file of a series that the trainer has: a dataset's own columns are the first's
        if self.series:
            self.data = {}
        self._saved = time.monotonic()
        with self.session.progress.stage(self._label(), self.stage.steps, self.step) as bar:
            self._evaluate_or_save(state, trainer.seconds)
            for edge in self._edges():
                for first, count in self._spans(edge):
                    if not self.live:
                        return
                    if self.series and self.file_of and (place := self.series.place(first)) != held:
                        trainer.columns = {}
                        trainer.columns, held = self.file_of(place), place
                    state, result = trainer.run(state, first, count)
                    self.step = first + count
                    self._take(result)
                    bar.advance(count)
                    if self.session.stop():
                        self._save(state, trainer.seconds)
                        raise Interrupted
                    if time.monotonic() - self._saved > SAVE_EVERY_S:
                        self._save(state, trainer.seconds)
                self._evaluate_or_save(state, trainer.seconds, finished=self.step == self.stage.steps)
            if any(not self.stores(lane).finished for lane in self.live.values()):
                self._save(
                    state, trainer.seconds, finished=True
                )  # an earlier session was stopped before this was noted

    @contextlib.contextmanager
    def _looking(self) -> Iterator[Callable[[int], None]]:
        """What is told of rows that a stage looks at before its first step. Raises there: `Interrupted`."""
        if self.stage.prepare is None:
            yield lambda rows: None
            return
        total = len(next(iter(self.data.values())))
        with self.session.progress.stage(f"{self._label()}: a look at all rows", total, 0.0) as bar:

            def watch(rows: int) -> None:
                bar.advance(rows)
                if self.session.stop():
                    raise Interrupted

            yield watch

    def _spans(self, edge: int) -> list[tuple[int, int]]:
        """(first, count) pieces up to an edge; of a series none learns from two files."""
        pieces = spans(self.step, edge, self.log_every)
        if self.series is None:
            return pieces
        return [piece for first, count in pieces for piece in spans(first, first + count, self.series.every)]

    def _label(self) -> str:
        names = list(dict.fromkeys(cohort.run.method.name for cohort in self.cohorts)) or [
            self.program.first.method.name
        ]
        count = len(self.live)
        return (
            f"{', '.join(names)} on {self.program.first.task.name}: {self.stage.name}, {count} lane{'s' * (count > 1)}"
        )

    def _edges(self) -> list[int]:
        """The stage's steps to come at which someone is evaluated, and its last."""
        wanted = {step - self.node.first for cohort in self.cohorts for step in cohort.run.evaluation_steps()}
        return sorted(step for step in wanted | {self.stage.steps} if step > self.step)

    def _take(self, result: ChunkResult) -> None:
        """Logs what a span did; lanes that came to be not finite fail."""
        for place, lane in list(self.live.items()):
            if error := failure(self.stage.name, result, place, lane.seed, self.node.first):
                self.fail(place, error)
        self._log(result.metrics)

    def fail(self, place: int, error: Exception) -> None:
        self._flush([place])
        super().fail(place, error)

    def _evaluate(self, state: State) -> None:
        for cohort in self.cohorts:
            with cohort.failing():
                cohort.evaluate(self.node.first + self.step, partial(self._slice, cohort, state),
                                self.ready(cohort, training=True), self.shared)  # fmt: skip

    def _slice(self, cohort: Cohort, state: State) -> State:
        """The trained parts of a cohort's seeds, `[s, ...]`; a seed that is not here gets another's."""
        known = {attempt.trial.seed: self.places[attempt.last.fingerprint] for attempt in cohort.attempts.values()}
        places = [known.get(seed, 0) for seed in cohort.seeds]
        trained = self._trained(state)
        if places == list(range(len(self.program.slots))):
            return trained
        chosen = np.array(places)
        return jax.tree.map(lambda leaf: leaf[chosen], trained)

    def _trained(self, state: State) -> State:
        return {name: part for name, part in state.items() if name in self.stage.trains}

    def _evaluate_or_save(self, state: State, seconds: dict[str, float], *, finished: bool = False) -> None:
        """Evaluates, saves, and lets go of lanes whose trials have all failed."""
        try:
            self._evaluate(state)
        except Interrupted:
            self._save(state, seconds)
            raise
        if self.step:
            self._save(state, seconds, finished=finished)
        self.drop_unwatched()

    def _log(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Keeps a row of train.csv for each lane until the next save: of what comes later nothing is left anyway."""
        names = sorted(metrics)
        for place, lane in self.live.items():
            row = {"seed": lane.seed, "step": self.node.first + self.step, **{n: metrics[n][place] for n in names}}
            self.rows.setdefault(place, []).append(row)

    def _flush(self, places: Sequence[int]) -> None:
        """Writes the rows that were kept."""
        for place in places:
            rows = self.rows.pop(place, [])
            if rows and place in self.own:
                self.own[place].append(rows)
            for cohort, attempt in self.watching(self.live[place]) if rows else ():
                with cohort.failing_one(attempt):
                    attempt.learned(rows)

    def _save(self, state: State, seconds: dict[str, float], *, finished: bool = False) -> None:
        """Saves what to resume from, and the seconds since the last time, which start anew."""
        self._flush(list(self.live))
        kept = jax.device_get(self._kept(state))
        share = {name: value / max(len(self.live), 1) for name, value in seconds.items()}
        self.store(partial(single, kept), share, finished=finished)
        seconds.update(dict.fromkeys(seconds, 0.0))
        self._saved = time.monotonic()

    def _kept(self, state: State) -> State:
        """What is saved, `[l, ...]`."""
        return self._trained(state)
