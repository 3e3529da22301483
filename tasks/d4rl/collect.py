"""Makes datasets of D4RL's kind where D4RL's files cannot be had: an online SAC agent's, at a smaller scale.

    python -m tasks.collect d4rl/hopper-medium --training-steps 300000 --transitions 100000

The recipe is D4RL's (Fu et al. 2020, section 5): SAC is trained online on the simulator that policies are evaluated
in. medium: episodes of the policy when it first reached a third of the expert's return; medium-replay: all that the
agent had seen by then; medium-expert: as many transitions of the medium policy as of the expert. random-medium is not
D4RL's: nine tenths of its transitions are of uniformly random actions and a tenth of the medium policy, a skewed
mixture as in Hong et al. 2023 (arXiv 2306.13085). Scale and simulator differ from D4RL's, so these sets carry names of
their own (`hopper-medium-local`) and are scored against returns measured here, which stand in their metadata: the
random policy's, and that of the best snapshot, which is "the expert".
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadInput, reason
from core.text import nearest
from tasks import sizes
from tasks.d4rl.agent import SNAPSHOT_EVERY, Act, Agent, Recipe
from tasks.d4rl.simulators import SIMULATORS
from tasks.data import files as data_files
from tasks.data.download import atomic_write, locked
from tasks.minari import data as minari_data
from tasks.minari.data import Episode
from tasks.progress import bar
from tasks.simulation.lockstep import Lockstep

ENVIRONMENTS = ("halfcheetah", "hopper", "walker2d")
KINDS, MORE_KINDS = ("medium", "medium-replay", "medium-expert"), ("random-medium",)  # D4RL's, and ours
DATASETS = tuple(f"{environment}-{kind}" for environment in ENVIRONMENTS for kind in (*KINDS, *MORE_KINDS))
TRAINING_STEPS, TRANSITIONS = 300_000, 100_000  # by default; D4RL's agents had 1-3 million, its sets have 1 million
POOR = 0.9  # share of random-medium's transitions that are of random actions
ROWS = 10  # episodes rolled out side by side
REFERENCE_EPISODES = 50  # of the random policy and of the expert, whose mean returns are the scores 0 and 100


def dataset_id(dataset: str) -> str:
    """Minari's id of a local dataset, of "hopper-medium"."""
    return f"local/{dataset}-local-v0"


def collect(
    dataset: str, training_steps: int, transitions: int, seed: int, progress: bool = True,
    snapshot_every: int = SNAPSHOT_EVERY,
) -> Path:  # fmt: skip
    """Makes the local dataset, e.g. of "hopper-medium"; does nothing if it is there. Datasets of one environment and
    seed come from one agent, whose training continues where it was stopped, or ended with fewer steps.

    Args:
      training_steps: environment steps of the agent.
      transitions: of the medium policy, and again of the expert in medium-expert; in random-medium of both policies
        together; the last episode of each is kept whole.

    Returns:
      The dataset's folder.

    Raises:
      BadInput: an unknown dataset, a bad number, a dataset made otherwise in its place, missing packages, or an agent
        that learned too little.
      KeyboardInterrupt: stopped; what is finished stays.
    """
    if dataset not in DATASETS:
        hint = nearest(dataset, list(DATASETS)).replace("mean '", "mean 'd4rl/")
        raise BadInput(f"cannot make d4rl/{dataset}; {hint}")
    least_steps = 2 * snapshot_every
    for name, value, least in (("--training-steps", training_steps, least_steps), ("--transitions", transitions, 1),
                               ("--seed", seed, 0)):  # fmt: skip
        sizes.check_number(name, value, least)
    environment = dataset.partition("-")[0]
    recipe, identity = Recipe.of(environment, seed, snapshot_every), dataset_id(dataset)
    if minari_data.metadata_of(identity) is None:
        _check_sizes(environment, training_steps, transitions)
    recorded = {**asdict(recipe), "training_steps": training_steps, "transitions": transitions}
    with locked(minari_data.folder(identity), "collecting"):
        if (metadata := minari_data.metadata_of(identity)) is not None:
            if metadata.get("recipe") != recorded:
                raise BadInput(f"{minari_data.folder(identity)} exists and was made otherwise; delete it first")
            return minari_data.folder(identity)
        place = minari_data.root() / ".training" / f"{environment}-seed{seed}"
        with locked(place, "training"):
            agent = Agent(recipe, place, training_steps)
            agent.train(progress)
            chosen = Chosen.of(agent)
        episodes, about = _episodes(dataset, agent, chosen, transitions, progress)
        return minari_data.write(
            identity, episodes, SIMULATORS[environment].env_id,
            {"recipe": recorded, "ref_min_score": chosen.random_return, "ref_max_score": chosen.expert_return,
             "reference": f"{REFERENCE_EPISODES} episodes each of uniformly random actions and of the best snapshot",
             "medium_step": chosen.medium_step, "expert_step": chosen.expert_step, "algorithm_name": "SAC",
             "description": f"{about}, made with D4RL's recipe at a smaller scale; not D4RL v2."},
        )  # fmt: skip


def _check_sizes(environment: str, training_steps: int, transitions: int) -> None:
    """Refuses numbers that cannot be held. Raises: BadInput."""
    row = 4.0 * (SIMULATORS[environment].obs_dim + SIMULATORS[environment].action_dim + 1)
    for name, count in (("training-steps", training_steps), ("transitions", transitions)):
        sizes.check_memory(f"--{name} {count}: they", row * count)
        sizes.check_disk(f"--{name} {count}: they", row * count, minari_data.root())


def _episodes(
    dataset: str, agent: Agent, chosen: Chosen, transitions: int, progress: bool
) -> tuple[list[Episode], str]:
    """What the dataset is of, and what it is, in words."""
    medium = f"SAC at step {chosen.medium_step}"
    if dataset.endswith("-replay"):
        return agent.seen(chosen.medium_step), f"All that {medium} had seen"
    environment, poor = agent.recipe.environment, round(POOR * transitions)
    policy = partial(agent.policy, chosen.medium_step)
    parts, about = [("medium", policy, transitions)], f"Episodes of {medium}"
    if dataset.endswith("-expert"):
        parts.append(("expert", partial(agent.policy, chosen.expert_step), transitions))
        about += f" and at step {chosen.expert_step}, half and half"
    elif dataset.endswith("-random-medium"):
        parts = [("medium", policy, max(transitions - poor, 1)), ("random", partial(uniform, environment), poor)]
        about += f" and of uniformly random actions, which are {POOR:.0%} of the transitions"
    episodes: list[Episode] = []
    for part, (label, make, count) in enumerate(parts):
        first_seed = 1_000_000 * (part + 1)  # far from the seeds of evaluations
        made, act = 0, make()  # once: it seeds the actions' noise
        with bar(f"{dataset}: {label}", count, 0, "transitions", progress) as advance:
            while made < count:
                for episode in rollout(act, environment, first_seed):
                    if made < count:
                        episodes.append(episode)
                        made += len(episode.rewards)
                        advance(len(episode.rewards))
                first_seed += ROWS
    return episodes, about


def fewest(name: str, metadata: Mapping[str, Any]) -> int:
    """Transitions that a set made here has at least, by its metadata; a policy's last episode is kept whole."""
    if "-replay" in name:  # all that the agent had seen by then
        return int(metadata["medium_step"])
    return int(metadata["recipe"]["transitions"]) * (2 if "-expert" in name else 1)


def rollout(act: Act, environment: str, first_seed: int, rows: int = ROWS) -> list[Episode]:
    """`rows` whole episodes, seeded by `first_seed` and the numbers that follow."""
    simulator = SIMULATORS[environment]
    with Lockstep(simulator.make, rows, simulator.rules, simulator.horizon, simulator.clone) as pool:
        obs, active = pool.reset(first_seed + np.arange(rows)), np.ones(rows, bool)
        trails: list[Any] = [([obs[row]], [], [], []) for row in range(rows)]
        while active.any():
            actions = np.asarray(act(obs), np.float32).clip(-1.0, 1.0)
            step = pool.step(actions, active)
            for row in np.flatnonzero(active):
                values = (step.obs[row], actions[row], step.reward[row], step.terminated[row])
                for trail, value in zip(trails[row], values, strict=True):
                    trail.append(value)
            obs, active = step.obs, active & ~(step.terminated | step.truncated)
    columns = ([np.array(values) for values in trail] for trail in trails)
    return [
        Episode(observations, actions, rewards, terminations, truncated=not terminations[-1])
        for observations, actions, rewards, terminations in columns
    ]


def returns_of(act: Act, environment: str, first_seed: int, episodes: int) -> np.ndarray:
    """Undiscounted returns `[>= episodes]`."""
    firsts = range(first_seed, first_seed + episodes, ROWS)
    return np.array([episode.rewards.sum() for first in firsts for episode in rollout(act, environment, first)])


def uniform(environment: str) -> Act:
    """The random policy."""
    rng, width = np.random.default_rng(0), SIMULATORS[environment].action_dim
    return lambda obs: rng.uniform(-1.0, 1.0, (len(obs), width))


@dataclass(frozen=True)
class Chosen:
    """Which snapshots are medium and expert, and what their scores are measured against."""

    medium_step: int
    expert_step: int
    random_return: float
    expert_return: float

    @staticmethod
    def of(agent: Agent) -> Chosen:
        """The expert is the best snapshot; medium the first that reaches a third of the way from random to it.

        Raises:
          BadInput: the agent did not learn enough for three levels to be told apart.
        """
        environment, table = agent.recipe.environment, agent.place / "returns.csv"
        measured = _returns(table)
        steps = agent.snapshots()
        for step in steps:
            if step not in measured:
                measured[step] = float(returns_of(agent.policy(step), environment, 0, ROWS).mean())
                lines = "".join(f"{step},{value:.3f}\n" for step, value in sorted(measured.items()))
                with atomic_write(table) as file:
                    file.write(f"step,return\n{lines}".encode())
        measured = {step: measured[step] for step in steps}
        low = float(returns_of(uniform(environment), environment, 0, REFERENCE_EPISODES).mean())
        expert = max(measured, key=measured.__getitem__)
        high = float(returns_of(agent.policy(expert), environment, 10_000, REFERENCE_EPISODES).mean())
        third = low + (high - low) / 3
        reached = [step for step, value in measured.items() if value >= third]
        if not math.isfinite(high) or high <= low or not reached or reached[0] == expert:
            raise BadInput(f"{environment}: the agent learned too little in {agent.steps} steps (return "
                           f"{high:.0f}, random {low:.0f}); use more --training-steps")  # fmt: skip
        return Chosen(reached[0], expert, low, high)


def _returns(table: Path) -> dict[int, float]:
    """Returns by step, as far as they were measured. Raises `BadInput` where the table cannot be read."""
    if not data_files.exists(table):
        return {}
    try:
        with table.open(newline="") as rows:
            return {int(row["step"]): float(row["return"]) for row in csv.DictReader(rows)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadInput(f"{table} cannot be read ({reason(error)}); delete it to measure anew") from error
