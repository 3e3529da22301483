"""One batched rollout over seeds x test-time knobs x episodes, the policy called once a step for all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness.ending import Interrupted
from harness.train import quick_compile, seed_keys
from methods.core import Key, Method, State, act_keys
from methods.learner import part_key
from tasks.core import Task, Transitions
from tasks.simulation.pools import simulators
from tasks.simulation.simulators import SimulatorPool, Simulators

PROBES = 16  # observations at which candidates are recorded


class Evaluator:
    """Rolls out one method on one task. Rows are `[s, k * e]`: seeds, then knob settings, then episodes."""

    def __init__(self, method: Method, task: Task, seeds: Sequence[int], episodes: int) -> None:
        self.method, self.task, self.seeds, self.episodes = method, task, tuple(seeds), episodes
        settings = method.knobs
        self.knob_names = tuple(settings[0])
        self.rows = len(settings) * episodes
        columns = {name: np.repeat([float(knob[name]) for knob in settings], episodes) for name in self.knob_names}
        self.knobs = {name: jnp.asarray(values, jnp.float32) for name, values in columns.items()}
        # every method, seed and setting meets the same starts
        self.episode_seeds = np.tile(np.arange(episodes), len(seeds) * len(settings))
        self.keys = seed_keys(seeds)
        self._act = jax.jit(self._act_all)
        self._pool: Simulators | SimulatorPool | None = None
        self._stop: Callable[[], bool] = lambda: False

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the simulators; another evaluation makes new ones."""
        if self._pool:
            self._pool.close()
            self._pool = None

    def _act_all(self, state: State, obs: Any, keys: Key, number: Any) -> Any:
        def one(state: State, obs: Any, key: Key) -> Any:
            return self.method.act(state, obs, jax.random.fold_in(key, number), self.knobs)

        return jax.vmap(one)(state, obs, keys)

    def run(
        self, state: State, step: int, *, stop: Callable[[], bool], progress: Callable[[float], None]
    ) -> list[dict[str, Any]]:
        """Episode rows of the record (less `phase`), for the policy after `step` gradient steps.

        Raises:
          Interrupted: `stop()` became true; no rows are returned.
        """
        n, width = len(self.seeds) * self.rows, self.task.spec.action_dim
        self._stop = stop
        if self._pool is None:
            self._pool = simulators(self.task, n, wait=self._heed)
        keys = jax.vmap(lambda key: jax.random.fold_in(part_key(key, "evaluate"), step))(self.keys)
        obs = self._pool.reset(self.episode_seeds)
        active, success = np.ones(n, bool), np.zeros(n, bool)
        returns, lengths = np.zeros(n), np.zeros(n, int)
        for number in range(self.task.spec.horizon):
            self._heed()
            batch = jnp.asarray(obs).reshape(len(self.seeds), self.rows, -1)
            actions = np.asarray(self._act(state, batch, keys, number), np.float32).reshape(n, width)
            result = self._pool.step(actions, active)
            obs = result.obs
            returns += result.reward
            lengths += active
            success |= result.success
            active &= ~(result.terminated | result.truncated)
            progress((number + 1) / self.task.spec.horizon)
            if not active.any():
                break
        scores = self.task.score(returns, success)
        return self._rows(step, returns, lengths, success, scores)

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

    def candidates(self, state: State, transitions: Transitions) -> dict[str, np.ndarray]:
        """The record's `candidates.npz`: what the method chooses among at a few of the data's observations."""
        places = np.linspace(0, len(transitions["rewards"]) - 1, PROBES).astype(int)
        obs = jnp.asarray(transitions["observations"][places])
        keys = jax.vmap(lambda key: part_key(key, "candidates"))(self.keys)

        @partial(jax.jit, compiler_options=quick_compile())
        def probe(state: State, knobs: Mapping[str, Any]) -> Any:
            def one(state: State, key: Key) -> Any:
                candidates_key, choose_key = act_keys(key)
                candidates, valid = self.method.candidates(state, obs, candidates_key, knobs)
                return candidates, valid, self.method.choose(state, obs, candidates, valid, choose_key)

            return jax.vmap(one)(state, keys)

        found = [
            probe(state, {name: jnp.full(PROBES, value, jnp.float32) for name, value in setting.items()})
            for setting in self.method.knobs
        ]
        per_output = zip(*found, strict=True)
        candidates, valid, actions = (np.stack([np.asarray(part) for part in parts], axis=1) for parts in per_output)
        knobs = {name: np.array([setting[name] for setting in self.method.knobs]) for name in self.knob_names}
        return {"observations": np.asarray(obs), **knobs, "candidates": candidates, "valid": valid, "actions": actions}
