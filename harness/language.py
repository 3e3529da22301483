"""The engine of methods that write: torch, a lane at a time in each of `jobs` threads.

Lanes only pass each other files, so no more than one lane's models are in memory (one for each job), and whatever is
interrupted goes on from the last span.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.files import write_lines, write_text
from harness.attempts import Cohort
from harness.backbones import GLOBAL, TINY, Backbones, check_sizes, tokenizer_for
from harness.config import RunSettings
from harness.ending import Interrupted, NotFinite
from harness.numerics import pin_torch, processor
from harness.plan import Lane, RunNode
from harness.programs import Program
from harness.session import Session
from harness.store import LaneStore
from harness.table import read_rows
from harness.tensors import TensorFormat
from harness.vllm_engine import VLLM, check_vllm
from harness.work import ProgramWork, Stores
from methods.core import BadInput, State
from methods.language.core import GIVEN, MODELS, Context, Job, Sampler
from methods.language.respond import MEASURES, unpacked
from methods.language.tokens import Texts
from methods.language.training import NotFiniteLoss
from tasks.core import Dataset

if TYPE_CHECKING:
    from rich.console import Console

SAVE_EVERY_S = 60.0  # between saves of an unfinished lane
EXTRA = ("gold", *MEASURES)  # columns of episodes.csv after those that every suite has
_PAUSED = "paused"  # the part that an unfinished lane goes on from


class LanguageEngine:
    """See `harness.engine.Engine`."""

    form = TensorFormat()
    side_by_side = False

    def __init__(self) -> None:
        pin_torch()

    def device(self, run: RunNode | None = None) -> Mapping[str, Any]:
        kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        precision = run.method.config.dtype if run else str(torch.get_default_dtype()).removeprefix("torch.")
        here = {"platform": "gpu"} if torch.cuda.is_available() else {"platform": "cpu", **processor()}
        return {**here, "kind": kind, "count": max(1, torch.cuda.device_count()), "precision": precision,
                "matmul_precision": torch.get_float32_matmul_precision()}  # fmt: skip

    def memory(self) -> float | None:
        return float(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None

    def least_memory(self, run: RunNode, seeds: int) -> float:
        """Of a tiny model's blocks: twelve square matrices each; of others the checkpoint tells, once it is there."""
        config = run.method.config
        return 4.0 * 12 * seeds * config.layers * config.width**2 if config.model == TINY else 0.0

    def most_lanes(self, lane: Lane) -> int:
        del lane
        return 1

    def about(self, run: RunNode, dataset: Dataset) -> Mapping[str, Any]:
        del run, dataset
        return {}

    def check(self, runs: Sequence[RunNode], dataset: Dataset) -> None:
        """Whatever the texts, all methods learn from them; what draws rollouts must be there."""
        if any(run.method.config.rollout_engine == "vllm" for run in runs):
            check_vllm()

    def evaluator(self, session: Session, run: RunNode, seeds: Sequence[int]) -> LanguageEvaluator:
        del session
        return LanguageEvaluator(run, seeds)

    def parts(
        self, session: Session, run: RunNode, seeds: Sequence[int], ready: Collection[int], *, last: bool
    ) -> State:
        """What was made for each seed: part -> seed -> `Part`."""
        del seeds
        found: State = {}
        for seed in ready:
            lanes = run.lanes(seed)
            for part in ("responses", "verdicts"):
                lane = next(one for one in lanes if part in one.node.stage.trains)
                if (lane is lanes[-1]) == last:
                    store = LaneStore(session.artifact(lane.fingerprint), lane.identity, self.form)
                    found.setdefault(part, {})[seed] = store.load()[part]
        return found

    def work(
        self, session: Session, program: Program, stores: Stores, cohorts: Sequence[Cohort], dataset: Dataset,
        settings: RunSettings,
    ) -> LanguageTraining:  # fmt: skip
        return LanguageTraining(session, program, stores, cohorts, dataset, settings.log_every)

    def end(self, session: Session, run: RunNode, evaluator: Any, state: State, folders: Mapping[int, Path],
            dataset: Dataset) -> None:  # fmt: skip
        """The texts, so that another judge can read them later."""
        del evaluator
        texts = _texts(session, run.method.config, run.task.spec, dataset)
        for seed, folder in folders.items():
            rows = responses(run, seed, state["responses"][seed], texts)
            write_lines(folder / "responses.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))

    def estimate(self, programs: Sequence[Program], console: Console) -> dict[str, float]:
        """None: steps of so many kinds would each need their model."""
        del console
        return {program.first.fingerprint: math.nan for program in programs}


def _texts(session: Session, config: Any, spec: Any, corpus: Any) -> Texts:
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
        log_every: int,
    ) -> None:  # fmt: skip
        super().__init__(session, program, stores, cohorts)
        self.lane = program.first
        self.dataset: Any = dataset
        self.task: Any = self.lane.task  # a LanguageTask
        # some count their steps themselves, by the data
        self.trains = self.stage.trains <= {*MODELS} and self.stage.rule != GIVEN
        self.log_every = log_every if self.trains else 1
        self.config = self.lane.method.config
        self.counted = time.perf_counter()  # until when time was counted

    def train(self) -> None:
        try:
            self._make()
        except (NotFinite, BadInput) as error:
            self.fail(0, error)

    def _context(self) -> Context:
        lane = self.lane
        texts = _texts(self.session, self.config, self.task.spec, self.dataset)
        # room for an end of text after a response that was cut off
        longest = texts.max_prompt + texts.max_response + 1
        models = Backbones(self.config, texts.size, longest, frozenset(self._files(lane)))
        gold = self.task.gold
        return Context(
            lane.seed, texts, models, lambda name: self.stores(lane.reads[name]).load()[name],
            torch.device("cuda" if torch.cuda.is_available() else "cpu"), gold,
            best=self.task.best, sampler=self._sampler(texts),
            judge=verdicts_by_gold(gold) if self.task.judge == "gold" else None,
        )  # fmt: skip

    def _sampler(self, texts: Texts) -> Callable[[Any], Sampler] | None:
        if self.config.rollout_engine == "own":
            return None
        return lambda model: VLLM(model, texts, self.config.dtype)

    def _files(self, lane: Lane) -> Iterable[str]:
        """Digests of the checkpoints that the lane, or one before it, starts from."""
        yield from lane.identity.get("files", ())
        for before in lane.reads.values():
            yield from self._files(before)

    def _make(self) -> None:
        if self.config.model == TINY and not torch.cuda.is_available():
            torch.set_num_threads(1)  # sums in one order, and no threads that wait for each other in models this small
        with contextlib.ExitStack() as alone:
            alone.enter_context(GLOBAL)
            stage: Any = self.stage  # a LanguageStage
            job: Job = stage.begin(self._context())
            if not job.alone:
                alone.close()
            self._go_on(job)

    def _go_on(self, job: Job) -> None:
        """The work from where it was left, saved on the way."""
        store = self.stores(self.lane)
        rows: list[dict[str, Any]] = []
        if self.step:
            job.restore(store.load(self.step)[_PAUSED])
            rows += [row for row in read_log(store.folder / "train.csv") if int(row["step"]) <= self.step]
        saved = self.counted = time.perf_counter()
        label = f"{self.lane.label}, seed {self.lane.seed}"
        with self.session.progress.stage(label, job.total, self.step) as bar:
            while self.step < job.total:
                count = min(self.log_every - self.step % self.log_every, job.total - self.step)
                try:
                    metrics = job.run(self.step, count)
                except NotFiniteLoss:
                    raise NotFinite(self.stage.name, self.step + count, self.lane.seed, ["loss"]) from None
                self.step += count
                if metrics:
                    named = {name: f"{value:.7g}" for name, value in metrics.items()}
                    rows.append({"seed": self.lane.seed, "step": self.step, **named})
                bar.at(self.step)
                if self.step == job.total:
                    break
                stop = self.session.stop()
                if stop or time.perf_counter() - saved > SAVE_EVERY_S:
                    self._save({_PAUSED: job.snapshot()}, rows)
                    saved = time.perf_counter()
                if stop:
                    raise Interrupted
        self.step = self.stage.steps
        self._save(job.parts(), rows, finished=True)
        if self.session.stop():
            raise Interrupted

    def _save(self, parts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, finished: bool = False) -> None:
        if rows:
            write_log(self.stores(self.lane).folder / "train.csv", rows)
        now = time.perf_counter()
        seconds, self.counted = now - self.counted, now
        what = "train" if self.trains else self.stage.name
        self.store(lambda place: parts, {what: seconds}, finished=finished)


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


class LanguageEvaluator:
    """Turns a run's responses and verdicts into rows of the record. Rows stand as those of `harness.evaluate`."""

    def __init__(self, run: RunNode, seeds: Sequence[int]) -> None:
        self.seeds, self.settings = tuple(seeds), run.method.knobs
        self.knob_names = tuple(self.settings[0])
        self.episodes = run.settings.episodes
        self.rows = len(self.settings) * self.episodes

    def close(self) -> None:
        """Nothing is held open."""

    def run(
        self, state: State, step: int, chosen: Collection[int], *, stop: Callable[[], bool],
        progress: Callable[[float], None],
    ) -> dict[int, list[dict[str, Any]] | Exception]:  # fmt: skip
        """See `harness.engine.Evaluator`; `state` has the parts "responses" and "verdicts" of each seed."""
        del stop
        found: dict[int, list[dict[str, Any]] | Exception] = {}
        for done, seed in enumerate(chosen, start=1):
            found[seed] = self._rows(seed, step, state["responses"][seed].tensors, state["verdicts"][seed].tensors)
            progress(done / len(chosen))
        return found

    def _rows(self, seed: int, step: int, responses: Any, verdicts: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        length = responses["lengths"] - responses["eos"]
        extra = {"gold": verdicts["gold"], **{name: responses[name] for name in MEASURES}}
        for k, setting in enumerate(self.settings):
            for episode in range(self.episodes):
                won = float(verdicts["verdicts"][episode, k])
                rows.append(
                    {"seed": seed, "phase": "", "step": step, **setting, "episode": episode,
                     "return": float(verdicts["gold"][episode, k]), "length": int(length[episode, k]),
                     "success": math.nan if math.isnan(won) else int(won == 1.0), "score": won,
                     **{name: float(value[episode, k]) for name, value in extra.items()}}
                )  # fmt: skip
        return rows


def responses(run: RunNode, seed: int, part: Any, texts: Texts) -> Iterable[dict[str, Any]]:
    """Rows of responses.jsonl: seed, the knobs, episode, prompt, response, reference."""
    prompts = texts.prompts(run.method.config.prompt_split, run.settings.episodes)
    for k, setting in enumerate(run.method.knobs):
        answers = unpacked(part.tensors["ids"][:, k], part.tensors["lengths"][:, k])
        for episode, ((_, example), ids) in enumerate(zip(prompts, answers, strict=True)):
            yield {"seed": seed, **setting, "episode": episode, "prompt": example.prompt,
                   "response": texts.decode(ids), "reference": example.reference}  # fmt: skip
