"""Float settings are leaves: one compiled program serves all their values, and each has a bearing on something."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import pytest

import methods
from methods.core import REWARD_SETTINGS, Method, Stage, leaves, structure
from tests.methods.common import make, make_batch, per_row, random_state

ROWS, STEPS = 8, 3
QUICK = {"xla_backend_optimization_level": 0}  # to compile
SOFTMAX = {"particle_select": "softmax"}  # else the temperature has no bearing
RATES = {"actor_learning_rate": 2e-3, "critic_learning_rate": 4e-3}  # 0, their default, is another structure
GUIDED = {"flow_steps": 3, "test_weights": (0.0, 0.5), "test_n": (1, 4), **SOFTMAX}
NOISE = {"actor_noise": 1.0, "explore_noise": 1.0}  # so much that some of it is clipped
SIZES: dict[str, dict[str, Any]] = {
    "vgf": {"test_flow_steps": (0, 2), **SOFTMAX}, "avgf": {"test_flow_steps": (0, 2), **SOFTMAX},
    "best_of_n": {"test_n": (1, 4), **SOFTMAX}, "ifql": {"test_n": (1, 4), **SOFTMAX},
    "qgf": GUIDED, "vgf_qgf": GUIDED,
    "idql": {"sampler_dims": (8,), "blocks": 1, "sampler_batch_size": ROWS, "test_n": (4,), "weight_decay": 0.1,
             **SOFTMAX},
    "sfbc": {"test_n": (4,), "solver_steps": 3, "plan_samples": 3, "critic_learning_rate": 4e-3, "rounds": 2},
    "diffusion_ql": {"test_n": (4,), "diffusion_steps": 3}, "rebrac": NOISE, "td3bc": NOISE,
}  # fmt: skip
STRUCTURES: dict[str, list[dict[str, Any]]] = {
    "vgf": [{"bandwidth": "fixed"}, {"critic": "iql"}], "best_of_n": [{"critic": "iql"}],
    "avgf": [{"maxent": True, "kernel": "rbf", "bandwidth": "fixed"}], "ivr": [{"regularizer": "eql"}],
    "rebrac": [RATES], "td3bc": [RATES], "diffusion_ql": [RATES],
}  # fmt: skip
"""Beside the default, where some leaves have no bearing."""
OTHER_VALUES = {"clip_norm": 1e-6, "temperature": 0.01}  # of the rest: half
IDLE = {"bc": {"discount", "tau"}, "bc_gaussian": {"discount", "tau"}, "sfbc": {"tau"},
        "avgf": {"expectile"}, "vgf_qgf": {"expectile"}}  # fmt: skip
"""Settings of their bases that these methods have no use for, in any structure."""


class Lanes:
    """A method's whole program at several settings of its leaves at once: as they are, each leaf alone at another
    value, and all of them at other values."""

    def __init__(self, name: str, **settings: Any) -> None:
        sizes = {"hidden_dims": (8,), "batch_size": ROWS, "learning_rate": 3e-3, "tau": 0.1}
        self.method: Method = make(name, **{**sizes, **SIZES.get(name, {}), **settings})
        self.leaves = leaves(self.method.config)
        self.others = {name: OTHER_VALUES.get(name, 0.5 * value) for name, value in self.leaves.items()}
        self.state, self.data = random_state(self.method), make_batch(ROWS * STEPS)
        self.traced = 0

    def everything(self, values: dict[str, Any], state: Any, data: Any) -> dict[str, Any]:
        """What each stage makes of a state, and how it acts and explores."""
        self.traced += 1
        bound, keys = self.method.having(**values), jax.random.split(jax.random.key(0), STEPS)
        found: dict[str, Any] = {stage.name: trained(stage, state, data, keys) for stage in bound.stages()}
        obs = data["observations"][:ROWS]
        found["acting"] = bound.act(state, obs, keys[0], per_row(bound.knobs[-1], ROWS))
        if bound.exploring & values.keys():  # else it is acting once more
            found["exploring"] = bound.explore(state, obs, keys[1])
        return found

    def traces(self, values: dict[str, Any], state: Any, data: Any) -> None:
        """The rest of what the harness calls, which is made of the same pieces."""
        bound, key = self.method.having(**values), jax.random.key(0)
        bound.init(key)
        if online := bound.online():
            batch = {name: column[:ROWS] for name, column in data.items()}
            online.update(state, batch, key)
            bound.explore(state, data["observations"], key)

    @cached_property
    def program(self) -> Any:
        return jax.jit(jax.vmap(self.everything, in_axes=(0, None, None)), compiler_options=QUICK)

    def run(self, *settings: dict[str, float]) -> Any:
        """All results, stacked over the settings."""
        return jax.tree.map(np.asarray, self.program(self.stacked(*settings), self.state, self.data))

    def stacked(self, *settings: dict[str, float]) -> dict[str, np.ndarray]:
        return {name: np.asarray([one[name] for one in settings], np.float32) for name in self.leaves}

    @cached_property
    def results(self) -> Any:
        alone = [{**self.leaves, name: other} for name, other in self.others.items()]
        return self.run(self.leaves, *alone, self.others)

    def constant(self, values: dict[str, float]) -> Any:
        """The results of the program that has these settings built in."""
        return jax.jit(partial(self.everything, values), compiler_options=QUICK)(self.state, self.data)

    def touched(self, name: str) -> set[str]:
        """Which results another value of a leaf changes."""
        lane = 1 + list(self.leaves).index(name)
        return {where for where, tree in self.results.items()
                if any(not np.array_equal(leaf[lane], leaf[0]) for leaf in jax.tree.leaves(tree))}  # fmt: skip

    def declared(self, name: str) -> set[str]:
        """The stages whose identity another value of a leaf changes."""
        stages = [one.stages() for one in (self.method, self.method.having(**{name: self.others[name]}))]
        return {stage.name for stage, other in zip(*stages, strict=True) if stage.config != other.config}


def trained(stage: Stage, state: Any, data: Any, keys: Any) -> Any:
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
    return {part: state[part] for part in stage.trains}, metrics


@pytest.fixture(scope="module", params=methods.REGISTRY)
def lanes(request: pytest.FixtureRequest) -> Lanes:
    return Lanes(request.param)


def test_one_program_serves_every_value(lanes: Lanes) -> None:
    """As the programs that have the values built in, to a few roundings: what is computed of settings alone (1 - tau)
    is computed in double precision there, and in single precision of traced ones. Adam's division by the gradient's
    size makes as much of that as of any rounding."""
    ours = lanes.results
    lanes.run(*[{name: 0.7 * value for name, value in lanes.leaves.items()}] * (len(lanes.leaves) + 2))
    assert lanes.traced == 1 and lanes.program._cache_size() == 1
    for lane, values in ((0, lanes.leaves), (-1, lanes.others)):
        built_in = jax.tree.leaves_with_path(lanes.constant(values))
        for (path, theirs), stacked in zip(built_in, jax.tree.leaves(ours), strict=True):
            where = f"lane {lane}, {jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(stacked[lane], theirs, rtol=1e-5, atol=1e-6, err_msg=where)


def test_whatever_the_harness_calls_takes_traced_leaves(lanes: Lanes) -> None:
    jax.eval_shape(
        jax.vmap(lanes.traces, in_axes=(0, None, None)), lanes.stacked(lanes.leaves), lanes.state, lanes.data
    )


def test_each_leaf_has_a_bearing_on_what_it_is_said_to(lanes: Lanes) -> None:
    """What changes a stage is in its identity, else a part would be shared that is another; what only acting depends on
    changes no stage, and what only exploring depends on no action besides. None is ignored in every structure."""
    name = lanes.method.name
    idle = set(lanes.leaves)
    for one in (lanes, *(Lanes(name, **settings) for settings in STRUCTURES.get(name, []))):
        stages = {stage.name for stage in one.method.stages()}
        for leaf in one.leaves:
            touched, declared = one.touched(leaf), one.declared(leaf)
            assert touched & stages <= declared, leaf
            if leaf in one.method.exploring:
                assert not declared and touched <= {"exploring"}, leaf
            elif declared:
                touched &= stages
            if touched:
                idle.discard(leaf)
    assert idle == IDLE.get(name, set())


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
