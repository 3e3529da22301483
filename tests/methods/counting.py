"""Counts what acting costs: every application of a network, forward and backward, in the program that acts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from methods.core import Method
from methods.inference import Cost
from methods.learner import Learner
from tests.methods.common import make_batch, per_row, random_state

ROWS = 3
VALUES = ("critic", "noised")
"""The parts that are climbed: critics of actions, and of unfinished ones."""
BY_NETWORK = "gradient"
"""The part whose network stands in for the value gradient."""


def alone(method: Method, setting: Mapping[str, float]) -> Method:
    """The method with no other setting to evaluate."""
    grids = {key: value for key, value in vars(method.config).items()
             if key.startswith("test_") and isinstance(value, tuple)}  # fmt: skip
    changes = {}
    for knob, value in setting.items():
        (key,) = (key for key, grid in grids.items() if {*grid} == {one[knob] for one in method.knobs})
        changes[key] = (value,)
    only = method.having(**changes)
    assert only.knobs == (setting,)
    return only


def counted(method: Method, monkeypatch: pytest.MonkeyPatch) -> Cost:
    """The cost of one action: whatever passes a network leaves a callback in the program, and those are counted, in a
    scan as often as it runs."""
    state = random_state(method)
    learners = {name: jax.tree.leaves(part, is_leaf=is_learner) for name, part in state.items()}
    names = {id(tree): name for name, found in learners.items() for learner in filter(is_learner, found)
             for whole in (learner.params, learner.target) if whole is not None
             for tree in (whole, *whole.values())}  # fmt: skip
    forward, backward, apply = Counter[str](), Counter[str](), nn.Module.apply

    def observed(network: Any, params: Any, *inputs: Any, **rest: Any) -> Any:
        name, rows = names[id(params)], math.prod(inputs[0].shape[:-1])

        def note(kind: Counter[str], value: Any) -> None:
            jax.debug.callback(lambda _: kind.update({name: rows}), value)

        @jax.custom_vjp
        def watched(value: Any) -> Any:
            note(forward, value)
            return value

        def pull(_: None, slope: Any) -> tuple[Any]:
            note(backward, slope)
            return (slope,)

        watched.defvjp(lambda value: (watched(value), None), pull)
        first, *others = jax.tree.leaves(out := apply(network, params, *inputs, **rest))
        return jax.tree.unflatten(jax.tree.structure(out), [watched(first), *others])

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "apply", observed)
        act = jax.make_jaxpr(lambda obs, key, knobs: method.act(state, obs, key, knobs))
        _call_back(act(make_batch(ROWS)["observations"], jax.random.key(0), per_row(method.knobs[0], ROWS)).jaxpr)
    gradients = sum(backward[part] for part in VALUES) + forward[BY_NETWORK]
    return Cost(forward.total() / ROWS, gradients / ROWS)


def is_learner(node: Any) -> bool:
    return isinstance(node, Learner)


def _call_back(program: Any, times: int = 1) -> None:
    """Carries out the callbacks of a program, and nothing else of it."""
    for equation in program.eqns:
        assert equation.primitive.name not in ("while", "cond"), "nobody knows how often"
        often = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        if equation.primitive.name == "debug_callback":
            for _ in range(often):
                equation.params["callback"](*(jnp.zeros(var.aval.shape, var.aval.dtype) for var in equation.invars))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda one: hasattr(one, "eqns")):
            if hasattr(inner, "eqns"):
                _call_back(getattr(inner, "jaxpr", inner), often)
