"""One batched rollout over lanes x test-time knobs x episodes, the policy called once a step for all rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness import compiling
from harness.ending import Interrupted, NotFinite
from harness.openloop import OpenLoop
from harness.train import Lanes, lanes_of
from methods.core import Method, State, act_keys, part_key, structure
from tasks.core import Task, Transitions, met
from tasks.simulation.pools import simulators
from tasks.simulation.simulators import Failures, SimulatorError, SimulatorPool, Simulators

PROBES = 16  # observations at which candidates are recorded

Kept = Callable[[Any, Callable[[], Any]], Any]


class Evaluator:
    """Rolls out one method on one task. Rows are `[l, k * e]`: seeds, then knob settings, then episodes."""

    def __init__(
        self, method: Method, task: Task, seeds: Sequence[int], episodes: int, kept: Kept | None = None
    ) -> None:
        """`kept`: what keeps compiled programs, so that methods which differ in float settings alone share one."""
        self.method, self.task, self.seeds, self.episodes = method, task, tuple(seeds), episodes
        settings = method.knobs
        self.knob_names = tuple(settings[0])
        self.rows = len(settings) * episodes
        columns = {name: np.repeat([float(knob[name]) for knob in settings], episodes) for name in self.knob_names}
        self.knobs = {name: jnp.asarray(values, jnp.float32) for name, values in columns.items()}
        # every method, seed and setting meets the same starts
        self.episode_seeds = np.tile(np.arange(episodes), len(seeds) * len(settings))
        self.lanes = lanes_of(self.seeds, [method] * len(self.seeds))
        key = (type(method), method.spec, structure(method.config))
        few = compiling.quick(task.spec.horizon < compiling.FEW_STEPS)
        keep: Kept = kept or (lambda key, make: make())
        self._act = keep(("act", *key), lambda: jax.jit(partial(_act, method), compiler_options=few))
        self._probe = keep(
            ("probe", *key), lambda: jax.jit(partial(_probe, method), compiler_options=compiling.quick())
        )
        self._pool: Simulators | SimulatorPool | None = None
        self._broken: Failures = {}  # simulators of the pool that raised
        self._stop: Callable[[], bool] = lambda: False

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the simulators; another evaluation makes new ones."""
        if self._pool:
            self._pool.close()
            self._pool, self._broken = None, {}

    def run(
        self, state: State, step: int, chosen: Collection[int], *, stop: Callable[[], bool],
        progress: Callable[[float], None],
    ) -> dict[int, list[dict[str, Any]] | Exception]:  # fmt: skip
        """Episode rows of the record (less `phase`) for the policies after `step` gradient steps, by seed, or what a
        seed's environment or actions failed of. Only `chosen` seeds are rolled out; parts of the others mean nothing.

        Raises:
          Interrupted: `stop()` became true; no rows are returned.
          SimulatorError: a simulator cannot be built.
        """
        self._stop = stop
        found = self._rollout(state, step, chosen, progress)
        died = [seed for seed, one in found.items() if isinstance(one, SimulatorError) and one.row is None]
        for seed in died if len(chosen) > 1 else ():  # with a process that ran others, too: alone it shows whose it was
            found |= self._rollout(state, step, [seed], progress)
        return found

    def _rollout(
        self, state: State, step: int, chosen: Collection[int], progress: Callable[[float], None]
    ) -> dict[int, list[dict[str, Any]] | Exception]:
        n, width = len(self.seeds) * self.rows, self.task.spec.action_dim
        if self._pool is None:
            self._pool = simulators(self.task, n, wait=self._heed, failed=self._broken)
        keys = jax.vmap(lambda key: jax.random.fold_in(part_key(key, "evaluate"), step))(self.lanes.keys)
        lanes = Lanes(keys, self.lanes.settings)
        failed: dict[int, list[dict[str, Any]] | Exception] = {}
        obs = self._pool.reset(self.episode_seeds)
        chunks = OpenLoop(n, self.method.spec.action_dim, width)
        active, success = np.repeat([seed in chosen for seed in self.seeds], self.rows), np.zeros(n, bool)
        returns, lengths = np.zeros(n), np.zeros(n, int)
        for number in range(self.task.spec.horizon):
            active &= self._whole()
            if not active.any():
                break
            self._heed()
            due = chunks.due(np.zeros(n, bool))
            fresh: np.ndarray | None = None
            if due.any():
                batch = jnp.asarray(obs).reshape(len(self.seeds), self.rows, -1)
                acted = self._act(lanes, state, batch, self.knobs, number)
                fresh = np.asarray(acted, np.float32).reshape(n, -1)
            actions = chunks.step(due, fresh)
            if not np.isfinite(actions[active]).all():
                sound = (np.isfinite(actions).all(axis=1) | ~active).reshape(len(self.seeds), self.rows).all(axis=1)
                for place in np.flatnonzero(~sound).tolist():
                    failed[self.seeds[place]] = NotFinite("evaluation", step, self.seeds[place], ["actions"])
                active &= np.repeat(sound, self.rows)
            result = self._pool.step(np.nan_to_num(actions), active)
            obs = result.obs
            returns += result.reward
            lengths += active
            success |= result.success
            active &= ~(result.terminated | result.truncated)
            progress((number + 1) / self.task.spec.horizon)
        scores = self.task.score(returns, success)
        rows = self._rows(step, returns, lengths, success, scores)
        each = {seed: rows[place * self.rows : (place + 1) * self.rows] for place, seed in enumerate(self.seeds)}
        failed |= {self.seeds[row // self.rows]: error for row, error in self._broken.items()}
        if self._broken:
            self.close()
        return {seed: failed.get(seed, each[seed]) for seed in chosen}

    def _whole(self) -> np.ndarray:
        """Rows `[l * k * e]` of seeds none of whose simulators raised."""
        whole = np.ones(len(self.seeds), bool)
        whole[[row // self.rows for row in self._broken]] = False
        return np.repeat(whole, self.rows)

    def _heed(self) -> None:
        if self._stop():
            raise Interrupted

    def _rows(self, step: int, *columns: np.ndarray) -> list[dict[str, Any]]:
        names = ("return", "length", "success", "score")
        rows = []
        for i, values in enumerate(zip(*columns, strict=True)):
            seed, within = divmod(i, self.rows)
            setting = self.method.knobs[within // self.episodes]
            row = {"seed": self.seeds[seed], "phase": "", "step": step, **setting, "episode": within % self.episodes}
            rows.append(row | dict(zip(names, values, strict=True)) | {"success": int(values[2])})
        return rows

    def candidates(self, state: State, transitions: Transitions) -> dict[int, dict[str, np.ndarray]]:
        """Each seed's `candidates.npz`: what the method chooses among at a few of the data's observations."""
        places = np.linspace(0, len(transitions["rewards"]) - 1, PROBES).astype(int)
        obs = jnp.asarray(met(transitions, places, self.task.spec))
        keys = jax.vmap(lambda key: part_key(key, "candidates"))(self.lanes.keys)
        lanes = Lanes(keys, self.lanes.settings)
        found = [
            self._probe(lanes, state, obs, {name: jnp.full(PROBES, value, jnp.float32) for name, value in one.items()})
            for one in self.method.knobs
        ]
        per_output = zip(*found, strict=True)
        candidates, valid, actions = (np.stack([np.asarray(part) for part in parts], axis=1) for parts in per_output)
        knobs = {name: np.array([setting[name] for setting in self.method.knobs]) for name in self.knob_names}
        return {
            seed: {"observations": np.asarray(obs), **knobs, "candidates": candidates[place], "valid": valid[place],
                   "actions": actions[place]}
            for place, seed in enumerate(self.seeds)
        }  # fmt: skip


def _act(method: Method, lanes: Lanes, state: State, obs: Any, knobs: Mapping[str, Any], number: Any) -> Any:
    """Actions `[l, r, a]` at observations `[l, r, o]` with knobs `[r]`, by the draws of step `number`."""

    def one(lane: Lanes, state: State, obs: Any) -> Any:
        return method.having(**lane.settings).act(
            state, method.spec.split(obs), jax.random.fold_in(lane.keys, number), knobs
        )

    return jax.vmap(one)(lanes, state, obs)


def _probe(method: Method, lanes: Lanes, state: State, obs: Any, knobs: Mapping[str, Any]) -> Any:
    """Candidates `[l, p, n, a]`, which are in play `[l, p, n]`, and actions `[l, p, a]` at observations `[p, o]`."""

    def one(lane: Lanes, state: State) -> Any:
        bound = method.having(**lane.settings)
        candidates_key, choose_key = act_keys(lane.keys)
        seen = method.spec.split(obs)
        candidates, valid = bound.candidates(state, seen, candidates_key, knobs)
        return candidates, valid, bound.choose(state, seen, candidates, valid, choose_key)

    return jax.vmap(one)(lanes, state)
