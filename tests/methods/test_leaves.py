"""Float settings are leaves: one compiled program serves all their values, and each has a bearing on something."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import pytest
from jax.interpreters import partial_eval

import methods
from methods.core import REWARD_SETTINGS, Method, Stage, State, leaves, structure
from methods.goals import GoalRule
from tests.methods.common import SPEC, each, make, make_batch, per_row, random_state

ROWS, STEPS = 8, 3
GOALS = replace(SPEC, obs_dim=6, goals=GoalRule())
QUICK = {"xla_backend_optimization_level": 0}  # to compile
SOFTMAX = {"particle_select": "softmax"}  # else the temperature has no bearing
RATES = {"actor_learning_rate": 2e-3, "critic_learning_rate": 4e-3}  # 0, their default, is another structure
GUIDED = {"flow_steps": 3, "test_weights": (0.0, 0.5), "test_n": (1, 4), **SOFTMAX}
NOISE = {"actor_noise": 1.0, "explore_noise": 1.0}  # so much that some of it is clipped
SIZES: dict[str, dict[str, Any]] = {
    "vgf": {"test_flow_steps": (0, 2), **SOFTMAX}, "avgf": {"test_flow_steps": (0, 2), **SOFTMAX},
    "best_of_n": {"test_n": (1, 4), **SOFTMAX}, "ifql": {"test_n": (1, 4), **SOFTMAX},
    "qgf": GUIDED, "vgf_qgf": GUIDED, "robust_q": GUIDED,
    "idql": {"sampler_dims": (8,), "blocks": 1, "sampler_batch_size": ROWS, "test_n": (4,), "weight_decay": 0.1,
             **SOFTMAX},
    "sfbc": {"test_n": (4,), "solver_steps": 3, "plan_samples": 3, "critic_learning_rate": 4e-3, "rounds": 2},
    "diffusion_ql": {"test_n": (4,), "diffusion_steps": 3},
    "qc": {"test_n": (1, 4), "n_particles": 4, "chunk": 1, **SOFTMAX}, "qc_fql": {"chunk": 1},
    "rebrac": NOISE, "td3bc": NOISE,
}  # fmt: skip
PESSIMISTIC = {"q_aggregation": "mean_minus_std"}
STRUCTURES: dict[str, list[dict[str, Any]]] = {
    "bc": [{"behavior_weighting": "advantage"}],  # the same behaviour for all methods
    "vgf": [{"bandwidth": "fixed", **PESSIMISTIC}, {"critic": "iql"}], "best_of_n": [{"critic": "iql"}, PESSIMISTIC],
    "avgf": [{"maxent": True, "kernel": "rbf", "bandwidth": "fixed", **PESSIMISTIC}], "ivr": [{"regularizer": "eql"}],
    "rebrac": [RATES | PESSIMISTIC], "td3bc": [RATES | PESSIMISTIC], "diffusion_ql": [RATES],
    "qc": [{"critic": "iql"}, PESSIMISTIC],
    **{one: [PESSIMISTIC] for one in ("qam", "qam_f", "qam_e", "fedit", "dsrl", "rql", "qsm", "dac", "qc_fql")},
    "fan": [{"online_weights": "own"}], "cfgrl": [{"condition": "goal"}],
    "fql": [PESSIMISTIC], "fbrac": [PESSIMISTIC], "qgf": [{"critic": "td", **PESSIMISTIC}], "vgf_qgf": [PESSIMISTIC],
}  # fmt: skip
"""Beside the default, where some leaves have no bearing."""
OTHER_VALUES = {"clip_norm": 1e-6, "temperature": 0.01, "weight": 0.01}  # of the rest: half
STATES = {"ivr": 3}  # whose advantages are positive: its policy learns nothing of the others
IDLE = {"dac": {"inverse_temperature"}, "bc_gaussian": {"discount", "tau"}, "sfbc": {"tau"},
        "avgf": {"expectile"}, "vgf_qgf": {"expectile"}, "ifql": {"rho"}, "idql": {"rho"},
        "robust_q": {"rho"}}  # fmt: skip
"""Settings of their bases that these methods have no use for, in any structure."""


class Lanes:
    """A method at several settings of its leaves at once: as they are, each leaf alone at another value, and all of
    them at other values."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        sizes = {"hidden_dims": (8,), "batch_size": ROWS, "learning_rate": 3e-3, "tau": 0.1}
        spec = GOALS if settings.get("condition") == "goal" else SPEC
        self.method: Method = make(name, spec, **{**sizes, **SIZES.get(name, {}), **settings})
        self.leaves = leaves(self.method.config)
        self.others = {name: OTHER_VALUES.get(name, 0.5 * value or 1.0) for name, value in self.leaves.items()}
        self.data = make_batch(ROWS * STEPS, spec)
        self.traced = 0

    def everything(self, values: dict[str, Any], state: State, data: dict[str, Any]) -> dict[str, Any]:
        """What each stage makes of a state, and how it acts and explores by it."""
        self.traced += 1
        bound, keys = self.method.having(**values), jax.random.split(jax.random.key(0), STEPS)
        found: dict[str, Any] = {stage.name: trained(stage, state, data, keys) for stage in bound.stages()}
        obs = data["observations"][:ROWS]
        found["acting"] = bound.act(state, obs, keys[0], per_row(bound.knobs[-1], ROWS))
        if bound.exploring & values.keys():  # else it is acting once more
            found["exploring"] = bound.explore(state, obs, keys[1])
        return found

    def also(self, values: dict[str, Any]) -> dict[str, Any]:
        """The rest of what the harness calls: fresh parts, and all of the above and an online update from there."""
        bound, key = self.method.having(**values), jax.random.key(0)
        state = bound.init(key)
        found = self.everything(values, state, self.data)
        if online := bound.online():
            batch = {name: column[:ROWS] for name, column in self.data.items()}
            found["online"] = online.update(state, batch, key)
        return found

    def stacked(self, *settings: dict[str, float]) -> dict[str, np.ndarray]:
        return {name: np.asarray([one[name] for one in settings], np.float32) for name in self.leaves}

    @cached_property
    def reads(self) -> dict[str, set[str]]:
        """Which leaves each result is computed from, by the program's own operations."""
        found = {}
        values = {name: np.float32(value) for name, value in self.leaves.items()}
        program, shapes = jax.make_jaxpr(self.also, return_shape=True)(values)
        outputs = [path[0].key for path, _ in jax.tree.leaves_with_path(shapes)]
        for where in shapes:
            used = partial_eval.dce_jaxpr(program.jaxpr, [where == output for output in outputs])[1]
            found[where] = {name for name, read in zip(sorted(self.leaves), used, strict=True) if read}
        return found

    def declared(self, name: str) -> set[str]:
        """The stages whose identity another value of a leaf changes."""
        stages, others = (
            (*one.stages(), *filter(None, [one.online()]))
            for one in (self.method, self.method.having(**{name: self.others[name]}))
        )
        return {stage.name for stage, other in zip(stages, others, strict=True) if stage.config != other.config}


def trained(stage: Stage, state: State, data: dict[str, Any], keys: Any) -> Any:
    """The parts that a stage trains after a few updates, and the last metrics."""
    if stage.prepare:
        data = {**data, **stage.prepare(state, data, keys[0])}
    if stage.complete:
        state, more = stage.complete(state, data)
        data = {**data, **more}
    batches = {name: column.reshape(STEPS, ROWS, *column.shape[1:]) for name, column in data.items()}
    state, metrics = jax.lax.scan(lambda state, now: stage.update(state, *now), state, (batches, keys))
    if stage.between:
        state, _ = stage.between(state, {name: column[0] for name, column in batches.items()}, keys[0])
    return {part: state[part] for part in stage.trains}, jax.tree.map(lambda each: each[-1], metrics)


@pytest.mark.parametrize("name", each(quick=("fql", "rebrac", "vgf")))
def test_each_leaf_is_read_by_what_it_is_said_to_be(name: str) -> None:
    """What a stage reads is in its identity, else a part would be shared that is another; what only acting depends on
    is read by no stage, what only the online phase depends on by nothing else. None is ignored in every structure."""
    seen, busy = set[str](), set[str]()
    for settings in ({}, *STRUCTURES.get(name, [])):
        lanes = Lanes(name, settings)
        stages = {stage.name for stage in lanes.method.stages()}
        for leaf in lanes.leaves:
            read = {where for where, names in lanes.reads.items() if leaf in names}
            declared = lanes.declared(leaf)
            assert read & {*stages, "online"} <= declared, leaf
            if leaf in lanes.method.exploring:
                assert not declared & stages and read <= {"exploring", "online"}, leaf
            seen |= {leaf}
            busy |= {leaf} if (read & stages if declared & stages else read) else set()
    weighting = {leaf for leaf in seen if leaf.startswith("weighting_")} if name != "bc" else set()
    assert seen - busy == IDLE.get(name, set()) | weighting


QUICK_ONES = ("vgf",)  # particles and their critic


@pytest.mark.slow
@pytest.mark.parametrize("name", each(quick=QUICK_ONES))
def test_one_program_serves_every_value(name: str) -> None:
    """As the program that has the values built in, to a few roundings: what is computed of settings alone (1 - tau) is
    computed in double precision there, and in single precision of traced ones. Adam's division by the gradient's size
    makes as much of that as of any rounding. Every leaf changes what is computed from it, and nothing else."""
    lanes = Lanes(name, {})
    state = random_state(lanes.method, STATES.get(name, 0))
    program = jax.jit(jax.vmap(lanes.everything, in_axes=(0, None, None)), compiler_options=QUICK)
    alone = [{**lanes.leaves, leaf: other} for leaf, other in lanes.others.items()]
    ours = jax.tree.map(np.asarray, program(lanes.stacked(lanes.leaves, *alone, lanes.others), state, lanes.data))
    program(lanes.stacked(lanes.others, *reversed(alone), lanes.leaves), state, lanes.data)
    assert lanes.traced == 1 and program._cache_size() == 1

    built_in = jax.jit(partial(lanes.everything, lanes.others), compiler_options=QUICK)(state, lanes.data)
    for (path, theirs), stacked in zip(jax.tree.leaves_with_path(built_in), jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(stacked[-1], theirs, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))
    for lane, leaf in enumerate(lanes.leaves, start=1):
        changed = {where for where, tree in ours.items()
                   if any(not np.array_equal(each[lane], each[0]) for each in jax.tree.leaves(tree))}  # fmt: skip
        assert changed == {where for where in ours if leaf in lanes.reads[where]}, leaf


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_every_setting_has_one_role(name: str) -> None:
    """A leaf, part of the structure, or of what batches are made of; a leaf's value never shapes the program."""
    config = make(name).config
    inside = dict(structure(config)[1])  # type: ignore[index]
    assert leaves(config).keys() | inside.keys() | (REWARD_SETTINGS & {field.name for field in fields(config)}) == {
        field.name for field in fields(config)
    }
    assert not leaves(config).keys() & inside.keys()
    assert all(isinstance(value, float) for value in leaves(config).values())
    other = make(name, **{leaf: 0.5 * value for leaf, value in leaves(config).items()}).config
    assert structure(other) == structure(config) and hash(structure(other)) == hash(structure(config))
    assert structure(make(name, hidden_dims=(4,)).config) != structure(config)


def test_what_shapes_the_program_is_structure() -> None:
    """Rates where flax has other programs at 0; the 0 of a switch; grids of knobs. Not what the batches are made of."""

    def parts(name: str, **settings: Any) -> Any:
        config = make(name, **settings).config
        return structure(config), list(leaves(config))

    assert parts("idql", dropout=0.2) != parts("idql") and parts("ivr", value_dropout=0.5) != parts("ivr")
    for switch, value in {"weight_decay": 0.2, "average_rate": 0.2}.items():
        assert parts("idql", **{switch: value}) == parts("idql") != parts("idql", **{switch: 0.0})
        assert switch in leaves(make("idql").config) and switch not in leaves(make("idql", **{switch: 0.0}).config)
    assert set(parts("rebrac", actor_learning_rate=0.1)[1]) - set(parts("rebrac")[1]) == {"actor_learning_rate"}
    assert parts("qgf", test_weights=(0.5,)) != parts("qgf")
    assert parts("fql", reward_scale=2.0, reward_shift=-1.0, rewards="raw") == parts("fql")
