"""The two sides of an online phase: what the device learns from, and what the simulators are asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.measure import random_transitions
from harness.online import OnlineTrainer, Rollout
from harness.plan import OnlineSettings, StageNode
from harness.train import Algorithm, initial_state, lanes_of, take
from methods.core import Method, MethodConfig, Stage, State, TaskSpec
from tasks.core import RewardTransform
from tests.harness.line import HORIZON, Line, LineTask

SPEC = TaskSpec(3, 2, 10)


# ---- learning ----


@dataclass(frozen=True)
class Walker(Method):
    """A method small enough to compile at once: its weights drift by what a batch holds, and it acts by them."""

    @property
    def fields(self) -> frozenset[str]:
        return super().fields | {"next_actions", "terminals"}

    def init(self, key: Any) -> State:
        return {"weights": jax.random.normal(key, (3, 2)), "steps": jnp.zeros((2,), jnp.int32)}

    def stages(self) -> tuple[Stage, ...]:
        return ()

    def online(self) -> Stage:
        full, between = (partial(self.drift, counted=counted) for counted in ((1, 1), (1, 0)))
        parts = frozenset({"weights", "steps"})
        return Stage("online", parts, 30, full, "", {}, batch_size=4, period=2, between=between)

    def drift(self, state: State, batch: Any, key: Any, counted: tuple[int, int]) -> Any:
        seen = sum(jnp.mean(column) for column in batch.values())
        weights = 0.9 * state["weights"] + 0.1 * seen + 0.01 * jax.random.normal(key, (3, 2))
        metrics = {"weights/reward": jnp.mean(batch["rewards"])}
        if counted[1]:
            metrics["weights/norm"] = jnp.sum(weights**2)
        return {"weights": weights, "steps": state["steps"] + jnp.array(counted)}, metrics

    def explore(self, state: State, obs: Any, key: Any) -> Any:
        return jnp.tanh(obs @ state["weights"] + jax.random.normal(key, (obs.shape[0], 2)))


def trainer(seeds: tuple[int, ...] = (3, 4)) -> OnlineTrainer:
    """Two steps of warm-up, two updates a step, a dataset of 20 transitions, 30 steps, from step 100 of the record."""
    method = Walker(MethodConfig(), SPEC)
    columns = take(random_transitions(SPEC, 20), method.fields)
    node = StageNode(method.online(), {}, "x", 0, 100, OnlineSettings(warmup=2, updates=2, capacity=0))
    lanes = lanes_of(seeds, [method] * len(seeds))
    return OnlineTrainer(Algorithm(method, 0), node, lanes, columns, initial_state(method, lanes), 50)


def rows(seed: int, number: int) -> dict[str, np.ndarray]:
    """The transition of one seed's environment step."""
    rng = np.random.default_rng([seed, number])
    values = {"observations": rng.normal(size=(1, 3)), "next_observations": rng.normal(size=(1, 3)),
              "actions": rng.uniform(-1, 1, (1, 2)), "rewards": rng.normal(size=1), "masks": np.ones(1)}  # fmt: skip
    return {name: value.astype(np.float32) for name, value in values.items()}


def feed(
    learner: OnlineTrainer, numbers: range, seeds: tuple[int, ...] = (3, 4), spoil: int = -1, blind: int = -1
) -> tuple[list[np.ndarray], np.ndarray]:
    """Gives each seed its own transitions; `spoil`: the seed whose reward is infinite, `blind`: whose state is NaN.
    Actions of each step, and which seeds were finite in it."""
    taken, finite, own = [], [], np.array(seeds)
    for number in numbers:
        parts = [rows(seed, number) for seed in seeds]
        row = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        row["rewards"] = np.where(own == spoil, np.inf, row["rewards"]).astype(np.float32)
        shown = np.where(own[:, None] == blind, np.nan, row["next_observations"]).astype(np.float32)
        actions, sound = learner.step(row, np.full(len(seeds), number % 5 == 1), shown, number)
        taken.append(actions)
        finite.append(sound)
    return taken, np.array(finite)


def copy(state: State) -> State:
    return jax.tree.map(np.array, state)


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.slow
def test_seeds_together_are_each_alone_and_a_resume_changes_nothing() -> None:
    """float32 sums in another order, as in the contract test."""
    together = trainer((3, 4))
    before = copy(together.trained)
    actions, _ = feed(together, range(1, 3))
    assert same(before, together.trained)  # the warm-up
    assert all(np.isnan(value).all() for value in together.report().values())
    actions += feed(together, range(3, 8))[0]
    assert not same(before, together.trained)
    for place, seed in enumerate((3, 4)):
        alone = trainer((seed,))
        own = np.concatenate(feed(alone, range(1, 8), (seed,))[0])
        np.testing.assert_allclose(own, np.stack(actions)[:, place], atol=1e-5)
        for name, block in alone.own.items():
            np.testing.assert_array_equal(block[0], together.own[name][place])

    resumed = trainer((3, 4))
    resumed.resume({name: block[:, :7] for name, block in copy(together.own).items()}, copy(together.tally))
    resumed.trained = jax.tree.map(jnp.array, copy(together.trained))
    assert same(feed(resumed, range(8, 11)), feed(together, range(8, 11)))
    assert same(resumed.trained, together.trained) and same(resumed.report(), together.report())


def test_updates_and_what_they_report_are_counted() -> None:
    """Two a step after the warm-up, every second one a full one; a report is the mean over the steps since the last."""
    learner, single, singles = trainer(), trainer(), []
    feed(learner, range(1, 7))
    for number in range(1, 7):
        feed(single, range(number, number + 1))
        singles.append(single.report())
    assert np.asarray(learner.trained["steps"]).tolist() == [[8, 4]] * 2
    for name, mean in learner.report().items():
        assert all(np.isnan(singles[number][name]).all() for number in (0, 1))
        np.testing.assert_allclose(mean, np.mean([one[name] for one in singles[2:]], axis=0), rtol=1e-5)


def test_what_is_not_finite_is_named_and_touches_nobody_else() -> None:
    """An infinite reward of seed 4 spoils it once it is drawn, from then on; its neighbour's numbers stay the same."""
    learner, sound = trainer(), trainer()
    actions, finite = feed(learner, range(1, 12), spoil=4)
    first = int(np.argmin(finite[:, 1]))
    assert finite[:, 0].all() and finite[:first, 1].all() and not finite[first:, 1].any() and first >= 2
    message = str(learner.failure(1, 4, first + 1))
    assert message.startswith("stage online: weights/")
    assert message.endswith(f"not finite at step {101 + first}, seed 4")
    others, _ = feed(sound, range(1, 12))
    np.testing.assert_array_equal(np.array(actions)[:, 0], np.array(others)[:, 0])
    assert np.isfinite(actions).all(), "what is not is no action for a simulator"
    blind = trainer()
    assert feed(blind, range(1, 2), blind=3)[1].tolist() == [[False, True]]
    assert str(blind.failure(0, 3, 1)) == "stage online: actions not finite at step 101, seed 3"


# ---- gathering ----


class Cut(Line):
    """Is cut off by its own time limit, too, after five steps."""

    def reset(self, **settings: Any) -> Any:
        self.left = 5
        return super().reset(**settings)

    def step(self, action: np.ndarray) -> Any:
        self.left -= 1
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated or self.left == 0, info


@dataclass(frozen=True)
class CutTask(LineTask):
    """Episodes of five steps at most."""

    def make_online_env(self) -> Any:
        return Cut()


@dataclass(frozen=True)
class LongTask(LineTask):
    """Whose horizon is the harness's business."""

    def make_online_env(self) -> Any:
        return Line()


@pytest.mark.parametrize(("task", "longest"), [(CutTask(), 5), (LongTask(), HORIZON)])
def test_episodes_follow_each_other(task: Any, longest: int) -> None:
    """Seed 0 walks to the goal again and again, seed 1 stands still until time is up."""
    seconds = {"simulate": 0.0}
    with Rollout(task, (0, 1), np.zeros(2, np.int32), RewardTransform(), seconds) as rollout:
        seen = []
        for _ in range(12):
            acted = rollout.obs
            row, starts = rollout.step(np.array([[1.0], [0.0]], np.float32))
            np.testing.assert_array_equal(row["observations"], acted)
            seen.append((row, starts, rollout.obs))
        walk = [(float(row["next_observations"][0, 0]), float(row["masks"][0])) for row, _, _ in seen]
        assert all((x >= 4) == (mask == 0) for x, mask in walk) and sum(mask == 0 for _, mask in walk) >= 3
        assert all(row["masks"][1] == 1 for row, _, _ in seen)  # values go on where time is up
        for (before, _, obs), (after, starts, _) in pairwise(seen):
            for seed in (0, 1):
                mark = before["next_observations"][seed, 1]  # each episode's own number
                assert starts[seed] == (after["observations"][seed, 1] != mark)
                np.testing.assert_array_equal(after["observations"][seed], obs[seed])
        assert [bool(starts[1]) for _, starts, _ in seen] == [k % longest == 0 for k in range(12)]
        ended = 12 // longest
        report = rollout.report()
        assert report["explore/episodes"][1] == ended and report["explore/return"][1] == -longest
        assert report["explore/success"].tolist() == [1, 0]
        assert rollout.report()["explore/episodes"].tolist() == [0, 0] and seconds["simulate"] > 0
        assert rollout.episode.tolist() == [int(report["explore/episodes"][0]), ended]


def test_rewards_go_through_the_datasets_transform_and_reported_returns_do_not() -> None:
    steps, actions = [], np.array([[1.0], [0.0]], np.float32)
    for transform in (RewardTransform(), RewardTransform(scale=2.0, shift=-1.0)):
        with Rollout(CutTask(), (0, 1), np.zeros(2, np.int32), transform, {"simulate": 0.0}) as rollout:
            rewards = np.stack([rollout.step(actions)[0]["rewards"] for _ in range(6)])
            steps.append((rewards, rollout.report()["explore/return"]))
    (raw, returns), (learned, same) = steps
    np.testing.assert_array_equal(learned, 2.0 * raw - 1.0)
    np.testing.assert_array_equal(returns, same)


def test_every_episode_starts_differently_and_none_as_evaluations_do() -> None:
    with Rollout(LongTask(), (0, 1), np.array([0, 7]), RewardTransform(), {"simulate": 0.0}) as rollout:
        starts = [rollout._starts()]
        for number in range(50):
            rollout.episode = np.array([number + 1, number + 8])
            starts.append(rollout._starts())
    assert len(set(np.ravel(starts).tolist())) == 102 and np.min(starts) > 1000
