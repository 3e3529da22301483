"""Memory and time that the paper's preset takes, stage by stage: measured where that is possible, computed elsewhere.

    python -m tests.methods.language.memory            # the table of docs/language.md
    python -m tests.methods.language.memory --stage sft --layers 2     # one measurement, as JSON

Each measurement is a process of its own that does one micro-batch of a stage, at the width, the vocabulary and the
lengths of Pythia-2.8B on TL;DR, with random weights, on this machine's CPU: gradients and the optimiser's state are
there before. It prints what the process held at its peak beyond what the libraries take (VmHWM, so Linux only).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

LAYERS, WIDTH, HEADS, ROWS = 32, 2560, 32, 50_304  # of Pythia-2.8B
PROMPT, RESPONSE = 448, 53  # tokens at most (N+)
MICRO, PROMPTS, PARTICLES, SAMPLES = 8, 2, 5, 48  # as in the preset: micro_batch, respond_batch, n_particles, rollouts
STAGES = ("sft", "reward_model", "dpo", "rollouts", "vgf")
REFERENCES, PAIRS = 116_722, 92_858  # rows of TL;DR
FLOPS, SPEED, BANDWIDTH = 4.0e14, "400 TFLOP/s", 3.35e12  # of an H100 SXM: 40% of its peak in bfloat16; bytes a second


def held(what: str) -> float:
    """GB that this process holds ("VmRSS"), or held at its peak ("VmHWM")."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) * 1024 / 1e9


def context(layers: int, **settings: Any) -> tuple[Any, Any]:
    """A context whose models are of full width, and the configuration of the paper's preset but for its data."""
    import torch

    import methods
    from harness.config import preset
    from methods.language.core import Context, Part
    from methods.language.models import reward_from, tiny_model
    from methods.language.tokens import Texts, word_tokenizer
    from tasks.core import Provenance
    from tasks.language.core import Corpus, Example, Preference

    words = [f"w{i}" for i in range(ROWS - 50)]
    draw = random.Random(0)

    def text(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    def response() -> str:
        return text(settings.get("response", RESPONSE) - 1)

    prompts = [text(PROMPT + RESPONSE - settings.get("response", RESPONSE)) for _ in range(2 * MICRO)]
    examples = [Example(prompt, response()) for prompt in prompts]
    pairs = [Preference(prompt, response(), response()) for prompt in prompts]
    splits, origin = ("train", "validation", "test"), Provenance("memory", "0", "built-in")
    corpus = Corpus({split: examples for split in splits}, {split: pairs for split in splits}, origin)
    cls = methods.get(settings.get("method", "dpo"), "language")
    ours = {one.key: one.value for one in preset("tldr", "paper")[1] if one.method is None}
    elsewhere = ("model", "sft_epochs", "reward_epochs", "test_temperatures", "test_steps")
    own = {name: value for name, value in ours.items() if name not in elsewhere}
    sizes = dict(layers=layers, width=WIDTH, heads=HEADS, sft_batch_size=MICRO, reward_batch_size=MICRO,
                 batch_size=MICRO, **settings.get("more", {}))  # fmt: skip
    config: Any = cls.Config(**own | sizes)
    assert (config.micro_batch, config.respond_batch, config.rollouts) == (MICRO, PROMPTS, settings.get("n", SAMPLES))

    class Models:
        def fresh(self) -> Any:
            torch.manual_seed(0)
            return tiny_model(config, ROWS, PROMPT + RESPONSE + 1).to(getattr(torch, config.dtype))

        def given(self, part: str) -> Any:
            return self.fresh() if part == "sft" else reward_from(self.fresh())

    longest = PROMPT + RESPONSE - settings.get("response", RESPONSE)
    texts = Texts(corpus, word_tokenizer(words), longest, settings.get("response", RESPONSE))
    parts = {name: Part({}, {"given": True}) for name in ("sft", "reward")}
    return Context(0, texts, Models(), parts.__getitem__, torch.device("cpu")), cls(config, None)


def trained(job: Any) -> None:
    """A micro-batch of a job, with all that a step has beside it: the optimiser's state, and gradients so far."""
    import torch

    def gradients() -> None:
        for weight in job.trained.values():
            weight.grad = torch.zeros_like(weight)

    gradients()
    job.descend(0.0)
    gradients()
    job.run(0, 1)


def measure(stage: str, layers: int) -> float:
    """GB at the stage's peak, beyond libraries and texts."""
    import torch

    from methods.language.core import Part
    from methods.language.respond import Rollouts, packed
    from methods.language.reward_model import RewardJob
    from methods.language.sft import SFTJob

    if stage == "rollouts":  # few tokens after a longer prompt: the cache is as long at its end, and that sooner
        made, method = context(layers, method="sft", response=8)
        before = held("VmRSS")
        Rollouts(made, method.config, PROMPTS, "sft", SAMPLES).run(0, 1)
    elif stage == "vgf":
        more = {"test_flow_steps": (0, 1), "rollouts": PARTICLES}
        made, method = context(layers, method="vgf", n=PARTICLES, more=more)
        rows = torch.randint(3, ROWS - 50, (PROMPTS * PARTICLES, RESPONSE)).tolist()
        ids, lengths = packed(rows, RESPONSE, made.texts.pad)
        drawn = {"ids": ids.reshape(PROMPTS, PARTICLES, -1), "lengths": lengths.reshape(PROMPTS, PARTICLES)}
        parts = {name: made.part(name) for name in ("sft", "reward")} | {"rollouts": Part(drawn, {})}
        made = type(made)(**{**vars(made), "part": parts.__getitem__})
        before = held("VmRSS")
        method.responding(PROMPTS)[-1].begin(made).run(0, 1)
    else:
        made, method = context(layers)
        made.texts.examples("train"), made.texts.preferences("train")
        before = held("VmRSS")
        if stage == "dpo":
            job = next(one for one in method.stages() if one.name == "dpo").begin(made)
        else:
            job = {"sft": SFTJob, "reward_model": RewardJob}[stage](made, method.config)
        trained(job)
    return held("VmHWM") - before


class Work(NamedTuple):
    """What a stage computes on all of TL;DR."""

    tokens: float  # that pass through a model, at the longest
    passes: float  # a forward pass is 1, a backward one 2, or 1 without gradients of weights
    read: float = 0.0  # bytes of weights and cache that sampling reads besides


def work(stage: str) -> Work:
    length, block = PROMPT + RESPONSE, 12 * WIDTH**2 * LAYERS
    if stage == "rollouts":
        cache = 4.0 * WIDTH * LAYERS * length * PROMPTS * SAMPLES  # bfloat16 keys and values
        turns = 1000 / PROMPTS * RESPONSE
        return Work(1000 * (PROMPT + SAMPLES * RESPONSE), 1, turns * (2 * (block + ROWS * WIDTH) + cache))
    return {
        "sft": Work(2 * REFERENCES * length, 4), "reward_model": Work(2 * PAIRS * length, 4),
        "dpo": Work(2 * PAIRS * length, 5),  # the reference's pass, too
        # SFT's pass over everything; the reward model's over the prompt, then over responses: the start's score, one
        # and back at each of four steps, and five at each of the three L_test that answers are decoded at
        "vgf": Work(1000 * (PROMPT + PARTICLES * (length + RESPONSE * (1 + 2 * 4 + 3 * 5))), 1),
    }[stage]  # fmt: skip


def hours(stage: str) -> float:
    """Computed, not measured: two operations a weight, token and pass."""
    done = work(stage)
    return (2 * 12 * WIDTH**2 * LAYERS * done.tokens * done.passes / FLOPS + done.read / BANDWIDTH) / 3600


def in_a_process(stage: str, layers: int) -> float:
    done = subprocess.run([sys.executable, "-m", __spec__.name if __spec__ else __name__, "--stage", stage, "--layers",
                           str(layers)], capture_output=True, text=True, check=True)  # fmt: skip
    return float(json.loads(done.stdout.splitlines()[-1])["gb"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--layers", type=int, default=2)
    given = parser.parse_args()
    if given.stage:
        print(json.dumps({"stage": given.stage, "layers": given.layers, "gb": measure(given.stage, given.layers)}))
        return
    print("| stage | 1 layer [GB] | 2 layers [GB] | 2 layers, at most [GB] | 32 layers [GB] | hours |")
    print("|---|---|---|---|---|---|")
    for stage in STAGES:
        one, two = (in_a_process(stage, layers) for layers in (1, 2))
        most, whole = math.ceil(10.5 * two) / 10, one + (LAYERS - 1) * (two - one)
        print(f"| `{stage}` | {one:.2f} | {two:.2f} | {most:.1f} | {whole:.0f} | {hours(stage):.2f} |", flush=True)


if __name__ == "__main__":
    main()
