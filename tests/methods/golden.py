"""Golden numbers of every method: what a refactoring may not change.

    python -m tests.methods.golden

adds the cases that `golden.json` beside this file lacks (with `--anew` it makes all of them again): of each case, stage
by stage, the metrics, the norms of the optimiser's moments (a tenth of the gradient's, after one step from nought),
checksums of parameters and targets, and the actions at every inference setting, after 1 and 5 updates from a fixed
state; small networks in float64.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import methods
from methods.core import Stage, State
from methods.learner import Learner
from tests.methods.common import ROWS, SMALL, double, make, make_batch, random_state

STORED = Path(__file__).with_name("golden.json")
UPDATES = (1, 5)
SETTINGS = {"hidden_dims": (8, 8), "learning_rate": 3e-3, "tau": 0.1}
BANK = {"behavior": "pretrained", "bank": 6}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc diffusion": ("bc", {"sampler": "diffusion"}),
    "vgf bank": ("vgf", BANK), "vgf iql": ("vgf", {"critic": "iql"}),
    "vgf sgd": ("vgf", {"particle_optimizer": "sgd", "bandwidth": "fixed", "q_aggregation": "min"}),
    "vgf L=0": ("vgf", {"train_flow_steps": 0}), "vgf L=3": ("vgf", {"train_flow_steps": 3}),
    "avgf bank": ("avgf", BANK), "best_of_n iql": ("best_of_n", {"critic": "iql"}),
    "best_of_n max": ("best_of_n", {"target_select": "max"}),
    "fql pretrained": ("fql", {"behavior": "pretrained", "normalize_q": True, "q_aggregation": "min"}),
    "ivr eql": ("ivr", {"regularizer": "eql", "value_dropout": 0.5}),
    "diffusion_ql backup": ("diffusion_ql", {"max_q_backup": True, "backup_n": 3}),
    "rebrac sequential": ("rebrac", {"order": "sequential"}),
    "td3bc simultaneous": ("td3bc", {"order": "simultaneous"}),
    "bc by return": ("bc", {"behavior_weighting": "return"}),
    "vgf by advantage": ("vgf", {"behavior": "pretrained", "behavior_weighting": "advantage"}),
    **{f"{name} together": (name, {"clip": "together"}) for name in ("qam", "qam_f", "qam_e", "qsm", "dac")},
    **{f"qgf {way}": ("qgf", {"gradient": way}) for way in ("full", "jacobian", "noisy")},
}  # fmt: skip
CASES = {**{name: (name, {}) for name in methods.REGISTRY}, **VARIANTS}
"""Name -> method and settings."""


def golden(case: str) -> dict[str, Any]:
    """A case's numbers, as JSON has them."""
    name, settings = CASES[case]
    method = make(name, **{**SETTINGS, **SMALL.get(name, {}), **settings})
    with jax.enable_x64(True):
        state = double(random_state(method))
        data = {column: jnp.asarray(values, jnp.float64) for column, values in make_batch(ROWS).items()}
        found: dict[str, Any] = {}
        act = Actor(method, data["observations"][:3])
        for stage in method.stages():
            found[stage.name] = {}
            for count, new, metrics in _updated(stage, state, data):
                if count in UPDATES:
                    found[stage.name][str(count)] = {"metrics": metrics, **_numbers(stage, new), "actions": act(new)}
            state = new
    return found


def _updated(stage: Stage, state: State, data: dict[str, Any]) -> Iterator[tuple[int, State, dict[str, float]]]:
    """The state after each update, delayed parts in their turn."""
    if stage.prepare:
        data = {**data, **stage.prepare(state, data, jax.random.key(100))}
    if stage.complete:
        state, more = stage.complete(state, data)
        data = {**data, **more}
    update = jax.jit(stage.update)
    between = jax.jit(stage.between or stage.update)
    for count in range(1, max(UPDATES) + 1):
        now = update if count % stage.period == 0 else between
        state, metrics = now(state, data, jax.random.key(count))
        yield count, state, {metric: float(value) for metric, value in metrics.items()}


def _numbers(stage: Stage, state: State) -> dict[str, Any]:
    """Of the parts that a stage trains."""
    found: dict[str, Any] = {"parameters": {}, "targets": {}, "moments": {}}
    for part in sorted(stage.trains):
        learner = state[part]
        if not isinstance(learner, Learner):
            found["parameters"][part] = _checksum(learner)
            continue
        found["parameters"][part] = _checksum(learner.params)
        found["moments"][part] = float(optax.global_norm(optax.tree_utils.tree_get(learner.opt_state, "mu")))
        if learner.target is not None:
            found["targets"][part] = _checksum(learner.target)
    return found


def _checksum(tree: Any) -> float:
    """A sum that feels every value and its place."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return float(sum(leaf @ np.cos(number + np.arange(leaf.size)) for number, leaf in enumerate(leaves)))


class Actor:
    """Acts at every inference setting in one program."""

    def __init__(self, method: Any, obs: Any) -> None:
        self.settings = len(method.knobs)
        self.obs = jnp.tile(obs, (self.settings, 1))
        columns = {name: [float(knobs[name]) for knobs in method.knobs] for name in method.knobs[0]}
        self.knobs = {name: jnp.repeat(jnp.asarray(values), len(obs)) for name, values in columns.items()}
        self.act = jax.jit(method.act)

    def __call__(self, state: State) -> list[list[float]]:
        """A list for each setting, row by row."""
        actions = np.asarray(self.act(state, self.obs, jax.random.key(7), self.knobs))
        return actions.reshape(self.settings, -1).tolist()


def write(anew: bool = False) -> None:
    """Stores the numbers of today's code; those that are stored already stay, unless all are asked for `anew`."""
    stored = {} if anew else json.loads(STORED.read_text())
    numbers = {case: stored[case] if case in stored else golden(case) for case in CASES}
    STORED.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(write)
