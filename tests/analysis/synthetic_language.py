"""Writes synthetic records of language runs, with effects that are known.

`python -m tests.analysis.synthetic_language FOLDER` writes all five methods on `tldr-synthetic`, VGF also with a poor
reward model, to look at.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.analysis.synthetic import write_run

EXTRAS = ("gold", "proxy", "nll", "edit_fraction", "eos", "gradients", "samples", "compute", "transport", "kl")
Means = Callable[[Mapping[str, float]], Mapping[str, float]]
"""Knob setting -> the true mean of `length` and of each of EXTRAS; what is missing stays empty."""
NOISY = ("gold", "proxy", "nll", "length")
BOOLEAN = ("eos",)


def write_language(
    root: Path,
    method: str,
    means: Means,
    knobs: Mapping[str, Sequence[float]] | None = None,
    fingerprint: str = "1a" * 6,
    suite: str = "tldr-synthetic",
    seeds: int = 3,
    prompts: int = 40,
    noise: float = 1.0,
    accuracy: Mapping[str, float] | None = None,
    **meta: Any,
) -> Path:
    """One run folder with episodes.csv and responses.jsonl. A response wins if its gold is above 1, the reference's; it
    ties from 0.9 on; without a gold nobody has judged it. A prompt's difficulty is shared by all methods.

    Returns the folder.
    """
    folder = write_run(
        root, method, suite, suite, fingerprint, knobs, seeds=seeds, episodes=prompts, evaluations=1, **meta
    )
    if accuracy is not None:
        about = json.dumps({"__metadata__": {"about": json.dumps(accuracy)}}).encode()
        path = root / "artifacts" / fingerprint / "state" / "20" / "reward-0.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(len(about).to_bytes(8, "little") + about)
        run = json.loads((folder / "run.json").read_text())
        run["stages"].append({"name": "reward_model", "fingerprint": fingerprint, "steps": 20, "origin": "trained"})
        (folder / "run.json").write_text(json.dumps(run))
    rng = np.random.default_rng([len(method), *fingerprint.encode()])
    ease = noise * np.random.default_rng(7).normal(size=prompts)
    shifts = 0.05 * noise * rng.normal(size=seeds)
    names = list(knobs or {})
    header = ["seed", "phase", "step", *names, "episode", "return", "length", "success", "score", *EXTRAS]
    lines, texts = [",".join(header)], []
    for seed, values in itertools.product(range(seeds), itertools.product(*(knobs or {}).values())):
        setting = dict(zip(names, values, strict=True))
        of = means(setting)
        shift = shifts[seed]
        for episode in range(prompts):
            row: dict[str, Any] = {name: of.get(name, math.nan) for name in ("length", *EXTRAS)}
            for name in NOISY:
                row[name] += noise * 0.3 * rng.normal() + (ease[episode] + shift) * (name in ("gold", "proxy"))
            for name in BOOLEAN:
                row[name] = float(rng.uniform() < row[name])
            score = 1.0 if row["gold"] > 1 else 0.5 if row["gold"] > 0.9 else 0.0 if row["gold"] <= 0.9 else math.nan
            row |= setting | {"seed": seed, "phase": "final", "step": 1000, "episode": episode, "return": row["gold"],
                              "success": "", "score": score}  # fmt: skip
            lines.append(",".join(_field(row[name]) for name in header))
            text = {
                "prompt": f"post {episode}",
                "response": "r" * max(round(5 * row["length"]), 1),
                "reference": "r" * 150,
            }
            texts.append(json.dumps({"seed": seed, **setting, "episode": episode, **text}))
    (folder / "episodes.csv").write_text("\n".join(lines) + "\n")
    (folder / "responses.jsonl").write_text("\n".join(texts) + "\n")
    return folder


def _field(value: float | str) -> str:
    return value if isinstance(value, str) else "" if math.isnan(value) else f"{value:.7g}"


def plain(gold: float, **more: float) -> Mapping[str, float]:
    """The means of one response of the SFT model, with that gold, but for what is given."""
    common = {"proxy": gold, "nll": 0.9, "edit_fraction": 0.0, "eos": 0.97, "gradients": 0.0, "samples": 1.0}
    return {"gold": gold, "length": 30.0, "compute": 1.0, **common, **more}


def best_of_n(setting: Mapping[str, float]) -> Mapping[str, float]:
    """Both rewards rise with log N."""
    n = setting["N"]
    return plain(0.2 + 0.25 * math.log(n), proxy=0.45 * math.log(n), samples=n, compute=2 * n, length=30 + math.log(n))


def vgf(peak: float, fall: float) -> Means:
    """The proxy rises with L_test, gold rises by `peak` and then falls by 4 `fall`, the faster the larger the step."""

    def means(setting: Mapping[str, float]) -> Mapping[str, float]:
        steps, size = setting["L_test"], setting.get("eps", 1.0)
        moved = steps * size
        gold = 0.6 + peak * (1 - math.exp(-moved)) - fall * 4 * (1 - math.exp(-((moved / 20) ** 1.3)))
        more = {"edit_fraction": 1 - math.exp(-moved / 8), "transport": 1 - math.exp(-moved / 4)}
        more |= {"gradients": 5 * steps, "samples": 5, "compute": 10 + 15 * steps + 10 * (steps > 0)}
        return plain(gold, proxy=0.7 + 0.9 * math.log1p(moved), nll=0.9 + 0.12 * moved, length=31.0, eos=0.98, **more)

    return means


def write_suite(root: Path, **size: int) -> None:
    """SFT, DPO, PPO, best-of-N, and VGF over L_test and eps with a good and a poor reward model."""
    good, poor = {"gold_accuracy": 0.79, "label_accuracy": 0.74}, {"label_accuracy": 0.56}
    write_language(root, "sft", lambda _: plain(0.2, kl=0.0), **size)
    write_language(root, "dpo", lambda _: plain(0.7, kl=6.0, proxy=0.9, length=36, eos=0.9), **size)
    write_language(root, "ppo", lambda _: plain(0.85, kl=3.5, proxy=1.3), **size)
    write_language(root, "best_of_n", best_of_n, {"N": [1, 5, 16, 40, 64]}, **size, accuracy=good)
    levels = {"L_test": [0, 1, 2, 4, 8, 16], "eps": [0.3, 1.0, 3.0]}
    write_language(root, "vgf", vgf(0.7, 0.5), levels, **size, accuracy=good)
    config = {"reward_steps": {"value": 20, "origin": "set"}}
    write_language(root, "vgf", vgf(0.15, 1.2), levels, "2b" * 6, **size, accuracy=poor, config=config)


if __name__ == "__main__":
    write_suite(Path(sys.argv[1]), prompts=200)
