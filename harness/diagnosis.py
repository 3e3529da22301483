"""Asks trained parts what their method declares (`Method.diagnoses`), and puts the answers beside the scores."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from core.files import write_text
from harness.attempts import DIAGNOSIS
from harness.control import ControlEngine
from harness.plan import Lane, RunNode
from harness.session import Session
from harness.store import Artifact
from methods.core import BadInput, Method, State, part_key
from tasks.core import Dataset, met

NEAR = 32  # rows of the data whose states are nearest, for what a policy could have done
_AMONG = 20_000  # rows that are looked at for them


def diagnose(session: Session, run: RunNode, dataset: Dataset, states: int) -> list[int]:
    """Writes `diagnosis.csv` of each finished seed of a run, over so many states of the data (results/README.md has its
    columns). Returns those seeds.

    Raises:
      BadInput: no seed is finished.
    """
    if not run.folder(session.results).is_dir():
        raise BadInput(f"{run.label}: has not been run with these options")
    engine, found = ControlEngine(), list[int]()
    obs, near = observed(run, dataset, states)
    ask = jax.jit(lambda state, obs, near, key: run.method.diagnose(state, run.method.spec.split(obs), near, key))
    for seed in run.settings.seeds:
        if not all(finished(session, lane) for lane in run.lanes(seed)):
            continue
        parts: State = {}
        for last in (False, True):
            parts |= engine.parts(session, run, [seed], [seed], last=last)
        state: State = jax.tree.map(lambda leaf: leaf[0], parts)
        key = part_key(jax.random.key(seed), "diagnose")
        values = {name: np.asarray(one, np.float64) for name, one in ask(state, obs, near, key).items()}
        if bad := [name for name, one in values.items() if not np.isfinite(one).all()]:
            raise BadInput(f"{run.label}, seed {seed}: {bad[0]} is not finite")
        folder = run.folder(session.results) / f"seed-{seed}"
        text = io.StringIO()
        pd.DataFrame(rows(run.method, values)).to_csv(text, index=False, lineterminator="\n")
        write_text(folder / DIAGNOSIS, text.getvalue())
        session.storage.publish_file(folder / DIAGNOSIS)
        found.append(seed)
    if not found:
        raise BadInput(f"{run.label}: no seed is finished; python -m harness.run with the same options trains them")
    return found


def finished(session: Session, lane: Lane) -> bool:
    """Whether a lane was trained to its end."""
    return Artifact(session.artifact(lane.fingerprint), lane.identity).finished


def observed(run: RunNode, dataset: Dataset, states: int) -> tuple[Any, Any]:
    """Observations `[b, o]` at rows spread over the data, and the actions `[b, m, a]` of the rows whose states lie
    nearest, in standard deviations; of a method that chooses chunks those of the rows from there on."""
    columns, chunk = dataset.transitions, run.method.config.chunk
    usable = np.flatnonzero(dataset.columns({"remaining"})["remaining"] >= chunk - 1)
    places = usable[np.linspace(0, len(usable) - 1, min(states, len(usable))).astype(int)]
    among = usable[np.linspace(0, len(usable) - 1, min(_AMONG, len(usable))).astype(int)]
    scale = np.maximum(columns["observations"].std(axis=0), 1e-6)
    here, there = columns["observations"][places] / scale, columns["observations"][among] / scale
    near = np.stack([among[np.argsort(((there - one) ** 2).sum(axis=1), kind="stable")[:NEAR]] for one in here])
    actions = np.concatenate([columns["actions"][near + step] for step in range(chunk)], axis=-1)
    return jnp.asarray(met(columns, places, run.task.spec)), jnp.asarray(actions)


def rows(method: Method, values: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Rows of the table: means and standard deviations over states of what the method answers."""
    for one in method.diagnoses:
        found = values[one.name].reshape(len(values[one.name]), len(one.lines[1]), len(one.panels[1]), len(one.x[1]))
        mean, std = found.mean(axis=0), found.std(axis=0, ddof=min(1, len(found) - 1))
        for place in product(*map(range, mean.shape)):
            line, panel, x = (axis[1][at] for axis, at in zip((one.lines, one.panels, one.x), place, strict=True))
            yield {"quantity": one.name, "meaning": one.label, "unit": one.unit, "lines": one.lines[0], "line": line,
                   "panels": one.panels[0], "panel": panel, "xs": one.x[0], "x": x, "mean": mean[place],
                   "std": std[place], "states": len(found)}  # fmt: skip
