"""Small datasets in Minari's own formats, of real simulators."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import gymnasium
import numpy as np

from tasks.minari import data as minari_data


def rolled(env_id: str, episodes: int = 2, steps: int = 6, seed: int = 0) -> list[Any]:
    """Episodes of random actions, seeded by `seed` and the numbers that follow; the first action of each is the
    largest, the second the smallest there is."""
    from minari.data_collector import EpisodeBuffer

    env = gymnasium.make(env_id, disable_env_checker=True)
    env.action_space.seed(seed)
    buffers = []
    for episode in range(episodes):
        observations, rewards = [env.reset(seed=seed + episode)[0]], []
        actions = [env.action_space.sample() for _ in range(steps)]
        if isinstance(env.action_space, gymnasium.spaces.Box):
            actions[:2] = env.action_space.high, env.action_space.low
        for action in actions:
            obs, reward, *_ = env.step(action)
            observations.append(obs)
            rewards.append(float(reward))
        ends = np.arange(steps) == steps - 1
        buffers.append(EpisodeBuffer(observations=np.array(observations), actions=np.array(actions),
                                     rewards=np.array(rewards), terminations=np.zeros(steps, bool),
                                     truncations=ends, id=episode))  # fmt: skip
    env.close()
    return buffers


def stored(identity: str, env_id: str, data_format: str = "hdf5", **about: Any) -> str:
    """A dataset of `rolled` episodes in Minari's folder, written by Minari; its id."""
    from minari import create_dataset_from_buffers

    os.makedirs(minari_data.root(), exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make(env_id, disable_env_checker=True)
        about = {"ref_min_score": 0.0, "ref_max_score": 100.0, **about}
        create_dataset_from_buffers(identity, rolled(env_id), env=env, data_format=data_format, **about)
    return identity


def amended(identity: str, **changes: Any) -> str:
    """The dataset with other metadata; its id."""
    path = minari_data.folder(identity) / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return identity
