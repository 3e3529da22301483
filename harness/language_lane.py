"""One lane of a method that writes: begun or gone on with, saved by what that costs, stopped within a step."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from core.files import write_text
from harness.attempts import Cohort
from harness.backbones import GLOBAL, TINY, Backbones, check_sizes, tokenizer_for
from harness.devices import Devices
from harness.ending import Interrupted, NotFinite
from harness.plan import Lane
from harness.programs import Program
from harness.session import Session
from harness.table import read_rows
from harness.vllm_engine import VLLM
from harness.work import ProgramWork, Stores
from methods.core import BadInput
from methods.language.core import GIVEN, MODELS, Context, Job, Part, Sampler
from methods.language.tokens import Texts
from methods.language.training import NotFiniteLoss
from tasks.core import Dataset

SAVE_EVERY_S = 60.0  # between saves of an unfinished lane, at the least
SAVE_SHARE = 0.05  # of the time that may go into saves: what takes 30 s is done every ten minutes
_PAUSED, _LOG = "paused", "log"  # the parts that an unfinished lane goes on from


def texts_of(session: Session, config: Any, spec: Any, corpus: Any) -> Texts:
    """The corpus in tokens of a run's models, shared by runs with the same."""
    key = (corpus.provenance.sha256, config.model, config.sft_checkpoint, config.reward_checkpoint, config.bos,
           config.chat_template)  # fmt: skip

    def make() -> Texts:
        words = [text for example in corpus.examples("train") for text in example] if config.model == TINY else []
        tokenizer = tokenizer_for(config, words)
        texts = Texts(corpus, tokenizer, spec.max_prompt_tokens, spec.max_response_tokens, config.bos,
                      config.chat_template)  # fmt: skip
        check_sizes(config, texts)
        return texts

    with GLOBAL:
        return session.kept(key, make)


class LanguageTraining(ProgramWork):
    """Of methods that write: one lane."""

    def __init__(
        self, session: Session, program: Program, stores: Stores, cohorts: Sequence[Cohort], dataset: Dataset,
        log_every: int, devices: Devices,
    ) -> None:  # fmt: skip
        super().__init__(session, program, stores, cohorts)
        self.lane = program.first
        self.dataset: Any = dataset
        self.task: Any = self.lane.task  # a LanguageTask
        # some count their steps themselves, by the data
        self.trains = self.stage.trains <= {*MODELS} and self.stage.rule != GIVEN
        self.log_every = log_every if self.trains else 1
        self.config = self.lane.method.config
        self.devices = devices
        self.counted = time.perf_counter()  # until when time was counted

    def train(self) -> None:
        try:
            self._make()
        except (NotFinite, BadInput) as error:
            self.fail(0, error)

    def _context(self, device: torch.device) -> Context:
        lane = self.lane
        texts = texts_of(self.session, self.config, self.task.spec, self.dataset)
        # room for an end of text after a response that was cut off
        longest = texts.max_prompt + texts.max_response + 1
        models = Backbones(self.config, texts.size, longest, frozenset(self._files(lane)), self._heed)
        gold = self.task.gold
        return Context(
            lane.seed, texts, models, lambda name: self.stores(lane.reads[name]).load()[name], device, gold,
            best=self.task.best, sampler=self._sampler(texts),
            judge=verdicts_by_gold(gold) if self.task.judge == "gold" else None,
        )  # fmt: skip

    def _heed(self) -> None:
        """Before every pass of a model, so that no step outlives the wish to stop for long. Raises: Interrupted."""
        if self.session.stop():
            raise Interrupted

    def _sampler(self, texts: Texts) -> Callable[[Any], Sampler] | None:
        if self.config.rollout_engine == "own":
            return None
        return lambda model: VLLM(model, texts)

    def _files(self, lane: Lane) -> Iterable[str]:
        """Digests of the checkpoints that the lane, or one before it, starts from."""
        yield from lane.identity.get("files", ())
        for before in lane.reads.values():
            yield from self._files(before)

    def _make(self) -> None:
        if self.config.model == TINY and not torch.cuda.is_available():
            torch.set_num_threads(1)  # sums in one order, and no threads that wait for each other in models this small
        with self.devices.taken() as device, contextlib.ExitStack() as alone:
            alone.enter_context(GLOBAL)
            stage: Any = self.stage  # a LanguageStage
            job: Job = stage.begin(self._context(device))
            if not job.alone:
                alone.close()
            self._go_on(job)

    def _go_on(self, job: Job) -> None:
        """The work from where it was left, saved on the way."""
        store = self.stores(self.lane)
        log, pace = Log(self.lane.seed, self.log_every), Pace()
        if self.step:
            kept = store.load(self.step)
            job.restore(kept[_PAUSED])
            log.restore(read_log(store.folder / "train.csv"), kept.get(_LOG), self.step)
        self.counted = time.perf_counter()
        label = f"{self.lane.label}, seed {self.lane.seed}"
        with self.session.progress.stage(label, job.total, self.step) as bar:
            while self.step < job.total:
                try:
                    metrics = job.run(self.step, 1)
                except NotFiniteLoss:
                    raise NotFinite(self.stage.name, self.step + 1, self.lane.seed, ["loss"]) from None
                except Interrupted:  # within a step, which begins anew
                    self._pause(job, log)
                    raise
                self.step += 1
                log.add(self.step, metrics, last=self.step == job.total)
                bar.at(self.step)
                if self.step == job.total:
                    break
                if self.session.stop():
                    self._pause(job, log)
                    raise Interrupted
                if pace.due():
                    with pace.saving():
                        self._pause(job, log)
        parts = (
            job.parts()
        )  # left within it, what was saved before stands: the last step's state is the parts' own place
        self.step = self.stage.steps
        self._save(parts, log, finished=True)
        if self.session.stop():
            raise Interrupted

    def _pause(self, job: Job, log: Log) -> None:
        """Saves what goes on from the last whole step. A step that moves weights before its end (PPO's) cannot begin
        anew from what there is: then what was saved before stands."""
        if self.step not in (0, self.stores(self.lane).current) and not getattr(job, "torn", False):
            self._save({_PAUSED: job.snapshot(), _LOG: log.part()}, log)

    def _save(self, parts: Mapping[str, Any], log: Log, *, finished: bool = False) -> None:
        if log.rows:
            write_log(self.stores(self.lane).folder / "train.csv", log.rows)
        now = time.perf_counter()
        seconds, self.counted = now - self.counted, now
        what = "train" if self.trains else self.stage.name
        self.store(lambda place: parts, {what: seconds}, finished=finished)


class Log:
    """Rows of a lane's train.csv: means over `every` steps."""

    def __init__(self, seed: int, every: int) -> None:
        self.seed, self.every = seed, every
        self.rows: list[dict[str, Any]] = []
        self.since: list[dict[str, float]] = []  # of the steps that no row is of yet

    def add(self, step: int, metrics: Mapping[str, float], *, last: bool) -> None:
        """What a step reported; `last`: of the job."""
        self.since.append(dict(metrics))
        if step % self.every and not last:
            return
        if metrics:
            means = {name: sum(one[name] for one in self.since) / len(self.since) for name in self.since[0]}
            named = {name: f"{value:.7g}" for name, value in means.items()}
            self.rows.append({"seed": self.seed, "step": step, **named})
        self.since = []

    def part(self) -> Part:
        """What `restore` needs besides the rows."""
        return Part({}, {"since": self.since})

    def restore(self, rows: Sequence[dict[str, str]], kept: Part | None, step: int) -> None:
        self.rows = [dict(row) for row in rows if int(row["step"]) <= step]
        self.since = list(kept.about["since"]) if kept else []


class Pace:
    """When an unfinished lane is saved: every `SAVE_EVERY_S`, or so seldom that `SAVE_SHARE` of the time goes there."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.cost, self.saved = clock, 0.0, clock()

    def due(self) -> bool:
        return self.clock() - self.saved > max(SAVE_EVERY_S, self.cost / SAVE_SHARE)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        began = self.clock()
        yield
        self.saved = self.clock()
        self.cost = self.saved - began


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a lane's train.csv. Raises: BadInput, see `read_rows`."""
    found = read_rows(path)
    return [dict(zip(found.header, row, strict=True)) for row in found.rows] if found else []


def write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All of them anew: they are few."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, restval="nan", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def verdicts_by_gold(gold: Callable[[str, str], float]) -> Callable[[Sequence[tuple[str, str, str]]], list[float]]:
    """Scores of (prompt, a, b) by the gold reward."""
    from tasks.judges import GoldJudge, Pair

    judge = GoldJudge(gold)
    return lambda rows: [verdict.score for verdict in judge.verdicts([Pair(*row) for row in rows])]
