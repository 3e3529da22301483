"""The online phase: every lane gathers transitions in a simulator of its own and goes on learning from all it has.

An environment step of all lanes is one step of the simulators, one small program that takes the transitions into the
buffer, and one that does the updates and acts on what follows. Steps are environment steps; in the records they go on
from the gradient steps of the offline end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness import replay
from harness.ending import Interrupted, NotFinite
from harness.openloop import OpenLoop
from harness.plan import StageNode
from harness.train import Algorithm, Lanes, dataset, span
from harness.training import SAVE_EVERY_S, Training
from methods.core import Array, Columns, Key, Stage, State, TaskSpec, part_key
from tasks.core import Dataset, RewardTransform, Task
from tasks.simulation.pools import simulators
from tasks.simulation.simulators import Failures

_SAVE_SHARE = 20  # saving a large buffer may take one part in so many of the time
_UNFINISHED = "unfinished"  # beside the parts, in the checkpoint of an unfinished phase
EXPLORED = ("explore/episodes", "explore/return", "explore/success")
"""Of the exploring episodes that ended since the last row of train.csv: how many, mean return, mean success."""


def metric_names(spec: TaskSpec, stage: Stage, state: State, columns: Columns) -> tuple[str, ...]:
    """What the stage's update reports, without computing it; `state`: shapes of one lane's parts."""

    def update(state: State, columns: Columns, key: Key) -> Any:
        draw_key, update_key = jax.random.split(key)
        batch = stage.sample.draw(*dataset(columns, {}), draw_key, stage.batch_size)
        return stage.update(state, spec.seen(batch), update_key)[1]

    return tuple(sorted(jax.eval_shape(update, state, columns, jax.random.key(0))))


class OnlineTrainer:
    """The device's side: the parts, the replay buffer, and the metrics since the last report."""

    def __init__(
        self, algorithm: Algorithm, node: StageNode, lanes: Lanes, columns: Columns, state: State, capacity: int
    ) -> None:
        """`columns`: the dataset's `[t, ...]`, on the device; `state`: parts `[l, ...]`, which are given away;
        `capacity`: of the replay buffer."""
        assert node.online
        self.algorithm, self.node, self.stage, self.online = algorithm, node, node.stage, node.online
        self.lanes, self.columns, self.capacity = lanes, columns, capacity
        self.chunk = algorithm.method.spec.action_dim // columns["actions"].shape[-1]
        self.count = len(lanes.keys)
        self.trained = {name: part for name, part in state.items() if name in self.stage.trains}
        self.frozen = {name: part for name, part in state.items() if name not in self.stage.trains}
        self.own = replay.empty(columns, self.count, min(capacity, self.stage.steps))
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)
        names = metric_names(algorithm.method.spec, self.stage, shapes, columns)
        self.tally = {name: jnp.zeros((2, self.count)) for name in names}  # sum and count
        self.seconds = {"compile": 0.0, "train": 0.0, "simulate": 0.0}
        self._act = jax.jit(self._explore)
        # a program of its own: in one with the gathers that read it, XLA would copy the buffer at every step
        self._insert = jax.jit(replay.insert, donate_argnums=0)
        self._learn: Any = None

    def resume(self, own: Columns, tally: dict[str, Array]) -> None:
        """Goes on from transitions `[l, held, ...]` gathered before, and the metrics since the last report."""
        self.own = {name: block.at[:, : own[name].shape[1]].set(own[name]) for name, block in self.own.items()}
        self.tally = tally

    @property
    def state(self) -> State:
        return {**self.frozen, **self.trained}

    def act(self, obs: np.ndarray, number: int) -> np.ndarray:
        """Exploring actions, or chunks of them, `[l, h * a]`, at observations `[l, o]`, by step `number`'s draws."""
        return np.nan_to_num(np.asarray(self._act(self.lanes, self.state, obs, np.int32(number))))

    def step(
        self,
        row: dict[str, np.ndarray],
        starts: np.ndarray,
        obs: np.ndarray,
        number: int,
        *,
        acting: bool | np.bool_ = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Takes in the transitions of environment step `number` (from 1), learns if the warm-up is over, and acts.

        Args:
          row: `[l, ...]` a column; starts: `[l]` bool, whether each begins an episode.
          obs: `[l, o]`, what the simulators show now.
          acting: whether an action is chosen; false where every simulator is in the midst of a chunk.

        Returns:
          Exploring actions, or chunks of them, `[l, h * a]`, and whether each lane's metrics and actions are finite,
          `[l]`.
        """
        started = time.perf_counter()
        self.own = self._insert(self.own, row, starts, np.int32(number - 1))
        arguments = (self.trained, self.tally, self.lanes, self.frozen, self.columns, self.own, obs, np.int32(number),
                     np.bool_(acting))  # fmt: skip
        if self._learn is None:
            self._learn = jax.jit(self._learn_and_act, donate_argnums=(0, 1)).lower(*arguments).compile()
            self.seconds["compile"] += time.perf_counter() - started
            started = time.perf_counter()
        self.trained, self.tally, actions, sound = self._learn(*arguments)
        actions, sound = jax.device_get((actions, sound))
        self.seconds["train"] += time.perf_counter() - started
        return np.nan_to_num(actions), sound

    def failure(self, place: int, seed: int, number: int) -> NotFinite:
        """What was not finite in a lane after step `number`."""
        tally = {name: float(value[0, place]) for name, value in self.tally.items()}
        bad = [name for name, value in tally.items() if not np.isfinite(value)] or ["actions"]
        return NotFinite(self.stage.name, self.node.first + number, seed, bad)

    def report(self) -> dict[str, np.ndarray]:
        """Each metric's mean `[l]` over the updates since the last report; NaN where there was none."""
        tally = jax.device_get(self.tally)
        self.tally = jax.tree.map(jnp.zeros_like, self.tally)
        with np.errstate(invalid="ignore"):
            return {name: total / count for name, (total, count) in tally.items()}

    def _learn_and_act(
        self, trained: State, tally: dict[str, Array], lanes: Lanes, frozen: State, columns: Columns, own: Columns,
        obs: Array, number: Array, acting: Array,
    ) -> Any:  # fmt: skip
        def learn(trained: State, tally: dict[str, Array]) -> Any:
            source = partial(replay.held, gathered=number, capacity=self.capacity)
            before = (number - 1 - self.online.warmup) * self.online.updates
            train = span(self.algorithm, self.online.updates, source)
            trained, result = train(lanes, trained, frozen, columns, own, before)
            for name, value in result.metrics.items():
                # with delayed updates a step may not report some of them
                missing = jnp.isnan(value) if self.stage.between else jnp.zeros(value.shape, bool)
                tally = {**tally, name: tally[name] + jnp.stack([jnp.where(missing, 0.0, value), ~missing])}
            return trained, tally, result.first_bad < 0

        def wait(trained: State, tally: dict[str, Array]) -> Any:
            return trained, tally, jnp.ones(self.count, bool)

        trained, tally, sound = jax.lax.cond(number > self.online.warmup, learn, wait, trained, tally)

        def choose(trained: State) -> Array:
            return self._explore(lanes, {**frozen, **trained}, obs, number + 1)

        width = self.algorithm.method.spec.action_dim
        if self.chunk == 1:
            actions = choose(trained)
        else:
            actions = jax.lax.cond(acting, choose, lambda _: jnp.zeros((self.count, width)), trained)
        return trained, tally, actions, sound & jnp.isfinite(actions).all(axis=-1)

    def _explore(self, lanes: Lanes, state: State, obs: Array, number: Array) -> Array:
        def one(lane: Lanes, state: State, obs: Array) -> Array:
            key = jax.random.fold_in(part_key(lane.keys, f"{self.stage.name}/explore"), number)
            method = self.algorithm.bound(lane.settings)
            return method.explore(state, method.spec.split(obs[None]), key)[0]

        return jax.vmap(one)(lanes, state, obs)


class Rollout:
    """The simulators' side: a simulator for every seed, episode after episode."""

    def __init__(
        self, task: Task, seeds: Sequence[int], episode: np.ndarray, reward: RewardTransform, seconds: dict[str, float],
        wait: Callable[[], None] = lambda: None, *, masks: str = "task",
    ) -> None:  # fmt: skip
        """`episode`: `[l]`, which episode each seed begins with; its number and the seed decide how it starts.
        `reward`: what is learned from of the simulator's. `seconds`: takes the simulators' time, as "simulate".
        `wait`: called while they take long; may raise to give up. `masks`: what stops the bootstrap, the end of the
        "task" or that of the "trajectory", a time limit included."""
        self.seeds, self.episode, self.horizon = tuple(seeds), np.array(episode), task.spec.horizon
        n = len(self.seeds)
        self.failed: Failures = {}  # seeds, by place, whose simulators raised; they stand still, and mean nothing
        self.pool = simulators(task, n, online=True, wait=wait, failed=self.failed)
        self.length, self.returns, self.success = np.zeros(n, int), np.zeros(n), np.zeros(n, bool)
        self.ended = np.zeros((3, n), np.float32)  # since the last report: episodes, their returns, their successes
        self.reward, self.seconds, self.masks = reward, seconds, masks
        self.obs = self.pool.reset(self._starts())

    def __enter__(self) -> Rollout:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.close()

    def step(self, actions: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The transitions `[l, ...]` that actions `[l, a]` make, and which of them are the first of their episode.

        `masks` is 0 where an episode truly ended: at a time limit values go on, unless told otherwise. Episodes that
        are over give way to new ones, whose first states are then in `obs`.
        """
        started = time.perf_counter()
        starts = self.starting
        result = self.pool.step(actions, self._whole())
        self.length, self.returns, self.success = (
            self.length + 1, self.returns + result.reward, self.success | result.success)  # fmt: skip
        ended = result.terminated | result.truncated | (self.length >= self.horizon)
        stops = ended if self.masks == "trajectory" else result.terminated
        row = {"observations": self.obs, "actions": actions, "rewards": self.reward(result.reward),
               "masks": 1.0 - stops.astype(np.float32), "next_observations": result.obs}  # fmt: skip
        over = ended & self._whole()
        self.obs = result.obs
        if over.any():
            self.ended += np.stack([over, over * self.returns, over & self.success])
            self.episode = self.episode + over
            self.length, self.returns, self.success = self.length * ~over, self.returns * ~over, self.success & ~over
            self.obs = self.pool.reset(self._starts(), over)
        self.seconds["simulate"] += time.perf_counter() - started
        return row, starts

    @property
    def starting(self) -> np.ndarray:
        """Those about to begin an episode, `[l]` bool."""
        return self.length == 0

    def report(self) -> dict[str, np.ndarray]:
        """Exploring episodes that ended since the last report, their mean return and success, `[l]` each."""
        (count, returns, successes), self.ended = self.ended, np.zeros_like(self.ended)
        with np.errstate(invalid="ignore"):
            return dict(zip(EXPLORED, (count, returns / count, successes / count), strict=True))

    def _whole(self) -> np.ndarray:
        """Those whose simulators did not raise, `[l]` bool."""
        whole = np.ones(len(self.seeds), bool)
        whole[list(self.failed)] = False
        return whole

    def _starts(self) -> np.ndarray:
        """The simulators' seeds: drawn from 2^32, so that hardly any is one of the few that evaluations start from."""
        pairs = zip(self.seeds, self.episode.tolist(), strict=True)
        return np.array([np.random.SeedSequence(pair).generate_state(1)[0] for pair in pairs], np.int64)


class OnlineTraining(Training):
    """The rest of an online phase, from where its lanes' stores left off: `Training` with simulators.

    A checkpoint holds the parts, the lane's own transitions, and which episode it is in. The state of the simulators is
    not among it, so whoever resumes begins with the episodes after those.
    """

    def __init__(self, *arguments: Any, dataset: Dataset, reward: RewardTransform) -> None:
        """`reward`: what is learned from of the environment's; the rest as for `Training`."""
        self.reward, self._cost = reward, 0.0  # seconds of the last save
        program, columns = arguments[1], arguments[4]
        method, node = program.first.method, program.first.node
        shapes = jax.eval_shape(method.init, jax.eval_shape(lambda: jax.random.key(0)))
        self.metrics = metric_names(method.spec, node.stage, shapes, columns)
        self.columns = (*self.metrics, *EXPLORED)
        self.capacity = node.online.capacity or len(dataset) + node.stage.steps
        super().__init__(*arguments)

    def _started(self, before: State) -> State:
        return before

    def _like(self, trained: State) -> State:
        """Beside the parts, what an unfinished phase needs."""
        if self.step == self.stage.steps:
            return trained
        held, array = min(self.step, self.capacity), jax.ShapeDtypeStruct
        besides = {
            "own": {name: array((held, *column.shape[1:]), column.dtype) for name, column in self.data.items()},
            "tally": {name: array((2,), jnp.float32) for name in self.metrics},
            "ended": array((3,), jnp.float32), "episode": array((), jnp.int32),
        }  # fmt: skip
        return {**trained, _UNFINISHED: besides}

    def _train(self, state: State) -> None:
        besides = state.pop(_UNFINISHED, {})
        trainer = OnlineTrainer(self.algorithm, self.node, self.lanes, self.data, state, self.capacity)
        if besides:
            trainer.resume(besides["own"], {name: value.T for name, value in besides["tally"].items()})
        self._saved = time.monotonic()
        self._evaluate_or_save(trainer.state, trainer.seconds)
        if self.step < self.stage.steps and self.live:
            count = len(self.program.slots)
            episode = np.asarray(besides["episode"]) + 1 if besides else np.zeros(count, np.int32)
            task = self.cohorts[0].run.task
            with Rollout(task, self._seeds(), episode, self.reward, trainer.seconds, self.session.stop.heed,
                         masks=self.algorithm.method.rewards.masks) as rollout:  # fmt: skip
                if besides:
                    rollout.ended[:] = np.asarray(besides["ended"]).T
                self._go_on(trainer, rollout)
        if self.live:
            self._save(trainer.state, trainer.seconds, finished=True)

    def _seeds(self) -> list[int]:
        return [(slot.lane or self.program.first).seed for slot in self.program.slots]

    def _go_on(self, trainer: OnlineTrainer, rollout: Rollout) -> None:
        """Steps to the end, with logs, saves and evaluations on the way."""
        edges = self._edges()
        self._drop_failed(rollout)
        if not self.live:
            return
        width, action_dim = self.algorithm.method.spec.action_dim, self.cohorts[0].run.task.spec.action_dim
        chunks = OpenLoop(trainer.count, width, action_dim)
        choosing, chosen = chunks.due(rollout.starting), trainer.act(rollout.obs, self.step + 1)
        with self.session.progress.stage(self._label(), self.stage.steps, self.step) as bar:
            while edges:
                try:
                    row, starts = rollout.step(chunks.step(choosing, chosen))
                except Interrupted:  # a simulator never came back from this step
                    self._keep(trainer, rollout)
                    raise
                self._drop_failed(rollout)
                self.step += 1
                choosing = chunks.due(rollout.starting)
                chosen, sound = trainer.step(row, starts, rollout.obs, self.step, acting=choosing.any())
                for place, lane in list(self.live.items()):
                    if not sound[place]:
                        self.fail(place, trainer.failure(place, lane.seed, self.step))
                bar.advance(1)
                if self.step % self.log_every == 0 or self.step == edges[0]:
                    self._log({**trainer.report(), **rollout.report()})
                due = time.monotonic() - self._saved > max(SAVE_EVERY_S, _SAVE_SHARE * self._cost)
                stop = self.session.stop()
                if due or stop or self.step == edges[0]:
                    self._keep(trainer, rollout)
                if stop:
                    raise Interrupted
                if self.step == edges[0]:
                    edges.pop(0)
                    self._evaluate_or_save(trainer.state, trainer.seconds)
                if not self.live:
                    return

    def _drop_failed(self, rollout: Rollout) -> None:
        for place in sorted(rollout.failed.keys() & self.live.keys()):
            self.fail(place, rollout.failed[place])

    def _keep(self, trainer: OnlineTrainer, rollout: Rollout) -> None:
        """Saves what `_like` describes."""
        started, state = time.perf_counter(), trainer.state
        if self.step < self.stage.steps:
            own = {name: block[:, : self.step] for name, block in trainer.own.items()}
            tally = {name: value.T for name, value in trainer.tally.items()}
            state[_UNFINISHED] = {"own": own, "tally": tally, "ended": rollout.ended.T, "episode": rollout.episode}
        self._save(state, trainer.seconds)
        self._cost = time.perf_counter() - started

    def _kept(self, state: State) -> State:
        besides = {_UNFINISHED: state[_UNFINISHED]} if _UNFINISHED in state else {}
        return {**super()._kept(state), **besides}
