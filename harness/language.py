"""The engine of methods that write: torch, a lane at a time in each of `jobs` threads.

Lanes only pass each other files, so no more than one lane's models are in memory (one for each job), and whatever is
interrupted goes on from the last span.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.files import write_lines
from harness.attempts import Cohort
from harness.backbones import TINY
from harness.config import RunSettings
from harness.devices import Devices, found_devices
from harness.language_lane import LanguageTraining, texts_of
from harness.numerics import pin_torch, processor
from harness.plan import Lane, RunNode
from harness.programs import Program
from harness.session import Session
from harness.store import LaneStore
from harness.tensors import TensorFormat
from harness.vllm_engine import check_vllm
from harness.work import Stores
from methods.core import State
from methods.language.respond import MEASURES, unpacked
from methods.language.tokens import Texts
from tasks.core import Dataset

if TYPE_CHECKING:
    from rich.console import Console

EXTRA = ("gold", *MEASURES)  # columns of episodes.csv after those that every suite has


class LanguageEngine:
    """See `harness.engine.Engine`."""

    form = TensorFormat()
    side_by_side = False

    def __init__(self, devices: Sequence[torch.device] = ()) -> None:
        """`devices`: that lanes compute on, one each; all of this machine's GPUs unless given, else its CPU."""
        pin_torch()
        self.devices = Devices(devices or found_devices())

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
        return LanguageTraining(session, program, stores, cohorts, dataset, settings.log_every, self.devices)

    def end(self, session: Session, run: RunNode, evaluator: Any, state: State, folders: Mapping[int, Path],
            dataset: Dataset) -> None:  # fmt: skip
        """The texts, so that another judge can read them later."""
        del evaluator
        texts = texts_of(session, run.method.config, run.task.spec, dataset)
        for seed, folder in folders.items():
            rows = responses(run, seed, state["responses"][seed], texts)
            write_lines(folder / "responses.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))

    def estimate(self, programs: Sequence[Program], console: Console) -> dict[str, float]:
        """None: steps of so many kinds would each need their model."""
        del console
        return {program.first.fingerprint: math.nan for program in programs}


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
