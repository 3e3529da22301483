"""How long a preset of `tldr-local` takes, from a few steps of every stage: python -m tests.harness.local_speed

Seconds are of processor time: with one thread, those of a quiet core, whatever runs beside.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from typing import Any

import torch

import methods
import tasks
from harness.backbones import Backbones, tokenizer_for
from harness.files import contents
from methods.language.core import Context, Part
from methods.language.tokens import Texts

METHODS = ("sft", "dpo", "best_of_n", "vgf")


def configured(kind: Any, settings: dict[str, Any], method: str) -> Any:
    """A method's settings as the preset has them."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind.Config):
        value = settings.get(f"{method}.{field.name}", settings.get(field.name))
        if value is not None and isinstance(field.default, tuple):
            own = type(field.default[0])
            value = tuple(own(part) for part in str(value).split(","))
        found |= {field.name: value} if value is not None else {}
    return kind.Config(**found)


def main() -> None:
    """Prints seconds a step, and minutes of a seed, by stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="local")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(asked.threads)
    (task,) = tasks.select("tldr-local", ())
    preset = tasks.about("tldr-local").presets[asked.preset]
    prompts, clock = preset["episodes"], time.process_time if asked.threads == 1 else time.perf_counter
    corpus, parts, total = task.load("auto"), dict[str, Part](), 0.0
    done = set[Any]()
    for name in METHODS:
        kind = methods.get(name, "language")
        config = configured(kind, preset["set"], name)
        method = kind(config, task.spec)
        texts = Texts(corpus, tokenizer_for(config, []), task.spec.max_prompt_tokens, task.spec.max_response_tokens)
        for stage in (*method.stages(), *method.evaluation(prompts, "none")):
            key = (stage.name, stage.rule)
            if key in done or (name != "sft" and stage.name == "rollouts" and "sft" in stage.rule):
                continue
            done.add(key)
            models = Backbones(config, texts.size, 0, frozenset({contents(config.model)}))
            context = Context(0, texts, models, parts.__getitem__, torch.device("cpu"))
            job = stage.begin(context)
            count = min(asked.steps if stage.steps else 1, job.total)
            job.run(0, 1) if stage.steps else None  # the first step also gets memory
            began = clock()
            job.run(1, count) if stage.steps else job.run(0, count)
            each = (clock() - began) / count
            if stage.name != "verdicts":
                total += each * job.total
                print(f"{name:10s} {stage.name:13s} {each:8.2f} s a step, {job.total:4d} steps: "
                      f"{each * job.total / 60:6.1f} min", flush=True)  # fmt: skip
            held = job.parts() if stage.name != "reward_model" else reward_part(job)
            parts |= held
    print(f"{total / 60:.1f} min a seed, {preset['seeds']} seeds")


def reward_part(job: Any) -> dict[str, Part]:
    """The reward model without its measurement, which takes a minute."""
    from methods.language.models import merged, weights

    job.model.backbone = merged(job.model.backbone)
    return {"reward": weights(job.model, mean=0.0, deviation=1.0)}


if __name__ == "__main__":
    main()
