"""Datasets of D4RL's kind: whole episodes, the three levels, an agent that goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from methods.core import BadInput
from tasks.collect import app
from tasks.d4rl import agent as d4rl_agent
from tasks.d4rl import collect as collect_d4rl
from tasks.d4rl import suite as d4rl
from tasks.d4rl.agent import Agent, Recipe
from tasks.d4rl.collect import Chosen, collect, rollout, uniform
from tasks.d4rl.simulators import SIMULATORS
from tasks.minari import data as minari_data
from tasks.minari import files as minari_files
from tests.tasks.conftest import command

pytestmark = pytest.mark.usefixtures("d4rl_folders")
EVERY = 40  # steps between snapshots


def test_episodes_are_whole_and_a_function_of_their_seeds():
    def push(obs: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(obs[:, 0]), obs[:, 1], 3 * obs[:, 2]], axis=1)  # beyond 1: clipped

    episodes = rollout(push, "hopper", first_seed=7, rows=3)
    for row, episode in enumerate(episodes):
        env = SIMULATORS["hopper"].make()
        obs = env.reset(seed=7 + row)[0].astype(np.float32)
        np.testing.assert_array_equal(episode.observations[0], obs)
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(action, push(obs[None])[0].astype(np.float32).clip(-1, 1))
            obs, reward, terminated, *_ = env.step(action)
            obs = obs.astype(np.float32)
            np.testing.assert_array_equal(episode.observations[t + 1], obs)
            assert (episode.rewards[t], episode.terminations[t]) == (reward, terminated)
        assert terminated and not episode.truncated
    assert len({len(episode.rewards) for episode in episodes}) > 1  # they end apart


def test_what_outlasts_the_time_limit_is_truncated():
    (episode,) = rollout(uniform("halfcheetah"), "halfcheetah", first_seed=0, rows=1)
    assert len(episode.rewards) == 1000 and episode.truncated and not episode.terminations.any()


# ---- which snapshots ----


def chosen(monkeypatch: pytest.MonkeyPatch, place: Path, returns: dict[int, float], low: float = 10.0) -> Chosen:
    """Of an agent whose snapshots have these returns."""

    def returns_of(act: Any, environment: str, first_seed: int, episodes: int) -> np.ndarray:
        asked.append(act)
        return np.full(episodes, low if callable(act) else returns[act])

    asked: list[Any] = []
    place.mkdir(exist_ok=True)
    monkeypatch.setattr(collect_d4rl, "returns_of", returns_of)
    agent: Any = SimpleNamespace(recipe=SimpleNamespace(environment="hopper"), place=place, steps=max(returns),
                                 snapshots=lambda: sorted(returns), policy=lambda step: step)  # fmt: skip
    found = Chosen.of(agent)
    asked.clear()
    assert Chosen.of(agent) == found
    assert len(asked) == 2  # what was measured is not measured again, but for the references
    return found


def test_medium_is_the_first_at_a_third_of_the_best(monkeypatch, tmp_path):
    returns = {100: 12.0, 200: 309.0, 300: 311.0, 400: 150.0, 500: 910.0, 600: 700.0}
    # a third of the way from 10 to 910 is 310
    assert chosen(monkeypatch, tmp_path, returns) == Chosen(300, 500, 10.0, 910.0)


@pytest.mark.parametrize("returns", [{100: 5.0, 200: 9.0}, {100: 900.0, 200: 800.0}, {100: float("nan"), 200: 1.0}])
def test_an_agent_that_learned_too_little(monkeypatch, tmp_path, returns):
    with pytest.raises(
        BadInput, match=r"hopper: the agent learned too little in 200 steps .*use more --training-steps"
    ):
        chosen(monkeypatch, tmp_path, returns)


@pytest.mark.parametrize("text", ["step,return\n1\n", "a,b\n1,2\n", "step,return\nx,2\n", "\xff\xfe"])
def test_a_damaged_table_of_returns_is_named(monkeypatch, tmp_path, text):
    (tmp_path / "returns.csv").write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=r"returns\.csv cannot be read .*delete it to measure anew") as caught:
        chosen(monkeypatch, tmp_path, {100: 12.0, 200: 300.0})
    assert "\n" not in str(caught.value)


# ---- what the agent had seen ----


def test_seen_episodes_are_cut_where_they_ended_or_were_broken_off(tmp_path):
    pytest.importorskip("stable_baselines3")
    rows = np.arange(9, dtype=np.float32)
    numbers = {"observations": rows[:, None], "next_observations": rows[:, None] + 0.5, "actions": rows[:, None] / 10,
               "rewards": rows, "dones": np.isin(rows, [1, 5]), "timeouts": np.isin(rows, [5])}  # fmt: skip
    both = {name: np.stack([values, values + 100 if name == "observations" else values], axis=1)
            for name, values in numbers.items()}  # of two simulators side by side  # fmt: skip
    np.savez(tmp_path / "buffer.npz", resumed=np.array([8]), **both)
    agent = object.__new__(Agent)
    agent.place, agent.recipe = tmp_path, replace(Recipe.of("hopper", 0, 4), abreast=2)
    # 0-1 fell; 2-3 was left by a session that was stopped; 4-5 timed out; 6-7 is cut off
    episodes, other = agent.seen(16)[:4], agent.seen(16)[4:]
    assert [episode.observations[0, 0] for episode in other] == [100, 102, 104, 106]
    assert [episode.observations[:, 0].tolist() for episode in episodes] == [
        [0, 1, 1.5], [2, 3, 3.5], [4, 5, 5.5], [6, 7, 7.5]]  # fmt: skip
    assert [episode.terminations.tolist() for episode in episodes] == [[False, True]] + [[False, False]] * 3
    assert [episode.truncated for episode in episodes] == [False, True, True, True]
    assert np.concatenate([episode.rewards for episode in episodes]).tolist() == list(range(8))


# ---- all of it ----


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent of seconds, whose snapshots are chosen by hand as it learns next to nothing."""
    monkeypatch.setattr(d4rl_agent, "ABREAST", 2)
    monkeypatch.setattr(d4rl_agent, "RANDOM_STEPS", 20)
    monkeypatch.setattr(d4rl_agent, "WIDTH", 8)
    monkeypatch.setattr(d4rl_agent, "BATCH", 8)
    monkeypatch.setattr(Chosen, "of", staticmethod(lambda agent: Chosen(EVERY, 2 * EVERY, 15.0, 115.0)))


def test_an_agent_goes_on_where_it_was_stopped(small, monkeypatch):
    pytest.importorskip("stable_baselines3")
    import stable_baselines3

    learn = stable_baselines3.SAC.learn

    def stopped(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.num_timesteps:
            raise KeyboardInterrupt
        learn(self, *args, **kwargs)

    monkeypatch.setattr(stable_baselines3.SAC, "learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        collect("hopper-medium", 2 * EVERY, 30, 0, progress=False, snapshot_every=EVERY)
    place = minari_data.root() / ".training" / "hopper-seed0"
    before = dict(np.load(place / "buffer.npz"))
    assert before["rewards"].shape == (EVERY // 2, 2) and minari_data.ids() == []
    monkeypatch.setattr(stable_baselines3.SAC, "learn", learn)

    folder = collect("hopper-medium", 2 * EVERY, 30, 0, progress=False, snapshot_every=EVERY)
    after = np.load(place / "buffer.npz")
    assert after["rewards"].shape == (EVERY, 2) and after["resumed"].tolist() == [EVERY]
    np.testing.assert_array_equal(after["observations"][: EVERY // 2], before["observations"])
    weights = [np.load(place / f"{step:08d}.npz")["mu.weight"] for step in (EVERY, 2 * EVERY)]
    assert not np.array_equal(*weights)
    assert folder == minari_data.folder("local/hopper-medium-local-v0")

    kinds = (*collect_d4rl.KINDS, *collect_d4rl.MORE_KINDS)
    for kind in kinds[1:]:  # of the same agent, which is not trained again
        monkeypatch.setattr(stable_baselines3.SAC, "learn", None)
        collect(f"hopper-{kind}", 2 * EVERY, 30, 0, progress=False, snapshot_every=EVERY)
    medium, replay, expert, mixture = (d4rl.get(f"hopper-{kind}-local").load() for kind in kinds)
    assert len(replay) == EVERY and 30 <= len(medium) < 30 + 1000
    seen = before["observations"].swapaxes(0, 1).reshape(EVERY, 11).astype("f")  # one simulator's, then the other's
    np.testing.assert_array_equal(replay.transitions["observations"], seen)
    np.testing.assert_array_equal(expert.transitions["observations"][: len(medium)], medium.transitions["observations"])
    assert len(expert) >= len(medium) + 30
    policy = int(mixture.transitions["terminals"].nonzero()[0][0]) + 1  # the medium policy's one episode, then random's
    assert policy >= 3 and len(mixture) - policy >= 27  # a tenth and nine tenths of 30, last episodes whole
    np.testing.assert_array_equal(mixture.transitions["actions"][:policy], medium.transitions["actions"][:policy])
    assert np.abs(mixture.transitions["actions"][policy:]).mean() == pytest.approx(0.5, abs=0.15)  # uniform in the box

    task = d4rl.get("hopper-medium-local")
    assert task.name in d4rl.names() and task.data_location().text.startswith("generated: ")
    assert task.score(np.array([15.0, 115.0]), np.zeros(2)).tolist() == [0.0, 100.0]
    provenance = medium.provenance
    assert (provenance.name, provenance.origin) == ("hopper-medium-local", "generated")
    assert provenance.details["recipe"] == {**asdict(Recipe.of("hopper", 0, EVERY)), "training_steps": 2 * EVERY,
                                            "transitions": 30}  # fmt: skip
    assert provenance.details["reference"]["high"] == 115.0
    assert "v2" not in json.dumps(minari_data.metadata_of(task.dataset_id)).replace("not D4RL v2", "")

    state = (place / "agent.pt").read_bytes()
    for damaged in (b"", b"nonsense", state[: len(state) // 2]):
        (place / "agent.pt").write_bytes(damaged)
        with pytest.raises(
            BadInput, match=r"hopper-seed0: agent\.pt cannot be read .*; delete the folder to train anew"
        ):
            Agent(Recipe.of("hopper", 0, EVERY), place, 2 * EVERY)
    (place / "agent.pt").write_bytes(state)

    written = (folder / "data" / minari_files.FILE).stat().st_mtime_ns
    assert collect("hopper-medium", 2 * EVERY, 30, 0, progress=False, snapshot_every=EVERY) == folder
    assert (folder / "data" / minari_files.FILE).stat().st_mtime_ns == written
    with pytest.raises(BadInput, match="exists and was made otherwise"):
        collect("hopper-medium", 2 * EVERY, 31, 0, progress=False, snapshot_every=EVERY)
    with pytest.raises(BadInput, match="holds an agent trained with snapshot_every 40, not 20"):
        (folder / "data" / "metadata.json").unlink()
        collect("hopper-medium", 2 * EVERY, 30, 0, progress=False, snapshot_every=20)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("d4rl/hopper-medum", "cannot make d4rl/hopper-medum; did you mean 'd4rl/hopper-medium'?"),
        ("d4rl/antmaze-umaze", "cannot make d4rl/antmaze-umaze; valid: halfcheetah-medium"),
        ("d4rl/hopper-medium --training-steps 100", "--training-steps must be at least 20000, not 100"),
        ("d4rl/hopper-medium --transitions 0", "--transitions must be at least 1, not 0"),
        ("d4rl/hopper-medium --seed -1", "--seed must be at least 0, not -1"),
        ("d4rl/hopper-medium --episodes 5", "--episodes has no meaning for d4rl/hopper-medium"),
        ("cube-single-play-v0 --transitions 5", "--transitions has no meaning for cube-single-play-v0"),
        ("cube-single-play-v0", "cube-single-play-v0 needs --out PATH.npz"),
    ],
)
def test_bad_arguments(arguments, line):
    done = command(app, *arguments.split())
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {line}") and done.stderr.count("\n") == 1
    assert not minari_data.root().exists()


def test_missing_packages_are_named(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(d4rl_agent, "version", version)
    with pytest.raises(BadInput, match=r"gymnasium is not installed; collecting needs pip install .*\[collect\]"):
        collect("hopper-medium", 20000, 10, 0)
