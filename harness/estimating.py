"""Estimates of what each test-time setting of finished runs is worth, from parts and data alone: `offline.csv`."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from core.files import read_plain, write_text
from harness import compiling
from harness.attempts import OFFLINE
from harness.control import ControlEngine
from harness.diagnosis import finished
from harness.plan import RunNode
from harness.session import Session
from harness.train import lanes_of, learned, take
from methods import valuation
from methods.core import Array, BadInput, Key, Method, State, part_key, structure
from methods.fqe import FQE
from methods.networks import features
from tasks.core import Dataset, Task, met

FIRST = 256  # first states, at most, of which FQE gives the value
SPLITS = ("validation", "training")
MADE = ("value", "disagreement", "data_value", "data_disagreement", "td_error", "transport", "bound", "fqe")
"""Columns of numbers in offline.csv."""
ABOUT = ("members", "transitions", "updates", "split", "data")
"""Columns that say how they were made, the same in every row."""


@dataclass(frozen=True)
class Asking:
    """How much is asked, and of what."""

    split: str = "validation"
    transitions: int = 4096
    updates: int = FQE.updates  # of FQE; 0: without it


def held_out(task: Task, training: Dataset, split: str) -> Dataset:
    """The transitions to ask at. Raises: BadInput: the task has none that were kept back."""
    if split == "training":
        return training
    kept_back = getattr(task, "validation", None)
    found = kept_back(training) if kept_back is not None else None
    if found is None:
        more = "" if kept_back is None else "python -m tasks.fetch --validation fetches what was published, "
        raise BadInput(f"{task.name}: has no validation data here; {more}--split training asks at the training data")
    data: Dataset = found
    return data


def estimate(
    session: Session, run: RunNode, dataset: Dataset, asking: Asking, advance: Any = lambda seeds: None
) -> tuple[list[int], list[int]]:
    """Writes `offline.csv` of each finished seed of a run that has none like it (results/README.md has its columns).

    Args:
      dataset: the transitions to ask at. advance: hears of each seed that is done.

    Returns:
      The seeds that have it now, and those of them that had it before.

    Raises:
      BadInput: no seed is finished, or a number is not finite.
    """
    method, found, before = run.method, list[int](), list[int]()
    if not run.folder(session.results).is_dir():
        raise BadInput(f"{run.label}: has not been run with these options")
    critic = valuation.critic_of(method)
    members = critic.members if critic else 0
    about = {"members": members, "transitions": asking.transitions, "updates": asking.updates,
             "split": asking.split, "data": dataset.provenance.sha256[:12]}  # fmt: skip
    expected = {"transport"} | ({"fqe"} if asking.updates else set()) | ({"value", "td_error"} if critic else set())
    expected |= {"disagreement", "data_disagreement"} if members > 1 else set()
    ask: _Ask | None = None
    for seed in run.settings.seeds:
        if all(finished(session, lane) for lane in run.lanes(seed)):
            found.append(seed)
            path = run.folder(session.results) / f"seed-{seed}" / OFFLINE
            if _same(path, about, len(method.knobs)):
                before.append(seed)
            else:
                ask = ask or _Ask(session, run, dataset, asking)
                values = ask(_state(session, run, seed), seed)
                if missing := [name for name in sorted(expected) if not np.isfinite(values[name]).all()]:
                    raise BadInput(f"{run.label}, seed {seed}: {missing[0]} is not finite")
                text = io.StringIO()
                pd.DataFrame(_rows(method, values, about)).to_csv(text, index=False, lineterminator="\n")
                write_text(path, text.getvalue())
                session.storage.publish_file(path)
        advance(1)
    if not found:
        raise BadInput(f"{run.label}: no seed is finished; python -m harness.run with the same options trains them")
    return found, before


def _state(session: Session, run: RunNode, seed: int) -> State:
    """The parts of one seed."""
    engine, parts = ControlEngine(), dict[str, Any]()
    for last in (False, True):
        parts |= engine.parts(session, run, [seed], [seed], last=last)
    return jax.tree.map(lambda leaf: leaf[0], parts)


def _rows(method: Method, values: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a setting."""
    numbers = [{name: values[name][place] for name in MADE} for place in range(len(method.knobs))]
    return [{**setting, **of, **about} for setting, of in zip(method.knobs, numbers, strict=True)]


def _same(path: Path, about: Mapping[str, Any], settings: int) -> bool:
    """Whether the file is there and was made in the same way."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        table = pd.read_csv(io.BytesIO(read_plain(path)), dtype=dict.fromkeys(("split", "data"), str))
        return len(table) == settings and all((table[name] == value).all() for name, value in about.items())
    return False


class _Ask:
    """What is asked of the seeds of one run, by programs that runs of equal structure share."""

    def __init__(self, session: Session, run: RunNode, dataset: Dataset, asking: Asking) -> None:
        method, sample = run.method, run.method.sample
        if len(dataset) < sample.length:
            raise BadInput(f"{run.label}: {len(dataset)} transitions to ask at, and a sample takes {sample.length}")
        names = frozenset({"observations", "actions", "rewards", "masks", "next_observations"}) | sample.reads
        reward = learned(method, dataset.reward)
        self.columns = session.columns(dataset, names, take, reward, method.rewards.masks)
        self.held, self.method, self.asking = len(dataset), method, asking
        ends = np.flatnonzero(dataset.transitions["terminals"] > 0.0)[:-1] + 1
        starts = np.concatenate([[0], ends])
        starts = starts[np.linspace(0, len(starts) - 1, min(FIRST, len(starts))).astype(int)]
        self.firsts = jnp.asarray(met(dataset.transitions, starts, run.task.spec))
        settings = method.knobs
        self.knobs = {name: jnp.asarray([float(one[name]) for one in settings], jnp.float32) for name in settings[0]}
        self.base = least(settings)
        key = (type(method), method.spec, structure(method.config), self.held, asking)
        light, quick = compiling.light(), compiling.light(asking.updates < compiling.SHORT)
        self._ask = session.kept(
            ("offline", *key), lambda: jax.jit(partial(_asked, method, asking, self.held), compiler_options=light)
        )
        self._fit = session.kept(
            ("fqe", *key), lambda: jax.jit(partial(_fitted, method, FQE(asking.updates)), compiler_options=quick)
        )

    def __call__(self, state: State, seed: int) -> dict[str, np.ndarray]:
        """The numbers of every setting `[k]`, by column."""
        leaves = {name: value[0] for name, value in lanes_of([seed], [self.method]).settings.items()}
        key, fit_key = jax.random.split(part_key(jax.random.key(seed), "offline"))
        made, rows, next_actions, first_actions = self._ask(
            leaves, state, self.columns, self.firsts, self.knobs, self.base, key
        )
        found = {name: np.asarray(one, np.float64) for name, one in made.items()}
        found["bound"] = np.array([valuation.certified(self.method, one) for one in self.method.knobs])
        found["fqe"] = np.full(len(self.method.knobs), math.nan)
        if self.asking.updates:
            fitted = self._fit(leaves, rows, next_actions, self.firsts, first_actions, fit_key)
            found["fqe"] = np.asarray(fitted, np.float64)
        return found


def _asked(
    method: Method, asking: Asking, held: int, settings: Mapping[str, Array], state: State,
    columns: Mapping[str, Array], firsts: Array, knobs: Mapping[str, Array], base: Array, key: Key,
) -> tuple[dict[str, Array], dict[str, Array], Array, Array]:  # fmt: skip
    """The estimates of each setting, and what FQE is fitted to: its rows, the policies' next and first actions."""
    bound = method.having(**settings)
    here_key, first_key = jax.random.split(key)
    # every seed and run is asked at the same transitions
    batch_key = part_key(jax.random.key(0), "offline/transitions")
    batch = bound.sample.draw(lambda places: {name: one[places] for name, one in columns.items()}, held, batch_key,
                              asking.transitions)  # fmt: skip
    batch = bound.spec.seen(batch)
    found = valuation.asked(bound, state, batch, here_key, knobs)
    made = valuation.estimates(found, batch, valuation.discount_of(bound), base)
    weights = jnp.broadcast_to(jnp.asarray(valuation.counted(batch), jnp.float32), batch["rewards"].shape)
    rows = {name: features(batch[name]) for name in ("observations", "next_observations")}
    rows |= {"actions": batch["actions"], "rewards": batch["rewards"], "masks": batch["masks"], "weights": weights}
    first = valuation.at_settings(bound, state, bound.spec.split(firsts), first_key, knobs)
    return made, rows, found.next_actions, first


def _fitted(
    method: Method, fqe: FQE, settings: Mapping[str, Array], rows: Mapping[str, Array], next_actions: Array,
    firsts: Array, first_actions: Array, key: Key,
) -> Array:  # fmt: skip
    """FQE's value of each setting `[k]`."""
    bound = method.having(**settings)
    seen = features(bound.spec.split(firsts))
    return fqe.values(rows, next_actions, seen, first_actions, valuation.discount_of(bound), key)


def least(settings: Sequence[Mapping[str, float]]) -> int:
    """The place of the setting whose values are least, compared one knob after another."""
    return min(range(len(settings)), key=lambda place: tuple(settings[place].values()))
