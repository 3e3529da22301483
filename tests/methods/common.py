"""Small methods, batches and states that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from methods.core import State, TaskSpec
from methods.learner import Learner

SPEC = TaskSpec(obs_dim=3, action_dim=2, horizon=10)
ROWS = 16  # of a batch
GUIDED = {"test_weights": (0.0, 0.5), "test_n": (1, 4), "flow_steps": 3}
SMALL: dict[str, dict[str, Any]] = {
    "vgf": {"test_flow_steps": (0, 2)}, "avgf": {"test_flow_steps": (0, 2)}, "best_of_n": {"test_n": (1, 4)},
    "qgf": GUIDED, "robust_q": GUIDED, "vgf_qgf": GUIDED,
    "ifql": {"test_n": (1, 4)}, "diffusion_ql": {"test_n": (1, 4)},
    "idql": {"test_n": (1, 4), "sampler_dims": (8,), "blocks": 1, "sampler_batch_size": ROWS},
    "qc": {"test_n": (1, 4), "n_particles": 4, "chunk": 1}, "qc_fql": {"chunk": 1},
    "cfgrl": {"test_omegas": (0.0, 2.0), "test_n": (1, 3), "flow_steps": 3},
    "qam": {"flow_steps": 3}, "qam_f": {"flow_steps": 3}, "qam_e": {"flow_steps": 3}, "rql": {"flow_steps": 3},
    "qsm": {"diffusion_steps": 3}, "dac": {"diffusion_steps": 3},
    "sfbc": {"test_n": (1, 4), "solver_steps": 3, "plan_samples": 3},
}  # fmt: skip
"""Settings with which methods compile fast; two values of each knob."""
QUICK = ("bc", "fql", "idql", "iql", "rebrac", "vgf")
"""A method of each kind, for promises that take long to check of every one: the others' checks are slow."""


def each(names: Iterable[Any] = methods.REGISTRY, quick: Collection[Any] = QUICK) -> list[Any]:
    """Parameters of a test of every method, quick ones and slow ones."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


LATER = frozenset({"qc", "qc_fql", "qam", "qam_f", "qam_e", "fedit", "dsrl", "cfgrl", "rql", "fan", "qsm", "dac",
                   "robust_q"})  # fmt: skip
"""Methods made of parts that others are tested with, and known by their probes: what compiles them is mostly slow."""


def make(name: str, spec: TaskSpec = SPEC, **settings: Any) -> Any:
    """A method with small networks."""
    cls = methods.get(name)
    return cls(cls.Config(**{"hidden_dims": (16, 16), "batch_size": 8, **settings}), spec)


def make_batch(rows: int, spec: TaskSpec = SPEC, seed: int = 0) -> dict[str, np.ndarray]:
    """Random transitions, a quarter of them terminal."""
    rng = np.random.default_rng(seed)
    columns = {
        "observations": rng.normal(size=(rows, spec.obs_dim)),
        "actions": rng.uniform(-1.0, 1.0, size=(rows, spec.action_dim)),
        "rewards": rng.normal(size=rows),
        "masks": rng.uniform(size=rows) > 0.25,
        "next_observations": rng.normal(size=(rows, spec.obs_dim)),
        "terminals": rng.uniform(size=rows) > 0.75,
        "next_actions": rng.uniform(-1.0, 1.0, size=(rows, spec.action_dim)),
    }
    return {name: column.astype(np.float32) for name, column in columns.items()}


def per_row(knobs: Any, rows: int) -> dict[str, jax.Array]:
    """One test-time setting for every row."""
    return {name: jnp.full(rows, value) for name, value in knobs.items()}


def random_state(method: Any, seed: int = 0, scale: float = 0.3) -> State:
    """A state with every parameter and target drawn anew and a fresh optimiser, without compiling `init`. What a part
    holds beside its learner, fitted in closed form, is positive, as deviations are."""
    rng = np.random.default_rng(seed)

    def drawn(leaf: Any) -> jax.Array:
        return jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)

    def part(node: Any) -> Any:
        if not isinstance(node, Learner):
            return jnp.exp(drawn(node))
        opt_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), node.opt_state)
        return Learner(jax.tree.map(drawn, node.params), opt_state, jax.tree.map(drawn, node.target))

    shapes = jax.eval_shape(method.init, jax.random.key(0))
    return jax.tree.map(part, shapes, is_leaf=lambda node: isinstance(node, Learner))


def double(tree: Any) -> Any:
    """The tree's floats in float64; call it under `jax.enable_x64`."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if leaf.dtype.kind == "f" else leaf, tree)


def with_params(learner: Learner, change: Any) -> Learner:
    """The learner with every parameter, and target, changed."""
    target = None if learner.target is None else jax.tree.map(change, learner.target)
    return learner._replace(params=jax.tree.map(change, learner.params), target=target)
