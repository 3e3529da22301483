"""The engine of methods that write: torch, `jobs` seeds at a time, every part on disk as soon as it is made.

Stages only pass each other files (`parts.py`), so no more than one stage's models are in memory (one for each job),
and whatever is interrupted goes on from the last span.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from core.files import write_lines
from harness.artifact import Author
from harness.backbones import GLOBAL, TINY, Backbones, check_sizes, tokenizer_for
from harness.ending import Interrupted, NotFinite
from harness.numerics import pin_torch
from harness.parts import PartStore
from harness.plan import RunNode, StageNode
from harness.watch import each, watchers
from methods.core import State
from methods.language.core import Context, Job
from methods.language.respond import MEASURES, unpacked
from methods.language.tokens import Texts
from methods.language.training import NotFiniteLoss

if TYPE_CHECKING:
    from rich.console import Console

    from harness.execute import Member

SAVE_EVERY_S = 60.0  # between saves of an unfinished seed
EXTRA = ("gold", *MEASURES)  # columns of episodes.csv after those that every suite has


class LanguageEngine:
    """See `harness.engine.Engine`."""

    def __init__(self) -> None:
        pin_torch()

    def device(self) -> Mapping[str, Any]:
        kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {"platform": "gpu" if torch.cuda.is_available() else "cpu", "kind": kind,
                "count": max(1, torch.cuda.device_count())}  # fmt: skip

    def memory(self) -> float | None:
        return float(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None

    def least_memory(self, run: RunNode, seeds: int) -> float:
        """Of a tiny model's blocks: twelve square matrices each; of others the checkpoint tells, once it is there."""
        config = run.method.config
        return 4.0 * 12 * seeds * config.layers * config.width**2 if config.model == TINY else 0.0

    def evaluator(self, run: RunNode) -> LanguageEvaluator:
        return LanguageEvaluator(run)

    def begin(self, member: Member) -> State:
        """No part stands by itself; the state names the store of each part that was made."""
        member.texts = _texts(member)
        return {}

    def store(self, folder: Path, node: StageNode, author: Author) -> PartStore:
        return PartStore(folder, node, author)

    def work(self, member: Member, node: StageNode, store: PartStore, watching: Sequence[Member]) -> LanguageWork:
        return LanguageWork(member, node, store, watching)

    def end(self, member: Member) -> None:
        """The texts, so that another judge can read them later."""
        rows = responses(member.run, member.state, member.texts)
        write_lines(member.folder / "responses.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))

    def estimate(self, runs: Iterable[RunNode], console: Console) -> dict[str, float]:
        """None: steps of so many kinds would each need their model."""
        del console
        return {node.fingerprint: math.nan for run in runs for node in run.nodes}


def _texts(member: Member) -> Texts:
    """The run's corpus in tokens of its models, shared by runs with the same."""
    corpus: Any = member.dataset
    spec: Any = member.run.task.spec
    config = member.run.method.config
    key = (corpus.provenance.sha256, config.model, config.sft_checkpoint, config.reward_checkpoint)
    with GLOBAL:
        if key not in member.executor.shared:
            words = [text for example in corpus.examples("train") for text in example] if config.model == TINY else []
            tokenizer = tokenizer_for(config, words)
            texts = Texts(corpus, tokenizer, spec.max_prompt_tokens, spec.max_response_tokens)
            check_sizes(config, texts)
            member.executor.shared[key] = texts
        return member.executor.shared[key]


class LanguageWork:
    """The rest of one stage: its seeds, then the evaluations of those who watch."""

    def __init__(self, owner: Member, node: StageNode, store: PartStore, watching: Sequence[Member]) -> None:
        self.owner, self.node, self.store = owner, node, store
        self.stage: Any = node.stage  # a LanguageStage
        self.task: Any = owner.run.task  # a LanguageTask
        self.watchers = watchers(watching, store)
        self.forsaken = bool(watching) and not self.watchers  # all who need the stage have failed
        self.span = owner.run.settings.log_every if node.stage.steps else 1
        self.saving = Lock()  # seeds share the stage's note and log, and the clock
        self.at_work, self.counted = 0, 0.0  # seeds, and until when their time was counted
        self.failed = False  # some seed: the others save and leave

    def finish(self) -> None:
        """See `harness.engine.Work`."""
        if self.forsaken:
            return
        if not self.store.finished:
            todo = [seed for seed in self.owner.run.settings.seeds if not self.store.has(seed)]
            with ThreadPoolExecutor(self.owner.executor.jobs, initializer=self._in_thread) as pool:
                making = [pool.submit(self._make, seed) for seed in todo]
                try:
                    for made_one in as_completed(making):
                        made_one.result()
                except BaseException:
                    self.failed = True
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            self.store.finish()
        made = dict.fromkeys(self.stage.trains, self.store)
        for member in [self.owner, *(watcher.member for watcher in self.watchers)]:
            member.state = {**member.state, **made}
        each(self.watchers, lambda one: one.evaluate_if_due(self.node.first + self.stage.steps, made))

    def _in_thread(self) -> None:
        if self.owner.run.method.config.model == TINY and not torch.cuda.is_available():
            torch.set_num_threads(1)  # sums in one order, and no threads that wait for each other in models this small

    def _context(self, seed: int) -> Context:
        owner, task = self.owner, self.task
        texts: Texts = owner.texts
        # room for an end of text after a response that was cut off
        longest = texts.max_prompt + texts.max_response + 1
        known = frozenset(digest for node in owner.run.nodes for digest in node.identity.get("files", ()))
        models = Backbones(owner.run.method.config, texts.size, longest, known)
        return Context(
            seed, texts, models, lambda name: owner.state[name].read(name, seed),
            torch.device("cuda" if torch.cuda.is_available() else "cpu"), task.gold,
            verdicts_by_gold(task.gold) if task.judge == "gold" else None,
        )  # fmt: skip

    def _make(self, seed: int) -> None:
        """One seed's work, once there is room for it."""
        with self.owner.executor.room, contextlib.ExitStack() as alone:
            if self._stop():
                raise Interrupted
            with self.saving:
                self.at_work += 1
                self.counted = time.perf_counter() if self.at_work == 1 else self.counted
            try:
                alone.enter_context(GLOBAL)
                job: Job = self.stage.begin(self._context(seed))
                if not job.alone:
                    alone.close()
                self._go_on(job, seed)
            finally:
                with self.saving:
                    self.at_work -= 1

    def _stop(self) -> bool:
        return self.failed or self.owner.executor.stop()

    def _go_on(self, job: Job, seed: int) -> None:
        """The seed's work from where it was left, saved on the way."""
        progress, kept = self.owner.executor.progress, self.store.paused(seed)
        step = 0
        rows: list[dict[str, Any]] = []
        if kept:
            step, part = kept
            job.restore(part)
            rows += [row for row in self.store.log() if int(row["seed"]) == seed and int(row["step"]) <= step]
        saved = time.perf_counter()
        label = f"{self.owner.run.method.name} on {self.owner.run.task.name}: {self.stage.name}, seed {seed}"

        with progress.stage(label, job.total, step) as bar:
            while step < job.total:
                count = min(self.span - step % self.span, job.total - step)
                try:
                    metrics = job.run(step, count)
                except NotFiniteLoss:
                    raise NotFinite(self.stage.name, step + count, seed, ["loss"]) from None
                step += count
                rows += [{"seed": seed, "step": step, **{n: f"{v:.7g}" for n, v in metrics.items()}}] if metrics else []
                bar.at(step)
                if step == job.total:
                    break
                if (stop := self._stop()) or time.perf_counter() - saved > SAVE_EVERY_S:
                    with self._saved(seed, rows) as seconds:
                        self.store.pause(seed, step, job.snapshot(), seconds)
                    saved = time.perf_counter()
                if stop:
                    raise Interrupted
        parts = job.parts()
        with self._saved(seed, rows) as seconds:
            self.store.keep(seed, parts, seconds)
        if self._stop():
            raise Interrupted

    @contextlib.contextmanager
    def _saved(self, seed: int, rows: list[dict[str, Any]]) -> Iterator[float]:
        """Writes the seed's rows of the log and, around what is saved, counts the stage's seconds since the last time:
        seeds side by side take one clock's time together."""
        with self.saving:
            others: list[dict[str, Any]] = [row for row in self.store.log() if int(row["seed"]) != seed]
            if rows:
                self.store.write_log(sorted(others + rows, key=lambda row: (int(row["seed"]), int(row["step"]))))
            now = time.perf_counter()
            seconds, self.counted = now - self.counted, now
            yield seconds
            self.owner.record.add_seconds({"train" if self.stage.steps else self.stage.name: seconds})
            self.owner.record.save()


def verdicts_by_gold(gold: Callable[[str, str], float]) -> Callable[[Sequence[tuple[str, str, str]]], list[float]]:
    """Scores of (prompt, a, b) by the gold reward."""
    from tasks.judges import GoldJudge, Pair

    judge = GoldJudge(gold)
    return lambda rows: [verdict.score for verdict in judge.verdicts([Pair(*row) for row in rows])]


class LanguageEvaluator:
    """Turns a run's responses and verdicts into rows of the record. Rows stand as those of `harness.evaluate`."""

    def __init__(self, run: RunNode) -> None:
        self.seeds, self.settings = run.settings.seeds, run.method.knobs
        self.knob_names = tuple(self.settings[0])
        self.episodes = run.settings.episodes
        self.rows = len(self.settings) * self.episodes

    def __enter__(self) -> LanguageEvaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        del exception

    def close(self) -> None:
        """Nothing is held open."""

    def run(
        self, state: State, step: int, *, stop: Callable[[], bool], progress: Callable[[float], None]
    ) -> list[dict[str, Any]]:
        """See `harness.engine.Evaluator`; `state` has the stores of "responses" and "verdicts"."""
        del stop
        rows: list[dict[str, Any]] = []
        for done, seed in enumerate(self.seeds, start=1):
            responses = state["responses"].read("responses", seed).tensors
            verdicts = state["verdicts"].read("verdicts", seed).tensors
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
            progress(done / len(self.seeds))
        return rows


def responses(run: RunNode, state: State, texts: Texts) -> Iterable[dict[str, Any]]:
    """Rows of responses.jsonl: seed, the knobs, episode, prompt, response, reference."""
    prompts = texts.prompts(run.method.config.prompt_split, run.settings.episodes)
    for seed in run.settings.seeds:
        tensors = state["responses"].read("responses", seed).tensors
        for k, setting in enumerate(run.method.knobs):
            answers = unpacked(tensors["ids"][:, k], tensors["lengths"][:, k])
            for episode, ((_, example), ids) in enumerate(zip(prompts, answers, strict=True)):
                yield {"seed": seed, **setting, "episode": episode, "prompt": example.prompt,
                       "response": texts.decode(ids), "reference": example.reference}  # fmt: skip
