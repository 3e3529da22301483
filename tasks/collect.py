"""Makes datasets where the published ones cannot be had.

    python -m tasks.collect cube-single-play-v0 --episodes 1000 --seed 0 --out PATH
    python -m tasks.collect d4rl/hopper-medium --training-steps 300000 --transitions 100000
    python -m tasks.collect tldr-local

The first is of OGBench's play sets, by the benchmark's own scripted oracles (`tasks/ogbench/collect.py`), the second of
D4RL's kind, by an online agent (`tasks/d4rl/collect.py`), the third samples a pretrained model and labels what comes
(`tasks/language/tldr_local/sampling.py`).
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take a while
    from core.command import main as run

    run("tasks.collect:app")

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from core.errors import BadInput
from core.options import path as place
from tasks.ogbench import collect as oracles
from tasks.screen import say

TEXTS = "tldr-local"

app = typer.Typer(add_completion=False)


@app.command()
def main(
    dataset: Annotated[str, typer.Argument(help="For example cube-single-play-v0, d4rl/hopper-medium or tldr-local.")],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=place, help="The .npz file to make, of OGBench's: required; the validation file lies beside it."
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Of training, default 1000; a tenth more for validation.")
    ] = None,
    seed: int = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
    steps: Annotated[int | None, typer.Option(help="States an episode; default 1001.")] = None,
    poor: Annotated[
        float | None, typer.Option(help="Share of episodes of random actions, for skewed data; default 0.")
    ] = None,
    training_steps: Annotated[int | None, typer.Option(help="d4rl/: of the agent; default 300000.")] = None,
    transitions: Annotated[int | None, typer.Option(help="d4rl/: of each policy; default 100000.")] = None,
    prompts: Annotated[
        int | None, typer.Option(help="tldr-local: of the training split, to sample answers to; default 400.")
    ] = None,
) -> None:
    """Makes an OGBench play dataset with the benchmark's own scripted oracles, or one of D4RL's kind with an online
    SAC agent, which goes to Minari's folder (MINARI_DATASETS_PATH), or preferences among samples of a pretrained model,
    which go to VGF_BENCH_CACHE."""
    scripted: dict[str, Any] = {"out": out, "episodes": episodes, "workers": workers, "steps": steps}
    scripted["poor"] = poor
    learned = {"training-steps": training_steps, "transitions": transitions}
    sampled = {"prompts": prompts}
    kind = "d4rl" if dataset.startswith("d4rl/") else TEXTS if dataset == TEXTS else ""
    foreign = {"": learned | sampled, "d4rl": scripted | sampled, TEXTS: scripted | learned}[kind]
    try:
        for name, value in foreign.items():
            if value is not None:
                raise BadInput(f"--{name} has no meaning for {dataset}")
        if kind == "":
            made = _scripted(dataset, seed, **scripted)
        else:
            made = _sampled(seed, prompts) if kind == TEXTS else _learned(dataset, seed, learned)
        say(f"made {made}")
    except KeyboardInterrupt:
        where = {"d4rl": "the agent's last snapshot", TEXTS: "the last chunk"}.get(kind, f"what is in {out}.parts")
        say(f"stopped; the same command continues from {where}")
        # Python 3.11 may wait for ever for a pool whose worker was killed: not more than 5 s
        (watchdog := threading.Timer(5.0, os._exit, (130,))).daemon = True
        watchdog.start()
        raise typer.Exit(130) from None


def _scripted(
    dataset: str, seed: int, out: Path | None, episodes: int | None, workers: int | None, steps: int | None,
    poor: float | None,
) -> Path:  # fmt: skip
    oracles.check_known(dataset)
    if out is None:
        raise BadInput(f"{dataset} needs --out PATH.npz")
    steps = oracles.Recipe.steps if steps is None else steps
    episodes = 1000 if episodes is None else episodes
    return oracles.collect(dataset, episodes, seed, workers, out, steps=steps, poor=poor or 0.0)


def _learned(dataset: str, seed: int, given: Mapping[str, int | None]) -> Path:
    from tasks.d4rl import collect as agents  # late: it loads MuJoCo

    sizes = {"training-steps": agents.TRAINING_STEPS, "transitions": agents.TRANSITIONS}
    sizes |= {name: value for name, value in given.items() if value is not None}
    name = dataset.removeprefix("d4rl/")
    return agents.collect(name, sizes["training-steps"], sizes["transitions"], seed)


def _sampled(seed: int, prompts: int | None) -> Path:
    from tasks.language.tldr_local import suite  # late: few need it
    from tasks.language.tldr_local.sampling import Recipe

    count = Recipe.prompts if prompts is None else prompts
    return suite.collect(Recipe(prompts=count, validation=max(4, 15 * count // 100), seed=seed))
