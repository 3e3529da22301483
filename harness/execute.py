"""Carries out planned runs, here and now: programs of lanes in the order in which they read each other, and with each
program's last spans the evaluations of the trials that end with its lanes.

A lane fails alone, and with it the trials and lanes that need it; so does a trial whose record or environment fails.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from core.files import read_plain, write_lines
from core.remote import Unreachable
from harness import provenance, record
from harness.attempts import Attempt, cohorts, fail, leave
from harness.claims import Alone, Claims
from harness.config import RunSettings
from harness.ending import Interrupted, is_of_one_run, summary
from harness.engine import Engine
from harness.engines import engine_of
from harness.plan import Lane, RunNode, Trial
from harness.programs import Program, Stored, grouped, order
from harness.remaining import folders, most_lanes, on_disk, remaining, status
from harness.session import Session, seeds_text
from harness.stale import OUTCOMES, Stale
from harness.store import Author, LaneStore
from methods.core import BadInput
from tasks.core import Dataset

ELSEWHERE = "elsewhere"  # the status of a trial that another process carries out
_UNFINISHED = ("failed", "busy", "waiting", "running", ELSEWHERE)  # from the worst


class StaleCode(BadInput):
    """Some of what is there was made by other code, and nobody said what to do with it."""


@dataclass(frozen=True)
class Common:
    """What the programs of one task have in common."""

    dataset: Dataset
    engine: Engine
    settings: RunSettings
    authors: Mapping[str, Author]  # of each lane, by fingerprint: the first run that asks for it

    @classmethod
    def of(cls, runs: Sequence[RunNode], dataset: Dataset) -> Common:
        authors: dict[str, Author] = {}
        engine = engine_of(runs[0].task.suite)
        for run in runs:
            code = provenance.code_of(type(run.method))
            author = Author(f"{run.label} ({run.fingerprint})", code, engine.device(run))
            for trial in run.trials():
                for lane in trial.lanes():
                    authors.setdefault(lane.fingerprint, author)
        return cls(dataset, engine, runs[0].settings, authors)


@dataclass
class Executor:
    """Carries out planned runs on this machine, `jobs` programs at a time. They share one device: while one compiles or
    waits for its simulators, another computes."""

    session: Session
    jobs: int = 1
    lanes: int | None = None  # the most that train in one program; None: as many as the device is thought to hold
    stale: str = ""  # "reuse" or "redo" what other code made; "": that is refused
    claims: Claims = field(default_factory=Alone)  # of lanes, where other processes carry out the same plan
    began: str = field(default_factory=record.now)
    only: frozenset[str] | None = (
        None  # fingerprints of lanes: programs without any of them are left to others; None: all
    )
    tried: set[str] = field(default_factory=set)  # fingerprints of lanes that were carried out here, to whatever end
    forgotten: set[Path] = field(default_factory=set)  # so that --fresh makes shared work anew once, not for each run

    def run(self, runs: Sequence[RunNode], dataset: Dataset, *, fresh: bool = False) -> list[str]:
        """Carries all runs to their ends, or as far as they get; returns their statuses. What others have claimed is
        left to them.

        Raises:
          StaleCode: see there.
          Interrupted: the user asked to stop; everything is saved.
        """
        statuses = self.trials(runs, dataset, fresh=fresh)
        return [_worst([statuses[trial] for trial in run.trials()]) for run in runs]

    def trials(self, runs: Sequence[RunNode], dataset: Dataset, *, fresh: bool = False) -> dict[Trial, str]:
        """As `run`, with the statuses of single seeds."""
        common = Common.of(runs, dataset)
        self.session.shared.clear()  # of another task
        statuses: dict[Trial, str] = {}
        self.session.storage.refresh(folders([trial for run in runs for trial in run.trials()], self.session.results))
        trials = self.settle(runs, statuses, fresh=fresh)
        ahead = remaining(trials, self.session.results, common.engine, self.lanes)
        for run, seeds in ahead.finished.items():
            statuses |= {Trial(run, seed): "finished" for seed in seeds}
            some = f", {seeds_text(seeds)}" if len(seeds) < len(run.settings.seeds) else ""
            if self.only is None:
                self.session.progress.say(f"{run.label}{some}: finished before ({run.fingerprint})")
        made = [one for one in ahead.programs if self.only is None or not self.only.isdisjoint(_names(one))]
        statuses |= self._all(made, common)
        left = (trial for trial in trials if trial not in statuses)
        return statuses | {trial: self._left(trial) for trial in left}

    def settle(self, runs: Sequence[RunNode], statuses: dict[Trial, str], *, fresh: bool) -> list[Trial]:
        """The trials that can be begun; with `fresh` nothing is left of them, and those that cannot be deleted have
        their status. Raises: StaleCode."""
        if fresh:
            return self._forget_all(runs, statuses)
        trials = [trial for run in runs for trial in run.trials()]
        self._settle(Stale(self.session.results, trials))
        return trials

    def _all(self, made: Sequence[Program], common: Common) -> dict[Trial, str]:
        """Carries out programs, as they become ready and are in nobody else's hands."""
        statuses: dict[Trial, str] = {}
        sorter, ready, running = order(made), list[int](), dict[Future[Mapping[Trial, str]], int]()
        sorter.prepare()
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while sorter.is_active():
                    ready += sorter.get_ready()
                    found = self._looked_at({number: made[number] for number in ready}, self.jobs - len(running))
                    for number, outcome in found.items():
                        ready.remove(number)
                        if outcome == "taken":
                            running[pool.submit(self._carry_out, made[number], common)] = number
                        else:
                            statuses |= dict.fromkeys(made[number].trials, outcome)
                            sorter.done(number)
                    if {"finished", "failed"} & set(found.values()):
                        continue  # others may be ready now
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        number = running.pop(future)
                        found_out = future.result()
                        self._let_go(made[number], found_out)
                        sorter.done(number)
                        statuses |= found_out
            except BaseException:  # the programs beside it end at their next checkpoint
                self.session.stop.wish()
                raise
        return statuses

    def _looked_at(self, programs: Mapping[int, Program], free: int) -> dict[int, str]:
        """Of programs by number: "taken" by this process now, at most `free` of them, or "finished" or "failed", where
        there is nothing to do any more. Those that are in other hands or have to wait are left out."""
        found: dict[int, str] = {}
        for number in self.claims.preferred(list(programs)):
            if list(found.values()).count("taken") >= free:
                break  # each look reads files
            names = _names(programs[number])
            if self.claims.shared:
                self.session.storage.refresh([*self._own(programs[number]), *self._read(programs[number])])
            if self.claims.shared and self._finished(programs[number]):
                found[number] = "finished"
            elif self.tried.issuperset(names) or (self.claims.shared and self._failed_elsewhere(programs[number])):
                found[number] = "failed"
            elif self.claims.shared and self._waiting(programs[number]):
                continue
            elif self.claims.take(names):
                found[number] = "taken"
        return found

    def _own(self, program: Program) -> list[Path]:
        """Folders of its lanes and trials."""
        trials = [trial.folder(self.session.results) for trial in program.trials]
        return [*(self.session.artifact(lane.fingerprint) for lane in program.lanes), *trials]

    def _read(self, program: Program) -> list[Path]:
        """Folders of what its lanes read, and its trials act with or go on from."""
        before = [trial.before for trial in program.trials if trial.before]
        reads = [one.fingerprint for lane in program.lanes for one in lane.reads.values()]
        reads += [lane.fingerprint for trial in (*program.trials, *before) for lane in trial.lanes()]
        mine = set(_names(program))
        lanes = [self.session.artifact(one) for one in dict.fromkeys(reads) if one not in mine]
        return [*lanes, *(trial.folder(self.session.results) for trial in before)]

    def finished(self, lane: Lane) -> bool:
        """Whether a lane was trained to its end, by whomever."""
        return self._stored(lane).finished

    def _finished(self, program: Program) -> bool:
        """Whether nothing of it is to be done any more, as another process was here."""
        trials = all(status(trial, self.session.results) == "finished" for trial in program.trials)
        lanes = (lane for lane in program.lanes if lane.fingerprint in program.needed)
        return trials and all(self._stored(lane).finished for lane in lanes)

    def _waiting(self, program: Program) -> bool:
        """Whether something that it reads, or that its trials act with, is still another process's to finish: neither
        finished nor known to have failed."""
        own = set(_names(program))
        reads = {one.fingerprint: one for lane in program.lanes for one in lane.reads.values()}
        reads |= {one.fingerprint: one for trial in program.trials for one in trial.lanes()[:-1]}
        return any(not (name in own or name in self.session.failed or self._stored(lane).finished)
                   for name, lane in reads.items())  # fmt: skip

    def _failed_elsewhere(self, program: Program) -> bool:
        """Whether another process has tried it since this one began, and all its lanes or trials that are not finished
        failed. What failed earlier, or in the same second, is tried again once, as the same command does."""
        unfinished = [lane for lane in program.lanes if not self._stored(lane).finished]
        notes = [self.session.failure(lane) for lane in unfinished]
        if unfinished and all(when > self.began for when, _ in notes):
            for lane, (_, why) in zip(unfinished, notes, strict=True):
                self.session.failed.setdefault(lane.fingerprint, why)
            return True
        since = [_since(trial, self.session.results) for trial in program.trials]
        bad = [when for state, when in since if state == "failed"]
        needed = all(self._stored(lane).finished for lane in program.lanes if lane.fingerprint in program.needed)
        ended = all(state in ("failed", "finished") for state, _ in since)
        return bool(bad) and needed and ended and min(bad) > self.began

    def _let_go(self, program: Program, found: Mapping[Trial, str]) -> None:
        names = _names(program)
        self.tried |= set(names) if self.claims.shared and ELSEWHERE not in found.values() else set()
        self.claims.release(names)

    def something_to_do(self, runs: Sequence[RunNode]) -> bool:
        """Whether a program of these runs is ready, and in nobody's hands."""
        trials = [trial for run in runs for trial in run.trials()]
        self.session.storage.refresh(folders(trials, self.session.results))
        engine = engine_of(runs[0].task.suite)
        made = remaining(trials, self.session.results, engine, self.lanes).programs
        sorter = order(made)
        sorter.prepare()
        while sorter.is_active() and (ready := sorter.get_ready()):
            for number in ready:
                names = _names(made[number])
                if self.tried.issuperset(names) or self._failed_elsewhere(made[number]):
                    sorter.done(number)  # what reads it is to be looked at, too
                elif not self._waiting(made[number]) and self.claims.free(names):
                    return True
        return False

    def statuses(self, runs: Sequence[RunNode]) -> list[str]:
        """Of runs that are left to others, by their records."""
        return [_worst([self._left(trial) for trial in run.trials()]) for run in runs]

    def _left(self, trial: Trial) -> str:
        """What became of a trial that others carry out."""
        state, when = _since(trial, self.session.results)
        return state if state == "finished" or (state == "failed" and when > self.began) else ELSEWHERE

    def store(self, lane: Lane, engine: Engine, author: Author = Author("")) -> LaneStore:  # noqa: B008
        return LaneStore(self.session.artifact(lane.fingerprint), lane.identity, engine.form, author)

    @contextlib.contextmanager
    def having(self, names: Sequence[str]) -> Iterator[None]:
        """The claims on lanes, by their fingerprints, to change them outside of programs. Raises: Busy."""
        if not self.claims.take(names):
            raise record.Busy("another process has some of it in hand", ours=False)
        try:
            yield
        finally:
            self.claims.release(names)

    # one program

    def _carry_out(self, program: Program, common: Common) -> dict[Trial, str]:
        """Carries a program to its end; returns what became of its trials."""
        if self.session.stop():
            raise Interrupted
        statuses: dict[Trial, str] = {}
        attempts: list[Attempt] = []
        here = self.session.storage.in_hand(self._own(program), self._read(program))
        with here, contextlib.ExitStack() as locks, _recorded(attempts):
            for trial in program.trials:
                attempt = self._begun(trial, common, locks)
                if isinstance(attempt, Attempt):
                    attempts.append(attempt)
                else:
                    statuses[trial] = attempt
            try:
                self._work(program, attempts, common, locks)
            except Exception as error:
                if not is_of_one_run(error):
                    raise
                self._failed(program.lanes, attempts, error)
        return statuses | {attempt.trial: attempt.status for attempt in attempts}

    def _failed(self, lanes: Sequence[Lane], attempts: Sequence[Attempt], error: Exception) -> None:
        """What cannot be carried out ends its lanes, unless they are finished, and its trials."""
        lost = [lane for lane in lanes if not self._stored(lane).finished]
        for lane in lost:
            self.session.fail(lane, summary(error))
        ended = fail(self.session, attempts, error)
        if lost and not ended:
            seeds = [lane.seed for lane in lost]
            self.session.progress.say(f"{lost[0].label}, {seeds_text(seeds)}: failed: {summary(error)}")

    def _stored(self, lane: Lane) -> Stored:
        return on_disk(lane, self.session.results)

    def _work(self, program: Program, attempts: Sequence[Attempt], common: Common, locks: contextlib.ExitStack) -> None:
        lanes = self._asked(program, attempts)
        opened = self._open(lanes, attempts, common, locks)

        def stores(lane: Lane) -> LaneStore:
            return opened.get(lane.fingerprint) or self.store(lane, common.engine)

        trials = [attempt.trial for attempt in attempts]
        failed = [lane.fingerprint for lane in lanes if lane.fingerprint not in opened]
        most = most_lanes(common.engine, self.lanes)
        # looked at again: another process may have gone on with them until a moment ago
        for piece in grouped(lanes, trials, program.needed, self._stored, most, failed):
            here = {slot.fingerprint for slot in piece.slots}
            ending = [attempt for attempt in attempts if attempt.last.fingerprint in here]
            groups = cohorts(self.session, common.engine, ending, common.dataset)
            try:
                common.engine.work(self.session, piece, stores, groups, common.dataset, common.settings).finish()
                for group in groups:
                    group.end()
            finally:
                for group in groups:
                    group.close()

    def _asked(self, program: Program, attempts: Sequence[Attempt]) -> list[Lane]:
        """The program's lanes without those that nobody here asks for, as another process carries their trials out."""
        asked = {attempt.last.fingerprint for attempt in attempts} | program.needed
        return [lane for lane in program.lanes if lane.fingerprint in asked]

    def _ending(self, attempts: Sequence[Attempt], lane: Lane) -> list[Attempt]:
        """The trials that end with a lane."""
        return [one for one in attempts if one.status == "running" and one.last.fingerprint == lane.fingerprint]

    def _open(
        self, lanes: Sequence[Lane], attempts: Sequence[Attempt], common: Common, locks: contextlib.ExitStack
    ) -> dict[str, LaneStore]:
        """The lanes' stores, locked: one after the other in an order that all processes keep, so that none waits for
        one that waits for it. There is none of lanes that cannot be trained: one that they read has failed, or their
        folder is damaged."""
        stores = {}
        for attempt in attempts:  # it may act with what its last lane does not read
            if why := self.session.why_not(attempt.lanes):
                fail(self.session, [attempt], BadInput(f"its {why}"))
        for lane in sorted(lanes, key=lambda lane: lane.fingerprint):
            if why := self.session.why_not(lane.reads.values()):
                self.session.failed[lane.fingerprint] = why
                continue
            folder = self.session.artifact(lane.fingerprint)
            locks.enter_context(record.locked(folder, wait=self._wait(lane)))
            store = self.store(lane, common.engine, common.authors[lane.fingerprint])
            try:
                store.tidy()
                stores[lane.fingerprint] = store
            except Exception as error:
                if not is_of_one_run(error):
                    raise
                self._failed([lane], self._ending(attempts, lane), error)
        return stores

    def _begun(self, trial: Trial, common: Common, locks: contextlib.ExitStack) -> Attempt | str:
        """The trial, its folder locked, or the status that it is left with."""
        folder = trial.folder(self.session.results)
        try:
            if trial.before and status(trial.before, self.session.results) != "finished":
                self.session.progress.say(f"{trial.label}: passed over: the offline run it goes on from is unfinished")
                return "waiting"
            locks.enter_context(record.locked(folder))
            if record.status_of(folder) == "finished":  # by another process, a moment ago
                return "finished"
            attempt = Attempt(self.session, trial, common.dataset)
            about = common.engine.about(trial.run, common.dataset)
            attempt.record.save(device=common.engine.device(trial.run), **about)
            write_lines(folder / "stages", [lane.fingerprint for lane in attempt.lanes])
            return attempt
        except record.Busy as busy:
            self.session.progress.say(f"{trial.label}: skipped: {busy}")
            return ELSEWHERE if self.claims.shared else "busy"
        except Exception as error:
            if not is_of_one_run(error):
                raise
            self.session.progress.say(f"{trial.label}: failed: {summary(error)}")
            return "failed"

    def _wait(self, lane: Lane) -> Callable[[record.Busy], None]:
        """What to do while another process trains the lane: say so once, and heed a wish to stop."""
        told = False

        def wait(busy: record.Busy) -> None:
            nonlocal told
            if self.session.stop():
                raise Interrupted
            if not told and not busy.ours:
                self.session.progress.say(f"{lane.label}, seed {lane.seed}: waiting: {busy}")
                told = True

        return wait

    # --stale and --fresh

    def _settle(self, stale: Stale) -> None:
        """Refuses what other code made, or says what becomes of it."""
        if not (found := stale.line()):
            return
        line = f"{found}; {OUTCOMES[self.stale]}"
        if not self.stale:
            raise StaleCode(line)
        if self.stale == "redo":
            try:
                self._forget(stale.trials, stale.lanes)
            except record.Busy as busy:
                raise BadInput(f"{found}; it cannot be made anew: {busy}") from None
        self.session.progress.say(line)

    def _forget_all(self, runs: Sequence[RunNode], statuses: dict[Trial, str]) -> list[Trial]:
        """Deletes what earlier attempts left; returns the trials that can be begun."""
        possible: list[Trial] = []
        for run in runs:
            try:
                trials = run.trials()
                self._forget(trials, [lane for trial in trials for lane in trial.lanes()])
                possible += trials
                continue
            except record.Busy as busy:
                left, line = "busy", f"skipped: {busy}"
            except Exception as error:
                if not is_of_one_run(error):
                    raise
                left, line = "failed", f"failed: what is there cannot be deleted: {summary(error)}"
            self.session.progress.say(f"{run.label}: {line}")
            statuses |= dict.fromkeys(run.trials(), left)
        return possible

    def _forget(self, trials: Sequence[Trial], lanes: Sequence[Lane]) -> None:
        """Deletes the records of trials, of those that went on online from them, and lanes: all of it or nothing."""
        results = self.session.results
        wanted = [trial.folder(results) for trial in trials] + self._continuations(trials)
        wanted += [self.session.artifact(lane.fingerprint) for lane in lanes]
        names = list(dict.fromkeys(folder.name for folder in wanted if folder.parent.name == "artifacts"))
        there = [folder for folder in dict.fromkeys(wanted) if folder not in self.forgotten and folder.is_dir()]
        with contextlib.ExitStack() as locks, self.having(names):
            for folder in there:
                locks.enter_context(record.locked(folder))
            self.session.storage.delete(there)
            for folder in there:
                for note in ("run.json", "stage.json"):  # first: what is left of a killed deletion counts for nothing
                    with contextlib.suppress(IsADirectoryError, PermissionError):
                        (folder / note).unlink(missing_ok=True)
            for folder in there:
                shutil.rmtree(folder)
        self.forgotten |= set(wanted)

    def _continuations(self, trials: Sequence[Trial]) -> list[Path]:
        """Records, and the artefacts of their last lanes, that went on online from those of trials."""
        storage, near = self.session.storage, dict[Path, None]()
        names: dict[Path, list[str]] = {}
        for trial in trials:
            beside = trial.run.folder(self.session.results).parent
            if beside not in names:
                names[beside] = storage.names(beside)
            near |= dict.fromkeys(beside / name / f"seed-{trial.seed}" for name in names[beside])
        storage.refresh(near)
        wanted = {(trial.run.folder(self.session.results).parent, trial.run.fingerprint) for trial in trials}
        found = list[Path]()
        for folder in (one for one in near if one.is_dir()):
            try:
                before = record.read_run(folder)
            except (BadInput, OSError):  # whose it was, nobody can tell
                continue
            online = before.get("online") if before else None
            if online and (folder.parents[1], online["continues"]) in wanted:
                found.append(folder)
        with storage.in_hand([], found):
            lanes = [self.session.artifact(last) for folder in found for last in _stages(folder)[-1:]]
        storage.refresh(lanes)
        return [*found, *lanes]


def _stages(folder: Path) -> list[str]:
    """Fingerprints of the lanes that a trial is made of, as its folder lists them; what is none is left out: nobody's
    text decides what is deleted."""
    try:
        words = read_plain(folder / "stages").decode("ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [word for word in words if re.fullmatch("[0-9a-f]{12}", word)]


def _names(program: Program) -> list[str]:
    """Fingerprints of its lanes."""
    return [lane.fingerprint for lane in program.lanes]


def _since(trial: Trial, results: Path) -> tuple[str | None, str]:
    """What a trial's record says of it, and since when (UTC, ISO 8601)."""
    with contextlib.suppress(OSError, BadInput):
        if found := record.read_run(trial.folder(results)):
            return found["status"], found.get("updated", "")
    return None, ""


def _worst(statuses: Sequence[str]) -> str:
    """Of a run, by its trials'."""
    return next((status for status in _UNFINISHED if status in statuses), "finished")


@contextlib.contextmanager
def _recorded(attempts: Sequence[Attempt]) -> Iterator[None]:
    """Whatever stops the trials, their records say so, and do not claim to run."""
    try:
        yield
    except (Interrupted, Unreachable):  # storage that does not answer is not their fault
        leave(attempts, "interrupted")
        raise
    except Exception as error:
        leave(attempts, "failed", summary(error))
        raise
